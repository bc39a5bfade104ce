"""The six ways to select episodes of a recorded run, and their options.

A *shard* is one of the files or sets of files of a run, such as a buffer of a Dopamine log or a file of RL Unplugged.
The first two methods draw *buffer visits* as the paper's code does (`replay_data.selection.paper_draw`); the others are
in `replay_data.selection.episodes`, and select from a store too (`replay_data.selection.stores`).

``original``
    The rows of the paper's draw, exactly as the released code loads them: padding rows count as steps, timesteps are
    off by one, and the other deviations of docs/protocol.md, points 1 to 9. Dopamine logs only.

``corrected``
    The same draw, of whole episodes:

    1. Draw one of the last ``num_buffers`` shards, uniformly and with replacement, with
       ``np.random.RandomState(seed)``. A shard that is missing or exhausted can be drawn, and yields nothing.
    2. Visit it: read on from the row where its last visit ended (at first, row 0) to the end of the
       ``trajectories_per_buffer + 1``-th terminated episode from there. If the shard has too few such episodes
       left, or the visit would include row 99,999 (the last one that the original code sees), skip the visit; the
       shard is then exhausted. Rows of RL Unplugged are counted as in a log, with three padding rows per episode.
    3. Take the whole episodes in these rows, without padding. An episode that began before row 0 is left out. An
       episode that a time limit truncated is taken too, but does not count toward the visit.
    4. Repeat until ``num_steps`` steps were taken. The last visit is taken whole. If every shard is exhausted before
       that, building the store fails with an error.

    All whole episodes that ``original`` draws with the same options are among these, unless the log has more than 50
    buffers, of which ``original`` knows only the first 50, or files that share rows, which only ``original`` reads
    again.

``even``
    From each of the last ``num_buffers`` shards, the first episodes until they have
    ``ceil(num_steps / number of shards that are present)`` steps. The last episode of each is taken whole. A store has
    no shards: its episodes are taken at nearly equal distances until they have ``num_steps`` steps.

``top``
    Of all episodes of the last ``num_buffers`` shards, the best ``top_episode_percent`` percent by return, rounded up,
    in the order of play. Of episodes with equal returns, the earlier one ranks higher.

``return_range``
    All episodes of the last ``num_buffers`` shards with a return from ``min_return`` to ``max_return``, both included,
    in the order of play.

``all``
    All episodes of the last ``num_buffers`` shards, in the order of play.

A return is the sum of an episode's clipped rewards.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from replay_data.errors import InputError
from replay_data.json_fields import Scalar

SelectionMethod = Literal["original", "corrected", "even", "top", "return_range", "all"]

OPTIONS: dict[SelectionMethod, tuple[str, ...]] = {
    "original": ("num_steps", "num_buffers", "trajectories_per_buffer", "seed"),
    "corrected": ("num_steps", "num_buffers", "trajectories_per_buffer", "seed"),
    "even": ("num_steps", "num_buffers"),
    "top": ("num_buffers", "top_episode_percent"),
    "return_range": ("num_buffers", "min_return", "max_return"),
    "all": ("num_buffers",),
}
"""Options that each method uses."""

_MAX_COUNT = 2**53  # larger integers are not exact as floats

_LIMITS: dict[str, tuple[float, float]] = {
    "num_steps": (1, _MAX_COUNT),
    "num_buffers": (1, _MAX_COUNT),
    "trajectories_per_buffer": (0, _MAX_COUNT),
    "seed": (0, 2**32 - 1),
    "top_episode_percent": (0.01, 100),
    "min_return": (-_MAX_COUNT, _MAX_COUNT),
    "max_return": (-_MAX_COUNT, _MAX_COUNT),
}


@dataclass(frozen=True)
class Selection:
    """A selection method and its options. The defaults are the paper's settings.

    Attributes:
        method: One of the methods that this module describes.
        num_steps: Minimum number of steps (original, corrected, even).
        num_buffers: Number of shards to select from, the last ones of the run; None for all.
        trajectories_per_buffer: Number of terminated episodes in a buffer visit, minus one (original, corrected).
        seed: Seed of the draw (original, corrected).
        top_episode_percent: Percentage of the episodes, not of the steps (top).
        min_return: Smallest return of an episode (return_range); None for no limit.
        max_return: Largest return of an episode (return_range); None for no limit.
    """

    method: SelectionMethod = "corrected"
    num_steps: int = 500_000
    num_buffers: int | None = 50
    trajectories_per_buffer: int = 10
    seed: int = 123
    top_episode_percent: float = 10
    min_return: float | None = None
    max_return: float | None = None

    @classmethod
    def of(cls, method: SelectionMethod, **options: float | None) -> Selection:
        """Return a selection with the given options; an option that is None has its default.

        `num_buffers` defaults to 50 for original and corrected, and to all for the other methods.

        Raises:
            InputError: If the method does not use an option, its value is out of range, or return_range has no limit or
                contradictory ones.
        """
        values: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        for name, value in values.items():
            if name not in OPTIONS[method]:
                used = ", ".join(f"`{option}`" for option in OPTIONS[method])
                raise InputError(f"`{name}` has no effect on `selection` {method}, which uses {used}; leave it out")
            low, high = _LIMITS[name]
            if not low <= value <= high:
                limits = f"at least {low}" if high == _MAX_COUNT and value < low else f"from {low} to {high}"
                raise InputError(f"`{name}` is {value}; it must be {limits}")
        min_return, max_return = values.get("min_return"), values.get("max_return")
        if method == "return_range" and min_return is None and max_return is None:
            raise InputError("`selection` return_range needs `min_return`, `max_return` or both")
        if min_return is not None and max_return is not None and min_return > max_return:
            raise InputError(
                f"`min_return` is {min_return:g}, above `max_return`, which is {max_return:g}; lower `min_return` or "
                "raise `max_return`"
            )
        return cls(method, **{"num_buffers": 50 if method in ("original", "corrected") else None, **values})

    def to_json(self) -> dict[str, Scalar]:
        """Return the method and the options that it uses, for the metadata of a store."""
        used = ("method", *OPTIONS[self.method])
        return {name: value for name, value in asdict(self).items() if name in used and value is not None}
