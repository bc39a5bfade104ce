"""Stores that a benchmark lacks, made from recordings and downloads, also after interruptions."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from atari_dt.collection import agents, policy_player, pqn
from atari_dt.collection.policies.zoo import zoo_policies
from atari_dt.collection.recorder import read_recording
from atari_dt.collection.rollout import CompressedEpisode, FinishedEpisode, Rollout
from atari_dt.experiments.benchmark import benchmark_stores
from atari_dt.experiments.data_origin import describe_source
from atari_dt.games.catalogue import find_game
from atari_dt.preparation import origins
from atari_dt.preparation.options import DataOptions
from atari_dt.preparation.origins import STEPS_PER_S
from atari_dt.preparation.preparation import Preparation, plan_stores
from replay_data import InputError, TrajectoryStore, download
from replay_data.episode import Episode
from replay_data.storage.locks import lock_directory
from replay_data.testing import write_random_store
from tests.atari_dt.collection.policies.hub_server import COMMIT, Hub, serve
from tests.atari_dt.collection.policies.saved_agents import write_agent
from tests.conftest import DATA
from tests.replay_data.flaky_server import serving
from tests.replay_data.jat_files import make_row, write_jat
from tests.replay_data.recordings import indices_in_truth

ROWS = 250  # of a recording


class ShortEpisodes:
    """A player of episodes of two steps, five rows of a log each, with Ctrl-C after `num_episodes` of them."""

    num_episodes = 1_000_000

    def __init__(self, *_: object) -> None:
        self.index = 0

    def play(self) -> Generator[Rollout, None, None]:
        for _ in range(self.num_episodes):
            self.index += 1
            frames = np.full((2, 84, 84), self.index % 255 + 1, np.uint8)
            rewards = np.ones(2, np.float32)
            episode = Episode(frames, np.zeros(2, np.uint8), rewards, rewards, terminated=True)
            yield Rollout([FinishedEpisode(CompressedEpisode.pack(episode), {})], 2, {})
        raise KeyboardInterrupt

    def state(self) -> bytes:
        return str(self.index).encode()

    def restore(self, state: bytes) -> None:
        self.index = int(state)


@pytest.fixture
def players(monkeypatch: pytest.MonkeyPatch) -> type[ShortEpisodes]:
    """The players that a test records, without an emulator."""
    monkeypatch.setattr(agents, "ScriptedPlayer", ShortEpisodes)
    monkeypatch.setattr(pqn, "PQNPlayer", ShortEpisodes)
    monkeypatch.setattr(ShortEpisodes, "num_episodes", 1_000_000)
    return ShortEpisodes


def plan(data: Path, *games: str, num_steps: int = ROWS, **options: Any) -> Preparation:
    options = {"data_from": "scripted", **options}
    return plan_stores(data, [find_game(game) for game in games], DataOptions(**options), num_steps, "cpu")


def test_interrupted_recordings_continue(
    tmp_path: Path, players: type[ShortEpisodes], capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "new" / "data"
    players.num_episodes = 0
    with pytest.raises(KeyboardInterrupt, match=r"^nothing was kept$"):
        plan(data, "Breakout", "Pong").make()
    assert list(tmp_path.iterdir()) == []

    players.num_episodes = 30
    with pytest.raises(KeyboardInterrupt, match=rf"^what was made so far is kept in {data} and {data}/raw/scripted; "):
        plan(data, "Breakout", "Pong").make()
    assert [path.name for path in data.iterdir()] == ["raw"]
    num_complete = len(read_recording(data / "raw" / "scripted" / "Breakout" / "1"))
    assert 0 < num_complete < 50
    players.num_episodes = 1_000_000
    continued = plan(data, "Breakout", "Pong")
    assert f"{ROWS - 5 * num_complete} steps, up to about" in continued.describe()
    continued.make()

    stores = benchmark_stores(data, [find_game("Breakout"), find_game("Pong")], [1])
    for store in stores.values():
        source = store.metadata.source
        assert source.recording is not None
        assert (source.format, source.recording.agent, source.selection["method"]) == ("dopamine", "scripted", "all")
        brightness = store.frames[store.frame_index, 0, 0]
        assert brightness.tolist() == [index + 1 for index in range(1, store.num_episodes + 1) for _ in range(2)]
    assert f"{data}/breakout: {len(stores['Breakout', 1])} steps in" in capsys.readouterr().out
    assert plan(data, "Breakout", "Pong").games == ()
    (data / "pong" / "metadata.json").unlink()
    assert plan(data, "Breakout", "Pong").games == ()  # what is there is never replaced


def test_an_interrupted_selection_is_repeated_from_the_recording(
    tmp_path: Path, players: type[ShortEpisodes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **options: object) -> TrajectoryStore:
        raise KeyboardInterrupt("nothing was kept")

    with monkeypatch.context() as patch:
        patch.setattr("atari_dt.preparation.preparation.build_store", interrupt)
        with pytest.raises(KeyboardInterrupt, match="what was made so far is kept"):
            plan(tmp_path, "Breakout").make()
    players.num_episodes = 0  # there is nothing left to record
    again = plan(tmp_path, "Breakout")
    assert "done" in again.describe()
    again.make()
    assert len(TrajectoryStore.open(tmp_path / "breakout")) > 90


def test_a_learning_agent_is_selected_from_evenly(
    tmp_path: Path, players: type[ShortEpisodes], capsys: pytest.CaptureFixture[str]
) -> None:
    """A third of the recording, the same number of steps from every buffer."""
    preparation = plan(tmp_path, "Breakout", data_from="q_learning", num_steps=1000, raw_data=tmp_path / "else")
    assert "333 to 1,000 steps, up to 7.1 MB" in preparation.describe()
    assert "the first episodes of a recording" in preparation.describe()
    preparation.make()
    assert "note:" not in capsys.readouterr().out
    store = TrajectoryStore.open(tmp_path / "breakout")
    assert store.metadata.source.selection == {"method": "even", "num_steps": 300}
    assert store.metadata.source.episodes_per_shard == dict.fromkeys(range(50), 3)
    assert len(read_recording(tmp_path / "else" / "Breakout" / "1")) == 50


def test_a_short_recording_of_long_episodes_is_taken_whole(
    tmp_path: Path, players: type[ShortEpisodes], capsys: pytest.CaptureFixture[str]
) -> None:
    """A buffer of nine rows has at most one whole episode of two steps, which are fewer than its share of three."""
    preparation = plan(tmp_path, "Breakout", data_from="q_learning", num_steps=450)
    preparation.make()
    store = TrajectoryStore.open(tmp_path / "breakout")
    assert store.metadata.source.selection["method"] == "all"
    assert 150 < len(store) <= 450
    note = "note: Breakout: the store has all episodes of the recording, not only 150 steps"
    assert note in capsys.readouterr().out


def test_the_largest_store_must_fit_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of all 300,000 steps takes 2.1 GB, one of a third of them 0.7 GB, and the recording 75 MB."""
    usage = SimpleNamespace(free=1_000_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"needs 2\.2 GB, but the disk has 1\.0 GB free"):
        plan(tmp_path, "Breakout", data_from="q_learning", num_steps=300_000)
    usage.free = 2_300_000_000
    plan(tmp_path, "Breakout", data_from="q_learning", num_steps=300_000)


