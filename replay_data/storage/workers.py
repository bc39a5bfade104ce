"""Run jobs in threads and yield their results in order."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Job(Generic[T]):
    """A unit of work that yields results.

    Attributes:
        key: Key of the resource that the job uses; jobs with the same key run one after another.
        run: Function that yields the results; it is called in a thread.
    """

    key: Hashable
    run: Callable[[], Iterable[T]]


def run_in_order(jobs: Iterable[Job[T]], num_workers: int, max_queued: int = 2) -> Generator[T, None, None]:
    """Run jobs in parallel and yield their results job by job, in the order of the jobs.

    Closing the generator ends all threads. An error of a job is raised where its next result would be yielded.

    Args:
        jobs: Jobs to run, possibly endless; the next one is taken when a thread is free.
        num_workers: Number of threads.
        max_queued: Number of results that a job may be ahead of the consumer, which bounds the memory.
    """
    remaining: Iterator[Job[T]] = iter(jobs)
    postponed: Job[T] | None = None
    running: deque[tuple[Hashable, queue.Queue[T | _End]]] = deque()
    stopped = threading.Event()

    def put(results: queue.Queue[T | _End], result: T | _End) -> bool:
        while not stopped.is_set():
            try:
                results.put(result, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def work(job: Job[T], results: queue.Queue[T | _End]) -> None:
        try:
            for result in job.run():
                if not put(results, result):
                    return
        except BaseException as error:
            put(results, _End(error))
        else:
            put(results, _End(None))

    with ThreadPoolExecutor(num_workers) as pool:
        try:
            while True:
                while len(running) < num_workers:
                    job = postponed if postponed is not None else next(remaining, None)
                    postponed = None
                    if job is None:
                        break
                    if any(job.key == key for key, _ in running):
                        postponed = job
                        break
                    results: queue.Queue[T | _End] = queue.Queue(max_queued)
                    pool.submit(work, job, results)
                    running.append((job.key, results))
                if not running:
                    return
                _, first = running[0]
                while not isinstance(result := first.get(), _End):
                    yield result
                if result.error is not None:
                    raise result.error
                running.popleft()
        finally:
            stopped.set()


@dataclass(frozen=True)
class _End:
    """The end of a job, with the error that ended it."""

    error: BaseException | None
