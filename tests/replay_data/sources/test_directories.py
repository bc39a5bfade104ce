"""Directories of another source format than the one that was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from replay_data import InputError, ReplayFormatError
from replay_data.sources import SOURCES, SourceFormat
from replay_data.store_metadata import read_metadata
from replay_data.testing import write_random_store

FILES: dict[str, tuple[SourceFormat, str]] = {
    "Breakout/1/replay_logs/$store$_action_ckpt.0.gz": ("dopamine", "a Dopamine log"),
    "Breakout/1/0/observation.gz": ("dopamine", "a Dopamine log"),
    "Breakout/run_1-00000-of-00050": ("rl_unplugged", "shards of RL Unplugged"),
    "atari-breakout/train-00000-of-00016.parquet": ("jat", "files of the JAT dataset"),
    "atari/breakout/expert-v0/data/main_data.hdf5": ("minari", "a Minari dataset"),
}


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize("file", FILES)
def test_the_format_of_the_data_is_named(tmp_path: Path, file: str) -> None:
    touch(tmp_path / file)
    found, name = FILES[file]
    for asked in SOURCES.keys() - {found}:
        with pytest.raises(
            ReplayFormatError, match=rf"holds .*`source` (to )?{found}$|`source` {found} reads"
        ) as error:
            SOURCES[asked](tmp_path, "Breakout", 1, 4)
        assert name in str(error.value) or {asked, found} == {"dopamine", "rl_unplugged"}
    with pytest.raises(InputError) as refusal:
        read_metadata(tmp_path)
    advice = f"build a store from it with scripts/build_dataset.py, `source` {found} and `path` {tmp_path}"
    assert str(refusal.value) == f"{tmp_path} is not a trajectory store; it holds a recording: {advice}"


@pytest.mark.parametrize("file", [file for file, (found, _) in FILES.items() if found != "minari"])
def test_the_directory_that_a_reader_expects_is_named(tmp_path: Path, file: str) -> None:
    touch(tmp_path / file)
    for directory in (tmp_path / file).parents:
        if directory == tmp_path:
            break
        with pytest.raises(InputError, match=rf"`source` {FILES[file][0]} and `path` {tmp_path}$"):
            read_metadata(directory)
    asked: SourceFormat = "dopamine" if FILES[file][0] == "jat" else "jat"
    with pytest.raises(ReplayFormatError, match=rf"set `source` to {FILES[file][0]} and `path` to {tmp_path}$"):
        SOURCES[asked](tmp_path / Path(file).parts[0], "Pong", 1, 4)


def test_a_store_is_no_recorded_run(tmp_path: Path) -> None:
    store = write_random_store(tmp_path / "store", [3])
    for asked in SOURCES:
        with pytest.raises(ReplayFormatError, match=r"store is a trajectory store; set `source` to store$"):
            SOURCES[asked](store.path, "Breakout", 1, 4)


def test_another_format_beside_the_one_that_was_asked_for_is_not_suggested(tmp_path: Path) -> None:
    touch(tmp_path / "Breakout/run_1-00000-of-00050")
    touch(tmp_path / "Pong/1/replay_logs/$store$_action_ckpt.0.gz")
    with pytest.raises(ReplayFormatError, match=r"no Qbert in .*; it holds Breakout, Pong$"):
        SOURCES["dopamine"](tmp_path, "Qbert", 1, 4)


def test_other_directories_are_not_recognized(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "b" / "replay_logs")  # runs have numbers
    touch(tmp_path / ".cache" / "run_1-00000-of-00050")
    with pytest.raises(ReplayFormatError, match=r"no atari-breakout in .*; it holds a$"):
        SOURCES["jat"](tmp_path, "Breakout", 1, 4)
    with pytest.raises(InputError, match=r"has no metadata.json\); make one with scripts/build_dataset.py$"):
        read_metadata(tmp_path)
