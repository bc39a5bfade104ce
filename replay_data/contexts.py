"""Select the steps that form contexts; index arithmetic only, without data."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from replay_data.errors import InputError

IntArray = npt.NDArray[np.int64]

FloatArray = npt.NDArray[np.float32]


def context_bounds(steps: npt.ArrayLike, episode_ends: IntArray, context_length: int) -> tuple[IntArray, IntArray]:
    """Return the first step and the length of the context of each of ``steps``.

    As in the original code, every step of the dataset starts a window of K steps, and a window that would cross the end
    of its episode is moved back until it ends there. Unlike in the original code, a window never contains steps of
    another episode: all steps of an episode shorter than K have the same context, the whole episode.

    Args:
        steps: int ``[M]``, steps of the dataset, each in ``[0, episode_ends[-1])``.
        episode_ends: int64 ``[E]``, exclusive end of each episode, ascending.
        context_length: K, at least 1.

    Returns:
        ``(starts, lengths)``, both int64 ``[M]``: the context of ``steps[m]`` is the steps
        ``starts[m] : starts[m] + lengths[m]``; ``lengths[m]`` is the smaller of K and the length of the episode.

    Raises:
        InputError: If K is less than 1.
        IndexError: If a step is outside the dataset.
    """
    if context_length < 1:
        raise InputError(f"`context_length` must be at least 1, not {context_length}")
    steps = np.asarray(steps, dtype=np.int64)
    if steps.size and (steps.min() < 0 or steps.max() >= episode_ends[-1]):
        raise IndexError(f"steps must lie in [0, {episode_ends[-1]}), got {steps.min()} to {steps.max()}")
    episode = np.searchsorted(episode_ends, steps, side="right")
    episode_end = episode_ends[episode]
    episode_start = np.where(episode > 0, episode_ends[episode - 1], 0)
    starts = np.maximum(episode_start, np.minimum(steps, episode_end - context_length))
    return starts, np.minimum(context_length, episode_end - starts)


def hold_out(num_episodes: int, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose random validation episodes.

    Args:
        num_episodes: E.
        fraction: Fraction of the episodes to hold out, above 0 and below 1; at least one episode is held out.
        seed: Seed of the choice, which depends on nothing else.

    Returns:
        bool ``[E]``, true for the held-out episodes.

    Raises:
        InputError: If no episode would remain for training.
    """
    num_held_out = max(1, round(fraction * num_episodes))
    if num_held_out >= num_episodes:
        raise InputError(
            f"{num_held_out} of {num_episodes} episodes would be held out, which leaves none to train on; lower "
            "`validation_fraction` or use more data"
        )
    held_out = np.zeros(num_episodes, dtype=np.bool_)
    held_out[np.random.default_rng(seed).permutation(num_episodes)[:num_held_out]] = True
    return held_out


def best_episodes(
    episodes: npt.NDArray[np.bool_], returns: npt.NDArray[np.floating], episode_ends: IntArray, percent: float
) -> npt.NDArray[np.bool_]:
    """Keep the candidate episodes with the largest returns, for %BC (Chen et al. 2021, section 5.1).

    As in the paper, the percentage refers to steps: whole episodes are taken, best first, while they fit.

    Args:
        episodes: bool ``[E]``, true for the candidates.
        returns: float ``[E]``, return of each episode; among equal returns, the earlier episode comes first.
        episode_ends: int64 ``[E]``, exclusive end of each episode, ascending.
        percent: Percentage of the candidates' steps to keep, above 0 and at most 100.

    Returns:
        bool ``[E]``, true for the kept episodes.

    Raises:
        InputError: If the best episode alone has more steps.
    """
    lengths = np.diff(episode_ends, prepend=0)
    ranked = np.flatnonzero(episodes)[np.argsort(-returns[episodes], kind="stable")]
    steps = np.cumsum(lengths[ranked])
    num_kept = np.searchsorted(100 * steps, percent * steps[-1], side="right")
    if num_kept == 0:
        raise InputError(
            f"the best episode alone has {steps[0]:,} of {steps[-1]:,} steps, more than {percent:g}%; raise "
            "`top_percent` or use more data"
        )
    kept = np.zeros_like(episodes)
    kept[ranked[:num_kept]] = True
    return kept


def window_starts(episodes: npt.NDArray[np.bool_], episode_ends: IntArray, stride: int = 1) -> IntArray:
    """Return the first steps of windows of some episodes.

    With a stride of 1, every step starts a window. With a stride of K, the windows are the fewest whose contexts cover
    every step.

    Args:
        episodes: bool ``[E]``, true for the episodes to use.
        episode_ends: int64 ``[E]``, exclusive end of each episode, ascending.
        stride: Number of steps between the starts of two windows.

    Returns:
        int64 ``[M]``, the steps at multiples of ``stride`` after the start of an episode, ascending.
    """
    starts = np.concatenate([[0], episode_ends[:-1]])
    lengths = episode_ends - starts
    steps_in_episode = np.arange(episode_ends[-1]) - np.repeat(starts, lengths)
    return np.flatnonzero(np.repeat(episodes, lengths) & (steps_in_episode % stride == 0))
