"""How a model that plans searches for actions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from atari_dt.method_config import MethodConfig
from replay_data import InputError

MAX_BEAM_WIDTH = 512  # four times that of the authors; bounds the memory of one game's search

MAX_HORIZON = 1000  # 67 seconds of play

SEARCH_SETTINGS = ("beam_width", "horizon", "action_top_k", "observation_top_k", "planning_discount")
"""Fields of `PlanningConfig` that only a beam search has."""


@dataclass(frozen=True)
class PlanningConfig:
    """Settings of the planner of the Trajectory Transformer (Janner et al. 2021, section 3.2 and appendix C).

    The defaults are small enough for a CPU. The authors' code (``config/offline.py`` of
    github.com/jannerm/trajectory-transformer) has 128 sequences and 15 steps, or 32 sequences and 5 steps for some
    tasks, 5 steps of context, the most likely observation token, and random candidates for the actions. Here actions
    are not sampled, so observations are. Without any sampling, the search is the same at every step, and may never
    choose the action that a game waits for, such as FIRE in Breakout.

    Raises:
        InputError: If a number is out of range, or a setting of the search is given without a search.
    """

    planner: Literal["beam", "none"] = "beam"
    """`beam` plans with a beam search; `none` samples the action from the model, which imitates the data."""
    beam_width: int = 8
    """Number of sequences that a beam search keeps after each step."""
    horizon: int = 5
    """Number of steps that a beam search looks ahead, including the step whose action it chooses."""
    context: int = 5
    """Number of earlier steps that the model reads in front of the current one."""
    action_top_k: int = 2
    """Number of actions, the most likely ones, that each sequence of a beam search is extended with."""
    observation_top_k: int = 3
    """Number of most likely tokens that each token of an imagined observation is sampled from; 1 takes the most likely
    token, which may stand still where a game waits for an action."""
    planning_discount: float | None = None
    """Discount of the predicted rewards and values, by default that of the values in the training data."""

    def __post_init__(self) -> None:
        for name in ("beam_width", "horizon", "context", "action_top_k", "observation_top_k"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` must be at least 1, not {getattr(self, name)}")
        for name, largest in (("beam_width", MAX_BEAM_WIDTH), ("horizon", MAX_HORIZON)):
            if getattr(self, name) > largest:
                raise InputError(f"`{name}` must be at most {largest}, not {getattr(self, name)}")
        discount = self.planning_discount
        if discount is not None and (math.isnan(discount) or not 0 <= discount <= 1):
            raise InputError(f"`planning_discount` must be between 0 and 1, not {discount}")
        if self.planner == "none":
            for name in SEARCH_SETTINGS:
                if getattr(self, name) != getattr(PlanningConfig, name):
                    raise InputError(f"`{name}` has no effect without a search; leave it out, or set `planner` to beam")

    def check(self, config: MethodConfig) -> None:
        """Check that the settings are the defaults if a model does not plan.

        Raises:
            InputError: If a model that does not plan is given settings.
        """
        if not config.plans and self != PlanningConfig():
            raise InputError(f"planning settings have no effect on {config.label}, which does not plan; leave them out")
