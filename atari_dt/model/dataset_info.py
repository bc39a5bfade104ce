"""What a checkpoint remembers about its training data."""

from __future__ import annotations

from dataclasses import dataclass

from replay_data import TrajectoryStore


@dataclass(frozen=True)
class DatasetInfo:
    """What a checkpoint remembers of the data that it was trained on: enough to condition it and to play.

    Attributes:
        game: such as ``"Breakout"``.
        action_meanings: name of each action index.
        reward_clipping: whether returns are sums of rewards clipped to [-1, 1].
        sticky_actions: as the data was played; None where it is not known.
        max_return, mean_return: of the episodes, in the dataset's reward units. Where only a checkpoint of the original
            code is there, the mean and what follows is None, and the largest may be.
        steps, episodes: size.
        max_score, mean_score: returns in the game's own points; None where the data has no raw rewards.
        digest: SHA-256 of the store's arrays.
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
        """Describe a store."""
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
