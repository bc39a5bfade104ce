"""Saliency of models that observe vectors: which bytes of the RAM or which variables an action depends on.

Saliency has the shape ``[..., K, D]``: one number for each of the D entries of the states of K steps. Gradient × input
is `atari_dt.interpretation.saliency.gradient_times_input`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from atari_dt.batches.contexts import ContextBatch
from atari_dt.interpretation.episode_trace import Floats, Ints
from atari_dt.interpretation.saliency import mean_state, measure_drops
from atari_dt.interpretation.visualization_config import Explained
from atari_dt.model.pretrained import PretrainedModel


def entry_occlusion(
    model: PretrainedModel,
    batch: ContextBatch,
    last_steps: int | None = None,
    batch_size: int = 256,
    explain: Explained = "score",
) -> Tensor:
    """Replace one entry of one step by its mean in the training data and measure how far the last action's score falls.

    Args:
        model: Model of vectors in evaluation mode.
        batch: B contexts on the model's device. The explained action is the last one of each context.
        last_steps: Number of newest steps whose entries are replaced; all by default.
        batch_size: Number of changed states in one forward pass.
        explain: What is measured; see `atari_dt.interpretation.saliency.gradient_times_input`.

    Returns:
        Drop of the score, float32 ``[B, K, D]``: positive where the entry raises the score; 0 for entries at their
        mean, for steps whose entries were not replaced, and on padding.
    """
    mean = mean_state(model)
    masks = torch.eye(len(mean), dtype=torch.bool, device=mean.device)

    def replace(state: Tensor, entries: Tensor) -> Tensor:
        return torch.where(masks[entries], mean, state.float())

    return measure_drops(model, batch, len(mean), replace, last_steps, batch_size, explain)


def raised_and_lowered(saliency: Floats) -> tuple[Floats, Floats]:
    """Add what raises the score, and what lowers it, over the steps: two arrays ``[..., D]``, neither negative.

    The two are kept apart because the difference of an entry between two steps, such as the motion of a ball, has
    saliency of opposite signs, which would cancel out.
    """
    return np.maximum(saliency, 0).sum(-2), np.maximum(-saliency, 0).sum(-2)


def top_entries(saliency: Floats, count: int) -> Ints:
    """Return the entries with the largest absolute saliency, summed over the steps, largest first, int64 ``[count]``.

    Args:
        saliency: Saliency ``[K, D]``.
        count: Number of entries; all D if there are fewer.
    """
    return np.argsort(-np.abs(saliency).sum(0), kind="stable")[:count]
