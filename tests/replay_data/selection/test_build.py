"""Stores built by every selection method: episodes, ends, raw rewards, checksums and damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replay_data import InputError, ReplayFormatError, TrajectoryStore
from replay_data.episode import Episode
from replay_data.selection.methods import SelectionMethod
from replay_data.sources import dopamine_buffer
from replay_data.sources.rl_unplugged import shard_name
from replay_data.storage.gzip_streams import create_gzip, open_gzip
from replay_data.store_metadata import StoreSource
from tests.replay_data.recordings import (
    build,
    indices_in_truth,
    open_log,
    open_shards,
    random_episode,
    truth,
    write_log,
    write_shard,
)


def test_even_takes_the_same_share_of_every_shard(tmp_path: Path) -> None:
    for name, source, first in (("log", open_log(), [0, 14, 25, 34, 47]), ("shards", open_shards(), [0, 6])):
        share = 1300
        store = build(tmp_path / name, source, "even", num_steps=share * len(first) - 1)
        expected = []
        for index in first:
            steps = 0
            while steps < share:
                expected.append(index)
                steps += len(truth()[index])
                index += 1
        assert indices_in_truth(store) == expected
    with pytest.raises(
        InputError, match=r"shard 0 of the run holds 2,5\d\d steps of whole episodes, less than its share of 3,"
    ):
        build(tmp_path / "more", open_shards(), "even", num_steps=6000)


def test_even_says_how_many_steps_short_shards_have(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(3):
        write_shard(tmp_path / "Breakout" / shard_name(1, index, 3), [random_episode(rng, steps) for steps in (5, 4)])
    with pytest.raises(InputError, match=r"than its share of 10; lower `num_steps` to at most 27, or take all epi"):
        build(tmp_path / "more", open_shards(tmp_path), "even", num_steps=28)
    assert len(build(tmp_path / "most", open_shards(tmp_path), "even", num_steps=27)) == 27
    write_log(tmp_path / "log", [random_episode(rng, steps) for steps in (5, 50, 5)], 20)  # 1 is in an episode
    with pytest.raises(InputError, match=r"buffer .* 1 .* holds 0 steps .*, less than its share of 1; take all epi"):
        build(tmp_path / "none", open_log(tmp_path / "log"), "even", num_steps=1)


def test_top_takes_the_best_by_return(tmp_path: Path) -> None:
    returns = [float(episode.rewards.sum()) for episode in truth()]

    def best(num_episodes: int, count: int) -> list[int]:
        return sorted(sorted(range(num_episodes), key=lambda index: (-returns[index], index))[:count])

    for percent, count in ((10, 6), (50, 28)):
        store = build(tmp_path / f"log {percent}", open_log(), "top", top_episode_percent=percent)
        assert indices_in_truth(store) == best(55, count)
    for percent, count in ((1, 1), (25, 3), (100, 12)):
        store = build(tmp_path / f"shards {percent}", open_shards(), "top", top_episode_percent=percent)
        assert indices_in_truth(store) == best(12, count)
    store = build(tmp_path / "last", open_log(), "top", top_episode_percent=50, num_buffers=2)
    assert set(store.metadata.source.episodes_per_shard) <= {48, 49}


def test_all_takes_all_episodes(tmp_path: Path) -> None:
    assert indices_in_truth(build(tmp_path / "log", open_log(), "all")) == list(range(55))
    store = build(tmp_path / "shards", open_shards(), "all")
    assert indices_in_truth(store) == list(range(12))
    assert store.raw_rewards is not None
    assert np.array_equal(store.raw_rewards, np.concatenate([episode.raw_rewards for episode in truth()[:12]]))
    store = build(tmp_path / "last", open_log(), "all", num_buffers=1)
    assert indices_in_truth(store) == list(range(47, 55))
    assert store.metadata.source == StoreSource(
        "test", selection={"method": "all", "num_buffers": 1}, verified=True, episodes_per_shard={49: 8}
    )
    assert store.metadata.reward_clipping is True
    assert store.metadata.sticky_actions == 0.25


# Options with which each method takes some or all of the ten episodes below, terminated and truncated ones.
OPTIONS: dict[SelectionMethod, dict[str, Any]] = {
    "corrected": {"num_steps": 40, "trajectories_per_buffer": 1},
    "even": {"num_steps": 50},
    "top": {"top_episode_percent": 80},
    "return_range": {"min_return": -4, "max_return": 4},
    "all": {},
}


def mixed_episodes() -> list[Episode]:
    """Return ten episodes, of which the third, the fourth and the seventh are truncated."""
    rng = np.random.default_rng(0)
    return [random_episode(rng, 10 + index, terminated=index not in (2, 3, 6)) for index in range(10)]


def check_terminated(store: TrajectoryStore, episodes: list[Episode]) -> None:
    """Compare ``terminated`` with the episodes that the store's episodes are."""
    assert store.terminated is not None
    assert 1 < store.terminated.sum() < len(store.terminated) == store.num_episodes
    for terminated, start, end in zip(store.terminated, store.episode_starts, store.episode_ends, strict=True):
        (episode,) = (each for each in episodes if np.array_equal(store.actions[start:end], each.actions))
        assert terminated == episode.terminated


