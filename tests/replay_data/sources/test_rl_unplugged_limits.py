"""RL Unplugged shards that are not what the reader expects: transitions, decompressed shards, absurd sizes."""

from __future__ import annotations

import gzip
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from google.protobuf import message
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_data import ReplayFormatError
from replay_data.episode import Episode
from replay_data.sources.rl_unplugged import shard_name
from replay_data.sources.tf_example import read_bytes, read_floats, read_integers, split_example
from replay_data.sources.tfrecord import Example, Feature, _masked_crc, write_record
from replay_data.storage.gzip_streams import create_gzip
from tests.conftest import DATA
from tests.replay_data.memory import limited_memory
from tests.replay_data.recordings import open_shards, same, truth

PNG = cv2.imencode(".png", np.zeros((84, 84), np.uint8))[1].tobytes()


def read(path: Path) -> list[Episode]:
    """Return the episodes of the first shard of a run."""
    with closing(open_shards(path).shards[0]) as shard:
        return list(shard.episodes())


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Return the path of a shard to write, in a directory of its own."""
    path = tmp_path / "Breakout" / shard_name(1, 0, 1)
    path.parent.mkdir()
    return path


def example(**features: Any) -> bytes:
    """Return a serialized `tf.train.Example`."""
    built = Example()
    for name, values in features.items():
        first = values[0]
        kind = "bytes_list" if isinstance(first, bytes) else "int64_list" if isinstance(first, int) else "float_list"
        getattr(built.features.feature[name], kind).value.extend(values)
    return bytes(built.SerializeToString())


def write(path: Path, *payloads: bytes) -> None:
    with create_gzip(path) as stream:
        for payload in payloads:
            write_record(stream, payload)


def test_a_shard_that_a_browser_has_decompressed_is_read(shard: Path) -> None:
    shard.write_bytes(gzip.decompress((DATA / "rl_unplugged" / "Breakout" / shard_name(1, 0, 2)).read_bytes()))
    episodes = read(shard.parents[1])
    assert len(episodes) == 6
    assert all(same(episode, played, raw_rewards=True) for episode, played in zip(episodes, truth(), strict=False))
    content = bytearray(shard.read_bytes())
    content[-9] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ReplayFormatError, match=r"is damaged at record 5 \(its checksum differs\)"):
        read(shard.parents[1])


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>Sign in</html>", b"short", PNG])
def test_a_file_that_is_no_shard_is_refused(shard: Path, content: bytes) -> None:
    shard.write_bytes(content)
    with pytest.raises(ReplayFormatError, match=r"00000-of-00001 is damaged at record 0 .*; download or copy it again"):
        read(shard.parents[1])


@pytest.mark.parametrize("compressed", [True, False])
def test_transitions_are_refused_by_name(shard: Path, compressed: bool) -> None:
    transition = example(o_t=[PNG] * 4, a_t=[1], r_t=[0.0], d_t=[1.0], o_tp1=[PNG] * 4, a_tp1=[1], episode_id=[-5])
    write(shard, transition, transition)
    if not compressed:
        shard.write_bytes(gzip.decompress(shard.read_bytes()))
    with pytest.raises(
        ReplayFormatError,
        match=r"00000-of-00001 holds single transitions in random order .* in its directory atari_episodes_ordered; "
        r"download the episodes .*download_replay",
    ):
        read(shard.parents[1])


@pytest.mark.parametrize("length", [1 << 40, 1 << 63, 250_000_000])
def test_an_absurd_length_is_refused_before_it_is_read(shard: Path, length: int) -> None:
    header = struct.pack("<Q", length)
    with gzip.open(shard, "wb", 1) as stream:
        stream.write(header + struct.pack("<I", _masked_crc(header)) + bytes(20_000_000))
    with (
        limited_memory(10),
        pytest.raises(ReplayFormatError, match=f"it claims to have {length:,} bytes, but a record has at most"),
    ):
        read(shard.parents[1])


def test_a_record_longer_than_the_file_takes_the_memory_of_the_file(shard: Path) -> None:
    header = struct.pack("<Q", 200_000_000)
    with create_gzip(shard) as stream:
        stream.write(header + struct.pack("<I", _masked_crc(header)) + bytes(3_000_000))
    with limited_memory(20), pytest.raises(ReplayFormatError, match="the file is cut off"):
        read(shard.parents[1])


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ({"observations": [b""] * 200_000, "actions": [0]}, "more than 108,001 strings"),
        ({"observations": [PNG], "actions": [0] * 2_000_000}, "a feature .* has more than 108,001 numbers"),
        ({"observations": [PNG], "actions": [0], "discounts": [0.0] * 1_000_000}, "has more than 108,001 numbers"),
        ({f"feature {index}": [0] for index in range(200)}, "more than 100"),
    ],
    ids=["strings", "integers", "floats", "features"],
)
def test_more_values_than_an_episode_has_are_refused(shard: Path, features: dict[str, Any], reason: str) -> None:
    write(shard, example(**features))
    del features
    with limited_memory(30), pytest.raises(ReplayFormatError, match=rf"is damaged at record 0 \(.*{reason}"):
        read(shard.parents[1])


@pytest.mark.parametrize(
    "png",
    [
        PNG[:16] + struct.pack(">II", 60_000, 60_000) + PNG[24:],  # OpenCV would allocate 3.6 GB
        PNG + bytes(8192),
        cv2.imencode(".bmp", np.zeros((84, 84), np.uint8))[1].tobytes(),
    ],
)
def test_a_frame_is_decoded_only_if_its_header_fits(shard: Path, png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    write(shard, example(observations=[png], actions=[0], discounts=[1.0], unclipped_rewards=[0.0]))
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("the frame was decoded"))
    with pytest.raises(ReplayFormatError, match=r"frame 0 is not a gray 84×84 PNG"):
        read(shard.parents[1])


LISTS = {
    "bytes_list": st.binary(max_size=300),
    "int64_list": st.integers(-(2**63), 2**63 - 1),
    "float_list": st.floats(width=32),
}


@settings(max_examples=40, deadline=None)
@given(
    contents=st.dictionaries(
        st.text(max_size=5),
        st.sampled_from(list(LISTS)).flatmap(lambda kind: st.tuples(st.just(kind), st.lists(LISTS[kind], max_size=8))),
    ),
    long=st.integers(0, 20_000),
    seed=st.integers(0, 2**32 - 1),
)
def test_examples_are_parsed_as_protobuf_parses_them(contents: dict[str, Any], long: int, seed: int) -> None:
    built = Example()
    for name, (kind, values) in contents.items():
        getattr(built.features.feature[name], kind).value.extend(values)
    built.features.feature["long"].bytes_list.value.append(bytes(long))
    payload = built.SerializeToString()
    features = split_example(payload)
    assert features.keys() == built.features.feature.keys()
    for name, feature in built.features.feature.items():
        assert [bytes(value) for value in read_bytes(features[name], 10_000)] == list(feature.bytes_list.value)
        assert read_integers(features[name], 10_000).tolist() == list(feature.int64_list.value)
        assert np.array_equal(read_floats(features[name], 10_000), np.array(feature.float_list.value), equal_nan=True)

    damaged = bytearray(payload)
    rng = np.random.default_rng(seed)
    for position in rng.integers(0, len(damaged), size=3):
        damaged[position] = rng.integers(256)
    try:
        for feature in split_example(bytes(damaged)).values():
            for read_values in (read_bytes, read_integers, read_floats):
                read_values(feature, 10_000)
    except ValueError:
        pass


def test_numbers_that_are_not_packed_are_read() -> None:
    feature = b"\x1a\x06\x08\x01\x08\x7f\x08\x00"  # int64_list, and three values with a tag each
    assert read_integers(memoryview(feature), 3).tolist() == list(Feature.FromString(feature).int64_list.value)
    assert read_integers(memoryview(feature), 3).tolist() == [1, 127, 0]
    with pytest.raises(message.DecodeError):
        Feature.FromString(feature[:-1])
    with pytest.raises(ValueError, match=r"not a tf\.train\.Example"):
        read_integers(memoryview(feature[:-1]), 3)
