"""Configs of the learning methods: each selects a method of `atari_dt.methods` and holds its settings.

The Decision Transformer and behavior cloning share `ModelConfig`. The other methods have a config each. Every config
has

- ``method``: name of the method, as in ``METHOD_NAMES``;
- ``label``: short name for tables, such as ``"QR-DQN"``;
- ``title``: name in a text, such as ``"conservative Q-learning (CQL)"``;
- ``source``: its publication;
- ``conditioned``: whether the model acts under a target return;
- ``cacheable``: whether the model can act with cached keys and values;
- ``plans``: whether the model searches for the best actions with a planner when it acts;
- ``observation`` and ``variables``: what the model observes, arguments of `atari_dt.games.ram_variables`;
- ``loss_name``: what the loss is, with its unit, for the axes of figures; only losses of the same name are comparable;
- ``describe_sizes``: the settings that decide how much memory a training takes.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from atari_dt.config import (
    Conditioning,
    Head,
    MethodName,
    ModelConfig,
    TimestepEncoding,
    TrainingConfig,
    check,
    check_observation,
)
from atari_dt.trajectory_config import TRAJECTORY_TRAINING, TrajectoryTransformerConfig
from replay_data import InputError
from replay_data.json_fields import read_dataclass, read_object
from replay_data.observation import ObservationKind

METHOD_NAMES: tuple[MethodName, ...] = get_args(MethodName)
"""Names of the methods."""


@dataclass(frozen=True)
class ValueConfig(ABC):
    """Settings that the value-based methods share.

    The defaults are those of Agarwal et al. 2020 (arXiv:1907.04543), whose code Kumar et al. 2020 (arXiv:2006.04779)
    extend.
    """

    method: ClassVar[MethodName]
    label: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    loss_name: ClassVar[str]
    conditioned: ClassVar[bool] = False
    cacheable: ClassVar[bool] = False
    plans: ClassVar[bool] = False
    observation: ClassVar[ObservationKind] = "frames"
    variables: ClassVar[tuple[str, ...]] = ()

    discount: float = 0.99
    """Discount factor of the return that Q estimates."""
    target_update_every: int = 2000
    """Updates between two copies of the network's weights to the target network."""
    epsilon: float = 0.001
    """Probability of a random action when the model acts; otherwise it takes the action with the largest Q."""

    def __post_init__(self) -> None:
        for name in ("discount", "epsilon"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InputError(f"`{name}` must be between 0 and 1, not {value}")
        self._check_counts("target_update_every")

    def _check_counts(self, *names: str) -> None:
        """Raise an InputError if one of the fields is less than 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` must be at least 1, not {getattr(self, name)}")

    @property
    @abstractmethod
    def num_estimates(self) -> int:
        """Number of outputs of the network for each action."""

    def describe_sizes(self, batch_size: int) -> str:
        """Return the settings that decide how much memory a training takes, for an error message."""
        return f"`batch_size` ({batch_size})"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `read_method_config` reads."""
        return {"method": self.method, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class QRDQNConfig(ValueConfig):
    """Settings of QR-DQN (Dabney et al. 2018, arXiv:1710.10044)."""

    method: ClassVar[MethodName] = "qrdqn"
    label: ClassVar[str] = "QR-DQN"
    title: ClassVar[str] = "quantile-regression DQN (QR-DQN)"
    source: ClassVar[str] = "Dabney et al., AAAI 2018"
    loss_name: ClassVar[str] = "quantile TD loss"

    num_quantiles: int = 200
    """Number of quantiles of the return that the network estimates for each action."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("num_quantiles")

    @property
    def num_estimates(self) -> int:
        """Number of outputs of the network for each action."""
        return self.num_quantiles


@dataclass(frozen=True)
class CQLConfig(QRDQNConfig):
    """Settings of conservative Q-learning on QR-DQN (Kumar et al. 2020, arXiv:2006.04779)."""

    method: ClassVar[MethodName] = "cql"
    label: ClassVar[str] = "CQL"
    title: ClassVar[str] = "conservative Q-learning (CQL)"
    source: ClassVar[str] = "Kumar et al., NeurIPS 2020"

    alpha: float = 4.0
    """Weight of the conservative term, which lowers Q of all actions and raises Q of the data's; 4 for 1% of the
    DQN-replay data, 1 for 10%."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < math.inf:
            raise InputError(f"`alpha` must be at least 0, not {self.alpha}")


@dataclass(frozen=True)
class REMConfig(ValueConfig):
    """Settings of REM, the random ensemble mixture (Agarwal et al. 2020, arXiv:1907.04543)."""

    method: ClassVar[MethodName] = "rem"
    label: ClassVar[str] = "REM"
    title: ClassVar[str] = "random ensemble mixture (REM)"
    source: ClassVar[str] = "Agarwal et al., ICML 2020"
    loss_name: ClassVar[str] = "Huber TD loss"

    num_q_heads: int = 200
    """Number of estimates of Q for each action; the loss of a batch mixes them at random."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("num_q_heads")

    @property
    def num_estimates(self) -> int:
        """Number of outputs of the network for each action."""
        return self.num_q_heads


@dataclass(frozen=True)
class HFDecisionTransformerConfig:
    """Architecture of ``transformers.DecisionTransformerModel``, Hugging Face's own Decision Transformer.

    The defaults are those of its config, which are those of the gym experiments of Chen et al. 2021 (appendix B). The
    network embeds vectors only, reads a timestep at every step, and has no position embeddings.
    """

    method: ClassVar[MethodName] = "hf_decision_transformer"
    label: ClassVar[str] = "HF-DT"
    title: ClassVar[str] = "Hugging Face Decision Transformer"
    source: ClassVar[str] = "Chen et al., NeurIPS 2021"
    loss_name: ClassVar[str] = ModelConfig().loss_name
    conditioned: ClassVar[bool] = True
    cacheable: ClassVar[bool] = False
    plans: ClassVar[bool] = False
    conditioning: ClassVar[Conditioning] = "return"
    timestep_encoding: ClassVar[TimestepEncoding] = "per_step"
    limit_returns: ClassVar[bool] = False
    predict: ClassVar[tuple[Head, ...]] = ()
    tokens_per_step: ClassVar[int] = 3

    context_length: int = 20
    """K, the number of steps in a context."""
    num_layers: int = 3
    """Number of transformer blocks."""
    num_heads: int = 1
    """Number of attention heads per block."""
    embed_dim: int = 128
    """Dimension of a token."""
    dropout: float = 0.1
    """Dropout probability of embeddings, attention weights and residual branches."""
    activation: Literal["relu", "gelu", "gelu_new", "silu"] = "relu"
    """Activation of the hidden layer of each block, by its name in transformers."""
    observation: ObservationKind = "ram"
    """What the model observes: `ram`, the 128 bytes of the emulator's RAM; or `variables`, named bytes of it. It cannot
    observe `frames`."""
    variables: tuple[str, ...] = ()
    """Names of the observed variables, such as ball_x ball_y player_x; by default all that the game has
    (atari_dt/games/ram_variables.py)."""

    def __post_init__(self) -> None:
        for name in ("context_length", "num_layers", "num_heads", "embed_dim"):
            check(getattr(self, name) >= 1, f"`{name}` must be at least 1, not {getattr(self, name)}")
        check(
            self.embed_dim % self.num_heads == 0,
            f"`embed_dim` ({self.embed_dim}) must be a multiple of `num_heads` ({self.num_heads})",
        )
        check(0 <= self.dropout < 1, f"`dropout` must be at least 0 and less than 1, not {self.dropout}")
        check(
            self.activation in ("relu", "gelu", "gelu_new", "silu"),
            f"`activation` must be 'relu', 'gelu', 'gelu_new' or 'silu', not {self.activation!r}",
        )
        check_observation(self.observation, self.variables)
        check(
            self.observation != "frames",
            "`observation` must be ram or variables for Hugging Face's Decision Transformer, which embeds vectors and "
            "no frames",
        )

    def describe_sizes(self, batch_size: int) -> str:
        """Return the settings that decide how much memory a training takes, for an error message."""
        return (
            f"`batch_size` ({batch_size}), `context_length` ({self.context_length}) or `embed_dim` ({self.embed_dim})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `read_method_config` reads."""
        return {"method": self.method, **dataclasses.asdict(self), "variables": list(self.variables)}


SequenceConfig: TypeAlias = ModelConfig | HFDecisionTransformerConfig
"""Config of a method that predicts actions from contexts."""

MethodConfig: TypeAlias = ModelConfig | ValueConfig | HFDecisionTransformerConfig | TrajectoryTransformerConfig
"""Config of any method."""

CONFIG_TYPES: dict[MethodName, type[MethodConfig]] = {
    "dt": ModelConfig,
    "bc": ModelConfig,
    "qrdqn": QRDQNConfig,
    "cql": CQLConfig,
    "rem": REMConfig,
    "hf_decision_transformer": HFDecisionTransformerConfig,
    "trajectory_transformer": TrajectoryTransformerConfig,
}
"""Type of each method's config."""

VALUE_TRAINING = TrainingConfig(
    epochs=800,
    batch_size=32,
    learning_rate=5e-5,
    schedule="constant",
    betas=(0.9, 0.999),
    adam_eps=0.01 / 32,
    weight_decay=0.0,
    grad_norm_clip=None,
    log_every=500,
    checkpoint_every=10_000,
)
"""Training of the value-based methods. Adam and batches are those of Agarwal et al. 2020 (google-research/batch_rl,
files quantile.gin and rem.gin). 800 epochs of 500,000 steps are 12.5 million updates, as there and in d3rlpy's
benchmarks."""

HF_TRAINING = TrainingConfig(
    epochs=13,
    batch_size=64,
    learning_rate=1e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-4,
    grad_norm_clip=0.25,
    warmup_fraction=0.1,
)
"""Training of Hugging Face's Decision Transformer, as in the gym experiments of Chen et al. 2021 (appendix B and their
code, gym/experiment.py). 13 epochs of 500,000 steps are 100,000 updates, of which the first 10,000 warm up, as there.
There, the learning rate then stays at its peak, and biases, layer norms and embeddings are decayed too."""

DEFAULT_TRAINING: dict[MethodName, TrainingConfig] = {
    "hf_decision_transformer": HF_TRAINING,
    "trajectory_transformer": TRAJECTORY_TRAINING,
}
"""Training of the methods whose defaults are the same for all games, if it is not `VALUE_TRAINING`."""


def default_config(method: MethodName) -> MethodConfig:
    """Return the default config of a method."""
    return ModelConfig(conditioning="none") if method == "bc" else CONFIG_TYPES[method]()


def read_method_config(content: Any) -> MethodConfig:
    """Read what ``to_json`` of a config returned; missing fields have their default values.

    Raises:
        ValueError, TypeError: If the content is anything else, or names an unknown method.
        InputError: If a field has an impossible value.
    """
    fields = dict(read_object(content))
    method = fields.pop("method", None)
    if method is None:  # the file is of a Decision Transformer or behavior cloning, which ``conditioning`` tells apart
        return ModelConfig.from_json(fields)
    names = [name for name, config_type in CONFIG_TYPES.items() if config_type is not ModelConfig]
    if method not in names:
        raise ValueError(f"method is {str(method)[:80]!r}, which is not one of {', '.join(names)}")
    return read_dataclass(fields, CONFIG_TYPES[method])
