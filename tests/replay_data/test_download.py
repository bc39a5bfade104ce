"""Downloads from a server on loopback that behaves, and from ones that do not."""

from __future__ import annotations

import multiprocessing
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from replay_data import InputError, ReplayFormatError, download
from replay_data.download import Downloaded, download_run
from replay_data.sources.rl_unplugged import RLUnpluggedRun, shard_name
from replay_data.storage.locks import lock_directory
from tests.replay_data.flaky_server import Server, serving
from tests.replay_data.recordings import random_episode, same, write_shard

SHARDS, EPISODES = 4, 150  # of 3 to 5 steps, 7 KB each: 5 MB a shard


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source: {Breakout}/run_1-… with 4 shards."""
    root = tmp_path_factory.mktemp("mirror")
    for shard in range(SHARDS):
        rng = np.random.default_rng(shard)
        episodes = [random_episode(rng, int(steps)) for steps in rng.integers(3, 6, size=EPISODES)]
        write_shard(root / "Breakout" / shard_name(1, shard, SHARDS), episodes)
    return root


def fetch(server: Server, out: Path, num_steps: int = 120) -> Downloaded:
    return download_run("Breakout", 1, num_steps, out, base_url=server.url, num_connections=3, show_progress=False)


def files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (path / "Breakout").iterdir()}


def check_prefixes(out: Path, mirror: Path, share: int) -> None:
    """Each shard holds the source's first whole episodes up to its share, and no more."""
    here, there = (RLUnpluggedRun(path, "Breakout", 1, 4).shards for path in (out, mirror))
    assert list(here) == list(there)
    for number, shard in here.items():
        episodes = list(shard.episodes())
        assert all(same(one, other, True) for one, other in zip(episodes, there[number].episodes(), strict=False))
        steps = [len(episode) for episode in episodes]
        assert sum(steps[:-1]) < share <= sum(steps)


def test_only_the_wanted_bytes_are_moved(mirror: Path, tmp_path: Path) -> None:
    total = sum(map(len, files(mirror).values()))
    with serving(mirror) as server:
        found = fetch(server, tmp_path)
        assert server.bytes_sent < 0.1 * total  # 30 of 600 steps, and then what a first range has too much
        assert found.bytes_moved == server.bytes_sent
        before = len(server.requests)
        again = fetch(server, tmp_path)
        assert len(server.requests) - before <= 99 + 1  # to find out how many shards there are
        assert again.bytes_moved <= 1
    check_prefixes(tmp_path, mirror, 30)
    assert (found.steps, found.episodes, found.shards) == (again.steps, again.episodes, SHARDS)


def test_a_larger_wish_fetches_more_and_all_there_is_is_the_file_itself(mirror: Path, tmp_path: Path) -> None:
    with serving(mirror) as server:
        fetch(server, tmp_path)
        fetch(server, tmp_path, 600)
        check_prefixes(tmp_path, mirror, 150)
        found = fetch(server, tmp_path, 1_000_000)
        assert files(tmp_path) == files(mirror)
        assert found.episodes == SHARDS * EPISODES
        sent = server.bytes_sent
        assert fetch(server, tmp_path, 1_000_000) == Downloaded(found.steps, found.episodes, SHARDS, 1 + SHARDS)
        assert server.bytes_sent == sent + 1 + SHARDS  # a byte to learn each size