def test_sizes_and_times_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**12))
    lines = plan(tmp_path, "Breakout", "Pong", data_from="q_learning", num_steps=6_000_000).describe().splitlines()
    hours = 6_000_000 / STEPS_PER_S["q_learning"] / 3600
    for line in lines[2:4]:
        assert "6,000,000 steps, up to about 1.5 GB" in line
        assert "500,000 steps, 3.5 GB" in line
        assert line.endswith(f"about {hours:.1f} hours")
    assert lines[4].startswith(f"in all up to about 10.1 GB, and about {2 * hours:.1f} hours on 2 CPU cores")
    (line,) = plan(tmp_path, "Qbert", data_from="rl_unplugged", num_steps=1000).describe().splitlines()[2:3]
    assert line.endswith("1,000 steps, up to about 3.0 MB  1,000 steps, 7.1 MB  the download and about 1 s")
    assert list(tmp_path.iterdir()) == []


def test_downloads_become_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_NUM_SHARDS_OF_MIRRORS", (2,))
    with serving(DATA / "rl_unplugged") as server:
        options: dict[str, Any] = {"data_from": "rl_unplugged", "base_url": server.url, "num_steps": 800}
        with pytest.raises(InputError, match=r"^Pong: .*Pong/run_1-.* answers 404"):
            plan(tmp_path / "new", "Breakout", "Pong", **options).make()
        assert list(tmp_path.iterdir()) == []  # Pong is missed before the download of Breakout begins
        plan(tmp_path, "Breakout", **options).make()
    store = TrajectoryStore.open(tmp_path / "breakout")
    assert indices_in_truth(store) == [0, 1, 2, 6]
    assert store.metadata.source.format == "rl_unplugged"
    assert len(list((tmp_path / "raw" / "rl_unplugged" / "Breakout").iterdir())) == 2


