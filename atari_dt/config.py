"""Settings of the network and of training.

Commands build their options from these frozen dataclasses: each field is an option, and its docstring is the help text.
A field that is no option is of type `tyro.conf.Suppress`.
The defaults are the paper's settings; `atari_dt.games.presets` has the exceptions of single games.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import tyro

from replay_data import InputError
from replay_data.json_fields import read_dataclass
from replay_data.observation import ObservationKind

Conditioning = Literal["return", "none"]

MethodName = Literal["dt", "bc", "qrdqn", "cql", "rem", "hf_decision_transformer", "trajectory_transformer"]

Head = Literal["state", "return"]

PositionEncoding = Literal["learned", "rotary"]

TimestepEncoding = Literal["window_start", "per_step", "none"]

ARITHMETIC_SETTINGS = ("precision", "device", "compile")
"""Fields of `TrainingConfig` and `PQNConfig` that decide how a result is rounded, but not what is computed. They may
change when a run is resumed."""

FRAME_SETTINGS = ("encoder_channels", "frame_differences")
"""Fields of `ModelConfig` that only an encoder of frames has."""

MAX_ROTARY_CONTEXT = 27_000
"""Largest context length of a network without position embeddings: the steps of a whole episode."""

MIN_RETURN_SCALE = 1e-6
"""Smallest ``return_scale``; a much smaller one is 0 in single precision, in which the network divides by it."""


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
    return_scale: float = 1.0
    """Number that returns-to-go are divided by before they are embedded, in training and acting; 1 embeds them as they
    are, as the original code."""
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
    observation: ObservationKind = "frames"
    """What the model observes: four stacked `frames`; `ram`, the 128 bytes of the emulator's RAM; or `variables`, named
    bytes of it. A linear layer embeds vectors of bytes."""
    variables: tuple[str, ...] = ()
    """Names of the observed variables, such as ball_x ball_y player_x; by default all that the game has
    (atari_dt/games/ram_variables.py)."""
    predict: tuple[Head, ...] = ()
    """What the model predicts besides the action, at the action token: the next `state` (of vectors only) and the next
    `return`-to-go. The squared errors are added to the loss."""
    state_loss_weight: float = 1.0
    """Weight of the mean squared error of the next state, whose entries are normalized."""
    return_loss_weight: float = 0.01
    """Weight of the squared error of the next return-to-go, in squared units of the dataset's rewards."""

    def __post_init__(self) -> None:
        for name in ("context_length", "num_layers", "num_heads", "embed_dim"):
            check(getattr(self, name) >= 1, f"`{name}` must be at least 1, not {getattr(self, name)}")
        check(min(self.encoder_channels) >= 1, f"`encoder_channels` must be at least 1, not {self.encoder_channels}")
        check(
            self.embed_dim % self.num_heads == 0,
            f"`embed_dim` ({self.embed_dim}) must be a multiple of `num_heads` ({self.num_heads})",
        )
        check(0 <= self.dropout < 1, f"`dropout` must be at least 0 and less than 1, not {self.dropout}")
        check(
            self.conditioning in ("return", "none"),
            f"`conditioning` must be 'return' or 'none', not {self.conditioning!r}",
        )
        check(
            MIN_RETURN_SCALE <= self.return_scale < math.inf,
            f"`return_scale` must be a number of at least {MIN_RETURN_SCALE:g}, not {self.return_scale}",
        )
        check(
            self.conditioned or self.return_scale == ModelConfig.return_scale,
            "`return_scale` has no effect on behavior cloning, which reads no returns-to-go; leave it out",
        )
        check(
            self.position_encoding in ("learned", "rotary"),
            f"`position_encoding` must be 'learned' or 'rotary', not {self.position_encoding!r}",
        )
        check(
            self.position_encoding == "learned" or self.embed_dim // self.num_heads % 2 == 0,
            f"`embed_dim` / `num_heads` must be even for rotary positions, not {self.embed_dim // self.num_heads}",
        )
        check(
            self.position_encoding == "learned" or self.context_length <= MAX_ROTARY_CONTEXT,
            f"`context_length` must be at most {MAX_ROTARY_CONTEXT:,} for rotary positions, not {self.context_length}",
        )
        check(
            self.timestep_encoding in ("window_start", "per_step", "none"),
            f"`timestep_encoding` must be 'window_start', 'per_step' or 'none', not {self.timestep_encoding!r}",
        )
        check_observation(self.observation, self.variables)
        for name in FRAME_SETTINGS:
            check(
                self.observation == "frames" or getattr(self, name) == getattr(ModelConfig, name),
                f"`{name}` has no effect on `observation` {self.observation}; leave it out",
            )
        check(
            set(self.predict) <= set(get_args(Head)) and len(set(self.predict)) == len(self.predict),
            f"`predict` may name state and return, each once, not {' '.join(self.predict)}",
        )
        check(
            "state" not in self.predict or self.observation != "frames",
            "`predict` state needs `observation` ram or variables; frames are not predicted",
        )
        for name in ("state_loss_weight", "return_loss_weight"):
            weight = getattr(self, name)
            check(0 <= weight < math.inf, f"`{name}` must be at least 0, not {weight}")
            check(
                name.partition("_")[0] in self.predict or weight == getattr(ModelConfig, name),
                f"`{name}` has no effect without `predict` {name.partition('_')[0]}; leave it out",
            )

    @property
    def conditioned(self) -> bool:
        """Whether the model reads returns-to-go."""
        return self.conditioning == "return"

    @property
    def plans(self) -> bool:
        """Whether the model searches for the best actions with a planner when it acts."""
        return False

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
        fields = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

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
    validation_seed: int | None = None
    """Random seed that chooses the held-out episodes; by default `seed`. Runs with the same one hold out the same
    episodes, so that their validation losses are comparable."""
    top_percent: float = 100.0
    """Percentage of the steps to train on: whole episodes, highest return first; the paper's %BC."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether to compile the network with `torch.compile`; `auto` compiles on a GPU. A single process on a GPU
    then also replays its updates as a CUDA graph."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "warmup_tokens", "log_every", "checkpoint_every", "keep_checkpoints"):
            check(getattr(self, name) >= 1, f"`{name}` must be at least 1, not {getattr(self, name)}")
        for name in ("max_updates", "final_tokens"):
            value = getattr(self, name)
            check(value is None or value >= 1, f"`{name}` must be at least 1, not {value}")
        for name in ("learning_rate", "adam_eps", "grad_norm_clip"):
            value = getattr(self, name)
            check(value is None or 0 < value < math.inf, f"`{name}` must be positive, not {value}")
        check(
            self.schedule in ("cosine", "constant"),
            f"`schedule` must be 'cosine' or 'constant', not {self.schedule!r}",
        )
        check(
            self.schedule == "cosine"
            or (self.warmup_tokens, self.warmup_fraction, self.final_tokens)
            == (TrainingConfig.warmup_tokens, None, None),
            "`warmup_tokens`, `warmup_fraction` and `final_tokens` have no effect with a constant `schedule`; leave "
            "them out",
        )
        check(
            self.warmup_fraction is None or 0 < self.warmup_fraction < 1,
            f"`warmup_fraction` must be above 0 and less than 1, not {self.warmup_fraction}",
        )
        check(
            self.warmup_fraction is None or self.final_tokens is None,
            "`final_tokens` has no effect with `warmup_fraction`; set only one of them",
        )
        check(0 <= self.seed < 2**63, f"`seed` must be between 0 and 2**63 - 1, not {self.seed}")
        check(
            self.validation_seed is None or 0 <= self.validation_seed < 2**63,
            f"`validation_seed` must be between 0 and 2**63 - 1, not {self.validation_seed}",
        )
        check(0 <= self.weight_decay < math.inf, f"`weight_decay` must be at least 0, not {self.weight_decay}")
        check(
            0 <= self.validation_fraction < 1,
            f"`validation_fraction` must be at least 0 and less than 1, not {self.validation_fraction}",
        )
        check(0 < self.top_percent <= 100, f"`top_percent` must be above 0 and at most 100, not {self.top_percent}")
        check(
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


def check_observation(observation: ObservationKind, variables: tuple[str, ...]) -> None:
    """Raise an InputError if the fields ``observation`` and ``variables`` of a config contradict each other."""
    check(
        observation in ("frames", "ram", "variables"),
        f"`observation` must be 'frames', 'ram' or 'variables', not {observation!r}",
    )
    check(
        observation == "variables" or not variables,
        f"`variables` has no effect on `observation` {observation}; leave it out, or set `observation` to variables",
    )


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


def check(condition: bool, message: str) -> None:
    """Raise an InputError if a setting violates its condition."""
    if not condition:
        raise InputError(message)
