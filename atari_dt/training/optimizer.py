"""AdamW and the learning-rate schedule of the paper."""

from __future__ import annotations

import math

import torch
from torch import nn

from atari_dt.config import TrainingConfig


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on the weights of linear and convolution layers only (Chen et al. 2021, appendix A).

    Biases, layer norms and embeddings of any kind are not decayed.
    """
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def learning_rate_multiplier(tokens: int, warmup_tokens: int, final_tokens: int) -> float:
    """Return the factor on the peak learning rate once ``tokens`` tokens were seen.

    Linear from 0 over ``warmup_tokens``, then half a cosine that is cut off at 10% and stays there (Chen et al. 2021,
    appendix A; a token here is an action, as in the original code). The original sets the rate after each update, so
    its first update runs at the full rate and each later one lags by an update; and past ``final_tokens`` its cosine
    rises again. Here an update's own tokens count, and the rate stays at 10%.
    """
    if tokens < warmup_tokens:
        return tokens / warmup_tokens
    progress = (tokens - warmup_tokens) / max(1, final_tokens - warmup_tokens)
    return max(0.1, 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
