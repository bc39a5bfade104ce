"""The commands as a person calls them: what they print, what they leave, and how they refuse."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import runpy
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from ale_py import roms
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

from atari_dt import command_line
from atari_dt.config import ModelConfig
from atari_dt.model import DatasetInfo, DecisionTransformer
from replay_data import TrajectoryStore
from replay_data.sources.dopamine_reader import DopamineLog
from replay_data.testing import write_random_store
from tests.conftest import DATA
from tests.replay_data.flaky_server import serving
from tests.replay_data.recordings import indices_in_truth, random_episode, write_log

SCRIPTS = Path(__file__).parents[2] / "scripts"


def call(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: object) -> int:
    """Run a script in this process and return its exit status."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    previous = signal.getsignal(signal.SIGTERM)
    try:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint of an untrained model."""
    path = tmp_path_factory.mktemp("runs") / "run"
    model = DecisionTransformer(ModelConfig(2, 1, 2, 16), num_actions=4, max_timestep=100)
    model.dataset = DatasetInfo.from_store(write_random_store(path.parent / "store", [5, 6]))
    model.save_pretrained(path / "checkpoints" / "update-00000007")
    return path


def test_evaluate_writes_everything_it_found(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluation"
    targets = ("--return-multiples", "0.5", "2", "--target-returns", "-7.5")
    options = ("--episodes", "3", "--num-envs", "4", "--max-steps", "50", "--seed", "1")
    # Two seeds of one run; this module's is both.
    assert call(monkeypatch, "evaluate.py", run, run, *targets, *options, "--out", out) == 0
    result = json.loads((out / "scores.json").read_text())
    assert result["game"] == "Breakout"
    assert [each["run"] for each in result["runs"]] == 2 * [str(run / "checkpoints" / "update-00000007")]
    largest = TrajectoryStore.open(run.parent / "store").metadata.max_return
    for evaluations in (each["evaluations"] for each in result["runs"]):
        for multiple, evaluation in zip((0.5, 2, None), evaluations, strict=True):
            assert evaluation["return_multiple"] == multiple
            assert evaluation["target_return"] == (-7.5 if multiple is None else multiple * largest)
            assert len(evaluation["scores"]) == 3
            mean = sum(evaluation["scores"]) / 3
            variance = sum((score - mean) ** 2 for score in evaluation["scores"]) / 3
            assert evaluation["mean_score"] == pytest.approx(mean)
            assert evaluation["std_score"] == pytest.approx(variance**0.5)
    points = result["summary"][0]["score"]["points"]
    scores = 2 * result["runs"][0]["evaluations"][0]["scores"]
    assert (points["seeds"], points["episodes"]) == (2, 6)
    assert points["mean"] == pytest.approx(sum(scores) / 6)
    normalized = result["summary"][0]["score"]["normalized_as_in_the_paper"]
    assert normalized["mean"] == pytest.approx(100 * (sum(scores) / 6 - 2) / 28)
    assert result["protocol"]["sticky_actions"] == 0.25
    rom = roms.get_rom_path("breakout")
    assert rom is not None
    assert result["rom_sha256"] == hashlib.sha256(rom.read_bytes()).hexdigest()
    printed = capsys.readouterr().out
    for name in ("(0.5×)", "-7.5", "random player", "dataset, best", "paper, 3 seeds"):
        assert name in printed
    assert list(tmp_path.iterdir()) == [out]
    files = {path.name for path in out.iterdir()}
    assert {"scores.json", "target_returns.png", "scores.png", "2x-best.mp4", "target--7.5-worst.mp4"} <= files
    events = EventAccumulator(str(out), size_guidance={"images": 0})
    events.Reload()
    assert events.Scalars("evaluation/mean_score/0.5x")[0].step == 7
    assert {"evaluation/target_returns", "evaluation/scores", "evaluation/2x-best"} <= set(events.Tags()["images"])
    assert events.Images("evaluation/2x-best")[0].encoded_image_string.startswith(b"GIF89a")
    assert "evaluation/scores/2x" in events.Tags()["histograms"]


def test_the_original_protocol_and_a_rom_file_play(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rom = roms.get_rom_path("breakout")
    assert rom is not None
    changed = bytearray(rom.read_bytes())
    changed[5] ^= 1  # no ROM that ALE knows
    (tmp_path / "old.rom").write_bytes(changed)
    options = "--episodes 2 --max-steps 20 --return-multiples 1 --protocol original --sticky-actions 0.5 --no-videos"
    command = ("evaluate.py", run, *options.split(), "--rom", tmp_path / "old.rom", "--out", tmp_path / "out")
    assert call(monkeypatch, *map(str, command)) == 0
    result = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert result["rom_sha256"] == hashlib.sha256(changed).hexdigest()
    assert result["protocol"] == {
        "sticky_actions": 0.5,
        "frames": "bilinear",
        "noop_max": 29,
        "second_reset": True,
        "window_timestep": "current",
        "reward_units": "raw",
        "integer_returns": True,
    }
    assert not list((tmp_path / "out").glob("*.mp4"))


def test_a_run_is_shared_with_its_scores(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "evaluation" / "scores.json", tmp_path / "shared"
    options = ("--episodes", 2, "--max-steps", 9, "--no-videos", "--out", file.parent)
    assert call(monkeypatch, "evaluate.py", run, *options) == 0
    assert call(monkeypatch, "push_to_hub.py", run, "--repo-id", "a/b", "--scores", file, "--out", out) == 0
    model = DecisionTransformer.from_pretrained(out)
    assert model.evaluations == json.loads(file.read_text())["runs"][0]["evaluations"]
    assert f"its card is {out / 'README.md'}" in capsys.readouterr().out
    scores = json.loads(file.read_text())
    for name, value, message in (
        ("game", "Pong", "holds scores in Pong, but the model plays Breakout"),
        ("runs", [{"evaluations": [{"scores": []}]}], "holds no scores"),
        ("runs", 2 * scores["runs"], "holds scores of 2 runs"),
    ):
        file.write_text(json.dumps({**scores, name: value}))
        command = ("push_to_hub.py", run, "--repo-id", "a/b", "--scores", file, "--out", tmp_path / "other")
        assert call(monkeypatch, *command) == 1
        assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [file.parent, out]


def test_a_checkpoint_of_the_original_code_plays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = DATA / "original_model" / "dt_small.pth", tmp_path / "original"
    assert call(monkeypatch, "import_checkpoint.py", path, "--game", "Pong", "--max-return", 20, "--out", out) == 1
    assert "chooses among 4 actions, but Pong has 6" in capsys.readouterr().err
    assert call(monkeypatch, "import_checkpoint.py", path, "--game", "Breakout", "--max-return", 40, "--out", out) == 0
    command = capsys.readouterr().out.split("python scripts/")[1].split()
    assert call(monkeypatch, *command, "--episodes", 2, "--max-steps", 30, "--no-videos", "--out", tmp_path / "e") == 0
    (evaluation,) = json.loads((tmp_path / "e" / "scores.json").read_text())["runs"][0]["evaluations"]
    assert evaluation["target_return"] == 40
    ours, theirs = DecisionTransformer.from_pretrained(out), DecisionTransformer.from_original_checkpoint(path)
    assert ours.config == theirs.config
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())
    unknown = tmp_path / "unknown"
    assert call(monkeypatch, "import_checkpoint.py", path, "--game", "Breakout", "--out", unknown) == 0
    assert "--target-returns" in capsys.readouterr().out
    assert call(monkeypatch, "evaluate.py", unknown) == 1
    assert "does not know its dataset's largest return" in capsys.readouterr().err
    assert call(monkeypatch, "evaluate.py", unknown, "--target-returns", 5, "--episodes", 1, "--max-steps", 9) == 0


def test_the_throughput_benchmark_writes_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = [
        "--batch-size",
        "2",
        "--context-length",
        "3",
        "--num-steps",
        "20",
        "--updates",
        "1",
        "--rounds",
        "2",
        "--device",
        "cpu",
    ]
    command = [sys.executable, str(SCRIPTS / "benchmarks" / "benchmark_throughput.py"), *options, "--json", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    figures = json.loads(file.read_text())
    assert set(figures["project"]) == {"bf16", "fp32"}
    for values in figures["project"].values():
        assert values["contexts_per_s"] == pytest.approx(2 / values["seconds_per_update"])
        assert values["memory_bytes"] > 10**8
        assert 0 < values["mfu"] < 1


def test_the_evaluation_benchmark_writes_its_figures(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    options = "--game Pong --num-envs 2 --episodes-per-game 1 --context-length 2 --rounds 1 --max-steps 30 --device cpu"
    command = [
        sys.executable,
        str(SCRIPTS / "benchmarks" / "benchmark_evaluation.py"),
        *options.split(),
        "--attention",
        "--json",
        str(file),
    ]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    figures = json.loads(file.read_text())["figures"]
    assert list(figures) == ["2", "2, kept", "2, 8 more"]
    for values in figures.values():
        assert values["steps_per_s"] > 0
        parts = [values[part] for part in ("emulator", "encoder", "transformer", "rest")]
        assert sum(parts) == pytest.approx(1)
        assert min(parts) > 0


def test_torchrun_trains_in_two_processes_and_each_thing_is_said_once(run: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = f"--data {run.parent / 'store'} --out {tmp_path / 'run'} --batch-size 4 --max-updates 2 --num-layers 1"
    command = [*launcher, str(SCRIPTS / "train.py"), *options.split()]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"trained; next: python scripts/evaluate.py {tmp_path / 'run'}\n"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["processes"] == 2
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.count(f"error: {tmp_path / 'run'} exists already") == 1


def test_quickstart_reports_what_it_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "quickstart"
    for seed in (5, 6):  # the second call keeps what the first made
        options = f"--num-steps 300 --updates 30 --episodes 2 --max-steps 40 --seed {seed}".split()
        assert call(monkeypatch, "quickstart.py", "--out", out, *options) == 0
        (out / "notes.txt").write_text("mine")
        results = json.loads((out / "results.json").read_text())
        store = TrajectoryStore.open(out / "data")
        assert store.metadata.source.details["seed"] == seed
        assert results["game"] == "Breakout"
        (dataset,) = results["datasets"]
        assert dataset["steps"] == len(store) >= 300
        assert dataset["episodes"] == store.num_episodes
        assert dataset["max_return"] == store.episode_returns.max()
        assert dataset["mean_return"] == pytest.approx(store.episode_returns.mean())
        assert [summary["return_multiple"] for summary in results["summary"]] == [0, 0.25, 0.5, 1, 2]
        for summary in results["summary"]:
            assert summary["target_return"] == summary["return_multiple"] * store.episode_returns.max()
            assert summary["score"]["points"]["episodes"] == 2
        assert 0 < results["train_seconds"] < results["total_seconds"]
        assert 0 <= results["random"]["score"]["points"]["mean"] < 10
        assert (out / "evaluation" / "1x-best.mp4").stat().st_size > 1000
        assert "target return" in (out / "attention" / "viewer.html").read_text(encoding="utf-8")
        assert json.loads((out / "attention" / "attention.json").read_text())["seed"] == seed
    assert (out / "quickstart.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert f"the earlier quickstart is now {out}.1" in printed
    earlier = tmp_path / "quickstart.1"
    assert (earlier / "notes.txt").read_text() == "mine"
    assert TrajectoryStore.open(earlier / "data").metadata.source.details["seed"] == 5
    assert "random player" in printed
    assert "What to try next" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "not made by a quickstart"),
        ("--max-steps 0", "1 to 27000 steps"),
        ("--max-steps 9", "max_steps must be at least 10, the context length"),
        ("--updates 0", "max_updates must be at least 1"),
        ("--episodes 0", "at least 1 episode"),
        ("--seed -1", "seed must lie between 0"),
        ("--num-steps 31", "num_steps must be at least 32"),
    ],
)
def test_quickstart_refuses_before_it_touches_anything(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    message: str,
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").write_text("years of work")
    assert call(monkeypatch, "quickstart.py", "--out", tmp_path, *options.split()) == 1
    assert message in capsys.readouterr().err
    assert (tmp_path / "data" / "thesis.tex").read_text() == "years of work"


def test_build_dataset_makes_the_papers_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--game Breakout --run 1 --num-buffers 5 --num-steps 8000 --trajectories-per-buffer 3 --seed 123"
    path = DATA / "dopamine_log"
    for selection in ("original", "corrected"):
        out = tmp_path / selection
        arguments = ("--source", "dopamine", "--path", path, *options.split(), "--selection", selection, "--out", out)
        assert call(monkeypatch, "build_dataset.py", *arguments) == 0
    original, corrected = (TrajectoryStore.open(tmp_path / selection) for selection in ("original", "corrected"))
    with np.load(path / "original_selection_seed123.npz") as expected:
        assert np.array_equal(original.returns_to_go, expected["rtg"])
    assert len(indices_in_truth(corrected)) == corrected.num_episodes
    assert corrected.metadata.action_meanings == ("NOOP", "FIRE", "RIGHT", "LEFT")
    assert corrected.metadata.source.selection == {
        "method": "corrected",
        "num_steps": 8000,
        "num_buffers": 5,
        "trajectories_per_buffer": 3,
        "seed": 123,
    }
    printed = capsys.readouterr().out
    assert "9,331 steps in 16 episodes of buffers 46-47, 49\n" in printed
    assert f"of the run's 50 buffers, 0-44 are not in {path}\n" in printed
    assert "never occurs" not in printed
    (tmp_path / "pong").mkdir()
    (tmp_path / "pong" / "Seaquest").symlink_to(path / "Breakout")
    options = f"--source dopamine --path {tmp_path / 'pong'} --game Seaquest --selection even --num-steps 1"
    assert call(monkeypatch, "build_dataset.py", *options.split(), "--out", tmp_path / "seaquest") == 0
    assert "DOWNLEFTFIRE never occurs; is this Seaquest?" in capsys.readouterr().out


def test_the_sentence_comes_after_what_a_progress_bar_had_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    """An interruption within the bar's constructor leaves a bar that nobody closes."""

    def main() -> None:
        bar = tqdm(total=2, desc="reading")
        bar.update()
        raise KeyboardInterrupt("nothing was kept")

    previous = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as stop:
            command_line.run(main, parse=False)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert stop.value.code == 130
    *before, last = capsys.readouterr().err.splitlines()
    assert any("reading" in line for line in before)
    assert last == "error: interrupted; nothing was kept"


