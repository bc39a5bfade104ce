"""The JAT dataset: files in its schema come back step for step; what is not such a file is refused."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atari_dt.games.catalogue import find_game
from replay_data.episode import Episode
from replay_data.errors import InputError, ReplayFormatError
from replay_data.sources import jat
from replay_data.sources.jat import JatRun, JatShard
from replay_data.sources.jat_files import GAMES
from tests.replay_data.jat_files import encode_png, make_row, stack_frames, write_jat
from tests.replay_data.recordings import build, indices_in_truth, same, truth

DIRECTORY = "atari-breakout"
NAME = "train-00000-of-00001.parquet"
BLACK = encode_png(np.zeros((84, 84, 4), np.uint8))


@cache
def rows() -> list[dict[str, list[Any]]]:
    """Return the first two episodes of Breakout that were recorded for the tests, 187 and 181 steps."""
    return [make_row(episode) for episode in truth()[:2]]


def steps_of(row: dict[str, list[Any]], steps: slice) -> dict[str, list[Any]]:
    return {name: values[steps] for name, values in row.items()}


def open_run(path: Path, run: int = 1, game: str = "Breakout", num_actions: int = 4) -> JatRun:
    return JatRun(path, game, run, num_actions)


def read(path: Path) -> list[Episode]:
    return [episode for shard in open_run(path).shards.values() for episode in shard.episodes()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "none", "use_dictionary": False},  # as datasets writes images
        {"use_compliant_nested_type": False, "row_group_size": 1, "compression": "zstd"},  # older names of the columns
        {"data_page_version": "2.0", "data_page_size": 5000, "write_batch_size": 10, "write_page_checksum": True},
    ],
)
def test_play_comes_back_step_for_step(tmp_path: Path, options: dict[str, Any]) -> None:
    write_jat(tmp_path / DIRECTORY / NAME, rows(), **options)
    (shard,) = open_run(tmp_path).shards.values()
    for episode, played in zip(shard.episodes(), truth()[:2], strict=True):
        assert same(episode, played, raw_rewards=True)
    assert list(shard.returns()) == [float(played.rewards.sum()) for played in truth()[:2]]
    assert shard.count() == (187 + 181, 2)
    assert [len(episode) for episode in shard.episodes({1})] == [181]
    assert shard.check(everything=True) is None  # nothing says what the file should be
    shard.close()


def test_a_store_says_where_it_comes_from(tmp_path: Path) -> None:
    files = [
        write_jat(tmp_path / "jat" / DIRECTORY / f"{split}-00000-of-0000{total}.parquet", [row])
        for split, total, row in zip(("test", "train"), (1, 3), rows(), strict=True)
    ]
    sha256 = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    record = {"format_version": 1, "repository": "jat-project/jat-dataset", "revision": "abc", "sha256": sha256}
    (tmp_path / "jat" / DIRECTORY / "download.json").write_text(json.dumps(record))
    run = open_run(tmp_path / "jat")
    assert (run.num_shards, set(run.shards), run.missing) == (4, {0, 3}, {1, 2})  # those of train first
    store = build(tmp_path / "store", run, "all")
    assert indices_in_truth(store) == [1, 0]
    raw = np.concatenate([truth()[index].raw_rewards for index in (1, 0)])
    assert store.raw_rewards is not None
    assert np.array_equal(store.raw_rewards, raw)
    metadata = store.metadata
    assert metadata.sticky_actions == 0
    assert metadata.source.verified
    assert metadata.source.episodes_per_shard == {0: 1, 3: 1}
    assert metadata.source.details["dataset"] == "jat-project/jat-dataset"
    assert metadata.source.details["revision"] == "abc"
    assert metadata.source.details["license"] == "Apache-2.0"
    assert "FIRE" in str(metadata.source.details["resets"])
    content = bytearray(files[0].read_bytes())
    content[1000] ^= 1
    files[0].write_bytes(content)
    with pytest.raises(ReplayFormatError, match=rf"{files[0]} is damaged \(its SHA-256 is not the one of the download"):
        open_run(tmp_path / "jat").shards[3].check()


def test_games_are_spelled_like_those_of_the_catalogue() -> None:
    assert len(set(GAMES)) == 57
    assert [find_game(game).name for game in GAMES] == list(GAMES)


def test_files_of_older_uploads_have_a_hash_in_their_names(tmp_path: Path) -> None:
    for index, hash_ in enumerate(("c04006bb1f51ef0b", "0ae748ff150119ad")):
        write_jat(tmp_path / DIRECTORY / f"train-0000{index}-of-00002-{hash_}.parquet", [rows()[index]])
    assert [len(episode) for episode in read(tmp_path)] == [187, 181]


def test_an_episode_at_the_time_limit_is_truncated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jat._TIME_LIMITS.get("MontezumaRevenge") == 18_000 / 4
    assert jat._DEFAULT_TIME_LIMIT == 108_000 / 4
    monkeypatch.setitem(jat._TIME_LIMITS, "Breakout", 120)
    write_jat(tmp_path / DIRECTORY / NAME, [steps_of(rows()[0], slice(steps)) for steps in (19, 20, 120, 121)])
    assert [episode.terminated for episode in read(tmp_path)] == [True, False, False, True]
    assert "one of 20 to 120 steps is taken as truncated by the time limit" in open_run(tmp_path).notes[0]


@pytest.mark.parametrize("channels", [[3, 2, 1, 0], [0, 1, 3, 2]], ids=["newest first", "mixed"])
def test_stacks_in_another_order_are_refused(tmp_path: Path, channels: list[int]) -> None:
    stacks = stack_frames(truth()[0].frames)[..., channels]
    images = [{"bytes": encode_png(stack), "path": None} for stack in stacks]
    write_jat(tmp_path / DIRECTORY / NAME, [rows()[0] | {"image_observations": images}])
    with pytest.raises(ReplayFormatError, match=r"at row 0 \(only [0-9]+ of its 186 stacks of frames continue the one"):
        read(tmp_path)


def test_a_lost_life_may_interrupt_the_stack(tmp_path: Path) -> None:
    """Sample Factory resets the stack after a lost life, with the first frame of the next one four times."""
    frames = truth()[0].frames
    stacks = np.concatenate([stack_frames(frames[:100]), stack_frames(frames[100:])])
    images = [{"bytes": encode_png(stack), "path": None} for stack in stacks]
    write_jat(tmp_path / DIRECTORY / NAME, [rows()[0] | {"image_observations": images}])
    (episode,) = read(tmp_path)
    assert np.array_equal(episode.frames, frames)


GRAY = encode_png(np.zeros((84, 84), np.uint8))
LARGE = encode_png(np.zeros((85, 84, 4), np.uint8))
DAMAGED = BLACK[:50] + bytes([BLACK[50] ^ 1]) + BLACK[51:]


@pytest.mark.parametrize(
    ("column", "item", "reason"),
    [
        ("rewards", float("nan"), "row 1 (one of its rewards is not a finite number)"),
        ("rewards", None, "row 1 (a value of rewards is missing)"),
        ("discrete_actions", 4, "row 1 (its actions run from 0 to 4, not from 0 to 3)"),
        ("discrete_actions", -1, "row 1 (its actions run from -1 to 3, not from 0 to 3)"),
        ("image_observations", None, "row 1 (a value of image_observations is missing)"),
        ("image_observations", {"bytes": None, "path": "1.png"}, "row 1 (a value of image_observations is missing)"),
        ("image_observations", {"bytes": GRAY}, "row 1 (image 3 is not a PNG of four 84×84 channels, or is damaged)"),
        ("image_observations", {"bytes": LARGE}, "row 1 (image 3 is not a PNG of four 84×84 channels, or is damaged)"),
        ("image_observations", {"bytes": DAMAGED}, "row 1 (image 3 is not a PNG of four 84×84 channels, or is dam"),
        ("image_observations", {"bytes": BLACK[:-9]}, "row 1 (image 3 is not a PNG of four 84×84 channels, or is dam"),
        ("image_observations", {"bytes": b""}, "row 1 (image 3 is not a PNG of four 84×84 channels, or is damaged)"),
    ],
)
def test_a_bad_value_is_named_with_its_row(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], column: str, item: Any, reason: str
) -> None:
    row = steps_of(rows()[1], slice(8, 48))
    row[column] = [*row[column][:3], item, *row[column][4:]]
    file = write_jat(tmp_path / DIRECTORY / NAME, [steps_of(rows()[0], slice(9)), row])
    with pytest.raises(ReplayFormatError) as error:
        read(tmp_path)
    assert str(error.value).startswith(f"{file} is damaged at {reason}")
    assert str(error.value).endswith("; delete it, and download it again")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("column", ["rewards", "discrete_actions", "image_observations"])
@pytest.mark.parametrize("change", ["missing", "shorter", "empty"])
def test_columns_of_other_lengths_are_refused(tmp_path: Path, column: str, change: str) -> None:
    row: dict[str, Any] = steps_of(rows()[0], slice(9))
    row[column] = {"missing": None, "shorter": row[column][:8], "empty": []}[change]
    write_jat(tmp_path / DIRECTORY / NAME, [row])
    reason = f"a value of {column} is missing" if change == "missing" else "its columns should have the same length"
    with pytest.raises(ReplayFormatError, match=rf"at row 0 \({reason}"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("game", "run", "message"),
    [
        ("Breakout", 2, r"the JAT dataset has one run of each game; set `run` to 1, not 2"),
        ("Adventure", 1, r"the JAT dataset has no Adventure; it has the 57 games Alien, .* Zaxxon"),
        ("Pong", 1, r"no atari-pong in .*; it holds atari-breakout"),
        (
            "Breakout",
            1,
            r"atari-breakout has no file of the JAT dataset; its files are named like train-00000-of-00016",
        ),
    ],
)
def test_a_run_that_is_not_there_is_refused(tmp_path: Path, game: str, run: int, message: str) -> None:
    (tmp_path / DIRECTORY).mkdir()
    (tmp_path / DIRECTORY / "train-00002-of-00002.parquet").touch()
    with pytest.raises(InputError, match=message):
        open_run(tmp_path, run, game)


@pytest.mark.parametrize("other", ["train-00001-of-00002.parquet", "train-00000-of-00001-c04006bb1f51ef0b.parquet"])
def test_files_of_two_uploads_are_refused(tmp_path: Path, other: str) -> None:
    (tmp_path / DIRECTORY).mkdir()
    for name in (NAME, other):
        (tmp_path / DIRECTORY / name).touch()
    with pytest.raises(ReplayFormatError, match=rf"mixes files of several uploads \({NAME}, {other}\); keep one set"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2},
        {"repository": "ann/other"},
        {"revision": None},
        {"sha256": {"../../x": "0"}},
        {"sha256": {NAME: 0}},
    ],
)
def test_a_damaged_record_of_a_download_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    record = {"format_version": 1, "repository": "jat-project/jat-dataset", "revision": "abc", "sha256": {}, **change}
    (tmp_path / DIRECTORY).mkdir()
    (tmp_path / DIRECTORY / NAME).touch()
    (tmp_path / DIRECTORY / "download.json").write_text(json.dumps(record))
    with pytest.raises(ReplayFormatError, match=r"download\.json is damaged \(.*\); delete it, and download the files"):
        open_run(tmp_path)


def test_a_shard_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_jat(tmp_path / NAME, [steps_of(rows()[0], slice(9))])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pyarrow, which cannot be imported .*; install it: pip install pyarrow$"):
        JatShard(file, 4).count()
