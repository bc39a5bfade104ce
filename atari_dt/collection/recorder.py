"""What players play becomes a replay log in Dopamine's format, whole and resumable whatever happens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from replay_data.episode import Episode


@dataclass(frozen=True)
class Played:
    """What a player has played since it yielded last.

    Attributes:
        episodes: those that ended, in that order, each with what its record should say of it.
        steps: how many it played, in all games.
        values: numbers to show.
    """

    episodes: list[tuple[Episode, Mapping[str, float]]]
    steps: int
    values: Mapping[str, float]


class OpenEpisodes:
    """Turns steps of N parallel games into episodes, in the order they ended.

    Frames of episodes that go on wait compressed: 27,000 steps of 32 games would be 6 GB.
    """

    def __init__(self, num_games: int):
        self._open: list[list[_Piece]] = [[] for _ in range(num_games)]

    def add(
        self,
        frames: npt.NDArray[np.uint8],
        actions: npt.NDArray[np.uint8],
        raw_rewards: npt.NDArray[np.float32],
        terminal: npt.NDArray[np.bool_],
        cut: npt.NDArray[np.bool_],
    ) -> list[tuple[Episode, int]]:
        """Add T steps of every game.

        Args:
            frames: uint8 ``[T, N, 84, 84]``.
            actions: uint8 ``[T, N]``.
            raw_rewards: float32 ``[T, N]``.
            terminal: bool ``[T, N]``, where a game was over after the step.
            cut: bool ``[T, N]``, where a time limit ended the episode.

        Returns:
            The episodes that ended, each with the number of steps, of all games, up to its last one.
        """
        num_games = len(self._open)
        ended: list[tuple[int, Episode]] = []
        for game, pieces in enumerate(self._open):
            start = 0
            for last in np.flatnonzero(terminal[:, game] | cut[:, game]).tolist() + [None]:
                part = slice(start, None if last is None else last + 1)
                if len(actions[part]):
                    content = isal_zlib.compress(np.ascontiguousarray(frames[part, game]), 1)
                    pieces.append(_Piece(content, actions[part, game].copy(), raw_rewards[part, game].copy()))
                if last is not None:
                    ended.append((last * num_games + game + 1, _episode(pieces, bool(terminal[last, game]))))
                    pieces.clear()
                    start = last + 1
        return [(episode, at) for at, episode in sorted(ended, key=lambda end: end[0])]


@dataclass(frozen=True)
class _Piece:
    """Successive steps of an episode, the frames compressed."""

    frames: bytes
    actions: npt.NDArray[np.uint8]
    raw_rewards: npt.NDArray[np.float32]


def _episode(pieces: list[_Piece], terminal: bool) -> Episode:
    frames = np.frombuffer(b"".join(isal_zlib.decompress(piece.frames) for piece in pieces), dtype=np.uint8)
    raw = np.concatenate([piece.raw_rewards for piece in pieces])
    actions = np.concatenate([piece.actions for piece in pieces])
    return Episode(frames.reshape(-1, 84, 84), actions, raw.clip(-1, 1), raw, terminal)
