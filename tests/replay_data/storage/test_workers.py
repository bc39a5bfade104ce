"""Jobs in threads: the order of results, the limits, errors and the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from replay_data.storage.workers import Job, run_in_order


def test_results_are_in_the_order_of_the_jobs() -> None:
    def job(index: int) -> Iterator[tuple[int, int]]:
        for result in range(index % 4):
            time.sleep(0.001 * ((7 * index) % 5))
            yield index, result

    for num_workers in (1, 2, 5):
        jobs = [Job(index, partial(job, index)) for index in range(40)]
        expected = [(index, result) for index in range(40) for result in range(index % 4)]
        assert list(run_in_order(jobs, num_workers)) == expected


def test_only_jobs_with_different_keys_overlap() -> None:
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
    assert list(run_in_order(jobs, 3, max_queued=100)) == [key for key in keys for _ in range(3)]
    assert any(len(overlap) > 1 for overlap in overlaps)


def test_endless_jobs_start_on_demand_and_end_with_the_generator() -> None:
    started = made = 0

    def job() -> Iterator[int]:
        nonlocal made
        while True:
            made += 1
            yield made

    def jobs() -> Iterator[Job[int]]:
        nonlocal started
        while True:
            started += 1
            yield Job(started, job)

    threads = threading.active_count()
    results = run_in_order(jobs(), num_workers=2, max_queued=3)
    for _ in range(10):
        next(results)
    time.sleep(0.05)
    assert started == 2
    assert made <= 10 + 2 * (3 + 1)
    results.close()
    assert threading.active_count() == threads


def test_error_is_raised_in_order() -> None:
    def failing() -> Iterator[int]:
        yield 2
        raise ValueError("broken")

    results = run_in_order([Job(1, lambda: iter([1])), Job(2, failing), Job(3, lambda: iter([3]))], num_workers=3)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(results)
