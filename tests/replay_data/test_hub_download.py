"""Downloads of the JAT dataset from a local Hub: what they fetch, how they resume, and what they refuse."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from replay_data import hub_download
from replay_data.errors import InputError
from replay_data.hub_download import JatSummary, download_jat
from replay_data.sources.jat import JatRun
from replay_data.sources.jat_files import JatDownload
from tests.replay_data.dataset_hub import REVISION, DatasetHub, serve_dataset
from tests.replay_data.jat_files import make_row, write_jat
from tests.replay_data.recordings import truth

DIRECTORY = "atari-breakout"
TRAIN = [f"train-0000{index}-of-00003.parquet" for index in range(3)]
TEST = "test-00000-of-00001.parquet"
STEPS = 40  # of each file


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of four files, each of two episodes of 20 steps, and files of other kinds."""
    root = tmp_path_factory.mktemp("dataset")
    row = make_row(truth()[0])
    for index, name in enumerate([*TRAIN, TEST]):
        rows = [{key: values[start : start + 20] for key, values in row.items()} for start in (index, index + 60)]
        write_jat(root / DIRECTORY / name, rows)
    (root / DIRECTORY / "README.md").touch()
    write_jat(root / "atari-pong" / TEST, [])
    (root / "atari-pong" / TRAIN[0]).write_bytes(b"<html>")
    return root


@pytest.fixture
def hub(dataset: Path, tmp_path: Path) -> Iterator[DatasetHub]:
    hub = DatasetHub("jat-project/jat-dataset", dataset)
    with serve_dataset(hub, tmp_path / "cache"):
        yield hub


def download(out: Path, num_steps: int, game: str = "Breakout") -> JatSummary:
    return download_jat(game, num_steps, out, show_progress=False)


def names(path: Path) -> set[str]:
    return {file.name for file in (path / DIRECTORY).iterdir()}


def test_only_the_files_that_are_needed_are_downloaded(hub: DatasetHub, dataset: Path, tmp_path: Path) -> None:
    size = sum((dataset / DIRECTORY / name).stat().st_size for name in TRAIN[:2])
    assert download(tmp_path, STEPS + 1) == JatSummary(2 * STEPS, 4, 2, size, REVISION)
    assert hub.downloads == [(TRAIN[0], 0), (TRAIN[1], 0)]
    assert names(tmp_path) == {*TRAIN[:2], "download.json"}
    run = JatRun(tmp_path, "Breakout", 1, 4)
    assert (run.num_shards, run.missing, run.details["revision"]) == (4, {2, 3}, REVISION)
    assert all(shard.check() for shard in run.shards.values())
    num_requests = hub.num_requests
    assert download(tmp_path, 2 * STEPS) == JatSummary(2 * STEPS, 4, 2, 0, REVISION)
    assert hub.num_requests == num_requests  # what is there is enough


def test_all_files_are_downloaded_if_they_have_fewer_steps(hub: DatasetHub, tmp_path: Path) -> None:
    summary = download(tmp_path, 500_000)
    assert (summary.steps, summary.episodes, summary.files) == (4 * STEPS, 8, 4)
    assert [name for name, _ in hub.downloads] == [*TRAIN, TEST]
    assert download(tmp_path, 500_000).bytes_downloaded == 0


def test_a_broken_connection_is_resumed_at_its_byte(
    hub: DatasetHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 5_000)  # by which the library resumes
    hub.break_after[TRAIN[0]] = 15_000
    assert download(tmp_path, 1).steps == STEPS
    assert hub.downloads[:2] == [(TRAIN[0], 0), (TRAIN[0], 15_000)]
    assert JatRun(tmp_path, "Breakout", 1, 4).shards[0].check()


