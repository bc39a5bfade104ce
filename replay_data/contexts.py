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


def hold_out(num_episodes: int, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose episodes that are kept from training: ``fraction`` of them (0 to 1, exclusive), at random, at least one.

    Returns:
        bool ``[E]``, true for those held out; which ones depends on the seed alone.

    Raises:
        InputError: if that would leave no episode to train on.
    """
    number = max(1, round(fraction * num_episodes))
    if number >= num_episodes:
        raise InputError(
            f"of {num_episodes} episodes, {number} would be held out, and none be left to train on; lower "
            "validation_fraction or take more data"
        )
    held = np.zeros(num_episodes, dtype=np.bool_)
    held[np.random.default_rng(seed).permutation(num_episodes)[:number]] = True
    return held


def best_episodes(
    episodes: npt.NDArray[np.bool_], returns: npt.NDArray[np.floating], episode_ends: IntArray, percent: float
) -> npt.NDArray[np.bool_]:
    """Of the chosen episodes, keep the best by return, for %BC (Chen et al. 2021, section 5.1).

    As there, the percentage is one of steps: whole episodes are taken, the best first, for as long as they fit into
    that many.

    Args:
        episodes: bool ``[E]``, true for the chosen ones.
        returns: float ``[E]``, of each episode; of equal ones the earlier comes first.
        episode_ends: int64 ``[E]``, ascending; the exclusive end of each episode.
        percent: of the chosen episodes' steps, above 0 and at most 100.

    Returns:
        bool ``[E]``, true for those kept.

    Raises:
        InputError: if the best episode alone has more steps than that.
    """
    lengths = np.diff(episode_ends, prepend=0)
    ranked = np.flatnonzero(episodes)[np.argsort(-returns[episodes], kind="stable")]
    steps = np.cumsum(lengths[ranked])
    number = np.searchsorted(100 * steps, percent * steps[-1], side="right")
    if number == 0:
        raise InputError(
            f"the best episode alone has {steps[0]:,} of {steps[-1]:,} steps, more than {percent:g}%; raise "
            "top_percent or take more data"
        )
    kept = np.zeros_like(episodes)
    kept[ranked[:number]] = True
    return kept


def window_starts(episodes: npt.NDArray[np.bool_], episode_ends: IntArray, stride: int = 1) -> IntArray:
    """Return the steps, int64 ``[M]``, that lie a multiple of ``stride`` after the start of a chosen episode.

    With a stride of 1 these are all windows of the episodes; with K, the fewest whose contexts cover every step.

    Args:
        episodes: bool ``[E]``, true for the chosen ones.
        episode_ends: int64 ``[E]``, ascending; the exclusive end of each episode.
        stride: steps between two windows.
    """
    starts = np.concatenate([[0], episode_ends[:-1]])
    lengths = episode_ends - starts
    within = np.arange(episode_ends[-1]) - np.repeat(starts, lengths)
    return np.flatnonzero(np.repeat(episodes, lengths) & (within % stride == 0))
