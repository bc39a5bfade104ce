"""Settings of the Trajectory Transformer (Janner et al. 2021, arXiv:2106.02039) and of its training.

The defaults are those of the authors' code (github.com/jannerm/trajectory-transformer, ``config/offline.py``).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from atari_dt.config import MethodName, TrainingConfig, check, check_observation
from replay_data.observation import ObservationKind

Discretization = Literal["quantile", "uniform"]

NUM_EXTRA_TOKENS = 3
"""Tokens of a step besides those of its observation: action, reward and value."""


@dataclass(frozen=True)
class TrajectoryTransformerConfig:
    """Architecture and tokens of the Trajectory Transformer (Janner et al. 2021).

    A step is a token for each entry of the observation, then a token each for action, reward and value. The value is
    the discounted sum of the rewards after the step. `atari_dt.method_config` says what the class variables mean.
    """

    method: ClassVar[MethodName] = "trajectory_transformer"
    label: ClassVar[str] = "TT"
    title: ClassVar[str] = "Trajectory Transformer"
    source: ClassVar[str] = "Janner et al., NeurIPS 2021"
    loss_name: ClassVar[str] = "token cross-entropy (nats)"
    conditioned: ClassVar[bool] = False
    cacheable: ClassVar[bool] = False
    plans: ClassVar[bool] = True

    sequence_length: int = 10
    """Number of steps in a sequence. It bounds what the model reads of the past plus what it imagines of the future."""
    vocab_size: int = 100
    """Number of tokens that each entry of a step can have at most; at least the number of actions."""
    discretization: Discretization = "quantile"
    """How an entry with more values than tokens is divided: into intervals that are equally frequent in the data
    (`quantile`), or equally wide (`uniform`)."""
    discount: float = 0.99
    """Discount factor of the values."""
    num_layers: int = 4
    """Number of transformer blocks."""
    num_heads: int = 4
    """Number of attention heads per block."""
    embed_dim: int = 128
    """Dimension of a token."""
    dropout: float = 0.1
    """Dropout probability of embeddings, attention weights and residual branches."""
    action_weight: float = 5.0
    """Weight of the action tokens in the loss; those of the observation have weight 1."""
    reward_weight: float = 1.0
    """Weight of the reward tokens in the loss."""
    value_weight: float = 1.0
    """Weight of the value tokens in the loss."""
    observation: ObservationKind = "variables"
    """What the model observes: `variables`, named bytes of the emulator's RAM; or `ram`, all 128 bytes of it. It cannot
    observe `frames`."""
    variables: tuple[str, ...] = ()
    """Names of the observed variables, such as ball_x ball_y player_x; by default all that the game has
    (atari_dt/games/ram_variables.py). Each is a token, so that a few train much faster."""

    def __post_init__(self) -> None:
        check(
            self.sequence_length >= 1,
            f"`sequence_length` must be at least 1, not {self.sequence_length}, because a block holds whole steps",
        )
        for name in ("vocab_size", "num_layers", "num_heads", "embed_dim"):
            check(getattr(self, name) >= 1, f"`{name}` must be at least 1, not {getattr(self, name)}")
        check(
            self.embed_dim % self.num_heads == 0,
            f"`embed_dim` ({self.embed_dim}) must be a multiple of `num_heads` ({self.num_heads})",
        )
        check(
            self.discretization in ("quantile", "uniform"),
            f"`discretization` must be 'quantile' or 'uniform', not {self.discretization!r}",
        )
        check(0 <= self.discount <= 1, f"`discount` must be between 0 and 1, not {self.discount}")
        check(0 <= self.dropout < 1, f"`dropout` must be at least 0 and less than 1, not {self.dropout}")
        for name in ("action_weight", "reward_weight", "value_weight"):
            check(0 <= getattr(self, name) < math.inf, f"`{name}` must be at least 0, not {getattr(self, name)}")
        check_observation(self.observation, self.variables)
        check(
            self.observation != "frames",
            "`observation` must be variables or ram for the Trajectory Transformer, which has a token for each entry "
            "of a vector; frames have no tokens",
        )

    def describe_sizes(self, batch_size: int) -> str:
        """Return the settings that decide how much memory a training takes, for an error message."""
        return (
            f"`batch_size` ({batch_size}), `sequence_length` ({self.sequence_length}) or `embed_dim` "
            f"({self.embed_dim}), or name fewer `variables`"
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `atari_dt.method_config.read_method_config` reads."""
        return {"method": self.method, **dataclasses.asdict(self), "variables": list(self.variables)}


TRAJECTORY_TRAINING = TrainingConfig(epochs=50, batch_size=256, warmup_fraction=0.02)
"""Training of the Trajectory Transformer.

As in the authors' code, batches hold 256 sequences, the peak learning rate is 6e-4, and AdamW has the betas 0.9 and
0.95, weight decay 0.1 and gradients of norm 1 at most. 50 epochs of a million steps are 195,000 updates; the authors
choose the epochs of other data so that the updates stay the same. Theirs warms up over one epoch, and so does this.
Their cosine reaches 10% of the peak after 20 epochs, while this one ends with the run.
"""
