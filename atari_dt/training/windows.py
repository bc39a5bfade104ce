"""The windows of a store that a run trains on, and those that it validates on."""

from __future__ import annotations

import numpy as np

from atari_dt.config import ModelConfig, TrainingConfig
from replay_data import InputError, TrajectoryStore, best_episodes, hold_out, window_starts
from replay_data.contexts import IntArray


def training_windows(
    store: TrajectoryStore, model_config: ModelConfig, config: TrainingConfig
) -> tuple[IntArray, IntArray]:
    """Return the windows to train on and the windows to validate on.

    Every step of a training episode starts a window. In a held-out episode, windows start K steps apart, which are the
    fewest that cover it.

    Args:
        store: Data.
        model_config: Config with the context length K.
        config: Config with the fraction of held-out episodes, the percentage of best episodes and the batch size.

    Returns:
        Two arrays of the dataset's steps at which the windows start, int64 ``[M]`` and ``[V]``.

    Raises:
        InputError: If there are fewer training windows than contexts in a batch.
    """
    fraction, num_episodes = config.validation_fraction, store.num_episodes
    held_out = hold_out(num_episodes, fraction, config.seed) if fraction else np.zeros(num_episodes, dtype=np.bool_)
    trained = best_episodes(~held_out, store.episode_returns, store.episode_ends, config.top_percent)
    windows = window_starts(trained, store.episode_ends)
    if config.batch_size > len(windows):
        raise InputError(
            f"a batch of {config.batch_size} contexts is larger than the dataset of {len(windows)} steps; lower "
            "`batch_size`"
        )
    return windows, window_starts(held_out, store.episode_ends, stride=model_config.context_length)