@pytest.mark.parametrize("method", list(OPTIONS))
def test_terminated_reaches_the_store(tmp_path: Path, method: SelectionMethod) -> None:
    episodes = mixed_episodes()
    write_log(tmp_path, episodes, 500)
    check_terminated(build(tmp_path / "log", open_log(tmp_path), method, **OPTIONS[method]), episodes)
    write_shard(tmp_path / "shards" / "Breakout" / shard_name(1, 0, 1), episodes)
    check_terminated(build(tmp_path / "store", open_shards(tmp_path / "shards"), method, **OPTIONS[method]), episodes)


def test_original_episodes_are_all_terminated(tmp_path: Path) -> None:
    """A truncated episode is the first part of the next terminated one, with the padding between them as steps."""
    episodes = mixed_episodes()
    write_log(tmp_path, episodes, 500)
    store = build(tmp_path / "store", open_log(tmp_path), "original", num_steps=100, trajectories_per_buffer=6)
    assert store.terminated is not None
    assert store.terminated.tolist() == [True] * 7
    lengths = [3 + len(episode) for episode in episodes]
    merged = [*lengths[:2], sum(lengths[2:5]), sum(lengths[5:6]), sum(lengths[6:8]), *lengths[8:]]
    assert np.diff(store.episode_ends, prepend=0).tolist() == merged


@pytest.mark.parametrize("method", ["original", "corrected", "even", "top", "all"])
def test_the_store_is_the_same_for_any_number_of_workers(tmp_path: Path, method: SelectionMethod) -> None:
    options: dict[str, Any] = {"num_buffers": 2}
    if method in ("original", "corrected"):
        options = {"num_buffers": 5, "num_steps": 8000, "trajectories_per_buffer": 3}
    elif method == "even":
        options = {"num_buffers": 5, "num_steps": 8000}
    stores = [build(tmp_path / str(n), open_log(), method, num_workers=n, **options) for n in (1, 2, 7)]
    assert stores[0].metadata == stores[1].metadata == stores[2].metadata  # with the digest of every array


def test_raw_rewards_are_kept_where_they_differ_from_the_clipped_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [random_episode(rng, 5) for _ in range(3)]
    write_shard(tmp_path / "raw" / "Breakout" / shard_name(1, 0, 1), episodes, clipped_rewards=False)
    store = build(tmp_path / "kept", open_shards(tmp_path / "raw"), "all")
    assert store.raw_rewards is not None
    raw = [episode.raw_rewards for episode in episodes if episode.raw_rewards is not None]
    assert np.array_equal(store.raw_rewards, np.concatenate(raw))
    assert store.metadata.max_score == max(float(values.sum()) for values in raw)
    for values in raw:
        values.clip(-1, 1, out=values)
    write_shard(tmp_path / "clipped" / "Breakout" / shard_name(1, 0, 1), episodes)
    store = build(tmp_path / "dropped", open_shards(tmp_path / "clipped"), "all")
    assert store.raw_rewards is None
    assert store.metadata.max_score is None
    assert not (tmp_path / "dropped" / "raw_rewards.npy").exists()


