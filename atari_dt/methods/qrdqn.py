"""QR-DQN (Dabney et al. 2018, arXiv:1710.10044): learn quantiles of the return."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from atari_dt.methods.value_based import ValueMethod, ValueObjective


class QuantileObjective(ValueObjective):
    """Quantile Huber loss between the quantiles of an action and those of their targets (algorithm 1)."""

    def td_loss(self, chosen: Tensor, rewards: Tensor, discounts: Tensor, next_estimates: Tensor) -> Tensor:
        """Return the loss against the quantiles of the next action, the one whose quantiles have the largest mean."""
        best = next_estimates.mean(-1).argmax(-1)
        best_quantiles = next_estimates[torch.arange(len(best), device=best.device), best]
        targets = rewards[:, None] + discounts[:, None] * best_quantiles
        return quantile_huber_loss(chosen, targets)


def quantile_huber_loss(quantiles: Tensor, targets: Tensor) -> Tensor:
    """Return the quantile Huber loss with threshold 1: summed over quantiles, averaged over targets and the batch.

    Quantile i of N has the fraction ``(2i + 1) / 2N`` (Dabney et al. 2018, lemma 2 and equation 10). For a quantile q,
    the loss is a polynomial of q over each of four ranges of targets: up to q - 1, up to q, up to q + 1, and beyond.
    With sorted targets, each range is a slice, whose number, sum and sum of squares are differences of cumulative sums.
    This takes N log M operations instead of the N · M of all pairs.

    Args:
        quantiles: Estimated quantiles, float32 ``[B, N]``.
        targets: Samples that they should be quantiles of, float32 ``[B, M]``, without a gradient.

    Returns:
        Scalar, float32.
    """
    num_quantiles, num_targets = quantiles.shape[1], targets.shape[1]
    fractions = (torch.arange(num_quantiles, device=quantiles.device) + 0.5) / num_quantiles
    # float64, because the sums of a slice are differences of large numbers.
    q, ranked = quantiles.double(), targets.double().sort(-1).values
    powers = torch.stack([torch.ones_like(ranked), ranked, ranked**2])
    sums_up_to = F.pad(powers.cumsum(-1), (1, 0))  # [3, B, M + 1]
    bounds = torch.searchsorted(ranked, torch.cat([q - 1, q, q + 1], dim=-1).detach())
    low, middle, high = sums_up_to.gather(-1, bounds.expand(3, -1, -1)).chunk(3, dim=-1)
    far_below, below, above, far_above = low, middle - low, high - middle, sums_up_to[..., -1:] - high

    def squared(sums: Tensor) -> Tensor:
        number, total, squares = sums
        return 0.5 * (number * q**2 - 2 * total * q + squares)

    losses_below = far_below[0] * (q - 0.5) - far_below[1] + squared(below)
    losses_above = far_above[1] - far_above[0] * (q + 0.5) + squared(above)
    losses = (1 - fractions) * losses_below + fractions * losses_above
    return (losses.sum(-1).mean() / num_targets).float()


QRDQN = ValueMethod(QuantileObjective)
