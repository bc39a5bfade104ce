"""Checkpoints that a recording resumes from."""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atari_dt.collection.rollout import CompressedEpisode
from replay_data import InputError
from replay_data.storage.atomic import atomic_directory

RECORDING_FILE, LOGS_DIRECTORY, CHECKPOINTS_DIRECTORY = "recording.json", "replay_logs", "checkpoints"


def list_checkpoints(directory: Path) -> list[Path]:
    return sorted((directory / CHECKPOINTS_DIRECTORY).glob("buffers-*"))


@dataclass(frozen=True)
class RecorderCheckpoint:
    """Where a recording stands.

    Attributes:
        whole: buffers that are complete.
        add_count: rows before the first of ``episodes``.
        episodes: those that had ended, but are not, or not to their end, in these buffers.
        played: steps that were played, in all games.
        stage: name of the hidden directory that buffers may still be in.
        player: its state; None before it has begun.
    """

    whole: int = 0
    add_count: int = 0
    episodes: Sequence[tuple[CompressedEpisode, Mapping[str, float]]] = ()
    played: int = 0
    stage: str | None = None
    player: bytes | None = None

    @classmethod
    def read(cls, directory: Path) -> RecorderCheckpoint:
        """Read the last one of a recording.

        Raises:
            InputError: if it is damaged.
        """
        paths = list_checkpoints(directory)
        if not paths:
            return cls()
        path = paths[-1]
        try:
            about = json.loads((path / "progress.json").read_text())
            with (path / "episodes.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                frames, sizes, actions, raw_rewards, lengths, terminal = (
                    arrays[name] for name in ("frames", "sizes", "actions", "raw_rewards", "lengths", "terminal")
                )
            ends, stops, details = np.cumsum(lengths), np.cumsum(sizes), about.pop("details")
            episodes = []
            for end, length, stop, size, over, each in zip(ends, lengths, stops, sizes, terminal, details, strict=True):
                part = slice(end - length, end)
                content = frames[stop - size : stop].tobytes()
                episode = CompressedEpisode(content, actions[part], raw_rewards[part], bool(over))
                if not len(episode.unpack().frames) == len(episode) == len(episode.raw_rewards):
                    raise ValueError("the lengths of an episode contradict each other")
                episodes.append((episode, each))
            return cls(**about, episodes=episodes, player=(path / "player").read_bytes())
        except _DAMAGE as error:
            raise InputError(
                f"the checkpoint {path} is damaged ({type(error).__name__}: {error}); the recording cannot go on, but "
                "its buffers can be used"
            ) from error

    def write(self, directory: Path) -> None:
        """Write it whole."""
        assert self.player is not None
        about = {"whole": self.whole, "add_count": self.add_count, "played": self.played, "stage": self.stage}
        episodes = [episode for episode, _ in self.episodes]
        with atomic_directory(directory / CHECKPOINTS_DIRECTORY / f"buffers-{self.whole:02d}") as partial:
            (partial / "player").write_bytes(self.player)
            content = {**about, "details": [dict(details) for _, details in self.episodes]}
            (partial / "progress.json").write_text(json.dumps(content, indent=2) + "\n")
            np.savez(
                partial / "episodes.npz",
                frames=np.frombuffer(b"".join(episode.frames for episode in episodes), dtype=np.uint8),
                sizes=np.array([len(episode.frames) for episode in episodes], dtype=np.int64),
                actions=np.concatenate([np.zeros(0, np.uint8), *(episode.actions for episode in episodes)]),
                raw_rewards=np.concatenate([np.zeros(0, np.float32), *(each.raw_rewards for each in episodes)]),
                lengths=np.array([len(episode) for episode in episodes], dtype=np.int64),
                terminal=np.array([episode.terminated for episode in episodes], dtype=np.bool_),
            )

    def remove_older(self, directory: Path) -> None:
        """Remove those before it."""
        for old in list_checkpoints(directory):
            if old.name != f"buffers-{self.whole:02d}":
                hidden = old.with_name(f".{old.name}")
                old.rename(hidden)  # at once, so that no half of it is ever taken for a checkpoint
                shutil.rmtree(hidden, ignore_errors=True)


_DAMAGE = (  # what reading a checkpoint can raise, beside what isal raises (a zlib.error)
    *(OSError, EOFError, ValueError, KeyError, TypeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)
