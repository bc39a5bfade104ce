"""Downloads from a local server, with and without failures."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from atari_dt.games.catalogue import find_game
from replay_data import InputError, ReplayFormatError
from replay_data.download import DownloadSummary, check_run, download_run
from replay_data.sources import tfrecord
from replay_data.sources.rl_unplugged import BASE_URL, GAMES, RLUnpluggedRun, shard_name
from replay_data.sources.tfrecord import Example, read_records, write_record
from replay_data.storage import http_ranges
from replay_data.storage.gzip_streams import create_gzip, open_gzip
from replay_data.storage.locks import lock_directory
from tests.replay_data.flaky_server import Server, serving
from tests.replay_data.recordings import random_episode, same, write_shard

SHARDS, EPISODES = 4, 150  # an episode has 3 to 5 steps of 7 KB each, a shard about 5 MB


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with ``Breakout/run_1-…`` in 4 shards."""
    root = tmp_path_factory.mktemp("mirror")
    for shard in range(SHARDS):
        rng = np.random.default_rng(shard)
        episodes = [random_episode(rng, int(steps)) for steps in rng.integers(3, 6, size=EPISODES)]
        write_shard(root / "Breakout" / shard_name(1, shard, SHARDS), episodes)
    return root


def fetch(server: Server, out: Path, num_steps: int = 120) -> DownloadSummary:
    return download_run("Breakout", 1, num_steps, out, base_url=server.url, num_connections=3, show_progress=False)


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (path / "Breakout").iterdir()}


def check_prefixes(out: Path, mirror: Path, share: int) -> None:
    """Check that each shard holds the source's first whole episodes up to its share, and no more."""
    local, remote = (RLUnpluggedRun(path, "Breakout", 1, 4).shards for path in (out, mirror))
    assert list(local) == list(remote)
    for index, shard in local.items():
        episodes = list(shard.episodes())
        assert all(same(one, two, True) for one, two in zip(episodes, remote[index].episodes(), strict=False))
        steps = [len(episode) for episode in episodes]
        assert sum(steps[:-1]) < share <= sum(steps)


def test_downloads_little_more_than_the_wanted_episodes(mirror: Path, tmp_path: Path) -> None:
    total = sum(map(len, files(mirror).values()))
    with serving(mirror) as server:
        summary = fetch(server, tmp_path)
        assert server.bytes_sent < 0.1 * total  # 30 of 600 steps, and the rest of the first range
        assert summary.bytes_downloaded == server.bytes_sent
        num_requests = len(server.requests)
        repeated = fetch(server, tmp_path)
        assert len(server.requests) - num_requests <= 99 + 1  # they find the number of shards
        assert repeated.bytes_downloaded <= 1
    check_prefixes(tmp_path, mirror, 30)
    assert (summary.steps, summary.episodes, summary.shards) == (repeated.steps, repeated.episodes, SHARDS)


def test_more_steps_download_more_and_a_whole_shard_equals_the_source_file(mirror: Path, tmp_path: Path) -> None:
    with serving(mirror) as server:
        fetch(server, tmp_path)
        fetch(server, tmp_path, 600)
        check_prefixes(tmp_path, mirror, 150)
        summary = fetch(server, tmp_path, 1_000_000)
        assert files(tmp_path) == files(mirror)
        assert summary.episodes == SHARDS * EPISODES
        bytes_sent = server.bytes_sent
        repeated = fetch(server, tmp_path, 1_000_000)
        assert repeated == DownloadSummary(summary.steps, summary.episodes, SHARDS, 1 + SHARDS)
        assert server.bytes_sent == bytes_sent + 1 + SHARDS  # one byte of a file reveals its size


def test_dropped_connections_and_busy_answers_do_not_change_the_files(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_ranges, "_SHORTEST_WAIT", 0.001)
    with serving(mirror) as server:
        fetch(server, tmp_path / "undisturbed", 600)
    total = sum(map(len, files(mirror).values()))
    for index, misbehave in enumerate(
        (
            lambda request: "drop" if request % 3 == 2 else 503 if request % 7 == 3 else None,
            lambda request: 429 if request % 5 in (1, 3) else None,  # hits every connection in turn
            lambda request: "trickle",
        )
    ):
        with serving(mirror, misbehave) as server:
            fetch(server, tmp_path / str(index), 600)
            assert server.bytes_sent < 0.4 * total
        assert files(tmp_path / str(index)) == files(tmp_path / "undisturbed")


def _download_in_child(url: str, out: Path) -> None:
    download_run("Breakout", 1, 600, out, base_url=url, num_connections=2, show_progress=False)


