"""RL Unplugged shards: read what TensorFlow wrote, and refuse other records and damaged files."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from replay_data import ReplayFormatError
from replay_data.episode import Episode
from replay_data.sources import tfrecord
from replay_data.sources.rl_unplugged import RLUnpluggedRun, shard_name
from replay_data.sources.rl_unplugged_record import ShardRecord
from replay_data.sources.tf_example import split_example
from replay_data.sources.tfrecord import read_records, write_record
from replay_data.storage.gzip_streams import create_gzip, open_gzip
from tests.conftest import DATA
from tests.replay_data.recordings import attempt, damaged, open_shards, random_episode, same, truth, write_shard


def read(path: Path) -> list[Episode]:
    """Return every episode of a run, and compare all checksums."""
    episodes: list[Episode] = []
    for shard in open_shards(path).shards.values():
        episodes += shard.episodes()
        shard.check()
        shard.close()
    return episodes


def test_shards_that_tensorflow_wrote_are_read() -> None:
    run = open_shards()
    assert (list(run.shards), run.num_shards) == ([0, 1], 2)
    episodes = read(DATA / "rl_unplugged")
    assert len(episodes) == 12
    assert all(same(episode, played, raw_rewards=True) for episode, played in zip(episodes, truth(), strict=False))
    returns = [value for shard in run.shards.values() for value in shard.returns()]
    assert returns == [played.rewards.sum() for played in truth()[:12]]


def test_records_read_back_and_carry_their_checksums() -> None:
    # CRC-32C of "123456789" is 0xE3069283 (RFC 3720 gives the polynomial; the value is its usual check).
    crc = 0xE3069283
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
    file = io.BytesIO()
    write_record(file, b"123456789")
    assert file.getvalue()[-4:] == masked.to_bytes(4, "little")
    write_record(file, b"")
    file.seek(0)
    assert list(read_records(file, 9)) == [b"123456789", b""]


def test_a_truncated_episode_keeps_its_last_step(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [random_episode(rng, 5, terminated=False), random_episode(rng, 1), random_episode(rng, 9)]
    write_shard(tmp_path / "Breakout" / shard_name(1, 0, 1), episodes)
    assert all(same(one, other, True) for one, other in zip(read(tmp_path), episodes, strict=True))


@pytest.mark.parametrize(("last_discount", "steps"), [(0, 3), (1, 4)])
def test_the_last_entry_is_a_step_unless_the_game_was_over(last_discount: int, steps: int) -> None:
    actions, rewards = [1, 2, 3, 2], np.array([0, 1, 0, -1], np.float32)
    features = {"actions": actions, "unclipped_rewards": rewards, "discounts": [1, 1, 1, last_discount]}
    record = ShardRecord.parse(split_example(example(4, **features)))
    assert (len(record), len(record.observations), record.terminated) == (steps, steps, last_discount == 0)
    assert (record.actions.tolist(), record.rewards.tolist()) == (actions[:steps], rewards.tolist()[:steps])


def test_the_position_of_an_episode_is_not_used(tmp_path: Path) -> None:
    # Carnival has 49 shards. An episode's `checkpoint_idx` is not the index of its shard there.
    positions: list[list[int] | None] = [None, [47], [48], [0], [-1], [49, 49]]
    for shard in (0, 48):
        file = tmp_path / "Carnival" / shard_name(1, shard, 49)
        file.parent.mkdir(exist_ok=True)
        with create_gzip(file) as stream:
            for steps, position in enumerate(positions, 1):
                features = {"actions": [shard % 5] * (steps + 1), "unclipped_rewards": [0] * (steps - 1) + [1, 0]}
                write_record(stream, example(steps + 1, **features, checkpoint_idx=position, episode_idx=position))
    run = RLUnpluggedRun(tmp_path, "Carnival", 1, 6)
    assert (list(run.shards), run.num_shards, run.missing) == ([0, 48], 49, set(range(1, 48)))
    for index, read_shard in run.shards.items():
        assert [len(episode) for episode in read_shard.episodes()] == [1, 2, 3, 4, 5, 6]
        assert list(read_shard.returns()) == [1] * 6
        assert {int(action) for episode in read_shard.episodes() for action in episode.actions} == {index % 5}
        read_shard.close()


def test_a_run_reported_as_corrupt_has_a_note(tmp_path: Path) -> None:
    for game, run in (("Asterix", 1), ("Asterix", 2), ("Breakout", 1)):
        write_shard(tmp_path / game / shard_name(run, 0, 1), [random_episode(np.random.default_rng(0), 2)])
    (note,) = RLUnpluggedRun(tmp_path, "Asterix", 1, 9).notes
    assert note.startswith("Asterix run 1 may be corrupt: ")
    assert "https://github.com/google-research/batch_rl/issues/28" in note
    assert RLUnpluggedRun(tmp_path, "Asterix", 2, 9).notes == RLUnpluggedRun(tmp_path, "Breakout", 1, 4).notes == ()


def test_rewards_come_from_either_feature() -> None:
    raw = np.array([0, 7, -3], np.float32)
    record = ShardRecord.parse(split_example(example(unclipped_rewards=raw, discounts=[1, 1, 1])))
    assert record.raw_rewards is not None
    assert (record.rewards.tolist(), record.raw_rewards.tolist()) == ([0, 1, -1], [0, 7, -3])
    record = ShardRecord.parse(split_example(example(clipped_rewards=raw.clip(-1, 1), discounts=[1, 1, 1])))
    assert (record.rewards.tolist(), record.raw_rewards) == ([0, 1, -1], None)


def example(steps: int = 3, **features: Any) -> bytes:
    """Return a serialized episode of black frames; a feature that is None is left out."""
    episode = tfrecord.Example()
    png = cv2.imencode(".png", np.zeros((84, 84), np.uint8))[1].tobytes()
    defaults: dict[str, Any] = {
        "observations": [png] * steps,
        "actions": [0] * steps,
        "discounts": [1] * (steps - 1) + [0],
    }
    for name, values in (defaults | features).items():
        if values is None:
            continue
        lists = {"observations": "bytes_list"} | dict.fromkeys(
            ("actions", "checkpoint_idx", "episode_idx"), "int64_list"
        )
        list_type = lists.get(name, "float_list")
        getattr(episode.features.feature[name], list_type).value.extend(values)
    return bytes(episode.SerializeToString())


COLOR = cv2.imencode(".png", np.zeros((84, 84, 3), np.uint8))[1].tobytes()
SMALL = cv2.imencode(".png", np.zeros((84, 80), np.uint8))[1].tobytes()
REWARDS: dict[str, Any] = {"unclipped_rewards": [0, 0, 0]}


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (b"not a protocol buffer", "it is not a tf.train.Example"),
        (b"", r"have the same length and not be empty: 0 observations"),
        ({}, "it has no rewards"),
        ({**REWARDS, "actions": [0, 0]}, r"have the same length .*: 3 observations, 2 actions, 3 discounts"),
        ({**REWARDS, "observations": None}, "0 observations, 3 actions"),
        ({"unclipped_rewards": [0, 0]}, "2 unclipped_rewards"),
        ({"unclipped_rewards": [0, np.nan, 0]}, "are not its rewards clipped"),
        ({"clipped_rewards": [0, 1, 0], "unclipped_rewards": [0, 0, 0]}, "are not its rewards clipped"),
        ({"clipped_rewards": [0, 2, 0]}, "are not its rewards clipped"),
        ({"steps": 1, "unclipped_rewards": [0]}, "it has no step, only a final frame"),
        ({**REWARDS, "actions": [0, 4, 0]}, "its actions run from 0 to 4, not from 0 to 3"),
        ({**REWARDS, "actions": [-1, 0, 0]}, "its actions run from -1 to 0"),
        ({**REWARDS, "observations": [b"", b"", b""]}, "frame 0 is not a gray 84×84 PNG"),
        ({**REWARDS, "observations": [COLOR] * 3}, "frame 0 is not a gray"),
        ({**REWARDS, "observations": [SMALL] * 3}, "frame 0 is not a gray"),
        ({**REWARDS, "observations": [COLOR[:40]] * 3}, "frame 0 is not a gray"),
    ],
)
def test_records_of_another_format_are_refused(tmp_path: Path, features: dict[str, Any] | bytes, message: str) -> None:
    file = tmp_path / "Breakout" / shard_name(1, 0, 1)
    file.parent.mkdir()
    with create_gzip(file) as stream:
        write_record(stream, example(**REWARDS))
        write_record(stream, features if isinstance(features, bytes) else example(**features))
    with pytest.raises(ReplayFormatError, match=rf"00000-of-00001 is damaged at record 1 \(.*{message}"):
        read(tmp_path)


def test_damage_is_named_or_harmless(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    file = tmp_path / "Breakout" / shard_name(1, 0, 1)
    episodes = [random_episode(rng, int(steps)) for steps in rng.integers(1, 12, size=8)]
    for episode in episodes:
        episode.frames[:, 2:] = 9
    write_shard(file, episodes)
    with open_gzip(file) as stream:
        plain = stream.read()
    content = file.read_bytes()
    refused = 0
    for index in range(400):
        if index % 2:
            file.write_bytes(damaged(content, rng))
        else:  # inside gzip, where only the records' own checksums find damage
            with create_gzip(file) as stream:
                stream.write(damaged(plain, rng))
        found, error = attempt(lambda: read(tmp_path))
        if error is not None:
            assert str(file) in str(error)
            refused += 1
        elif index % 2:
            assert len(found) == len(episodes)
        # A file that ends between two records is a shorter, valid file.
        assert all(same(one, other, True) for one, other in zip(found, episodes, strict=False))
    assert refused > 300


def test_a_shard_without_episodes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "Breakout" / shard_name(1, 0, 1)
    file.parent.mkdir()
    file.touch()
    with pytest.raises(ReplayFormatError, match=r"00000-of-00001 is damaged at record 0 \(it holds no episode\)"):
        read(tmp_path)
    with create_gzip(file) as stream:
        stream.write(b"")
    with pytest.raises(ReplayFormatError, match="it holds no episode"):
        read(tmp_path)


def test_an_error_ends_the_reading_of_a_shard(tmp_path: Path) -> None:
    file = tmp_path / "Breakout" / shard_name(1, 0, 1)
    write_shard(file, [random_episode(np.random.default_rng(0), 5)])
    with open_gzip(file) as stream:
        content = stream.read()
    with create_gzip(file) as stream:
        stream.write(content + content[:-1] + b"?" + content)
    (shard,) = open_shards(tmp_path).shards.values()
    assert shard.read_record() is not None
    for _ in range(2):
        with pytest.raises(ReplayFormatError, match="damaged at record 1"):
            shard.read_record()


def test_missing_directories_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ReplayFormatError, match=r"no Breakout in .*it is empty"):
        read(tmp_path)
    (tmp_path / "Breakout").mkdir()
    with pytest.raises(ReplayFormatError, match="has no shards of run 1; it holds no shard"):
        read(tmp_path)
    shutil.copy(DATA / "rl_unplugged" / "Breakout" / shard_name(1, 0, 2), tmp_path / "Breakout")
    with pytest.raises(ReplayFormatError, match="has no shards of run 2; it holds run 1"):
        RLUnpluggedRun(tmp_path, "Breakout", 2, 4)
    (tmp_path / "Breakout" / shard_name(1, 3, 2)).touch()
    with pytest.raises(ReplayFormatError, match="cannot be one of 2 shards"):
        read(tmp_path)
    (tmp_path / "Breakout" / shard_name(1, 3, 50)).touch()
    with pytest.raises(ReplayFormatError, match="mixes shards of 2 and 50"):
        read(tmp_path)
