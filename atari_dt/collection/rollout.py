"""The interface between players and the recorder: steps, assembled into compressed episodes."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from isal import igzip

from replay_data.episode import FRAME_SHAPE, Episode
from replay_data.observation import RAM_SIZE


@dataclass(frozen=True)
class CompressedEpisode:
    """An `Episode` with gzip-compressed frames and RAM. Uncompressed, 27,000 steps of 32 environments would take 6 GB.

    Attributes:
        frames: One or more gzip members; decompressed, they are uint8 ``[T, 84, 84]``.
        actions: uint8 ``[T]``.
        raw_rewards: float32 ``[T]``, the reward of each action before clipping.
        terminated: Whether the game ended after the last step; false where a time limit truncated the episode.
        ram: One or more gzip members; decompressed, they are uint8 ``[T, 128]``, the RAM when the actions were chosen.
            None if it is not recorded.
    """

    frames: bytes
    actions: npt.NDArray[np.uint8]
    raw_rewards: npt.NDArray[np.float32]
    terminated: bool
    ram: bytes | None = None

    def __len__(self) -> int:
        return len(self.actions)

    @classmethod
    def pack(cls, episode: Episode) -> CompressedEpisode:
        """Compress an episode that has raw rewards."""
        assert episode.raw_rewards is not None
        ram = None if episode.ram is None else _compress(episode.ram)
        return cls(_compress(episode.frames), episode.actions, episode.raw_rewards, episode.terminated, ram)

    def unpack(self) -> Episode:
        """Return the episode with decompressed frames and RAM, and with rewards clipped to [-1, 1]."""
        frames = _decompress(self.frames).reshape(-1, *FRAME_SHAPE)
        ram = None if self.ram is None else _decompress(self.ram).reshape(-1, RAM_SIZE)
        rewards = self.raw_rewards.clip(-1, 1)
        return Episode(frames, self.actions, rewards, self.raw_rewards, self.terminated, ram=ram)


def _compress(observations: npt.NDArray[np.uint8]) -> bytes:
    return igzip.compress(np.ascontiguousarray(observations), 1, mtime=0)


def _decompress(observations: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(igzip.decompress(observations), dtype=np.uint8)


class FinishedEpisode(NamedTuple):
    """An episode that has ended, as a player hands it to the recorder.

    Attributes:
        episode: The episode.
        details: Numbers that the sidecar lists with the episode, by name, such as the player's ``"skill"``.
    """

    episode: CompressedEpisode
    details: Mapping[str, float]


@dataclass(frozen=True)
class Rollout:
    """The steps between two yields of `Player.play`.

    Attributes:
        episodes: Episodes that have ended, in the order in which the log will have them.
        num_steps: Number of steps, of all environments together.
        metrics: Numbers to plot, by name.
    """

    episodes: Sequence[FinishedEpisode]
    num_steps: int
    metrics: Mapping[str, float]


class Player(Protocol):
    """Plays episodes for the recorder, and can save and restore its state."""

    def play(self) -> Generator[Rollout, None, None]:
        """Play without end, and yield one rollout after another."""

    def state(self) -> bytes:
        """Return the state after the last rollout that `play` yielded."""

    def restore(self, state: bytes) -> None:
        """Load a state that `state` returned; `play` then continues after it."""


@dataclass(frozen=True)
class Steps:
    """T steps of N parallel environments.

    Attributes:
        frames: uint8 ``[T, N, 84, 84]``.
        actions: uint8 ``[T, N]``.
        raw_rewards: float32 ``[T, N]``.
        terminated: bool ``[T, N]``, true where the game ended after the step.
        truncated: bool ``[T, N]``, true where a time limit ended the episode after the step.
        ram: uint8 ``[T, N, 128]``, the RAM when the actions were chosen; None if it is not recorded.
    """

    frames: npt.NDArray[np.uint8]
    actions: npt.NDArray[np.uint8]
    raw_rewards: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    ram: npt.NDArray[np.uint8] | None = None

    @classmethod
    def empty(cls, num_steps: int, num_envs: int, ram: bool) -> Steps:
        """Return arrays to be filled, with or without those of the RAM."""
        shape = (num_steps, num_envs)
        return cls(
            np.empty((*shape, *FRAME_SHAPE), dtype=np.uint8),
            np.empty(shape, dtype=np.uint8),
            np.empty(shape, dtype=np.float32),
            np.empty(shape, dtype=np.bool_),
            np.empty(shape, dtype=np.bool_),
            np.empty((*shape, RAM_SIZE), dtype=np.uint8) if ram else None,
        )

    def set_observations(self, step: int, frames: npt.NDArray[np.uint8], ram: npt.NDArray[np.uint8] | None) -> None:
        """Copy what was observed before a step.

        Args:
            step: Index of the step.
            frames: uint8 ``[N, 84, 84]``, the newest frames.
            ram: uint8 ``[N, 128]``; None if it is not recorded.
        """
        self.frames[step] = frames
        if self.ram is not None:
            assert ram is not None
            self.ram[step] = ram


class EpisodeAssembler:
    """Assembles the steps of N parallel environments into episodes.

    Args:
        num_envs: N.
    """

    def __init__(self, num_envs: int):
        self._chunks: list[list[CompressedEpisode]] = [[] for _ in range(num_envs)]  # of the episodes in progress

    def add(self, steps: Steps) -> list[tuple[CompressedEpisode, int]]:
        """Add T steps of every environment.

        Returns:
            The episodes that ended, in order. Each comes with its position: the number of these T · N steps, counted
            step by step and in each step environment by environment, up to and including its last one.
        """
        num_envs = len(self._chunks)
        finished: list[tuple[int, CompressedEpisode]] = []
        for env_index, chunks in enumerate(self._chunks):
            terminated = steps.terminated[:, env_index]
            done = terminated | steps.truncated[:, env_index]
            start = 0
            for last in [*np.flatnonzero(done).tolist(), None]:
                span = slice(start, None if last is None else last + 1)
                if len(done[span]):
                    chunks.append(
                        CompressedEpisode(
                            _compress(steps.frames[span, env_index]),
                            steps.actions[span, env_index].copy(),
                            steps.raw_rewards[span, env_index].copy(),
                            terminated=last is not None and bool(terminated[last]),
                            ram=None if steps.ram is None else _compress(steps.ram[span, env_index]),
                        )
                    )
                if last is not None:
                    finished.append((last * num_envs + env_index + 1, _concatenate(chunks)))
                    chunks.clear()
                    start = last + 1
        return [(episode, position) for position, episode in sorted(finished, key=lambda each: each[0])]


def _concatenate(chunks: Sequence[CompressedEpisode]) -> CompressedEpisode:
    """Return the episode that consists of these chunks."""
    ram = [chunk.ram for chunk in chunks if chunk.ram is not None]  # of all chunks or of none
    return CompressedEpisode(
        b"".join(chunk.frames for chunk in chunks),
        np.concatenate([chunk.actions for chunk in chunks]),
        np.concatenate([chunk.raw_rewards for chunk in chunks]),
        chunks[-1].terminated,
        b"".join(ram) if ram else None,
    )
