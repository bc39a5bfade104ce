"""How a trained model is evaluated: as its data was made, or as the original code does it, or anything in between."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from atari_dt.environment.config import EnvironmentConfig, FrameScaling
from atari_dt.environment.rom import Rom
from atari_dt.model.dataset_info import DatasetInfo

ProtocolName = Literal["dopamine", "original"]


@dataclass(frozen=True)
class EvaluationProtocol:
    """Everything in which two evaluations of one model can differ, sampling aside (docs/protocol.md, points 23 to 28).

    Attributes are the command line's options; the defaults are those of ``dopamine``.
    """

    sticky_actions: float | None = None
    """Probability, at each emulator frame, that the action before is repeated; by default as the data was played."""
    frames: FrameScaling = "area"
    """`area`: maximum of two frames, then scaled by areas, as the DQN-replay data; `bilinear`: each of them scaled
    bilinearly before, as the original evaluates."""
    noop_max: int = 0
    """Episodes start with 0 to so many emulator frames of no-ops; 29 in the original."""
    second_reset: bool = False
    """Reset the game again once the first action is chosen and keep the first state in the context, as the original."""
    window_timestep: Literal["first", "current"] = "first"
    """Timestep given to a context: its first step's, as in training, or the newest step's, as the original acts."""
    reward_units: Literal["dataset", "raw"] = "dataset"
    """What lowers the return-to-go: rewards clipped as the data's are, or those of the game, as in the original."""
    integer_returns: bool = False
    """Cut returns-to-go off to whole numbers before the model reads them, as the original."""

    def resolved(self, dataset: DatasetInfo) -> EvaluationProtocol:
        """The same with the sticky actions as a number: the dataset's, or 0.25 where it does not say."""
        if self.sticky_actions is not None:
            return self
        played = 0.25 if dataset.sticky_actions is None else dataset.sticky_actions
        return dataclasses.replace(self, sticky_actions=played)

    def environment(self, dataset: DatasetInfo, max_steps: int, rom: Rom | None = None) -> EnvironmentConfig:
        """How the game is played; ``max_steps`` is the limit of an episode.

        Raises:
            InputError: if a number is out of range.
        """
        fields: dict[str, Any] = {name: getattr(self, name) for name in ("frames", "noop_max", "second_reset")}
        sticky = self.resolved(dataset).sticky_actions
        return EnvironmentConfig.with_max_steps(max_steps, sticky_actions=sticky, rom=rom, **fields)


PROTOCOLS: dict[ProtocolName, EvaluationProtocol] = {
    "dopamine": EvaluationProtocol(),
    "original": EvaluationProtocol(
        sticky_actions=0.0,
        frames="bilinear",
        noop_max=29,
        second_reset=True,
        window_timestep="current",
        reward_units="raw",
        integer_returns=True,
    ),
}
"""``dopamine`` plays as the data was made, ``original`` as the released code evaluates."""
