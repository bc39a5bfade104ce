"""reproduce_benchmark.py: the runs that it does, the data that it makes, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import atari_dt.experiments.sweep
import atari_dt.preparation.origins
from atari_dt.config import ModelConfig
from atari_dt.experiments.run_config import RunConfig
from atari_dt.games.catalogue import find_game
from atari_dt.method_config import CQLConfig, REMConfig
from replay_data import TrajectoryStore
from replay_data.testing import write_random_store
from tests.conftest import DATA
from tests.replay_data.flaky_server import serving
from tests.scripts.commands import Refuse, call


@pytest.fixture(autouse=True)
def _without_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test fail that would record for hours."""

    def record_agent(*_: object, **options: object) -> None:
        pytest.fail("the recording began")

    monkeypatch.setattr(atari_dt.preparation.origins, "record_agent", record_agent)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data {tmp}/no --out {tmp}/new", "no data of Breakout in {tmp}/no/breakout"),
        ("--data {tmp}/no --out {tmp}/new", "build_dataset.py, or let --data-from make it"),
        ("--data {store} --out {tmp}/new", "{store} is a store itself"),
        ("--data {store} --out {tmp}/new --data-from q_learning", "{store} is a store itself"),
        ("--data {tmp} --out {tmp}/new --seeds", "give at least one game and one seed"),
        ("--data {tmp} --out {tmp}/new --games Breakuot", "unknown game 'Breakuot'"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("reproduce_benchmark.py", options, message)


def test_help_shows_the_papers_evaluation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "reproduce_benchmark.py", "--help") == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for option, default in (("protocol", "original"), ("episodes", "10"), ("max-steps", "27000")):
        assert words.partition(f"--{option} ")[2].partition("(default: ")[2].startswith(f"{default})")
    for game in ("Breakout", "Qbert", "Pong", "Seaquest"):
        paper = find_game(game).paper
        assert paper is not None
        assert f"{paper.target_return:g} and {paper.return_multiple:g} in {game}" in words


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data-from scripted", "Qbert: there is no scripted policy for Qbert"),
        ("--data-from q_learning --data-steps 30", "--data-steps must be at least 512, the batch size, not 30"),
        ("--data-from q_learning --preset quick --data-steps 100", "--data-steps must be at least 250 for a recording"),
        ("--data-steps 1000", "--data-steps has no effect without --data-from; leave it out"),
        ("--raw-data {tmp}/raw", "--raw-data has no effect without --data-from; leave it out"),
        ("--data-from jat --base-url http://x", "--base-url has no effect without --data-from rl_unplugged; leave it"),
        ("--data-from q_learning --top-percent 5", "--top-percent is fixed by the benchmark; use --seeds"),
        ("--data-from q_learning --methods cql --value-training.seed 5", "--value-training.seed is fixed by the"),
        ("--data-from q_learning --methods dt dqn", "--methods has 'dqn', which is not a method; choose from dt"),
        ("--data-from q_learning --methods cql --max-updates 9", "--max-updates is an option of bc, dt, and --methods"),
        (
            "--data-from q_learning --methods bc --return-scale 90",
            "bc: --return-scale has no effect on behavior cloning",
        ),
        ("--data-from q_learning --cql.alpha 1", "--cql.alpha is an option of cql, and --methods has none of them"),
        (
            "--data-from q_learning --methods dt rem --evaluated-checkpoints 30 --keep-checkpoints 30",
            "rem: --value-training.keep-checkpoints must be at least --evaluated-checkpoints (30), not 20",
        ),
        ("--data-from q_learning --threads 0", "--threads must be at least 1, not 0"),
        ("--data-from q_learning --device abacus", "abacus"),
        ("--data-from q_learning --out {store}/metadata.json", "metadata.json is not a directory"),
        ("--data-from rl_unplugged --base-url ftp://x", "Breakout: --base-url must begin with https:// or http://"),
    ],
)
def test_bad_options_are_refused_before_data_is_made(refuse: Refuse, options: str, message: str) -> None:
    refuse("reproduce_benchmark.py", f"--data {{tmp}}/no --out {{tmp}}/new {options}", message)