def test_an_interrupted_download_continues_at_its_revision(
    hub: DatasetHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = huggingface_hub.hf_hub_download

    def interrupted(repository: str, name: str, **options: Any) -> str:
        if name.endswith(TRAIN[1]):
            raise KeyboardInterrupt
        return str(original(repository, name, **options))

    with monkeypatch.context() as context:
        context.setattr(huggingface_hub, "hf_hub_download", interrupted)
        with pytest.raises(KeyboardInterrupt, match="the finished files are kept; run the same command again"):
            download(tmp_path, 2 * STEPS)
    assert names(tmp_path) == {TRAIN[0], "download.json"}
    hub.revision = "f" * 40
    assert download(tmp_path, 2 * STEPS).revision == REVISION
    assert hub.downloads == [(TRAIN[0], 0), (TRAIN[1], 0)]


def test_files_that_another_tool_downloaded_are_kept(hub: DatasetHub, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / DIRECTORY).mkdir()
    (tmp_path / DIRECTORY / TRAIN[0]).write_bytes((dataset / DIRECTORY / TRAIN[0]).read_bytes())
    assert download(tmp_path, STEPS).bytes_downloaded == 0
    assert hub.downloads == []
    assert json.loads((tmp_path / DIRECTORY / "download.json").read_text())["revision"] == REVISION


@pytest.mark.parametrize("damage", ["shorter", "other"])
def test_a_damaged_file_is_replaced(hub: DatasetHub, tmp_path: Path, damage: str) -> None:
    download(tmp_path, STEPS)
    file = tmp_path / DIRECTORY / TRAIN[0]
    content = file.read_bytes()
    file.write_bytes(content[:5000] if damage == "shorter" else content[:50] + b"\0" + content[51:])
    assert download(tmp_path, STEPS).bytes_downloaded == len(content)
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            {"altered": {TRAIN[1]}},
            r"train-00001-of-00003.parquet does not have the SHA-256 that the Hugging Face Hub l",
        ),
        (
            {"cut_off": {TRAIN[1]}},
            r"the download of .*train-00001-of-00003.parquet ended before its [0-9,]+ bytes were",
        ),
    ],
)
def test_a_file_that_arrives_damaged_is_not_kept(
    hub: DatasetHub, tmp_path: Path, fault: dict[str, Any], message: str
) -> None:
    vars(hub).update(fault)
    with pytest.raises(InputError, match=message):
        download(tmp_path, 2 * STEPS)
    assert names(tmp_path) == {TRAIN[0], "download.json"}
    hub.altered, hub.cut_off = set(), set()
    assert download(tmp_path, 2 * STEPS).steps == 2 * STEPS


def test_a_file_of_another_kind_is_refused(hub: DatasetHub, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train-00000-of-00003.parquet is damaged \(it is not a Parquet file\)"):
        download(tmp_path, 1, "Pong")


@pytest.mark.parametrize(
    ("game", "num_steps", "change", "message"),
    [
        ("Adventure", 1, {}, "the JAT dataset has no Adventure; it has the 57 games"),
        ("Breakout", 0, {}, "`num_steps` must be at least 1, not 0"),
        (
            "Breakout",
            1,
            {"portal": True},
            "the answer about jat-project/jat-dataset does not come from the Hugging Face",
        ),
        ("Breakout", 1, {"repository": "a/b"}, "'jat-project/jat-dataset' cannot be read from the Hugging Face Hub"),
        ("Qbert", 1, {}, "'jat-project/jat-dataset' cannot be read from the Hugging Face Hub"),
        (
            "Zaxxon",
            1,
            {},
            "atari-zaxxon of jat-project/jat-dataset on the Hugging Face Hub has no file of the form train",
        ),
    ],
)
def test_a_download_that_cannot_begin_writes_nothing(
    dataset: Path, tmp_path: Path, game: str, num_steps: int, change: dict[str, Any], message: str
) -> None:
    (dataset / "atari-zaxxon").mkdir(exist_ok=True)
    hub = DatasetHub(**{"repository": "jat-project/jat-dataset", "root": dataset, **change})
    with serve_dataset(hub, tmp_path / "cache"), pytest.raises(InputError, match=f"^{message}") as error:
        download(tmp_path / "out", num_steps, game)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("has_revision", [False, True])
def test_a_hub_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_revision: bool
) -> None:
    if has_revision:
        (tmp_path / DIRECTORY).mkdir()
        JatDownload(REVISION, {TRAIN[0]: "0" * 64}).save(tmp_path / DIRECTORY)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(hub_download, "_TIMEOUT", 0.05)
        with pytest.raises(InputError, match=r"^'jat-project/jat-dataset' cannot be read from .*Timeout"):
            download(tmp_path, 1)


def test_a_hub_that_cannot_be_reached_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        InputError, match=r"^'jat-project/jat-dataset' cannot be read from .*; check the name, the netw"
    ):
        download(tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()