def test_collect_replay_sums_up_what_it_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its table against the log's own episodes; the command that it names next; and once more when it is complete."""
    small = ("--num-envs", 4, "--steps-per-update", 32, "--minibatch-size", 64, "--epochs", 1, "--max-steps", 15)
    command = ("--out", tmp_path / "own", "--num-steps", 3000, "--device", "cpu", "--precision", "fp32", *small)
    assert call(monkeypatch, "collect_replay.py", *command) == 0
    printed = capsys.readouterr().out
    log = tmp_path / "own" / "Breakout" / "1" / "replay_logs"
    table = [line.split() for line in printed.splitlines()[1:11]]
    episodes = [
        found
        for buffer in DopamineLog(tmp_path / "own", "Breakout", 1, 4).shards.values()
        for found in buffer.episodes()
    ]
    assert [line[0] for line in table] == [f"{first}-{first + 4}" for first in range(0, 50, 5)]
    assert sum(int(line[1]) for line in table) == len(episodes)
    scores = [float(episode.raw_rewards.sum()) for episode in episodes if episode.raw_rewards is not None]
    of_tenths = [(int(line[1]), float(line[4])) for line in table]
    assert sum(number * mean for number, mean in of_tenths) / len(scores) == pytest.approx(np.mean(scores), abs=0.06)
    assert max(float(line[5]) for line in table) == max(scores)
    size = sum(path.stat().st_size for path in log.iterdir())
    assert f"50 buffers of 60 rows, {size / 1e6:,.0f} MB, {size / 3000:.0f} bytes a row" in printed
    picture = cv2.imread(str(log.parent / "returns.png"))
    assert picture is not None
    assert picture.std() > 10

    following = shlex.split(next(line for line in printed.splitlines() if line.startswith("next:")))[2:]
    assert call(monkeypatch, Path(following[0]).name, *following[1:-1], tmp_path / "store") == 0
    store = TrajectoryStore.open(tmp_path / "store")
    assert store.metadata.source.recording is not None
    assert store.metadata.source.recording.settings["precision"] == "fp32"
    assert following[following.index("--selection") + 1] == "even"
    assert len(store) >= 1000
    capsys.readouterr()
    assert call(monkeypatch, "collect_replay.py", *command, "--resume") == 0
    assert capsys.readouterr().out == printed


