"""Which episodes of a recorded run enter a store.

===========  =========================================================================================================
original     the paper's draw to the letter, the quirks of its code included (docs/protocol.md)
corrected    the same draw, of whole episodes: no padding rows, no wrong timesteps, nothing cut at a buffer's border
even         the first episodes of every buffer or shard, the same number of steps from each
top          of all episodes, the best by return
all          all episodes
===========  =========================================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from replay_data.episode import Episode, Shard
from replay_data.errors import InputError
from replay_data.progress import ProgressBar
from replay_data.storage.workers import Job, run_in_order

Bar: TypeAlias = "ProgressBar"

SelectionMethod = Literal["original", "corrected", "even", "top", "all"]

_LIMITS: dict[str, tuple[float, float]] = {
    "num_steps": (1, math.inf),
    "num_buffers": (1, math.inf),
    "trajectories_per_buffer": (0, math.inf),
    "seed": (0, 2**32 - 1),
    "top_episode_percent": (0.01, 100),
}

OPTIONS: dict[SelectionMethod, tuple[str, ...]] = {
    "original": ("num_steps", "num_buffers", "trajectories_per_buffer", "seed"),
    "corrected": ("num_steps", "num_buffers", "trajectories_per_buffer", "seed"),
    "even": ("num_steps", "num_buffers"),
    "top": ("num_buffers", "top_episode_percent"),
    "all": ("num_buffers",),
}


@dataclass(frozen=True)
class Selection:
    """Which episodes; see this module's table. The defaults are the paper's settings.

    Attributes:
        method: of selection.
        num_steps: steps that are enough; the visit (or, of each part, the episode) that reaches them is finished.
        num_buffers: only the last so many buffers or shards of the run; None, for other kinds than the draws: all.
        trajectories_per_buffer: ends of games that a visit passes before its last one.
        seed: of the draw of buffers.
        top_episode_percent: of the episodes, rounded up.
    """

    method: SelectionMethod = "corrected"
    num_steps: int = 500_000
    num_buffers: int | None = 50
    trajectories_per_buffer: int = 10
    seed: int = 123
    top_episode_percent: float = 10

    @classmethod
    def of(cls, method: SelectionMethod, **options: Any) -> Selection:
        """A selection with the given options; None stands for the default.

        Raises:
            InputError: if an option means nothing to the method, or makes no sense.
        """
        given = {name: value for name, value in options.items() if value is not None}
        for name, value in given.items():
            flag, (low, high) = _flag(name), _LIMITS[name]
            if name not in OPTIONS[method]:
                takes = ", ".join(map(_flag, OPTIONS[method]))
                raise InputError(f"{flag} means nothing to --selection {method}, which takes {takes}; leave it out")
            if not low <= value <= high:
                limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
                raise InputError(f"{flag} is {value}; it must be {limits}")
        return cls(method, **{"num_buffers": 50 if method in ("original", "corrected") else None, **given})

    def described(self) -> dict[str, Any]:
        """What a store's metadata says of it: the options that mean something to the method."""
        options = ("method", *OPTIONS[self.method])
        return {name: value for name, value in asdict(self).items() if name in options and value is not None}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


TaggedEpisode = tuple[int, Episode | None]  # the number of its part, the episode; None at the end of a visit


def tag_episodes(number: int, episodes: Callable[[], Iterator[Episode]]) -> Iterator[TaggedEpisode]:
    for episode in episodes():
        yield number, episode
    yield number, None


def first_episodes(number: int, part: Shard, steps: int) -> Iterator[Episode]:
    """The first episodes of a part that have ``steps`` steps together."""
    found = 0
    for episode in part.episodes():
        yield episode
        found += len(episode)
        if found >= steps:
            return
    raise InputError(
        f"number {number} of the run's buffers or shards holds {found:,} steps of whole episodes, less than its share "
        f"of {steps:,}; ask for fewer --num-steps, or take what is there with --selection all"
    )


def rank_episodes(parts: Mapping[int, Shard], selection: Selection, num_workers: int, bar: Bar) -> dict[int, set[int]]:
    """Which episodes of each part are among the best by return, the earlier one where two are equal."""

    def returns(number: int) -> Iterator[tuple[float, int, int]]:
        for index, value in enumerate(parts[number].returns()):
            yield -value, number, index
        parts[number].check(everything=True)

    ranked = []
    with closing(run_in_order([Job(number, partial(returns, number)) for number in parts], num_workers)) as found:
        for episode in found:
            ranked.append(episode)
            bar.set_description(f"ranking {len(ranked)} episodes")
    bar.set_description("reading")
    ranked.sort()
    best = ranked[: math.ceil(len(ranked) * selection.top_episode_percent / 100)]
    return {number: {index for _, part, index in best if part == number} for number in parts}


def format_ranges(numbers: Iterable[int]) -> str:
    """Numbers for people: ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
