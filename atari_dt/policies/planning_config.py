"""How a model that plans searches for actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from atari_dt.method_config import MethodConfig
from replay_data import InputError


@dataclass(frozen=True)
class PlanningConfig:
    """Settings of the planner of the Trajectory Transformer."""

    planner: Literal["beam", "none"] = "beam"
    """`beam` plans with a beam search; `none` samples the action from the model, which imitates the data."""

    def check(self, config: MethodConfig) -> None:
        """Check that the settings are the defaults if a model does not plan.

        Raises:
            InputError: If a model that does not plan is given settings.
        """
        if not config.plans and self != PlanningConfig():
            raise InputError(f"planning settings have no effect on {config.label}, which does not plan; leave them out")
