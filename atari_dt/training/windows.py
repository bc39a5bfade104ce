"""The windows of a store that a run trains on, and those that it validates on."""

from __future__ import annotations

import numpy as np

from atari_dt.config import TrainingConfig
from atari_dt.games.ram_variables import require_observation
from atari_dt.method_config import MethodConfig
from atari_dt.methods.registry import find_method
from replay_data import InputError, TrajectoryStore, best_episodes, hold_out, window_starts
from replay_data.contexts import IntArray


def training_windows(
    store: TrajectoryStore, method_config: MethodConfig, config: TrainingConfig
) -> tuple[IntArray, IntArray]:
    """Return the windows to train on and the windows to validate on.

    A window is a context of K steps or a transition, as the method needs. Every step of a training episode starts a
    window, but the last step of a truncated episode is no transition. In a held-out episode, contexts start K steps
    apart, which are the fewest that cover it.

    Args:
        store: Data.
        method_config: Config of the method.
        config: Config with the fraction and the seed of held-out episodes, the percentage of best episodes and the
            batch size.

    Returns:
        Two arrays of the dataset's steps at which the windows start, int64 ``[M]`` and ``[V]``.

    Raises:
        InputError: If the store lacks what the method observes, there are fewer training windows than a batch has, or
            the method needs to know how episodes ended and the store does not.
    """
    require_observation(method_config.observation, method_config.variables, store)
    method = find_method(method_config)
    fraction, num_episodes = config.validation_fraction, store.num_episodes
    seed = config.seed if config.validation_seed is None else config.validation_seed
    held_out = hold_out(num_episodes, fraction, seed) if fraction else np.zeros(num_episodes, dtype=np.bool_)
    trained = best_episodes(~held_out, store.episode_returns, store.episode_ends, config.top_percent)
    windows = method.usable_steps(window_starts(trained, store.episode_ends), store)
    if config.batch_size > len(windows):
        raise InputError(
            f"a batch of {config.batch_size} is larger than the dataset of {len(windows)} steps; lower `batch_size`"
        )
    validated = window_starts(held_out, store.episode_ends, stride=method.window_length(method_config))
    return windows, method.usable_steps(validated, store)
