"""Which steps form a context: pure index arithmetic, no data."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from replay_data.errors import InputError

IntArray = npt.NDArray[np.int64]


def context_bounds(steps: npt.ArrayLike, episode_ends: IntArray, context_length: int) -> tuple[IntArray, IntArray]:
    """Return the first step and the length of the context that each of ``steps`` stands for.

    As in the original code, every step of the dataset starts a window of K steps, and a window that would cross the
    end of its episode is pulled back until it ends there. Unlike there, an episode shorter than K does not reach into
    its neighbour: all its steps stand for the one window that starts with the episode and is shorter than K.

    Args:
        steps: int ``[M]``, steps of the dataset, each in ``[0, episode_ends[-1])``.
        episode_ends: int64 ``[E]``, ascending; the exclusive end of each episode.
        context_length: K, at least 1.

    Returns:
        ``(starts, lengths)``, both int64 ``[M]``: the context of ``steps[m]`` is the steps
        ``starts[m] : starts[m] + lengths[m]``; ``lengths[m] == min(K, length of its episode)``.

    Raises:
        InputError: if K is less than 1.
        IndexError: if a step lies outside the dataset.
    """
    if context_length < 1:
        raise InputError(f"context length K must be at least 1, not {context_length}")
    steps = np.asarray(steps, dtype=np.int64)
    if steps.size and (steps.min() < 0 or steps.max() >= episode_ends[-1]):
        raise IndexError(f"steps must lie in [0, {episode_ends[-1]}), got {steps.min()} to {steps.max()}")
    episode = np.searchsorted(episode_ends, steps, side="right")
    episode_end = episode_ends[episode]
    episode_start = np.where(episode > 0, episode_ends[episode - 1], 0)
    starts = np.maximum(episode_start, np.minimum(steps, episode_end - context_length))
    return starts, np.minimum(context_length, episode_end - starts)
