"""Settings of the network, of training and of PQN.

Commands build their options from these frozen dataclasses: each field is an option, and its docstring is the help text.
A field that is no option is of type `tyro.conf.Suppress`.
The defaults are the paper's settings; `atari_dt.games.presets` has the exceptions of single games.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from replay_data import InputError
from replay_data.json_fields import read_dataclass

Conditioning = Literal["return", "none"]

MethodName = Literal["dt", "bc", "qrdqn", "cql", "rem"]

PositionEncoding = Literal["learned", "rotary"]

TimestepEncoding = Literal["window_start", "per_step", "none"]

ARITHMETIC_SETTINGS = ("precision", "device", "compile")
"""Fields of `TrainingConfig` and `PQNConfig` that decide how a result is rounded, but not what is computed. They may
change when a run is resumed."""

DEFAULT_EPSILONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Probabilities of a random action with which trained agents are recorded, from the agent itself to random play. They
spread the scores of a weak and a strong agent about evenly (docs/benchmarks.md)."""

MAX_ROTARY_CONTEXT = 27_000
"""Largest context length of a network without position embeddings: the steps of a whole episode."""


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of the Decision Transformer, and of behavior cloning (Chen et al. 2021, appendix A).

    `atari_dt.method_config` has the configs of the other methods, and says what ``method``, ``label``, ``title``,
    ``source``, ``loss_name``, ``conditioned`` and ``cacheable`` mean, which all of them have.
    """

    context_length: int = 30
    """K, the number of steps in a context."""
    num_layers: int = 6
    """Number of transformer blocks."""
    num_heads: int = 8
    """Number of attention heads per block."""
    embed_dim: int = 128
    """Dimension of a token."""
    dropout: float = 0.1
    """Dropout probability of embeddings, attention weights and residual branches."""
    conditioning: tyro.conf.Suppress[Conditioning] = "return"
    """`return` for a Decision Transformer, `none` for behavior cloning: the same model without return tokens. It is no
    option, because commands have options that choose the method."""
    limit_returns: bool = False
    """Whether the model, while acting, reads returns-to-go below the smallest one of its training data as that one."""
    encoder_channels: tuple[int, int, int] = (32, 64, 64)
    """Channels of the encoder's three convolutions."""
    encoder_norm: bool = False
    """Layer norm over the channels after each convolution, and on the state token in place of its tanh."""
    frame_differences: bool = False
    """Whether the first convolution sees the newest frame and the differences of successive frames, instead of the four
    frames of a state."""
    position_encoding: PositionEncoding = "learned"
    """Encoding of a token's place in its context: an embedding that is added to the token (`learned`), as in the paper,
    or a rotation of queries and keys (`rotary`), which allows acting with cached keys and values."""
    timestep_encoding: TimestepEncoding = "window_start"
    """Timestep embedding that is added to each token: of the first step of its context (`window_start`), as in the
    original code, of its own step (`per_step`), as in the paper, or of no step (`none`)."""

    def __post_init__(self) -> None:
        for name in ("context_length", "num_layers", "num_heads", "embed_dim"):
            _check(getattr(self, name) >= 1, f"`{name}` must be at least 1, not {getattr(self, name)}")
        _check(min(self.encoder_channels) >= 1, f"`encoder_channels` must be at least 1, not {self.encoder_channels}")
        _check(
            self.embed_dim % self.num_heads == 0,
            f"`embed_dim` ({self.embed_dim}) must be a multiple of `num_heads` ({self.num_heads})",
        )
        _check(0 <= self.dropout < 1, f"`dropout` must be at least 0 and less than 1, not {self.dropout}")
        _check(
            self.conditioning in ("return", "none"),
            f"`conditioning` must be 'return' or 'none', not {self.conditioning!r}",
        )
        _check(
            self.position_encoding in ("learned", "rotary"),
            f"`position_encoding` must be 'learned' or 'rotary', not {self.position_encoding!r}",
        )
        _check(
            self.position_encoding == "learned" or self.embed_dim // self.num_heads % 2 == 0,
            f"`embed_dim` / `num_heads` must be even for rotary positions, not {self.embed_dim // self.num_heads}",
        )
        _check(
            self.position_encoding == "learned" or self.context_length <= MAX_ROTARY_CONTEXT,
            f"`context_length` must be at most {MAX_ROTARY_CONTEXT:,} for rotary positions, not {self.context_length}",
        )
        _check(
            self.timestep_encoding in ("window_start", "per_step", "none"),
            f"`timestep_encoding` must be 'window_start', 'per_step' or 'none', not {self.timestep_encoding!r}",
        )

    @property
    def conditioned(self) -> bool:
        """Whether the model reads returns-to-go."""
        return self.conditioning == "return"

    @property
    def source(self) -> str:
        """Publication of the method."""
        return "Chen et al., NeurIPS 2021"

    @property
    def method(self) -> MethodName:
        """Name of the method."""
        return "dt" if self.conditioned else "bc"

    @property
    def label(self) -> str:
        """Short name of the method for tables."""
        return "DT" if self.conditioned else "BC"

    @property
    def title(self) -> str:
        """Name of the method in a text."""
        return "Decision Transformer" if self.conditioned else "behavior cloning"

    @property
    def loss_name(self) -> str:
        """What the loss is, with its unit."""
        return "cross-entropy (nats)"

    def describe_sizes(self, batch_size: int) -> str:
        """Return the settings that decide how much memory a training takes, for an error message."""
        return (
            f"`batch_size` ({batch_size}), `context_length` ({self.context_length}) or `embed_dim` ({self.embed_dim})"
        )

    @property
    def tokens_per_step(self) -> int:
        """Number of tokens of a step: return-to-go, state and action, or state and action."""
        return 3 if self.conditioned else 2

    @property
    def cacheable(self) -> bool:
        """Whether keys and values can be cached: no token changes when the context moves on by a step."""
        return self.position_encoding == "rotary" and self.timestep_encoding == "none"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        return {**dataclasses.asdict(self), "encoder_channels": list(self.encoder_channels)}

    @classmethod
    def from_json(cls, content: Any) -> ModelConfig:
        """Read a JSON object that `to_json` returned; missing fields have their default values.

        Raises:
            ValueError, TypeError: If the content is anything else.
            InputError: If a field has an impossible value.
        """
        return read_dataclass(content, cls)


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training run. The defaults are those of the Decision Transformer (Chen et al. 2021, appendix A).

    The learning rate of an update follows from ``learning_rate``, ``schedule`` and either ``warmup_tokens`` and
    ``final_tokens`` or ``warmup_fraction``; `atari_dt.training.optimizer` computes it.
    """

    epochs: int = 5
    """Passes over the dataset; each step of it starts one context, or is one transition, per epoch."""
    max_updates: int | None = None
    """Largest number of updates; training stops after it even if epochs remain."""
    batch_size: int = 128
    """Contexts or transitions per update, summed over all processes."""
    learning_rate: float = 6e-4
    """Peak learning rate."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate of an update. `cosine`: a linear warm-up to the peak, then a cosine decay to 10% of it; `constant`:
    the peak, without a warm-up."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the running averages of the gradient and of its square."""
    adam_eps: float = 1e-8
    """AdamW's epsilon, the term added to the denominator of a step."""
    weight_decay: float = 0.1
    """AdamW's weight decay, on the weights of linear and convolution layers only."""
    grad_norm_clip: float | None = 1.0
    """Largest global norm of the gradient; larger gradients are scaled down. `None` never scales them."""
    warmup_tokens: int = 512 * 20
    """Tokens of the linear warm-up; an update has batch_size · K tokens."""
    final_tokens: int | None = None
    """Tokens at which the cosine would reach 0; the learning rate stays at 10% of its peak once it gets there. The
    default is that of the paper, 2 · (steps to train on) · 3K."""
    warmup_fraction: float | None = None
    """Length of the warm-up as a fraction of the run, at whose last update the cosine then ends. By default, both are
    counted in tokens."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of the forward pass; `auto` selects bfloat16 if the hardware supports it, else float32.
    Without that support, `bf16` is emulated, which is many times slower."""
    device: str = "auto"
    """Device: `cpu`, `cuda`, `cuda:1` etc.; `auto` selects a GPU if there is one."""
    seed: int = 123
    """Random seed of the initial weights, the order of the data, dropout, and the mixtures of REM."""
    log_every: int = 25
    """Updates between two lines of metrics.jsonl."""
    checkpoint_every: int = 1000
    """Updates between two checkpoints; the last update always writes one."""
    keep_checkpoints: int = 3
    """Number of checkpoints to keep; older ones are deleted."""
    validation_fraction: float = 0.0
    """Fraction of the episodes held out for a validation loss and accuracy at every checkpoint."""
    top_percent: float = 100.0
    """Percentage of the steps to train on: whole episodes, highest return first; the paper's %BC."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether to compile the network with `torch.compile`; `auto` compiles on a GPU."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "warmup_tokens", "log_every", "checkpoint_every", "keep_checkpoints"):
            _check(getattr(self, name) >= 1, f"`{name}` must be at least 1, not {getattr(self, name)}")
        for name in ("max_updates", "final_tokens"):
            value = getattr(self, name)
            _check(value is None or value >= 1, f"`{name}` must be at least 1, not {value}")
        for name in ("learning_rate", "adam_eps", "grad_norm_clip"):
            value = getattr(self, name)
            _check(value is None or 0 < value < math.inf, f"`{name}` must be positive, not {value}")
        _check(
            self.schedule in ("cosine", "constant"),
            f"`schedule` must be 'cosine' or 'constant', not {self.schedule!r}",
        )
        _check(
            self.schedule == "cosine"
            or (self.warmup_tokens, self.warmup_fraction, self.final_tokens)
            == (TrainingConfig.warmup_tokens, None, None),
            "`warmup_tokens`, `warmup_fraction` and `final_tokens` have no effect with a constant `schedule`; leave "
            "them out",
        )
        _check(
            self.warmup_fraction is None or 0 < self.warmup_fraction < 1,
            f"`warmup_fraction` must be above 0 and less than 1, not {self.warmup_fraction}",
        )
        _check(
            self.warmup_fraction is None or self.final_tokens is None,
            "`final_tokens` has no effect with `warmup_fraction`; set only one of them",
        )
        _check(0 <= self.seed < 2**63, f"`seed` must be between 0 and 2**63 - 1, not {self.seed}")
        _check(0 <= self.weight_decay < math.inf, f"`weight_decay` must be at least 0, not {self.weight_decay}")
        _check(
            0 <= self.validation_fraction < 1,
            f"`validation_fraction` must be at least 0 and less than 1, not {self.validation_fraction}",
        )
        _check(0 < self.top_percent <= 100, f"`top_percent` must be above 0 and at most 100, not {self.top_percent}")
        _check(
            all(0 <= beta < 1 for beta in self.betas), f"`betas` must be at least 0 and less than 1, not {self.betas}"
        )

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
        return read_dataclass(content, cls)


@dataclass(frozen=True)
class PQNConfig:
    """Settings of PQN, parallelized Q-learning (Gallici et al. 2024, arXiv:2407.04811).

    The defaults are the authors' settings for Atari, except for two that suit a few CPU cores: the authors use 128
    environments and 32 steps per update.
    """

    num_envs: int = 32
    """Number of environments."""
    steps_per_update: int = 64
    """Steps of each environment per rollout; every rollout is followed by an update of the network."""
    epochs: int = 2
    """Passes over the steps of a rollout."""
    minibatch_size: int = 128
    """Steps per minibatch."""
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
        for name in ("num_envs", "steps_per_update", "epochs", "minibatch_size"):
            _check(getattr(self, name) >= 1, f"`{name}` must be at least 1, not {getattr(self, name)}")
        steps = self.num_envs * self.steps_per_update
        _check(
            steps % self.minibatch_size == 0,
            f"`minibatch_size` ({self.minibatch_size}) must divide `num_envs` * `steps_per_update` ({steps})",
        )
        for name in ("learning_rate", "grad_norm_clip"):
            _check(0 < getattr(self, name) < math.inf, f"`{name}` must be positive, not {getattr(self, name)}")
        for name in ("discount", "trace_decay", "final_epsilon", "exploration_fraction"):
            _check(0 <= getattr(self, name) <= 1, f"`{name}` must be between 0 and 1, not {getattr(self, name)}")


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
        _check(len(self.epsilons) >= 1, "`epsilons` must name at least one probability")
        for epsilon in self.epsilons:
            _check(0 <= epsilon <= 1, f"`epsilons` must be between 0 and 1, not {epsilon}")
        _check(1 <= self.num_envs <= 1024, f"`num_envs` must be between 1 and 1024, not {self.num_envs}")


def describe_differences(
    saved: Mapping[str, object], current: Mapping[str, object], ignore: Collection[str] = ()
) -> str:
    """Return a description of the settings that changed since a run started, or an empty string.

    Args:
        saved: Settings of the command that started the run, by name.
        current: Settings of the command that resumes it, by name.
        ignore: Names of settings that may change.
    """
    names = [name for name in {**saved, **current} if name not in ignore and saved.get(name) != current.get(name)]
    return ", ".join(f"{name} (was {saved.get(name)}, is {current.get(name)})" for name in names)


def _check(condition: bool, message: str) -> None:
    """Raise an InputError if a setting violates its condition."""
    if not condition:
        raise InputError(message)
