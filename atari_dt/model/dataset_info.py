"""The summary of the training data that a checkpoint stores."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from replay_data import TrajectoryStore


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
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        return {**dataclasses.asdict(self), "action_meanings": list(self.action_meanings)}

    @classmethod
    def from_json(cls, content: Any) -> DatasetInfo:
        """Read a JSON object that `to_json` returned.

        Raises:
            KeyError, TypeError: If the content is anything else.
        """
        return cls(**{**content, "action_meanings": tuple(content["action_meanings"])})