def test_killed_download_resumes(mirror: Path, tmp_path: Path) -> None:
    with serving(mirror) as server:
        fetch(server, tmp_path / "undisturbed", 600)
        undisturbed = server.bytes_sent
    context = multiprocessing.get_context("fork")

    def delay(request: int) -> None:
        time.sleep(0.02)

    with serving(mirror, delay) as server:
        for seconds in (0.3, 0.5, 0.8):
            child = context.Process(target=_download_in_child, args=(server.url, tmp_path / "killed"))
            child.start()
            time.sleep(seconds)
            assert child.pid
            child.kill()
            child.join()
            assert child.exitcode in (0, -signal.SIGKILL)
        fetch(server, tmp_path / "killed", 600)
        # Each command searches the number of shards, and downloads again what the killed one had not written.
        assert server.bytes_sent < 2 * undisturbed
    assert files(tmp_path / "killed") == files(tmp_path / "undisturbed")


def test_damaged_partial_files_are_downloaded_again(mirror: Path, tmp_path: Path) -> None:
    partial = tmp_path / "Breakout" / f".{shard_name(1, 2, SHARDS)}.partial"
    partial.parent.mkdir()
    partial.write_bytes(files(mirror)[shard_name(1, 2, SHARDS)][:3000] + bytes(500))
    whole = tmp_path / "Breakout" / f".{shard_name(1, 3, SHARDS)}.partial"
    whole.write_bytes(files(mirror)[shard_name(1, 3, SHARDS)])
    with serving(mirror) as server:
        fetch(server, tmp_path)
    check_prefixes(tmp_path, mirror, 30)
    assert not list(partial.parent.glob(".*"))


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refused_request_names_alternatives(mirror: Path, tmp_path: Path, status: int) -> None:
    with (
        serving(mirror, lambda request: status) as server,
        pytest.raises(
            InputError, match=rf"answers {status}: the source is closed, or .* mistyped; .*collect_replay"
        ) as error,
    ):
        fetch(server, tmp_path)
    assert server.url in str(error.value)


def test_unusable_servers_and_arguments_are_input_errors(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_ranges, "_SHORTEST_WAIT", 0.001)
    with (
        serving(mirror, lambda request: 503) as server,
        pytest.raises(InputError, match=r"cannot be downloaded .the server is busy: it answers 503"),
    ):
        fetch(server, tmp_path)
    with pytest.raises(InputError, match=r"cannot be downloaded .*Connection refused"):
        fetch(server, tmp_path)  # it is no longer there
    with pytest.raises(InputError, match="`base_url` must begin with https:// or http://, unlike htp:/nonsense"):
        fetch(Server("htp:/nonsense", lambda request: None), tmp_path)
    with serving(mirror) as server, pytest.raises(InputError, match="`num_steps` must be at least 1, not 0"):
        fetch(server, tmp_path, 0)
    assert not list(tmp_path.iterdir())


def test_second_download_to_a_directory_is_refused(mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "Breakout").mkdir()
    with (
        serving(mirror) as server,
        lock_directory(tmp_path / "Breakout"),
        pytest.raises(InputError, match=r"another command is downloading to .*Breakout; wait for it"),
    ):
        fetch(server, tmp_path)


def test_empty_source_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "mirror" / "Breakout" / shard_name(1, 0, 1)
    empty.parent.mkdir(parents=True)
    empty.touch()
    with serving(tmp_path / "mirror") as server, pytest.raises(ReplayFormatError, match="it holds no episode"):
        fetch(server, tmp_path)
    assert not list((tmp_path / "Breakout").iterdir())