def test_dropped_connections_and_busy_answers_change_nothing(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_SHORTEST_WAIT", 0.001)
    with serving(mirror) as server:
        fetch(server, tmp_path / "calm", 600)
    total = sum(map(len, files(mirror).values()))
    for index, misbehave in enumerate(
        (
            lambda number: "drop" if number % 3 == 2 else 503 if number % 7 == 3 else None,
            lambda number: 429 if number % 5 in (1, 3) else None,  # whose turn it is goes round among the connections
            lambda number: "trickle",
        )
    ):
        with serving(mirror, misbehave) as server:
            fetch(server, tmp_path / str(index), 600)
            assert server.bytes_sent < 0.4 * total
        assert files(tmp_path / str(index)) == files(tmp_path / "calm")


def _download_in_child(url: str, out: Path) -> None:
    download_run("Breakout", 1, 600, out, base_url=url, num_connections=2, show_progress=False)


def test_a_killed_download_goes_on(mirror: Path, tmp_path: Path) -> None:
    with serving(mirror) as server:
        fetch(server, tmp_path / "calm", 600)
        calm = server.bytes_sent
    context = multiprocessing.get_context("fork")

    def slow(number: int) -> None:
        time.sleep(0.02)

    with serving(mirror, slow) as server:
        for seconds in (0.3, 0.5, 0.8):
            child = context.Process(target=_download_in_child, args=(server.url, tmp_path / "killed"))
            child.start()
            time.sleep(seconds)
            assert child.pid
            child.kill()
            child.join()
            assert child.exitcode in (0, -signal.SIGKILL)
        fetch(server, tmp_path / "killed", 600)
        # What a killed command had not written yet is sent again, and the search for the number of shards.
        assert server.bytes_sent < 2 * calm
    assert files(tmp_path / "killed") == files(tmp_path / "calm")


def test_what_an_earlier_command_left_bad_is_fetched_anew(mirror: Path, tmp_path: Path) -> None:
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
def test_a_refusal_says_what_else_can_be_done(mirror: Path, tmp_path: Path, status: int) -> None:
    with (
        serving(mirror, lambda number: status) as server,
        pytest.raises(
            InputError, match=rf"answers {status}: the source is closed, or .* mistyped; .*collect_replay"
        ) as error,
    ):
        fetch(server, tmp_path)
    assert server.url in str(error.value)


def test_servers_that_do_not_do_it_are_named(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_SHORTEST_WAIT", 0.001)
    with (
        serving(mirror, lambda number: 503) as server,
        pytest.raises(InputError, match=r"cannot be fetched .it answers 503, which asks to come back later"),
    ):
        fetch(server, tmp_path)
    with pytest.raises(InputError, match=r"cannot be fetched .*Connection refused"):
        fetch(server, tmp_path)  # it has gone
    with pytest.raises(InputError, match="begins with https:// or http://, not htp:/nonsense"):
        fetch(Server("htp:/nonsense", lambda number: None), tmp_path)
    with serving(mirror) as server, pytest.raises(InputError, match="num_steps must be at least 1, not 0"):
        fetch(server, tmp_path, 0)
    assert not list(tmp_path.iterdir())


def test_one_command_at_a_time(mirror: Path, tmp_path: Path) -> None:
    (tmp_path / "Breakout").mkdir()
    with (
        serving(mirror) as server,
        lock_directory(tmp_path / "Breakout"),
        pytest.raises(InputError, match=r"another command is downloading to .*Breakout; wait for it"),
    ):
        fetch(server, tmp_path)


def test_an_empty_source_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "mirror" / "Breakout" / shard_name(1, 0, 1)
    empty.parent.mkdir(parents=True)
    empty.touch()
    with serving(tmp_path / "mirror") as server, pytest.raises(ReplayFormatError, match="it holds no episode"):
        fetch(server, tmp_path)
    assert not list((tmp_path / "Breakout").iterdir())


def test_a_damaged_source_is_named(mirror: Path, tmp_path: Path) -> None:
    spoiled = tmp_path / "mirror" / "Breakout" / shard_name(1, 0, 1)
    spoiled.parent.mkdir(parents=True)
    content = bytearray(files(mirror)[shard_name(1, 0, SHARDS)])
    content[20_000] ^= 1
    spoiled.write_bytes(content)
    with serving(tmp_path / "mirror") as server:
        with pytest.raises(ReplayFormatError, match=rf"{spoiled.name} is damaged at record \d .*the source itself"):
            fetch(server, tmp_path)
        assert not list((tmp_path / "Breakout").iterdir())
        (tmp_path / "Breakout" / spoiled.name).write_bytes(content)
        with pytest.raises(ReplayFormatError, match=r"is damaged at record \d .*delete it and run the command again"):
            fetch(server, tmp_path)
