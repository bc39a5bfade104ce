"""QR-DQN (Dabney et al. 2018, arXiv:1710.10044): learn quantiles of the return."""

from __future__ import annotations

import torch
from torch import Tensor

from atari_dt.methods.value_based import ValueMethod, ValueObjective


class QuantileObjective(ValueObjective):
    """Quantile Huber loss between the quantiles of an action and those of their targets (algorithm 1)."""

    def td_loss(self, chosen: Tensor, rewards: Tensor, discounts: Tensor, next_estimates: Tensor) -> Tensor:
        """Return the loss against the quantiles of the next state's best action, by their mean."""
        best = next_estimates.mean(-1).argmax(-1)
        best_quantiles = next_estimates[torch.arange(len(best), device=best.device), best]
        targets = rewards[:, None] + discounts[:, None] * best_quantiles
        return quantile_huber_loss(chosen, targets)


def quantile_huber_loss(quantiles: Tensor, targets: Tensor) -> Tensor:
    """Return the quantile Huber loss with threshold 1: summed over quantiles, averaged over targets and the batch.

    Quantile i of N has the fraction ``(2i + 1) / 2N`` (Dabney et al. 2018, lemma 2 and equation 10).

    Args:
        quantiles: Estimated quantiles, float32 ``[B, N]``.
        targets: Samples that they should be quantiles of, float32 ``[B, M]``, without a gradient.

    Returns:
        Scalar.
    """
    num_quantiles = quantiles.shape[1]
    fractions = (torch.arange(num_quantiles, device=quantiles.device) + 0.5) / num_quantiles
    errors = targets[:, None, :] - quantiles[:, :, None]
    clipped = errors.clamp(-1, 1)
    huber = clipped * (errors - 0.5 * clipped)
    weights = (fractions[:, None] - (errors.detach() < 0).float()).abs()
    return (weights * huber).mean(-1).sum(-1).mean()


QRDQN = ValueMethod(QuantileObjective)
