"""Settings of the players that record episodes; see `atari_dt.config`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from atari_dt.config import check

DEFAULT_EPSILONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Probabilities of a random action with which trained agents are recorded, from the agent itself to random play. They
spread the scores of a weak and a strong agent about evenly (docs/benchmarks.md)."""


NetworkName = Literal["small", "nature"]


@dataclass(frozen=True)
class PQNConfig:
    """Settings of PQN, parallelized Q-learning (Gallici et al. 2024, arXiv:2407.04811).

    The defaults are the authors' settings for Atari, except for three that suit a few CPU cores: the authors use 128
    environments, 32 steps per update, and the network of Mnih et al. 2015.
    """

    num_envs: int = 32
    """Number of environments."""
    steps_per_update: int = 64
    """Steps of each environment per rollout; every rollout is followed by an update of the network."""
    epochs: int = 2
    """Passes over the steps of a rollout."""
    minibatch_size: int = 128
    """Steps per minibatch."""
    network: NetworkName = "small"
    """The Q-network. `nature`: that of Mnih et al. 2015, with layer normalization; `small`: half its channels and
    units, which learns as well here and is faster on a CPU (docs/benchmarks.md)."""
    learning_rate: float = 2.5e-4
    """RAdam's initial learning rate; it falls linearly to 0 over the requested number of steps."""
    discount: float = 0.99
    """Discount factor of the return that Q estimates."""
    trace_decay: float = 0.65
    """Lambda of the Q(lambda) returns."""
    final_epsilon: float = 0.01
    """Probability of a random action after exploration; during exploration it falls linearly from 1 to this value."""
    exploration_fraction: float = 0.1
    """Length of the exploration, as a fraction of all steps."""
    grad_norm_clip: float = 10.0
    """Largest global norm of the gradient; larger gradients are scaled down."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the network; `auto` selects bfloat16 if the hardware supports it, else float32.
    Without that support, `bf16` is emulated, which is many times slower."""
    device: str = "auto"
    """Device: `cpu`, `cuda`, `cuda:1` etc.; `auto` selects a GPU if there is one."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether to compile the network with `torch.compile`; `auto` compiles on a GPU."""

    def __post_init__(self) -> None:
        check(self.network in ("small", "nature"), f"`network` must be 'small' or 'nature', not {self.network!r}")
        for name in ("num_envs", "steps_per_update", "epochs", "minibatch_size"):
            check(getattr(self, name) >= 1, f"`{name}` must be at least 1, not {getattr(self, name)}")
        steps = self.num_envs * self.steps_per_update
        check(
            steps % self.minibatch_size == 0,
            f"`minibatch_size` ({self.minibatch_size}) must divide `num_envs` * `steps_per_update` ({steps})",
        )
        for name in ("learning_rate", "grad_norm_clip"):
            check(0 < getattr(self, name) < math.inf, f"`{name}` must be positive, not {getattr(self, name)}")
        for name in ("discount", "trace_decay", "final_epsilon", "exploration_fraction"):
            check(0 <= getattr(self, name) <= 1, f"`{name}` must be between 0 and 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class PolicyPlayerConfig:
    """Settings of the player of trained policies.

    Attributes:
        epsilons: Probabilities of a uniformly random action. Each episode has one of them, in turn.
        num_envs: Number of environments.

    Raises:
        InputError: If a setting is out of range.
    """

    epsilons: tuple[float, ...] = DEFAULT_EPSILONS
    num_envs: int = 32

    def __post_init__(self) -> None:
        check(len(self.epsilons) >= 1, "`epsilons` must name at least one probability")
        for epsilon in self.epsilons:
            check(0 <= epsilon <= 1, f"`epsilons` must be between 0 and 1, not {epsilon}")
        check(1 <= self.num_envs <= 1024, f"`num_envs` must be between 1 and 1024, not {self.num_envs}")
