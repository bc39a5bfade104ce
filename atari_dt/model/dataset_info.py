"""The summary of the training data that a checkpoint stores."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data import TrajectoryStore
from replay_data.json_fields import (
    check_range,
    read_count,
    read_field,
    read_list,
    read_object,
    read_optional_field,
    read_probability,
)
from replay_data.recording import check_game_name, read_action_meanings


@dataclass(frozen=True)
class DatasetInfo:
    """Summary of a dataset: what evaluation needs to set target returns and to match the game's settings.

    A converted checkpoint of the original code has no statistics of its data: there ``mean_return`` and everything
    after it is None, and ``max_return`` may be.

    Attributes:
        game: Name of the game, such as ``"Breakout"``.
        action_meanings: Name of each action index.
        reward_clipping: Whether returns are sums of rewards clipped to [-1, 1].
        sticky_actions: Probability of repeating the previous action in the data; None if unknown.
        max_return: Largest episode return, in the dataset's reward units.
        mean_return: Mean episode return, in the dataset's reward units.
        steps: Number of steps.
        episodes: Number of episodes.
        max_score: Largest episode score, in the game's points; None if the data has no raw rewards.
        mean_score: Mean episode score, in the game's points; None if the data has no raw rewards.
        digest: SHA-256 digest of the store's arrays.
        return_percentiles: Percentiles 0 to 100 of the episode returns (`compute_percentiles`), in the dataset's reward
            units; None in a checkpoint of a version that did not store them. Comparisons ignore it, so that such a
            checkpoint equals one of the same data that has them.
        min_return_to_go: Smallest return-to-go of a step, in the dataset's reward units; like ``return_percentiles``,
            None in older checkpoints and ignored by comparisons.
    """

    game: str
    action_meanings: tuple[str, ...]
    reward_clipping: bool
    sticky_actions: float | None
    max_return: float | None
    mean_return: float | None = None
    steps: int | None = None
    episodes: int | None = None
    max_score: float | None = None
    mean_score: float | None = None
    digest: str | None = None
    return_percentiles: tuple[float, ...] | None = field(default=None, compare=False)
    min_return_to_go: float | None = field(default=None, compare=False)

    @classmethod
    def from_store(cls, store: TrajectoryStore) -> DatasetInfo:
        """Return the summary of a trajectory store."""
        metadata = store.metadata
        return cls(
            game=store.game,
            action_meanings=metadata.action_meanings,
            reward_clipping=metadata.reward_clipping,
            sticky_actions=metadata.sticky_actions,
            steps=len(store),
            episodes=store.num_episodes,
            max_return=metadata.max_return,
            mean_return=metadata.mean_return,
            max_score=metadata.max_score,
            mean_score=metadata.mean_score,
            digest=store.digest,
            return_percentiles=compute_percentiles(store.episode_returns),
            min_return_to_go=float(store.returns_to_go.min()),
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        content = {**dataclasses.asdict(self), "action_meanings": list(self.action_meanings)}
        if self.return_percentiles is not None:
            content["return_percentiles"] = list(self.return_percentiles)
        for name in ("return_percentiles", "min_return_to_go"):
            if content[name] is None:
                del content[name]
        return content

    @classmethod
    def from_json(cls, content: Any) -> DatasetInfo:
        """Read a JSON object that `to_json` returned.

        Raises:
            ValueError, KeyError, TypeError: If a field is missing, unknown, or has an impossible value.
        """
        unknown = read_object(content).keys() - {each.name for each in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"the dataset has the unknown fields {', '.join(sorted(unknown))}")
        percentiles = None
        if content.get("return_percentiles") is not None:
            percentiles = read_list(content, "return_percentiles", float)
            check_range("the number of return_percentiles", len(percentiles), 101, 101)
        return cls(
            game=check_game_name(read_field(content, "game", str)),
            action_meanings=read_action_meanings(content),
            reward_clipping=read_field(content, "reward_clipping", bool),
            sticky_actions=None if content["sticky_actions"] is None else read_probability(content, "sticky_actions"),
            max_return=read_optional_field(content, "max_return", float),
            mean_return=read_optional_field(content, "mean_return", float),
            steps=_read_optional_count(content, "steps"),
            episodes=_read_optional_count(content, "episodes"),
            max_score=read_optional_field(content, "max_score", float),
            mean_score=read_optional_field(content, "mean_score", float),
            digest=read_optional_field(content, "digest", str),
            return_percentiles=percentiles,
            min_return_to_go=read_optional_field(content, "min_return_to_go", float),
        )


def compute_percentiles(returns: npt.NDArray[np.floating[Any]]) -> tuple[float, ...]:
    """Return percentiles 0, 1, …, 100 of some returns.

    Percentile p is the smallest return that at least p percent of the returns do not exceed (NumPy's method
    ``inverted_cdf``). Each percentile is therefore a return that occurred; interpolation could give a target return
    between two groups of episodes, which no episode has.

    Args:
        returns: float ``[E]``, at least one.
    """
    ranked = np.sort(returns)
    # Integers, so that rounding does not move a rank. Percentile 0 is the smallest return.
    ranks = [max(-(-percent * len(ranked) // 100), 1) for percent in range(101)]
    return tuple(float(ranked[rank - 1]) for rank in ranks)


def _read_optional_count(content: Any, name: str) -> int | None:
    return None if content.get(name) is None else read_count(content, name)
