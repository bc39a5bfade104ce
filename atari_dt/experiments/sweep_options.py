"""The options of commands that do a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from replay_data import InputError


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep launches its runs."""

    jobs: int | None = None
    """Number of runs at once; by default as many as fill the cores with their threads, one on a GPU, and all on a
    cluster."""
    ray_address: str | None = None
    """Address of a Ray cluster that does the runs, such as 127.0.0.1:6379; its nodes share the directories DATA and
    OUT."""
    retry_failed: bool = False
    """Retry runs that failed before."""

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise InputError(f"`jobs` must be at least 1, not {self.jobs}")