def test_the_agents_of_the_zoo_are_downloaded_and_recorded(
    tmp_path: Path, players: type[ShortEpisodes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a Hub on this machine; the agents are loaded, but `ShortEpisodes` plays."""
    monkeypatch.setattr(policy_player, "PolicyPlayer", players)
    agent = write_agent(tmp_path / "agent.zip").read_bytes()
    names = zoo_policies(find_game("Breakout"))
    hub = Hub({name: {f"{name.partition('/')[2]}.zip": agent} for name in names})
    with serve(hub, tmp_path / "cache"):
        with pytest.raises(InputError, match=r"^Pong: 'sb3/a2c-PongNoFrameskip-v4' cannot be read"):
            plan(tmp_path / "new", "Breakout", "Pong", data_from="hub").make()
        assert not (tmp_path / "new").exists()  # Pong is missed before Breakout is recorded
        players.num_episodes = 30
        with pytest.raises(KeyboardInterrupt):
            plan(tmp_path / "data", "Breakout", data_from="hub").make()
        players.num_episodes = 1_000_000
        hub.commits.append(COMMIT[::-1])  # the rest of the recording plays what its beginning played
        plan(tmp_path / "data", "Breakout", data_from="hub").make()
    source = TrajectoryStore.open(tmp_path / "data" / "breakout").metadata.source
    assert source.selection["method"] == "all"
    description = describe_source(source, 0.25)
    assert all(f"{name}@{COMMIT}" in description for name in names)
    assert len(names) == 4


def test_jat_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a file that the test writes in place of the download."""

    def download_jat(game: str, num_steps: int, out: Path) -> None:
        assert (game, num_steps) == ("Breakout", 100)
        write_jat(out / "atari-breakout" / "train-00000-of-00001.parquet", [make_row(episode)])

    frames = np.broadcast_to(np.arange(1, 13, dtype=np.uint8)[:, None, None], (12, 84, 84))
    rewards = np.ones(12, np.float32)
    episode = Episode(frames, np.zeros(12, np.uint8), rewards, rewards, terminated=True)
    monkeypatch.setattr(origins, "download_jat", download_jat)
    plan(tmp_path, "Breakout", data_from="jat", num_steps=100).make()
    store = TrajectoryStore.open(tmp_path / "breakout")
    assert np.array_equal(store.frames[store.frame_index], episode.frames)
    assert describe_source(store.metadata.source, store.metadata.sticky_actions) == (
        "from the JAT dataset (expert play), made without sticky actions (selection: all)"
    )


def test_existing_stores_are_used_and_their_origin_is_said(tmp_path: Path, players: type[ShortEpisodes]) -> None:
    write_random_store(tmp_path / "Breakout", [4])
    write_random_store(tmp_path / "pong" / "123", [4], game="Pong")
    preparation = plan(tmp_path, "Breakout", "Pong", data_from="jat")
    assert preparation.games == ()
    (tmp_path / "qbert").symlink_to(tmp_path / "nowhere")
    assert plan(tmp_path, "Qbert", data_from="jat").games == ()
    (note,) = preparation.notes
    assert note.startswith(
        f"{tmp_path}/Breakout exists and is used as it is; its data is not from jat, but from a source"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 249}, "^Breakout: `data_steps` must be at least 250 for a recording, not 249$"),
        ({"data_from": "rl_unplugged", "num_steps": 0}, "^Breakout: `data_steps` must be at least 1, not 0$"),
        ({"games": ["Seaquest"]}, "^Seaquest: there is no scripted policy for Seaquest, only for Breakout and Pong$"),
        ({"games": ["Pong", "Tennis"], "data_from": "hub"}, r"^Tennis: .* no agents of Tennis .*, only of Asteroids, "),
        (
            {"games": ["Pong", "Skiing"], "data_from": "rl_unplugged"},
            "^Skiing: RL Unplugged has no Skiing; it has the 46",
        ),
        ({"games": ["Pong", "Carnival"], "data_from": "jat"}, "^Carnival: the JAT dataset has no Carnival"),
        ({"num_steps": 10**12}, "needs 7[0-9]*.* GB, but the disk has .* GB free"),
    ],
)
def test_what_cannot_be_made_is_refused_before_the_start(tmp_path: Path, options: Any, message: str) -> None:
    games = options.pop("games", ["Breakout"])
    with pytest.raises(InputError, match=message):
        plan(tmp_path, *games, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_recording_of_another_length_or_agent_is_named(tmp_path: Path, players: type[ShortEpisodes]) -> None:
    players.num_episodes = 30
    with pytest.raises(KeyboardInterrupt):
        plan(tmp_path, "Breakout").make()
    with pytest.raises(
        InputError, match=r"Breakout/1 is a recording of 250 steps, not of 4,000; set `data_steps` to 250"
    ):
        plan(tmp_path, "Pong", "Breakout", num_steps=4000)
    with pytest.raises(
        InputError, match="Breakout/1 is a recording of scripted, not of q_learning; choose another `raw_"
    ):
        plan(tmp_path, "Pong", "Breakout", data_from="q_learning", raw_data=tmp_path / "raw" / "scripted")


def test_a_recording_without_an_episode_is_named(
    tmp_path: Path, players: type[ShortEpisodes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atari_dt.preparation.origins.suggest_selection", lambda buffers: None)
    with pytest.raises(
        InputError, match=r"^Breakout: no episode ends in the 250 steps of .*/Breakout/1; delete it and"
    ):
        plan(tmp_path, "Breakout").make()


def test_errors_name_parameters_of_the_benchmark(tmp_path: Path, players: type[ShortEpisodes]) -> None:
    (tmp_path / "raw/scripted/Breakout/1").mkdir(parents=True)
    (tmp_path / "raw/scripted/Breakout/1/notes.txt").touch()
    with pytest.raises(InputError, match=r"^Breakout: .* is not a recording .*; choose another `raw_data`$"):
        plan(tmp_path, "Breakout").make()


def test_a_directory_that_cannot_be_written_is_named_before_the_start(
    tmp_path: Path, players: type[ShortEpisodes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    players.num_episodes = 0
    with pytest.raises(InputError, match="cannot be written; choose a path in a directory that is writable"):
        plan(tmp_path / "new", "Breakout").make()
    assert list(tmp_path.iterdir()) == []


def test_two_commands_do_not_make_the_same_stores(tmp_path: Path, players: type[ShortEpisodes]) -> None:
    with (
        lock_directory(tmp_path),
        pytest.raises(InputError, match=rf"another command is making stores in {tmp_path}; wait for it"),
    ):
        plan(tmp_path, "Breakout").make()
    assert list(tmp_path.iterdir()) == []
