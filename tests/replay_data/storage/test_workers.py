"""Jobs in threads: their order, their limits, their errors, their end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from replay_data.storage.workers import Job, run_in_order


def test_results_come_in_the_order_of_the_jobs() -> None:
    def job(number: int) -> Iterator[tuple[int, int]]:
        for index in range(number % 4):
            time.sleep(0.001 * ((7 * number) % 5))
            yield number, index

    for workers in (1, 2, 5):
        jobs = [Job(number, partial(job, number)) for number in range(40)]
        expected = [(number, index) for number in range(40) for index in range(number % 4)]
        assert list(run_in_order(jobs, workers)) == expected


def test_jobs_of_one_key_never_overlap_and_others_do() -> None:
    running: list[str] = []
    overlaps: set[frozenset[str]] = set()

    def job(key: str) -> Iterator[str]:
        running.append(key)
        assert running.count(key) == 1
        for _ in range(3):
            time.sleep(0.002)
            overlaps.add(frozenset(running))
            yield key
        running.remove(key)

    keys = "abaabbcab"
    jobs = [Job(key, partial(job, key)) for key in keys]
    assert list(run_in_order(jobs, 3, ahead=100)) == [key for key in keys for _ in range(3)]
    assert any(len(overlap) > 1 for overlap in overlaps)


def test_endless_jobs_are_taken_as_they_are_needed_and_end_with_the_generator() -> None:
    taken = made = 0

    def job() -> Iterator[int]:
        nonlocal made
        while True:
            made += 1
            yield made

    def jobs() -> Iterator[Job[int]]:
        nonlocal taken
        while True:
            taken += 1
            yield Job(taken, job)

    threads = threading.active_count()
    results = run_in_order(jobs(), workers=2, ahead=3)
    for _ in range(10):
        next(results)
    time.sleep(0.05)
    assert taken == 2
    assert made <= 10 + 2 * (3 + 1)
    results.close()
    assert threading.active_count() == threads


def test_an_error_comes_in_its_turn() -> None:
    def failing() -> Iterator[int]:
        yield 2
        raise ValueError("broken")

    results = run_in_order([Job(1, lambda: iter([1])), Job(2, failing), Job(3, lambda: iter([3]))], workers=3)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(results)
