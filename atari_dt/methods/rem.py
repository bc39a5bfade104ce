"""REM, the random ensemble mixture (Agarwal et al. 2020, arXiv:1907.04543)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from atari_dt.methods.value_based import ValueMethod, ValueObjective
from atari_dt.model.q_network import QNetwork


class MixtureObjective(ValueObjective):
    """Huber loss of a random convex combination of the heads against the same combination of the target's (section 4).

    Each update draws a new combination. Validation uses the mean of the heads.
    """

    mixture: Tensor

    def __init__(self, model: QNetwork, seed: int):
        super().__init__(model, seed)
        mixture = torch.full((model.config.num_estimates,), torch.nan, device=next(model.parameters()).device)
        self.register_buffer("mixture", mixture, persistent=False)

    def prepare(self, update: int) -> None:
        """Copy the weights to the target network if it is time, and draw the mixture of the update."""
        super().prepare(update)
        mixture = torch.from_numpy(draw_mixture(len(self.mixture), self.seed, update))
        self.mixture.copy_(mixture, non_blocking=True)  # no update waits for a GPU

    def td_loss(self, chosen: Tensor, rewards: Tensor, discounts: Tensor, next_estimates: Tensor) -> Tensor:
        """Return the loss against the largest mixture of heads in the next state."""
        targets = rewards + discounts * self._mix(next_estimates).max(-1).values
        return F.huber_loss(self._mix(chosen), targets)

    def _mix(self, estimates: Tensor) -> Tensor:
        """Return the combination of heads ``[..., N]``, float32 ``[...]``."""
        if not self.training:
            return estimates.mean(-1)
        # Autocast would compute a matrix product in bfloat16, whose resolution is too low for differences of Q.
        return (estimates * self.mixture).sum(-1)


def draw_mixture(num_heads: int, seed: int, update: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Draw the weights of the heads: uniform numbers, divided by their sum, as in the authors' code.

    Args:
        num_heads: Number of heads.
        seed: Seed of the run.
        update: Number of updates made before. The weights depend on nothing else, so that all processes of a run, and a
            run that is resumed, draw the same ones.

    Returns:
        float64 ``[num_heads]``, at least 0, with sum 1.
    """
    weights = np.random.default_rng([seed, update, num_heads]).random(num_heads)
    return weights / weights.sum()


REM = ValueMethod(MixtureObjective)
