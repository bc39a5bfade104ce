"""Readers of recorded runs, one per source format; `SOURCES` maps a format's name to its reader."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

from replay_data.episode import EpisodeSource
from replay_data.sources.dopamine_reader import DopamineLog
from replay_data.sources.jat import JatRun
from replay_data.sources.minari_reader import MinariRun
from replay_data.sources.rl_unplugged import RLUnpluggedRun

SourceFormat = Literal["dopamine", "rl_unplugged", "jat", "minari"]


class SourceReader(Protocol):
    """Opens a recorded run."""

    def __call__(self, path: Path, game: str, run: int, num_actions: int) -> EpisodeSource:
        """Return run ``run`` of ``game`` below the directory ``path``.

        Raises:
            ReplayFormatError: If there is no such run.
        """


SOURCES: Mapping[SourceFormat, SourceReader] = {
    "dopamine": DopamineLog,
    "rl_unplugged": RLUnpluggedRun,
    "jat": JatRun,
    "minari": MinariRun,
}
