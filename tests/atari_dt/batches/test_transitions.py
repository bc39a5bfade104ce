"""The transitions of a store: what they hold, and which steps are none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atari_dt.batches.transitions import TransitionBatch, TransitionLoader, drop_truncated_ends
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.methods import find_method
from atari_dt.model.q_network import QNetwork
from atari_dt.training import training_windows
from replay_data import InputError, StoreWriter, TrajectoryStore, hold_out
from replay_data.selection.methods import Selection
from replay_data.selection.stores import select_from_store
from replay_data.store_metadata import StoreSource
from tests.atari_dt.q_networks import CONFIGS, use_small_layers

CPU = torch.device("cpu")

Frames = npt.NDArray[np.uint8]


def write_store(
    path: Path,
    lengths: Sequence[int],
    terminated: Sequence[bool | None],
    frames: Sequence[Frames] | None = None,
    clipped: bool = False,
) -> TrajectoryStore:
    """Write episodes of random rewards from -3 to 3 and random frames, each of one brightness."""
    rng = np.random.default_rng(len(lengths))
    with StoreWriter(
        path,
        game="Breakout",
        action_meanings=["NOOP", "FIRE", "RIGHT", "LEFT"],
        reward_clipping=clipped,
        sticky_actions=None,
        source=StoreSource("test"),
    ) as writer:
        for index, (length, done) in enumerate(zip(lengths, terminated, strict=True)):
            shown = rng.integers(1, 256, (length, 1, 1), np.uint8) if frames is None else frames[index]
            shown = np.ascontiguousarray(np.broadcast_to(shown, (length, 84, 84)))
            rewards = rng.integers(-3, 4, length) / (3 if clipped else 1)
            writer.append(shown, rng.integers(0, 4, length), rewards, terminated=done)
    return TrajectoryStore.open(path)


def stack(store: TrajectoryStore, episode: int, time: int) -> Frames:
    """Return the state at a time of an episode: its last four frames, or black ones before its first."""
    start = int(store.episode_starts[episode])
    shown = [
        store.frames[store.frame_index[start + each]] if each >= 0 else np.zeros((84, 84), np.uint8)
        for each in range(time - 3, time + 1)
    ]
    return np.stack(shown)


def check(store: TrajectoryStore, batch: TransitionBatch, steps: npt.NDArray[np.int64]) -> None:
    """Compare a batch with the episodes of a store, transition by transition."""
    assert store.terminated is not None
    assert batch.states.shape == batch.next_states.shape == (len(steps), 4, 84, 84)
    for row, step in enumerate(steps.tolist()):
        episode = sum(step >= end for end in store.episode_ends)
        time = step - int(store.episode_starts[episode])
        last = step + 1 == store.episode_ends[episode]
        assert np.array_equal(batch.states[row], stack(store, episode, time))
        assert batch.actions[row] == store.actions[step]
        assert batch.rewards[row] == min(1, max(-1, store.rewards[step]))
        assert batch.terminated[row] == (last and store.terminated[episode])
        if not last:
            assert np.array_equal(batch.next_states[row], stack(store, episode, time + 1))
    for tensor, dtype in ((batch.actions, torch.int64), (batch.rewards, torch.float32), (batch.terminated, torch.bool)):
        assert tensor.dtype == dtype


@given(
    episodes=st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=6),
    seed=st.integers(0, 99),
    resident=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_transitions_are_those_of_the_episodes(
    tmp_path_factory: pytest.TempPathFactory, episodes: list[tuple[int, bool]], seed: int, resident: bool
) -> None:
    """Load some steps, in any order; all but the last ones of truncated episodes are transitions."""
    lengths, terminated = zip(*episodes, strict=True)
    store = write_store(tmp_path_factory.mktemp("stores") / "store", lengths, terminated)
    rng = np.random.default_rng(seed)
    some = rng.permutation(len(store))[: rng.integers(len(store) + 1)]
    steps = drop_truncated_ends(some, store)
    ends = [end - 1 for end, done in zip(np.cumsum(lengths), terminated, strict=True) if not done]
    assert steps.tolist() == [step for step in some if step not in ends]
    loader = TransitionLoader(store, CPU, resident)
    (batch,) = loader.batches([some])
    check(store, batch, some)
    assert loader.num_steps(some) == len(some)


def test_frames_are_not_copied(tmp_path: Path) -> None:
    """A transition has five frames, and its two states share three of them."""
    store = write_store(tmp_path / "store", [6, 5], [True, False])
    for resident in (True, False):
        (batch,) = TransitionLoader(store, CPU, resident).batches([np.arange(10)])
        states, next_states = batch.states, batch.next_states
        assert states.untyped_storage().data_ptr() == next_states.untyped_storage().data_ptr()
        assert next_states.data_ptr() - states.data_ptr() == 84 * 84
        assert states.untyped_storage().nbytes() == 10 * 5 * 84 * 84
    loader = TransitionLoader(store, CPU)
    assert loader._rows.data_ptr() == store.frames.ctypes.data


@pytest.mark.parametrize("method", CONFIGS)
def test_nothing_bootstraps_across_a_truncated_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Neither a next state nor a loss depends on the frames of the episode that follows.

    Both depend on the last frame of the truncated episode, which the step before it bootstraps from.
    """
    use_small_layers(monkeypatch.setattr)
    rng = np.random.default_rng(0)
    first, second, poison = rng.integers(1, 256, (3, 4, 84, 84), np.uint8)
    changed_end = first.copy()
    changed_end[-1] = 255 - changed_end[-1]
    objective = find_method(CONFIGS[method]).make_objective(QNetwork(CONFIGS[method], 4), seed=0)
    objective.prepare(0)

    def look(name: str, *frames: Frames) -> tuple[TransitionBatch, list[float]]:
        """Return the transitions of the first episode, and the loss of each."""
        store = write_store(tmp_path / name, [4, 4], [False, True], frames)
        steps = drop_truncated_ends(np.arange(4), store)
        assert steps.tolist() == [0, 1, 2]
        loader = TransitionLoader(store, CPU)
        with torch.no_grad():
            return loader.batch(steps), [objective(loader.batch([step]))[0].item() for step in steps]

    (batch, losses), (same_batch, same_losses) = look("a", first, second), look("b", first, poison)
    for name, tensor in vars(batch).items():
        assert torch.equal(getattr(same_batch, name), tensor), name
    assert losses == same_losses
    other_batch, other_losses = look("c", changed_end, second)
    assert torch.equal(other_batch.states, batch.states)
    assert [one != other for one, other in zip(losses, other_losses, strict=True)] == [False, False, True]
    assert np.array_equal(other_batch.next_states[2], changed_end)
    assert not batch.terminated.any()