def test_what_download_replay_fetches_is_built_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(DATA / "rl_unplugged") as server:
        assert (
            call(monkeypatch, "download_replay.py", "--out", tmp_path, "--base-url", server.url, "--num-steps", 800)
            == 0
        )
    printed = capsys.readouterr().out
    assert "steps in 4 episodes of 2 shards" in printed
    command = printed.split("python scripts/")[1].split()
    command[-1] = str(tmp_path / "store")  # instead of data/breakout
    assert call(monkeypatch, *command) == 0
    assert indices_in_truth(TrajectoryStore.open(tmp_path / "store")) == [0, 1, 2, 6]


def test_a_download_that_finds_the_disk_full_says_so(tmp_path: Path) -> None:
    with serving(DATA / "rl_unplugged") as server:
        command = [
            sys.executable,
            str(SCRIPTS / "download_replay.py"),
            "--out",
            str(tmp_path),
            "--base-url",
            server.url,
        ]
        result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit_file_size)
    last = result.stderr.splitlines()[-1]
    assert result.returncode == 1
    assert last.startswith(f"error: {tmp_path}/Breakout/run_1-0000")
    assert "File too large" in last
    assert all(file.name.endswith(".partial") for file in (tmp_path / "Breakout").iterdir())  # to go on from


def test_behavior_cloning_is_evaluated_once(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = DecisionTransformer(ModelConfig(2, 1, 2, 16, conditioning="none"), num_actions=4, max_timestep=100)
    model.dataset = DatasetInfo.from_store(TrajectoryStore.open(run.parent / "store"))
    model.save_pretrained(tmp_path / "cloning")
    options = ("--episodes", 2, "--max-steps", 9, "--out", tmp_path / "evaluation")
    assert call(monkeypatch, "evaluate.py", tmp_path / "cloning", *options) == 0
    (evaluation,) = json.loads((tmp_path / "evaluation" / "scores.json").read_text())["runs"][0]["evaluations"]
    assert evaluation["target_return"] is evaluation["return_multiple"] is None
    assert len(evaluation["scores"]) == 2
    assert "none (cloning)" in capsys.readouterr().out
    assert call(monkeypatch, "evaluate.py", tmp_path / "cloning", "--return-multiples", 1) == 1
    assert "behavior cloning has no target return" in capsys.readouterr().err
    assert call(monkeypatch, "evaluate.py", tmp_path / "cloning", run) == 1
    assert "these runs differ" in capsys.readouterr().err


def test_what_a_run_attends_to_is_written_and_summed_up(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "attention"
    options = "--episodes 2 --return-multiple 0.5 --max-steps 20 --seed 4 --step 3"
    protocol = "--protocol original --sticky-actions 0.1"
    command = ("visualize_attention.py", run, "--out", out, *options.split(), *protocol.split())
    assert call(monkeypatch, *map(str, command)) == 0
    names = {"attention.png", "attention_distance.png", "attention.mp4", "attention.json", "viewer.html"}
    assert {path.name for path in out.iterdir()} == names
    numbers = json.loads((out / "attention.json").read_text())
    assert numbers["target_return"] == 0.5 * TrajectoryStore.open(run.parent / "store").metadata.max_return
    assert numbers["steps"] == [20, 20]
    conditions = "sticky actions 0.1, frames bilinear, noop max 29, second reset True, window timestep current"
    page = (out / "viewer.html").read_text(encoding="utf-8")
    assert f"{conditions}, reward units raw, integer returns True, seed 4" in page
    printed = capsys.readouterr().out
    assert "all tokens alike" in printed
    assert f"look: {out / 'viewer.html'}" in printed


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("collect_replay.py --game Breakot --out {tmp}/new", "unknown game 'Breakot'; did you mean Breakout"),
        ("collect_replay.py --agent scripted --game Qbert --out {tmp}/new", "no scripted player for Qbert"),
        ("collect_replay.py --num-steps 0 --out {tmp}/new", "num_steps must be at least 250, not 0"),
        ("collect_replay.py --seed -1 --out {tmp}/new", "seed must lie between 0 and"),
        ("collect_replay.py --agent scripted --num-workers 0 --out {tmp}/new", "num_workers must be at least 1 and at"),
        ("collect_replay.py --agent scripted --num-workers 5000 --out {tmp}/new", "and at most"),
        ("collect_replay.py --agent scripted --num-envs 8 --out {tmp}/new", "mean nothing to scripted players"),
        ("collect_replay.py --num-workers 2 --out {tmp}/new", "--num-envs says how many games q_learning plays"),
        ("collect_replay.py --num-envs 3 --minibatch-size 128 --out {tmp}/new", "minibatch_size (128) must divide"),
        ("collect_replay.py --device tpu --out {tmp}/new", "there is no device 'tpu' here"),
        ("collect_replay.py --num-steps 99999999999 --out {tmp}/new", "Breakout/1 needs 25000.0 GB, but"),
        ("collect_replay.py --sticky-actions 2 --out {tmp}/new", "sticky_actions is a probability"),
        ("collect_replay.py --out {log}", "/Breakout/1 exists already; choose another --out or --run"),
        ("collect_replay.py --resume --out {log}", "is no recording that could be resumed"),
        ("collect_replay.py --out {store}/metadata.json/x", "Not a directory; check that the path is right"),
        ("build_dataset.py --source dopamine --path {tmp}/nowhere --out {tmp}/new", "no directory {tmp}/nowhere"),
        (
            "build_dataset.py --source dopamine --path {log} --game Pong --out {tmp}/new",
            "no Pong in {log}; it holds Br",
        ),
        ("build_dataset.py --source dopamine --path {log} --game Brekout --out {tmp}/new", "did you mean Breakout"),
        (
            "build_dataset.py --source dopamine --path {log} --run 2 --out {tmp}/new",
            "no 2 in {log}/Breakout; it holds 1",
        ),
        (
            "build_dataset.py --source rl_unplugged --path {log} --out {tmp}/new",
            "it holds a Dopamine log (--source dop",
        ),
        ("build_dataset.py --source dopamine --path {log} --out {store}", "{store} exists already"),
        ("build_dataset.py --source dopamine --path {log} --out {tmp}/new", "of 500,000 steps in the buffers"),
        (
            "build_dataset.py --source dopamine --path {log} --num-steps 999999999 --out {tmp}/new",
            "{tmp}/new needs 7056.0",
        ),
        ("build_dataset.py --source dopamine --path {log} --num-workers 0 --out {tmp}/new", "--num-workers is 0"),
        (
            "build_dataset.py --source dopamine --path {log} --selection all --seed 1 --out {tmp}/new",
            "--seed means noth",
        ),
        ("download_replay.py --game Breakot --out {tmp}/new", "unknown game 'Breakot'"),
        ("download_replay.py --num-steps 0 --out {tmp}/new", "num_steps must be at least 1, not 0"),
        (
            "download_replay.py --base-url http://127.0.0.1:9/x --out {tmp}/new",
            "http://127.0.0.1:9/x/Breakout/run_1-00000",
        ),
        ("train.py --data {tmp}/nowhere --out {tmp}/new", "no trajectory store at {tmp}/nowhere"),
        ("train.py --data {run} --out {tmp}/new", "{run} is not a trajectory store"),
        ("train.py --data {store} --out {tmp}/new --context-length 0", "context_length must be at least 1, not 0"),
        (
            "ablate_context_length.py --data {store} --out {tmp}/new --context-length 5",
            "use --context-lengths, --seeds",
        ),
        ("ablate_context_length.py --data {store} --out {tmp}/new --seed 5", "--seed would be the same in all runs"),
        ("ablate_context_length.py --data {store} --out {tmp}/new --context-lengths 0", "must be at least 1, not 0"),
        ("ablate_context_length.py --data {store} --out {tmp}/new --jobs 0", "jobs must be at least 1, not 0"),
        ("ablate_context_length.py --data {store} --out {tmp}/new --threads 0", "threads must be at least 1, not 0"),
        ("ablate_context_length.py --data {store} --out {tmp}/new --max-steps 0", "an episode lasts 1 to 27000 steps"),
        ("ablate_context_length.py --data {store} --out {tmp}/new --return-multiples nan", "must be finite numbers"),
        ("ablate_context_length.py --data {tmp}/no --out {tmp}/new", "no trajectory store at {tmp}/no"),
        ("ablate_context_length.py --data {store} --out {tmp}/new --seeds", "at least one context length and one seed"),
        (
            "reproduce_benchmark.py --data {tmp}/no --out {tmp}/new",
            "no data of Breakout in {tmp}/no/breakout",
        ),
        ("reproduce_benchmark.py --data {store} --out {tmp}/new", "{store} is a store itself"),
        ("reproduce_benchmark.py --data {tmp} --out {tmp}/new --seeds", "give at least one game and one seed"),
        (
            "reproduce_benchmark.py --data {tmp} --out {tmp}/new --games Breakuot",
            "unknown game 'Breakuot'",
        ),
        ("write_report.py {tmp}/no", "{tmp}/no has no runs; give the --out of a sweep"),
        ("train.py --data {store} --out {tmp}/new", "a batch of 128 contexts is larger than the dataset of 11 steps"),
        ("train.py --data {store} --out {tmp}/new --batch-size 4 --device tpu", "no device 'tpu'"),
        ("train.py --data {store} --out {tmp}/new --batch-size 4 --seed -1", "seed must lie between 0"),
        ("train.py --data {store} --out {tmp}/new --batch-size 4 --learning-rate 1e38", "no longer finite at update"),
        ("train.py --data {store} --out {run} --batch-size 4", "{run} exists already"),
        (
            "train.py --data {store} --out {tmp}/new --batch-size 4 --validation-fraction 1",
            "validation_fraction must be at least 0 and less than 1, not 1.0",
        ),
        ("train.py --data {pong} --out {tmp}/new", "a batch of 512 contexts is larger than the dataset of 4 steps"),
        ("push_to_hub.py {tmp}/nowhere --repo-id a/b", "no run with a checkpoint at {tmp}/nowhere"),
        ("push_to_hub.py {run} --repo-id a/b --scores {tmp}/no.json --out {tmp}/new", "{tmp}/no.json holds no scores"),
        ("push_to_hub.py {run} --repo-id a/b --out {store}", "{store} exists already"),
        ("push_to_hub.py {run} --repo-id a/b/c/d", "'a/b/c/d' cannot be written to the Hugging Face Hub"),
        (
            "import_checkpoint.py {tmp}/nowhere.pth --game Pong --max-return 20 --out {tmp}/new",
            "no checkpoint at {tmp}/nowhere.pth",
        ),
        (
            "import_checkpoint.py {store}/metadata.json --game Pong --max-return 20 --out {tmp}/new",
            "holds no state dict of the original network",
        ),
        ("import_checkpoint.py x --game Pong --max-return nan --out {tmp}/new", "must be a finite number, not nan"),
        ("benchmarks/benchmark_throughput.py --original {tmp}", "{tmp} is no checkout of the original code"),
        ("benchmarks/benchmark_throughput.py --batch-size 0", "all sizes must be at least 1"),
        ("evaluate.py {tmp}/nowhere", "no run with a checkpoint at {tmp}/nowhere"),
        ("evaluate.py {run} --data {pong}", "the model plays Breakout, but the store at {pong} is of Pong"),
        ("evaluate.py {run} --episodes 0", "at least 1 episode"),
        ("evaluate.py {run} --seed -1", "seed must not be negative"),
        ("evaluate.py {run} --max-steps 30000", "1 to 27000 steps"),
        ("evaluate.py {run} --return-multiples nan", "finite"),
        ("evaluate.py {run} --target-returns inf", "finite"),
        ("evaluate.py {run} --target-returns 1 --data {store}", "means nothing to target returns"),
        ("evaluate.py {run} --temperature -1", "temperature must be 0 (greedy) or more"),
        ("evaluate.py {run} --top-k 0", "top_k must be at least 1"),
        ("evaluate.py {run} --noop-max -1", "noop_max must lie between 0 and 1000"),
        ("evaluate.py {run} --sticky-actions 7", "sticky_actions is a probability"),
        ("evaluate.py {run} --out {pong}", "{pong} exists already"),
        ("evaluate.py {run} --out {pong}/metadata.json/x", "{pong}/metadata.json/x cannot be written"),
        ("evaluate.py {run} --rom {tmp}/nothing", "{tmp}/nothing cannot be read"),
        ("evaluate.py {run} --rom {pong}/metadata.json", "ALE cannot play {pong}/metadata.json"),
        ("evaluate.py {run} --rom {pong_rom}", "{pong_rom} is a ROM of Pong, not of Breakout"),
        ("evaluate.py", "no run was given"),
        ("visualize_attention.py {tmp}/nowhere --out {tmp}/new", "no run with a checkpoint at {tmp}/nowhere"),
        ("visualize_attention.py {run} --out {pong}", "{pong} exists already"),
        ("visualize_attention.py {run} --out {tmp}/new --episodes 0", "at least 1 episode"),
        ("visualize_attention.py {run} --out {tmp}/new --max-steps 1", "max_steps must be at least 2"),
        ("visualize_attention.py {run} --out {tmp}/new --return-multiple nan", "must be a finite number"),
        ("visualize_attention.py {run} --out {tmp}/new --device tpu", "no device 'tpu'"),
        ("visualize_attention.py {run} --out {tmp}/new --patch 5", "patch must be a divisor of 84"),
        ("visualize_attention.py {run} --out {tmp}/new --layer last", "layer is mean, rollout, or a number from 1"),
        ("visualize_attention.py {run} --out {tmp}/new --max-steps 9 --layer 2", "layer 2 is none of the model's 1"),
        ("visualize_attention.py {run} --out {tmp}/new --max-steps 9 --step 9", "step must lie between 0 and 8"),
        ("benchmarks/benchmark_evaluation.py --original {tmp}", "{tmp} is no checkout of the original code"),
        ("benchmarks/benchmark_evaluation.py --rounds 0", "all sizes must be at least 1"),
    ],
)
def test_bad_input_gets_one_sentence(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    message: str,
) -> None:
    pong = tmp_path / "pong"
    write_random_store(pong, [4], game="Pong")
    paths = {"tmp": tmp_path, "run": run, "store": run.parent / "store", "pong": pong, "log": DATA / "dopamine_log"}
    paths["pong_rom"] = Path(str(roms.get_rom_path("pong")))
    script, *arguments = command.split()
    assert call(monkeypatch, script, *(argument.format(**paths) for argument in arguments)) == 1
    lines = capsys.readouterr().err.splitlines()
    errors = [
        line for line in lines if line and not line.startswith(("training:", "reading:", "downloading", "evaluating"))
    ]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message.format(**paths) in errors[0]
    assert list(tmp_path.iterdir()) == [pong]


