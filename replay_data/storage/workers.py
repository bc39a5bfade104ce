"""Run jobs in threads and take their results in order."""

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
    """Something that yields results.

    Attributes:
        key: jobs with the same key run one after another.
        run: called in a thread; what it yields is taken while it goes on.
    """

    key: Hashable
    run: Callable[[], Iterable[T]]


def run_in_order(jobs: Iterable[Job[T]], workers: int, ahead: int = 2) -> Generator[T, None, None]:
    """Yield what the jobs yield, job by job, while up to ``workers`` of them run.

    ``jobs`` may be endless: a job is taken from it only when a thread is free. A job waits when ``ahead`` of its
    results have not been taken, which bounds the memory. Closing the generator ends all threads.

    Raises:
        Exception: what a job raises, when its turn comes.
    """
    waiting: Iterator[Job[T]] = iter(jobs)
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

    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while len(running) < workers:
                    job = postponed if postponed is not None else next(waiting, None)
                    postponed = None
                    if job is None:
                        break
                    if any(job.key == key for key, _ in running):
                        postponed = job
                        break
                    results: queue.Queue[T | _End] = queue.Queue(ahead)
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
    """A job is over, and how."""

    error: BaseException | None
