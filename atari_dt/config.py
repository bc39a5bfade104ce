"""What a run is made of: frozen dataclasses that are also the command line, and the paper's settings for each game."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from replay_data import InputError

Conditioning = Literal["return", "none"]

TimestepEncoding = Literal["window_start", "per_step"]


@dataclass(frozen=True)
class ModelConfig:
    """The network (Chen et al. 2021, appendix A)."""

    context_length: int = 30
    """K, the number of steps the model sees."""
    num_layers: int = 6
    """Transformer blocks."""
    num_heads: int = 8
    """Attention heads in each block."""
    embed_dim: int = 128
    """Width of a token."""
    dropout: float = 0.1
    """Probability of dropout on embeddings, attention weights and residual branches."""
    conditioning: Conditioning = "return"
    """`return`: a Decision Transformer; `none`: behavior cloning, the same model without return tokens."""
    timestep_encoding: TimestepEncoding = "window_start"
    """What is added to a token beside its position in the context: the embedding of the context's first timestep, as in
    the original code, or of its own step's (`per_step`), as the paper describes it."""

    def __post_init__(self) -> None:
        for name in ("context_length", "num_layers", "num_heads", "embed_dim"):
            _check(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        _check(
            self.embed_dim % self.num_heads == 0,
            f"embed_dim ({self.embed_dim}) must be a multiple of num_heads ({self.num_heads})",
        )
        _check(0 <= self.dropout < 1, f"dropout is a probability below 1, not {self.dropout}")
        _check(
            self.conditioning in ("return", "none"), f"conditioning is 'return' or 'none', not {self.conditioning!r}"
        )
        _check(
            self.timestep_encoding in ("window_start", "per_step"),
            f"timestep_encoding is 'window_start' or 'per_step', not {self.timestep_encoding!r}",
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> ModelConfig:
        """Read a JSON object that `to_json` returned; missing fields have their default values.

        Raises:
            TypeError: If the content is anything else.
            InputError: If a field has an impossible value.
        """
        return cls(**content)


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained (Chen et al. 2021, appendix A)."""

    epochs: int = 5
    """Passes over every window start of the dataset."""
    max_updates: int | None = None
    """Stop after this many updates, if that comes first."""
    batch_size: int = 128
    """Contexts in an update, those of all processes together."""
    learning_rate: float = 6e-4
    """Peak of the schedule."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's averages of gradients and their squares."""
    weight_decay: float = 0.1
    """On linear and convolution weights only."""
    grad_norm_clip: float = 1.0
    """Largest global norm of the gradient."""
    warmup_tokens: int = 512 * 20
    """Linear warm-up; an update counts batch_size · K tokens."""
    final_tokens: int | None = None
    """Where the cosine reaches 10% of the peak; by default the paper's 2 · (steps of the dataset) · 3K."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the forward pass; `auto` is bfloat16 where the hardware computes in it."""
    device: str = "auto"
    """`cpu`, `cuda` or `cuda:1`; `auto` is a GPU if there is one."""
    seed: int = 123
    """Of the initial weights, the order of the contexts and dropout."""
    log_every: int = 25
    """Updates between two lines of metrics."""
    checkpoint_every: int = 1000
    """Updates between two checkpoints; the last update always leaves one."""
    keep_checkpoints: int = 3
    """The last so many checkpoints are kept."""
    validation_fraction: float = 0.0
    """Fraction of the episodes that is held out, for a validation loss and accuracy at every checkpoint."""
    top_percent: float = 100.0
    """Train on the best episodes only, by return, that make up this percentage of the steps: %BC of the paper."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether `torch.compile` compiles the network; `auto` does on a GPU."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "warmup_tokens", "log_every", "checkpoint_every", "keep_checkpoints"):
            _check(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("max_updates", "final_tokens"):
            value = getattr(self, name)
            _check(value is None or value >= 1, f"{name} must be at least 1, not {value}")
        for name in ("learning_rate", "grad_norm_clip"):
            _check(0 < getattr(self, name) < math.inf, f"{name} must be positive, not {getattr(self, name)}")
        _check(0 <= self.seed < 2**63, f"seed must lie between 0 and 2**63 - 1, not {self.seed}")
        _check(0 <= self.weight_decay < math.inf, f"weight_decay must be 0 or more, not {self.weight_decay}")
        _check(
            0 <= self.validation_fraction < 1,
            f"validation_fraction must be at least 0 and less than 1, not {self.validation_fraction}",
        )
        _check(0 < self.top_percent <= 100, f"top_percent must be above 0 and at most 100, not {self.top_percent}")
        _check(all(0 <= beta < 1 for beta in self.betas), f"betas lie between 0 and 1, not {self.betas}")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        return {**dataclasses.asdict(self), "betas": list(self.betas)}

    @classmethod
    def from_json(cls, content: Any) -> TrainingConfig:
        """Read a JSON object that `to_json` returned; missing fields have their default values.

        Raises:
            ValueError, TypeError: If the content is anything else.
            InputError: If a field has an impossible value.
        """
        config = cls(**content)
        beta1, beta2 = config.betas
        return dataclasses.replace(config, betas=(float(beta1), float(beta2)))


@dataclass(frozen=True)
class PQNConfig:
    """The player that learns by itself: PQN (Gallici et al. 2024, arXiv:2407.04811), with its settings for Atari.

    Games and steps between updates are our choice for a few cores; the authors' are 128 × 32.
    """

    num_envs: int = 32
    """Games played at once."""
    steps_per_update: int = 64
    """Steps of each game between two updates of the network."""
    epochs: int = 2
    """Passes over these steps in an update."""
    minibatch_size: int = 128
    """Steps in one step of the optimizer."""
    learning_rate: float = 2.5e-4
    """Of RAdam at the start; it falls linearly to 0, where it stays once as many steps were played as the log has."""
    discount: float = 0.99
    """Of the return that Q estimates."""
    trace_decay: float = 0.65
    """Lambda of the Q(lambda) returns."""
    final_epsilon: float = 0.01
    """Probability of a random action that is left after exploration; it starts at 1 and falls linearly."""
    exploration_fraction: float = 0.1
    """Fraction of all steps until then."""
    grad_norm_clip: float = 10.0
    """Largest global norm of the gradient."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the network; `auto` is bfloat16 where the hardware computes in it."""
    device: str = "auto"
    """`cpu`, `cuda` or `cuda:1`; `auto` is a GPU if there is one."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether `torch.compile` compiles the network; `auto` does on a GPU."""

    def __post_init__(self) -> None:
        for name in ("num_envs", "steps_per_update", "epochs", "minibatch_size"):
            _check(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        steps = self.num_envs * self.steps_per_update
        _check(
            steps % self.minibatch_size == 0,
            f"minibatch_size ({self.minibatch_size}) must divide num_envs * steps_per_update ({steps})",
        )
        for name in ("learning_rate", "grad_norm_clip"):
            _check(0 < getattr(self, name) < math.inf, f"{name} must be positive, not {getattr(self, name)}")
        for name in ("discount", "trace_decay", "final_epsilon", "exploration_fraction"):
            _check(0 <= getattr(self, name) <= 1, f"{name} must lie between 0 and 1, not {getattr(self, name)}")


def describe_differences(
    saved: Mapping[str, object], current: Mapping[str, object], ignore: Collection[str] = ()
) -> str:
    """List the settings in which a resumed command differs from the one that began, or return an empty string.

    Args:
        saved: settings by name, as the first command saved them.
        current: settings by name now.
        ignore: names that may differ.
    """
    names = [name for name in {**saved, **current} if name not in ignore and saved.get(name) != current.get(name)]
    return ", ".join(f"{name} (was {saved.get(name)}, is {current.get(name)})" for name in names)


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)