def test_damage_found_at_the_end_leaves_no_store(tmp_path: Path) -> None:
    directory = write_log(tmp_path, [random_episode(np.random.default_rng(0), 20) for _ in range(10)], 150)
    spoil_checksum(directory / "$store$_reward_ckpt.0.gz")
    options: dict[str, Any] = {"num_steps": 30, "trajectories_per_buffer": 0}
    with pytest.raises(ReplayFormatError, match=r"reward_ckpt\.0\.gz is damaged"):
        build(tmp_path / "store", open_log(tmp_path), "corrected", **options)
    assert [entry.name for entry in tmp_path.iterdir()] == ["Breakout"]


def spoil_checksum(file: Path) -> None:
    """Overwrite gzip's checksum and size at the end of a file."""
    file.write_bytes(file.read_bytes()[:-8] + bytes(8))


def test_damage_beyond_the_selection_is_found_only_by_verify(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for shard in range(2):
        file = tmp_path / "Breakout" / shard_name(1, shard, 2)
        write_shard(file, [random_episode(rng, 5) for _ in range(3)])
    with open_gzip(file) as stream:
        content = bytearray(stream.read())
    content[-5] ^= 1
    with create_gzip(file) as stream:
        stream.write(content)
    digests = set()
    for workers in (1, 2, 3):
        for seed in range(4):
            options: dict[str, Any] = {"num_steps": 9, "trajectories_per_buffer": 0, "seed": seed}
            source = open_shards(tmp_path)
            store = build(tmp_path / f"{workers}-{seed}", source, "corrected", num_workers=workers, **options)
            digests.add(store.digest)
            if 1 in store.metadata.source.episodes_per_shard:
                with pytest.raises(ReplayFormatError, match="damaged at record 2"):
                    build(tmp_path / "verified", source, "corrected", num_workers=workers, verify=True, **options)
    assert len(digests) <= 4


@pytest.mark.parametrize("element", ["action", "reward", "terminal"])
def test_the_checksums_of_small_files_are_always_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, element: str
) -> None:
    monkeypatch.setattr(dopamine_buffer, "CHECKED_ROWS", 100)
    directory = write_log(tmp_path, [random_episode(np.random.default_rng(0), 20) for _ in range(20)], 150)
    spoil_checksum(directory / f"$store$_{element}_ckpt.1.gz")
    with pytest.raises(ReplayFormatError, match=rf"{element}_ckpt\.1\.gz is damaged"):
        build(tmp_path / "store", open_log(tmp_path), "even", num_steps=100)


@pytest.mark.parametrize("verify", [False, True])
def test_metadata_says_whether_all_checksums_were_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: bool
) -> None:
    monkeypatch.setattr(dopamine_buffer, "CHECKED_ROWS", 5999)
    options: dict[str, Any] = {"num_buffers": 5, "num_steps": 1000, "trajectories_per_buffer": 0}
    store = build(tmp_path / "draw", open_log(), "corrected", verify=verify, **options)
    assert store.metadata.source.verified == verify
    assert build(tmp_path / "all", open_log(), "all", num_buffers=1, verify=verify).metadata.source.verified


def test_shards_outside_the_selection_are_named(tmp_path: Path) -> None:
    write_log(tmp_path, [random_episode(np.random.default_rng(0), 20) for _ in range(10)], 100)
    with pytest.raises(InputError, match=r"the run has only shards 0-2, but its last 5 of 50 are 45-49; raise"):
        build(tmp_path / "store", open_log(tmp_path), "corrected", num_buffers=5)
    with pytest.raises(InputError, match="`num_workers` is 0; it must be at least 1"):
        build(tmp_path / "store", open_log(tmp_path), "all", num_workers=0)