def test_damaged_source_is_named(mirror: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "mirror" / "Breakout" / shard_name(1, 0, 1)
    damaged.parent.mkdir(parents=True)
    content = bytearray(files(mirror)[shard_name(1, 0, SHARDS)])
    content[20_000] ^= 1
    damaged.write_bytes(content)
    with serving(tmp_path / "mirror") as server:
        with pytest.raises(ReplayFormatError, match=rf"{damaged.name} is damaged at record \d .*the source itself"):
            fetch(server, tmp_path)
        assert not list((tmp_path / "Breakout").iterdir())
        (tmp_path / "Breakout" / damaged.name).write_bytes(content)
        with pytest.raises(ReplayFormatError, match=r"is damaged at record \d .*delete it and run the command again"):
            fetch(server, tmp_path)


def serve_shard(root: Path, payloads: list[bytes], compressed: bool = True) -> Path:
    """Write a mirror of one shard and return the shard's path."""
    shard = root / "Breakout" / shard_name(1, 0, 1)
    shard.parent.mkdir(parents=True)
    with create_gzip(shard) if compressed else shard.open("wb") as stream:
        for payload in payloads:
            write_record(stream, payload)
    return shard


def test_a_decompressed_source_is_downloaded(mirror: Path, tmp_path: Path) -> None:
    with open_gzip(mirror / "Breakout" / shard_name(1, 0, SHARDS)) as stream:
        payloads = list(read_records(stream, 10**6))[:40]
    serve_shard(tmp_path / "mirror", payloads, compressed=False)
    with serving(tmp_path / "mirror") as server:
        for num_steps in (30, 10**6):  # the beginning, and the whole file
            assert fetch(server, tmp_path / "out", num_steps).steps >= min(num_steps, 3 * 40)
            (shard,) = RLUnpluggedRun(tmp_path / "out", "Breakout", 1, 4).shards.values()
            episodes = RLUnpluggedRun(mirror, "Breakout", 1, 4).shards[0].episodes()
            assert all(same(*pair, True) for pair in zip(list(shard.episodes()), episodes, strict=False))
            shard.close()


def test_a_source_of_transitions_is_refused_by_name(tmp_path: Path) -> None:
    transition = Example()
    for name in ("o_t", "a_t", "r_t", "o_tp1"):
        transition.features.feature[name].float_list.value.append(0)
    shard = serve_shard(tmp_path / "mirror", [transition.SerializeToString()])
    local = tmp_path / "Breakout" / shard.name
    reason = f"{shard.name} holds single transitions .* are in its directory atari_episodes_ordered"
    with serving(tmp_path / "mirror") as server:
        with pytest.raises(ReplayFormatError, match=f"{reason}; `base_url` should be .*: {BASE_URL}"):
            fetch(server, tmp_path)
        assert not list(local.parent.iterdir())
        shutil.copy(shard, local)
        with pytest.raises(ReplayFormatError, match=f"{local.parent}/{reason}; delete it and run the command again"):
            fetch(server, tmp_path)


@pytest.mark.parametrize(("game", "run", "notes"), [("Asterix", 1, 1), ("Asterix", 2, 0), ("Breakout", 1, 0)])
def test_a_run_reported_as_corrupt_is_named_before_the_download(
    game: str, run: int, notes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(tmp_path, lambda request: 403) as server, pytest.raises(InputError, match="answers 403"):
        download_run(game, run, 120, tmp_path, base_url=server.url)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(lines) == notes
    assert all("Asterix run 1 may be corrupt" in line and "batch_rl/issues/28" in line for line in lines)


def test_games_that_the_public_data_lacks_are_refused_without_a_request(tmp_path: Path) -> None:
    assert len(set(GAMES)) == 46
    assert [find_game(game).name for game in GAMES] == list(GAMES)
    for game in ("Galaxian", "MontezumaRevenge"):  # MontezumaRevenge is among the 60 games of the DQN-replay dataset
        with pytest.raises(InputError, match=f"RL Unplugged has no {game}; it has the 46 games Alien, .*, Zaxxon$"):
            check_run(game, 1)
        with pytest.raises(InputError, match=f"RL Unplugged has no {game}"):
            download_run(game, 1, 9, tmp_path / "new", base_url=f"{BASE_URL}/", show_progress=False)
        with serving(tmp_path) as server, pytest.raises(InputError, match="answers 404"):  # a mirror may have more
            check_run(game, 1, base_url=server.url)
    assert list(tmp_path.iterdir()) == []


def test_a_source_whose_record_has_no_end_is_refused_early(tmp_path: Path) -> None:
    shard = serve_shard(tmp_path / "mirror", [])
    length = (1 << 40).to_bytes(8, "little")
    with create_gzip(shard) as stream:
        stream.write(length + tfrecord._masked_crc(length).to_bytes(4, "little"))
        stream.write(np.random.default_rng(0).bytes(1_000_000))
    with serving(tmp_path / "mirror") as server:
        with pytest.raises(ReplayFormatError, match=r"claims to have 1,099,511,627,776 bytes.*the source itself"):
            fetch(server, tmp_path)
        assert server.bytes_sent < 100_000
    assert not list((tmp_path / "Breakout").iterdir())


def test_a_source_that_changes_during_the_download_is_named(mirror: Path, tmp_path: Path) -> None:
    shard = serve_shard(tmp_path / "mirror", [])
    content = files(mirror)[shard_name(1, 0, SHARDS)]
    shard.write_bytes(content)

    def grow(request: int) -> None:
        if request == 20:
            shard.write_bytes(content + content)

    with serving(tmp_path / "mirror", grow) as server, pytest.raises(ReplayFormatError, match="the source has changed"):
        fetch(server, tmp_path, 10**6)


def test_an_error_of_one_shard_ends_the_download(mirror: Path, tmp_path: Path) -> None:
    with serving(mirror, lambda request: 403 if request == 6 else None) as server:  # six requests find the four shards
        with pytest.raises(InputError, match=rf"{shard_name(1, 0, SHARDS)} answers 403"):
            download_run("Breakout", 1, 600, tmp_path, base_url=server.url, num_connections=1, show_progress=False)
        assert len(server.requests) == 7