def test_a_store_with_linked_frames_has_the_transitions_of_a_copy(tmp_path: Path) -> None:
    """Its ``frames.npy`` has the frames of other episodes too."""
    store = write_store(tmp_path / "store", [3, 1, 6, 2, 5, 1], [True, False, False, True, False, True], clipped=True)
    selection = Selection.of("top", top_episode_percent=60)
    linked = select_from_store(tmp_path / "linked", store.path, selection, copy_frames=False, show_progress=False)
    assert len(linked.frames) == len(store.frames) > len(linked) + 3 * linked.num_episodes
    assert linked.terminated is not None
    assert not linked.terminated.all()
    steps = drop_truncated_ends(np.arange(len(linked)), linked)
    assert len(steps) == len(linked) - (~linked.terminated).sum()
    for resident in (True, False):
        (batch,) = TransitionLoader(linked, CPU, resident).batches([steps])
        check(linked, batch, steps)


def test_a_store_that_does_not_tell_terminated_from_truncated_episodes_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [5, 5], [None, None])
    assert store.terminated is None
    message = r"/store does not tell terminated from truncated episodes, .*; build it again from its source$"
    with pytest.raises(InputError, match=message):
        TransitionLoader(store, CPU)
    for config in CONFIGS.values():
        with pytest.raises(InputError, match=message):
            training_windows(store, config, TrainingConfig(batch_size=4))
    assert len(training_windows(store, ModelConfig(), TrainingConfig(batch_size=4))[0]) == 10


@pytest.mark.parametrize("method", CONFIGS)
def test_every_transition_is_trained_or_validated_on(tmp_path: Path, method: str) -> None:
    lengths, terminated = [4, 1, 7, 3, 1, 5], [True, False, False, True, True, False]
    store = write_store(tmp_path / "store", lengths, terminated, clipped=True)
    config = TrainingConfig(batch_size=4, validation_fraction=0.5, seed=3)
    held_out = hold_out(6, 0.5, seed=3)
    episode = np.repeat(np.arange(6), lengths)
    usable = [step for step in range(21) if terminated[episode[step]] or step + 1 != store.episode_ends[episode[step]]]
    trained, validated = training_windows(store, CONFIGS[method], config)
    assert trained.tolist() == [step for step in usable if not held_out[episode[step]]]
    assert validated.tolist() == [step for step in usable if held_out[episode[step]]]
    assert validated.size
    with pytest.raises(InputError, match="a batch of 19 is larger than the dataset of 18 steps; lower `batch_size`"):
        training_windows(store, CONFIGS[method], TrainingConfig(batch_size=19))
