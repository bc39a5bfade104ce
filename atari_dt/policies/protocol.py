"""Evaluation protocols: settings of the environment and of conditioning that differ between codebases.

``dopamine`` plays as the DQN-replay dataset was recorded, ``original`` as the original code evaluates.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from atari_dt.environment.config import EnvironmentConfig, FrameScaling
from atari_dt.environment.rom import Rom
from atari_dt.method_config import MethodConfig
from atari_dt.model.dataset_info import DatasetInfo
from replay_data import InputError

ProtocolName = Literal["dopamine", "original"]


@dataclass(frozen=True)
class EvaluationProtocol:
    """Settings in which two evaluations of one model can differ, apart from sampling (docs/protocol.md).

    The defaults are the ``dopamine`` protocol. Q-networks and the Trajectory Transformer, which read no returns-to-go,
    use only those of the environment: ``sticky_actions``, ``frames``, ``noop_max`` and ``second_reset``.
    """

    sticky_actions: float | None = None
    """Probability, at each emulator frame, that the previous action is repeated; by default that of the data."""
    frames: FrameScaling = "area"
    """Frame preprocessing. `area` takes the maximum of two frames, then scales it by area interpolation, as the
    DQN-replay data; `bilinear` scales both frames by bilinear interpolation, then takes the maximum, as the original
    code."""
    noop_max: int = 0
    """Largest number of no-op frames at the start of an episode; 29 in the original code."""
    second_reset: bool = False
    """Whether to reset the emulator again after the first action is chosen and keep the first state in the context, as
    the original code."""
    window_timestep: Literal["first", "current"] = "first"
    """Timestep of a context: `first` is that of its first step, as in training; `current` is that of its newest step,
    as the original code acts."""
    reward_units: Literal["dataset", "raw"] = "dataset"
    """Rewards that lower the return-to-go: `dataset` clips them if the data's rewards are clipped; `raw` never clips
    them, as the original code."""
    integer_returns: bool = False
    """Whether to truncate returns-to-go to integers before the model reads them, as the original code."""
    cache: Literal["auto", "on", "off"] = "auto"
    """Whether to keep keys and values of earlier steps, so that a step costs the model its own tokens instead of K
    steps; `auto` keeps them if the model allows it, as the fast recipe's does. Deeper layers then see further back."""

    def resolved(self, dataset: DatasetInfo, config: MethodConfig) -> EvaluationProtocol:
        """Return the protocol with the settings of a model in place of defaults.

        Sticky actions are those of the dataset, or 0.25 if they are unknown, unless the protocol sets them.

        Args:
            dataset: Training data of the model.
            config: Config of the model.

        Raises:
            InputError: As `uses_cache`.
        """
        cache: Literal["on", "off"] = "on" if self.uses_cache(config) else "off"
        return dataclasses.replace(self, sticky_actions=self._sticky_actions(dataset), cache=cache)

    def uses_cache(self, config: MethodConfig) -> bool:
        """Return whether a model acts with cached keys and values.

        Raises:
            InputError: If the protocol requires a cache, and the model cannot use one.
        """
        if self.cache == "on" and not config.cacheable:
            raise InputError(
                "`cache` must be 'auto' or 'off' for this model; only transformers with rotary positions and without "
                "timesteps, whose tokens stay the same when the context moves on, can use a cache"
            )
        return self.cache != "off" and config.cacheable

    def check_context_settings(self, config: MethodConfig) -> None:
        """Check that no setting of the context was changed, for a model that reads no returns-to-go.

        The settings of a named protocol are accepted, although such a model reads neither timesteps nor returns-to-go.

        Args:
            config: Config of the model.

        Raises:
            InputError: If timesteps, reward units or returns are set otherwise, or as `uses_cache`.
        """
        self.uses_cache(config)
        if self._context_settings() not in [protocol._context_settings() for protocol in PROTOCOLS.values()]:
            raise InputError(
                "`window_timestep`, `reward_units` and `integer_returns` have no effect on "
                f"{config.label}, which reads neither timesteps nor returns-to-go; leave them out"
            )

    def environment(self, dataset: DatasetInfo, max_steps: int, rom: Rom | None = None) -> EnvironmentConfig:
        """Return the settings of the environment.

        Args:
            dataset: Dataset whose game is played.
            max_steps: Number of steps after which an episode is truncated.
            rom: ROM that replaces the one bundled with ALE.

        Raises:
            InputError: If a number is out of range.
        """
        fields: dict[str, Any] = {name: getattr(self, name) for name in ("frames", "noop_max", "second_reset")}
        sticky_actions = self._sticky_actions(dataset)
        return EnvironmentConfig.with_max_steps(max_steps, sticky_actions=sticky_actions, rom=rom, **fields)

    def _context_settings(self) -> tuple[str | bool, ...]:
        """Return the settings of what a model reads besides the current state."""
        return self.window_timestep, self.reward_units, self.integer_returns

    def _sticky_actions(self, dataset: DatasetInfo) -> float:
        if self.sticky_actions is not None:
            return self.sticky_actions
        return 0.25 if dataset.sticky_actions is None else dataset.sticky_actions


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
        cache="off",
    ),
}
"""Protocols by name."""
