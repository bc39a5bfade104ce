"""Index arithmetic of contexts, against step-by-step computations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay_data import InputError, best_episodes, context_bounds, hold_out, window_starts


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8), context_length=st.integers(1, 15))
def test_context_bounds_equal_a_step_by_step_computation(lengths: list[int], context_length: int) -> None:
    ends = np.cumsum(lengths)
    episodes = [list(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
    starts, sizes = context_bounds(np.arange(ends[-1]), ends, context_length)
    for step in range(ends[-1]):
        episode = next(episode for episode in episodes if step in episode)
        window = [step]
        while len(window) < context_length and window[-1] + 1 in episode:
            window.append(window[-1] + 1)
        while len(window) < context_length and window[0] - 1 in episode:  # moved back to end with its episode
            window.insert(0, window[0] - 1)
        assert (starts[step], sizes[step]) == (window[0], len(window))


def test_context_bounds_keep_the_order_of_the_steps() -> None:
    starts, sizes = context_bounds([4, 0, 4], np.array([3, 10]), 4)
    assert starts.tolist() == [4, 0, 4]
    assert sizes.tolist() == [4, 3, 4]


@pytest.mark.parametrize("context_length", [0, -1])
def test_context_length_below_1_is_refused(context_length: int) -> None:
    with pytest.raises(InputError, match="`context_length` must be at least 1"):
        context_bounds([0], np.array([3]), context_length)


@pytest.mark.parametrize("step", [-1, 3])
def test_steps_outside_the_dataset_are_refused(step: int) -> None:
    with pytest.raises(IndexError):
        context_bounds([step], np.array([3]), 2)


@given(
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=8),
    context_length=st.integers(1, 15),
    fraction=st.floats(0.001, 0.5),
    seed=st.integers(0, 2**63 - 1),
)
def test_held_out_and_training_episodes_share_no_step(
    lengths: list[int], context_length: int, fraction: float, seed: int
) -> None:
    ends = np.cumsum(lengths)
    held_out = hold_out(len(lengths), fraction, seed)
    assert held_out.sum() == max(1, round(fraction * len(lengths)))
    assert (held_out == hold_out(len(lengths), fraction, seed)).all()
    steps = [list(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
    for episodes in (held_out, ~held_out):
        expected = [n for episode, included in zip(steps, episodes, strict=True) if included for n in episode]
        assert window_starts(episodes, ends).tolist() == expected
        starts, sizes = context_bounds(window_starts(episodes, ends, context_length), ends, context_length)
        covered = {n for start, size in zip(starts, sizes, strict=True) for n in range(start, start + size)}
        assert covered == set(expected)
        included_steps = [len(episode) for episode, included in zip(steps, episodes, strict=True) if included]
        assert len(starts) == sum(-(-length // context_length) for length in included_steps)


@pytest.mark.parametrize("episodes", [1, 2])
def test_hold_out_leaves_episodes_to_train_on(episodes: int) -> None:
    with pytest.raises(InputError, match="leaves none to train on; lower `validation_fraction`"):
        hold_out(episodes, 0.9, 0)


@given(st.data())
def test_best_episodes_are_taken_one_by_one_while_they_fit(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=40))
    returns = data.draw(st.lists(st.integers(-3, 3), min_size=len(lengths), max_size=len(lengths)))
    candidates = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)).filter(any))
    percent = data.draw(st.integers(1, 100))
    remaining = [index for index, is_candidate in enumerate(candidates) if is_candidate]
    budget = percent * sum(lengths[index] for index in remaining)  # in hundredths of a step
    expected: list[int] = []
    while remaining:
        best = max(remaining, key=lambda index: returns[index])  # the first of equal returns
        budget -= 100 * lengths[best]
        if budget < 0:
            break
        expected.append(best)
        remaining.remove(best)
    arguments = np.array(candidates), np.array(returns, dtype=np.float32), np.cumsum(lengths), percent
    if not expected:
        with pytest.raises(InputError, match="the best episode alone has"):
            best_episodes(*arguments)
        return
    kept = best_episodes(*arguments)
    assert np.flatnonzero(kept).tolist() == sorted(expected)
    if percent == 100:
        assert kept.tolist() == candidates