def test_stores_that_exist_are_checked_before_data_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_random_store(tmp_path / "pong", [4], game="Breakout")
    options = ["--games", "Breakout", "Pong", "--data-from", "q_learning"]
    command = ("--data", tmp_path, "--out", tmp_path / "new", *options)
    assert call(monkeypatch, "reproduce_benchmark.py", *command) == 1
    assert "has data of Breakout, not of Pong; move it to a directory of that name" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["pong"]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> dict[str, RunConfig]:
    """Return a dictionary to which the command adds its runs instead of doing them."""
    trained: dict[str, RunConfig] = {}

    def run_sweep(runs: Mapping[str, RunConfig], *_: object) -> None:
        trained.update(runs)

    monkeypatch.setattr(atari_dt.experiments.sweep, "run_sweep_and_report", run_sweep)
    return trained


def test_scale_of_returns_is_that_of_methods_that_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: dict[str, RunConfig]
) -> None:
    write_random_store(tmp_path / "breakout", [75] * 20, repeat_frames=True)
    options = "--games Breakout --seeds 4 --preset quick --methods dt bc --return-scale 90"
    assert (
        call(monkeypatch, "reproduce_benchmark.py", "--data", tmp_path, "--out", tmp_path / "new", *options.split())
        == 0
    )
    scales = {name: run.model.return_scale for name, run in trained.items() if isinstance(run.model, ModelConfig)}
    assert scales == {"Breakout-DT-seed4": 90, "Breakout-BC-seed4": 1}


def test_value_methods_have_options_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: dict[str, RunConfig]
) -> None:
    write_random_store(tmp_path / "breakout", [75] * 20, repeat_frames=True)
    common = "--games Breakout --seeds 4 --preset quick --recipe fast --methods bc cql rem"
    options = "--max-updates 7 --value-training.max-updates 9 --cql.alpha 1 --device cpu --precision fp32"
    arithmetic = "--value-training.precision bf16"
    command = ("--data", tmp_path, "--out", tmp_path / "new", *f"{common} {options} {arithmetic}".split())
    assert call(monkeypatch, "reproduce_benchmark.py", *command) == 0
    bc, cql, rem = (trained[f"Breakout-{label}-seed4"] for label in ("BC", "CQL", "REM"))
    assert cql.model == CQLConfig(target_update_every=500, alpha=1.0)
    assert rem.model == REMConfig(target_update_every=500)
    assert cql.training == rem.training
    assert (bc.training.max_updates, cql.training.max_updates) == (7, 9)
    assert (bc.training.learning_rate, cql.training.learning_rate) == (3e-3, 3e-4)  # of each recipe
    assert (cql.training.batch_size, cql.training.checkpoint_every, cql.training.keep_checkpoints) == (32, 5000, 4)
    assert (bc.evaluation.evaluated_checkpoints, cql.evaluation.evaluated_checkpoints) == (None, 4)
    assert (cql.training.schedule, cql.training.final_tokens) == ("cosine", None)
    assert (bc.training.device, cql.training.device) == ("cpu", "cpu")
    assert (bc.training.precision, cql.training.precision) == ("fp32", "bf16")


def test_missing_data_is_made_before_the_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trained: dict[str, RunConfig],
) -> None:
    options = "--preset quick --games breakout --seeds 1 --methods dt bc --data-from rl_unplugged --data-steps 800"
    with serving(DATA / "rl_unplugged") as server:
        command = ("--data", tmp_path / "data", "--out", tmp_path / "out", "--base-url", server.url, *options.split())
        assert call(monkeypatch, "reproduce_benchmark.py", *command) == 0
        num_requests = len(server.requests)
        printed = capsys.readouterr().out
        assert printed.startswith("data to make, from rl_unplugged:")
        assert "Breakout" in printed
        assert call(monkeypatch, "reproduce_benchmark.py", *command) == 0
        assert len(server.requests) == num_requests
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"note: {tmp_path}/data/breakout exists and is used as it is; its data is from RL Unplugged")
    store = TrajectoryStore.open(tmp_path / "data" / "breakout")
    assert len(store) >= 800
    assert {config.data for config in trained.values()} == {store.path}
    assert set(trained) == {"Breakout-DT-seed1", "Breakout-BC-seed1"}
