"""AdamW and the learning-rate schedule of the paper.

The learning rate of an update is a peak times a factor. The peak is `TrainingConfig.learning_rate` in
atari_dt/config.py, the same for all games of the paper. The factor is that of `learning_rate_schedule`,
below. atari_dt/training/loop.py multiplies them before each update.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from atari_dt.config import TrainingConfig


def make_optimizer(model: nn.Module, config: TrainingConfig, capturable: bool = False) -> torch.optim.AdamW:
    """Return AdamW with weight decay on the weights of linear and convolution layers (Chen et al. 2021, appendix A).

    Biases, layer norms and all embeddings are not decayed. Parameters that need no gradient are not trained.

    Args:
        model: Network to train.
        config: Config of the training.
        capturable: Whether a CUDA graph can capture the steps of the optimizer.
    """
    decayed = {id(module.weight) for module in model.modules() if _is_linear(module)}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.adam_eps,
        fused=True,
        capturable=capturable,
    )


def _is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear or convolution layer; transformers calls its linear layer ``Conv1D``."""
    return isinstance(module, (nn.Linear, nn.Conv2d)) or type(module).__name__ == "Conv1D"


def learning_rate_schedule(
    config: TrainingConfig, window_length: int, num_windows: int, num_updates: int
) -> Callable[[int], float]:
    """Return a function from the number of tokens trained on to the learning rate as a fraction of its peak.

    Args:
        config: Config of the training.
        window_length: K, or 1 for transitions.
        num_windows: Number of windows to train on.
        num_updates: Number of updates of the whole run.
    """
    if config.schedule == "constant":
        return lambda tokens: 1.0
    warmup_tokens, final_tokens = schedule_tokens(config, window_length, num_windows, num_updates)
    return lambda tokens: learning_rate_multiplier(tokens, warmup_tokens, final_tokens)


def schedule_tokens(config: TrainingConfig, window_length: int, num_windows: int, num_updates: int) -> tuple[int, int]:
    """Return the last two arguments of `learning_rate_multiplier` for a run.

    Args:
        config: Config of the training.
        window_length: K, or 1 for transitions.
        num_windows: Number of windows to train on.
        num_updates: Number of updates of the whole run.
    """
    if config.warmup_fraction is not None:
        run_tokens = num_updates * config.batch_size * window_length
        return max(1, round(config.warmup_fraction * run_tokens)), run_tokens
    return config.warmup_tokens, config.final_tokens or 2 * num_windows * 3 * window_length


def learning_rate_multiplier(tokens: int, warmup_tokens: int, final_tokens: int) -> float:
    """Return the learning rate as a fraction of its peak.

    The fraction rises linearly from 0 to 1 over ``warmup_tokens``, then follows half a cosine down to 0.1 and stays
    there (Chen et al. 2021, appendix A). As in the original code, one action counts as one token.

    This differs from the original code in two ways. The original sets the rate after each update, so that its first
    update runs at the peak and every other one lags by an update; here an update's own tokens count. Past
    ``final_tokens`` the original's cosine rises again; here the fraction stays at 0.1.

    Args:
        tokens: Number of tokens trained on, those of the current update included.
        warmup_tokens: Number of tokens in the warm-up.
        final_tokens: Number of tokens at which the cosine would reach 0.
    """
    if tokens < warmup_tokens:
        return tokens / warmup_tokens
    progress = (tokens - warmup_tokens) / max(1, final_tokens - warmup_tokens)
    return max(0.1, 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