def test_an_option_of_the_wrong_kind_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "train.py", "--data", "a", "--out", "b", "--batch-size", "many") == 2
    assert "batch-size" in capsys.readouterr().err


def hear_interrupts() -> None:
    """Undo what a shell does to commands in the background, whose children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def limit_file_size() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


@pytest.mark.parametrize(
    "command",
    [
        "collect_replay.py --agent scripted --num-steps 100000 --out {tmp}/new",
        "build_dataset.py --source dopamine --path {log} --selection all --out {tmp}/new",
        "train.py --data {store} --out {tmp}/new --batch-size 4",
        "evaluate.py {store}/../run --return-multiples 1 --max-steps 300 --episodes 2 --out {tmp}/new",
        "visualize_attention.py {store}/../run --max-steps 100 --out {tmp}/new",
    ],
)
def test_a_write_that_fails_leaves_nothing_half_written(run: Path, tmp_path: Path, command: str) -> None:
    """A limit on the size of files stands for a full disk: the same call fails at the same place."""
    script, *arguments = command.format(tmp=tmp_path, store=run.parent / "store", log=DATA / "dopamine_log").split()
    result = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *arguments],
        capture_output=True,
        text=True,
        preexec_fn=limit_file_size,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "File too large" in last
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 200,000 rows, 1.4 GB of frames."""
    path = tmp_path_factory.mktemp("long")
    episode = random_episode(np.random.default_rng(0), 1000)
    episode.frames[:, 1:] = 5
    write_log(path, [episode] * 200, 50_000)
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(
    "script",
    [
        "collect_replay.py --agent scripted",
        "collect_replay.py --num-envs 4",
        "build_dataset.py --source dopamine --path {log} --selection all",
    ],
)
def test_an_interrupted_command_leaves_nothing(
    tmp_path: Path, long_log: Path, number: signal.Signals, early: bool, script: str
) -> None:
    """The whole process group gets the signal, as from a terminal: when the output has begun, and later."""
    name, *options = script.format(log=long_log).split()
    command = [sys.executable, str(SCRIPTS / name), *options, "--out", f"{tmp_path}/new"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )
    for _ in range(600):
        sizes = {path.name.split("_ckpt")[0]: path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()}
        if sizes.get("frames.npy", 0) > 10**6 or sizes.get("$store$_observation", 0) > 50_000:
            break
        if early and list(tmp_path.iterdir()):
            time.sleep(0.3 if name == "collect_replay.py" else 0)
            break
        time.sleep(0.02)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "error: interrupted; nothing was kept"
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
