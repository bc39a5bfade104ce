"""Settings that evaluation, visualization and experiments share: protocol, sampling, episodes, seed and device."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.rom import Rom
from atari_dt.games.catalogue import find_game
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.policies.planning_config import PlanningConfig
from atari_dt.policies.protocol import EvaluationProtocol
from atari_dt.policies.sampling import Sampling
from replay_data import InputError


@dataclass(frozen=True)
class PlayConfig:
    """How a trained model plays.

    Raises:
        InputError: If a number is out of range.
    """

    protocol: EvaluationProtocol = field(default_factory=EvaluationProtocol)
    """Protocol of the environment and of conditioning; by default that of the data."""
    sampling: Sampling = field(default_factory=Sampling)
    """How actions are sampled from the logits."""
    planning: PlanningConfig = field(default_factory=PlanningConfig)
    """How models that plan search for actions."""
    episodes: int = 16
    """Number of episodes of each model under each target return."""
    max_steps: int = 27_000
    """Number of steps after which an episode is truncated."""
    seed: int = 0
    """Seed of the emulator, the no-ops and the action sampling."""
    device: str = "auto"
    """Device of the model: `cpu`, `cuda` or `cuda:1`; `auto` chooses a GPU if there is one."""
    rom: Path | None = None
    """ROM file that replaces the one bundled with ALE."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise InputError(f"`episodes` must be at least 1, not {self.episodes}")
        if self.seed < 0:
            raise InputError(f"`seed` must be at least 0, not {self.seed}")
        EnvironmentConfig.with_max_steps(self.max_steps)  # raises if the limit is out of range

    def environment(self, dataset: DatasetInfo) -> EnvironmentConfig:
        """Return the settings of the environment; sticky actions are the dataset's unless the protocol sets them.

        Args:
            dataset: Dataset whose game is played.

        Raises:
            InputError: If the ROM cannot be played, or a number is out of range.
        """
        rom = None if self.rom is None else Rom(self.rom, find_game(dataset.game))
        return self.protocol.environment(dataset, self.max_steps, rom)
