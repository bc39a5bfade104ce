"""The order of contexts, and the batches gathered from a store."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from atari_dt.batches.loader import copy_episode_frames
from atari_dt.training import BatchSampler, ContextLoader
from replay_data import TrajectoryStore
from replay_data.selection.methods import Selection
from replay_data.selection.stores import select_from_store


@pytest.mark.parametrize("context_length", [1, 4, 30])
def test_batches_contain_the_data_of_the_store(store: TrajectoryStore, context_length: int) -> None:
    steps = np.random.default_rng(0).permutation(len(store))
    batch = ContextLoader(store, context_length, torch.device("cpu")).batch(steps)
    assert batch.states.shape == (len(store), context_length, 4, 84, 84)
    for row, step in enumerate(steps):
        episode = int(np.flatnonzero(step < store.episode_ends)[0])
        first, end = int(store.episode_starts[episode]), int(store.episode_ends[episode])
        start = max(first, min(int(step), end - context_length))
        window = range(start, min(start + context_length, end))
        assert batch.attention_mask[row].tolist() == [k < len(window) for k in range(context_length)]
        for k, n in enumerate(window):
            assert (batch.states[row, k].numpy() == store.state(n)).all()
            assert batch.actions[row, k] == store.actions[n]
            assert batch.returns_to_go[row, k] == store.returns_to_go[n]
            assert batch.timesteps[row, k] == store.timesteps[n]


def test_batches_gathered_ahead_equal_batches_gathered_on_demand(store: TrajectoryStore) -> None:
    """If a GPU is too small for the frames, they stay in the host's memory and a thread gathers them."""
    steps = np.random.default_rng(0).permutation(len(store))
    steps_of_batches = [steps[i : i + 9] for i in range(0, len(store), 9)]
    resident = ContextLoader(store, 4, torch.device("cpu"))
    streaming = ContextLoader(store, 4, torch.device("cpu"), resident=False)
    batches = list(streaming.batches(steps_of_batches))
    assert len(batches) == len(steps_of_batches)
    for steps, batch in zip(steps_of_batches, batches, strict=True):
        for name, tensor in vars(resident.batch(steps)).items():
            assert torch.equal(getattr(batch, name), tensor), name
        assert resident.num_steps(steps) == int(batch.attention_mask.sum())
    for outside in (-1, len(store)):
        with pytest.raises(IndexError):
            resident.batch([0, outside])


def select(out: Path, store: TrajectoryStore, *, copy_frames: bool) -> TrajectoryStore:
    """Select four of the six episodes of the fixture ``store`` again."""
    selection = Selection.of("top", top_episode_percent=60)
    return select_from_store(out, store.path, selection, copy_frames=copy_frames, show_progress=False)


def test_a_store_with_linked_frames_has_the_batches_of_a_copy(tmp_path: Path, store: TrajectoryStore) -> None:
    linked, copied = (select(tmp_path / str(copy), store, copy_frames=copy) for copy in (False, True))
    assert len(linked.frames) == len(store.frames) > len(copied.frames)
    for resident in (True, False):
        batches = [
            next(ContextLoader(each, 9, torch.device("cpu"), resident=resident).batches([np.arange(len(each))]))
            for each in (linked, copied)
        ]
        for name, tensor in vars(batches[0]).items():
            assert torch.equal(getattr(batches[1], name), tensor), name


def test_only_the_frames_of_a_stores_own_episodes_are_copied_to_a_device(
    tmp_path: Path, store: TrajectoryStore
) -> None:
    linked = select(tmp_path / "linked", store, copy_frames=False)
    frames, frame_index = copy_episode_frames(linked, torch.device("cpu"))
    assert len(frames) == len(linked) + 3 * linked.num_episodes < len(linked.frames)
    for step, newest in enumerate(frame_index.tolist()):
        assert np.array_equal(frames[newest - 3 : newest + 1], linked.state(step))
    frames, frame_index = copy_episode_frames(store, torch.device("cpu"))
    assert frames.data_ptr() == store.frames.ctypes.data  # moved in one piece
    assert frame_index is store.frame_index


@pytest.mark.parametrize("batch_size", [7, 50, 200])
def test_each_epoch_samples_every_window_once_in_a_different_order(batch_size: int) -> None:
    windows = np.arange(100, 200, 2)
    sampler = BatchSampler(windows, batch_size, seed=3)
    per_epoch = math.ceil(50 / batch_size)
    assert sampler.updates_per_epoch == per_epoch
    updates = [sampler.batch(update).tolist() for update in range(4 * per_epoch)]
    epochs = [list(itertools.chain(*updates[e * per_epoch : (e + 1) * per_epoch])) for e in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == windows.tolist()
        assert epochs.count(epoch) == 1
    assert updates[0] != BatchSampler(windows, batch_size, seed=4).batch(0).tolist()
    for update in (3 * per_epoch, 0, 4 * per_epoch - 1):  # updates can be sampled in any order
        assert sampler.batch(update).tolist() == updates[update]
        assert BatchSampler(windows, batch_size, seed=3).batch(update).tolist() == updates[update]
