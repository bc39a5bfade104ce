"""What players hand to the recorder: steps assembled into compressed episodes."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from isal import igzip

from replay_data.episode import FRAME_SHAPE, Episode


@dataclass(frozen=True)
class CompressedEpisode:
    """An `Episode` whose frames are compressed: 27,000 steps of 32 games would be 6 GB.

    Attributes:
        frames: one or more members of gzip; what they hold is uint8 ``[T, 84, 84]``.
        actions: uint8 ``[T]``.
        raw_rewards: float32 ``[T]``; what followed each action, before clipping.
        terminal: whether the game was over after the last step; otherwise a time limit cut the episode.
    """

    frames: bytes
    actions: npt.NDArray[np.uint8]
    raw_rewards: npt.NDArray[np.float32]
    terminated: bool

    def __len__(self) -> int:
        return len(self.actions)

    @classmethod
    def pack(cls, episode: Episode) -> CompressedEpisode:
        """Compress the frames of an episode whose raw rewards are known."""
        assert episode.raw_rewards is not None
        return cls(_compress(episode.frames), episode.actions, episode.raw_rewards, episode.terminated)

    def unpack(self) -> Episode:
        """Return what was packed, with the rewards clipped to [-1, 1]."""
        frames = np.frombuffer(igzip.decompress(self.frames), dtype=np.uint8).reshape(-1, *FRAME_SHAPE)
        return Episode(frames, self.actions, self.raw_rewards.clip(-1, 1), self.raw_rewards, self.terminated)


def _compress(frames: npt.NDArray[np.uint8]) -> bytes:
    return igzip.compress(np.ascontiguousarray(frames), 1, mtime=0)


@dataclass(frozen=True)
class Rollout:
    """What a player has played since it yielded last.

    Attributes:
        episodes: those that ended, in that order, each with what its record should say of it.
        steps: how many it played, in all games.
        values: numbers to show.
    """

    episodes: Sequence[tuple[CompressedEpisode, Mapping[str, float]]]
    steps: int
    values: Mapping[str, float]


class EpisodeAssembler:
    """Turns steps of N parallel games into episodes, in the order they ended."""

    def __init__(self, num_envs: int):
        self._open: list[list[CompressedEpisode]] = [[] for _ in range(num_envs)]

    def add(
        self,
        frames: npt.NDArray[np.uint8],
        actions: npt.NDArray[np.uint8],
        raw_rewards: npt.NDArray[np.float32],
        terminal: npt.NDArray[np.bool_],
        cut: npt.NDArray[np.bool_],
    ) -> list[tuple[CompressedEpisode, int]]:
        """Add T steps of every game.

        Args:
            frames: uint8 ``[T, N, 84, 84]``.
            actions: uint8 ``[T, N]``.
            raw_rewards: float32 ``[T, N]``.
            terminated: bool ``[T, N]``, where a game was over after the step.
            cut: bool ``[T, N]``, where a time limit ended the episode.

        Returns:
            The episodes that ended, each with the number of steps, of all games, up to its last one.
        """
        num_envs = len(self._open)
        ended: list[tuple[int, CompressedEpisode]] = []
        for game, pieces in enumerate(self._open):
            start = 0
            for last in [*np.flatnonzero(terminal[:, game] | cut[:, game]).tolist(), None]:
                part = slice(start, None if last is None else last + 1)
                if len(actions[part]):
                    content = _compress(frames[part, game])
                    over = last is not None and bool(terminal[last, game])
                    pieces.append(
                        CompressedEpisode(content, actions[part, game].copy(), raw_rewards[part, game].copy(), over)
                    )
                if last is not None:
                    ended.append((last * num_envs + game + 1, _join(pieces)))
                    pieces.clear()
                    start = last + 1
        return [(episode, at) for at, episode in sorted(ended, key=lambda end: end[0])]


def _join(pieces: Sequence[CompressedEpisode]) -> CompressedEpisode:
    """The episode that these, one after another, are."""
    return CompressedEpisode(
        b"".join(piece.frames for piece in pieces),
        np.concatenate([piece.actions for piece in pieces]),
        np.concatenate([piece.raw_rewards for piece in pieces]),
        pieces[-1].terminated,
    )


class Player(Protocol):
    """Who plays."""

    def play(self) -> Generator[Rollout, None, None]:
        """Play for ever."""

    def state(self) -> bytes:
        """What `restore` goes on from, after what `play` yielded last."""

    def restore(self, state: bytes) -> None:
        """Go on from a `state`."""
