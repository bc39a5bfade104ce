"""The option of train.py and ablate_context_length.py that chooses the learning method."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import atari_dt.experiments.sweep
import atari_dt.training
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.experiments.run_config import RunConfig
from atari_dt.method_config import CQLConfig, MethodConfig, QRDQNConfig, REMConfig
from replay_data import TrajectoryStore
from replay_data.testing import write_random_store
from tests.atari_dt.q_networks import use_small_layers
from tests.conftest import DATA
from tests.scripts.commands import Refuse, call

Start: TypeAlias = Callable[[str, str], tuple[MethodConfig, TrainingConfig]]

OPTIONS = {
    "dt": {"--context-length", "--num-layers", "--limit-returns", "--timestep-encoding"},
    "bc": {"--context-length", "--num-layers", "--limit-returns", "--timestep-encoding"},
    "qrdqn": {"--discount", "--target-update-every", "--epsilon", "--num-quantiles"},
    "cql": {"--discount", "--target-update-every", "--epsilon", "--num-quantiles", "--alpha"},
    "rem": {"--discount", "--target-update-every", "--epsilon", "--num-q-heads"},
}
"""Options of each method."""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """A function that calls a command on a store of Pong, and returns the configs of the last run that it starts."""
    started: list[tuple[MethodConfig, TrainingConfig]] = []

    def train(store: TrajectoryStore, out: Path, model: MethodConfig, training: TrainingConfig, resume: bool) -> None:
        started.append((model, training))

    def run_sweep(runs: Mapping[str, RunConfig], *_: Any) -> None:
        started.extend((run.model, run.training) for run in runs.values())

    monkeypatch.setattr(atari_dt.training, "train", train)
    monkeypatch.setattr(atari_dt.experiments.sweep, "run_sweep_and_report", run_sweep)

    def call_command(script: str, options: str) -> tuple[MethodConfig, TrainingConfig]:
        data = tmp_path / "pong"
        if not data.exists():
            write_random_store(data, [20] * 3, game="Pong")
        assert call(monkeypatch, script, "--data", data, "--out", tmp_path / "run", *options.split()) == 0
        return started[-1]

    return call_command


@pytest.mark.parametrize("method", OPTIONS)
def test_help_shows_the_options_of_the_method(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    assert call(monkeypatch, "train.py", f"--method={method}", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    assert OPTIONS[method] <= shown
    assert not (set.union(*OPTIONS.values()) - OPTIONS[method]) & shown
    assert "--conditioning" not in shown
    assert "(default: dt)" in text
    assert ("(default: 5e-05)" in text) == (method not in ("dt", "bc"))  # the learning rate


def test_help_shows_the_decision_transformer_and_names_the_help_of_other_methods(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "train.py", "--help") == 0
    text = capsys.readouterr().out
    assert "--context-length" in text
    assert "--method cql --help" in " ".join(text.replace("│", "").split())


@pytest.mark.parametrize(
    ("options", "unknown"),
    [
        ("--alpha 4", "--alpha, 4"),
        ("--method bc --epsilon 0.1", "--epsilon, 0.1"),
        ("--method qrdqn --alpha 4", "--alpha, 4"),
        ("--num-layers 2 --method cql", "--num-layers, 2"),
        ("--method=rem --num-quantiles 8", "--num-quantiles, 8"),
        ("--conditioning none", "--conditioning, none"),
        ("--method bc --conditioning return", "--conditioning, return"),
    ],
)
def test_an_option_of_another_method_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: str, unknown: str
) -> None:
    assert call(monkeypatch, "train.py", "--data", "a", "--out", "b", *options.split()) == 2
    text = capsys.readouterr().err
    assert f"Unrecognized options: {unknown}" in text
    method = re.search(r"--method[ =](\w+)", options)
    assert f"--method {method[1] if method else 'dt'} --help" in text


@pytest.mark.parametrize(
    ("script", "options"),
    [("train.py", "--method ppo"), ("train.py", "--method"), ("ablate_context_length.py", "--method cql")],
)
def test_a_method_that_a_command_does_not_have_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: str, options: str
) -> None:
    assert call(monkeypatch, script, "--data", "a", "--out", "b", *options.split()) == 2
    assert "argument '--method'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", ModelConfig(context_length=50)),
        ("--method=bc --num-layers 2", ModelConfig(context_length=50, num_layers=2, conditioning="none")),
        ("--method qrdqn --num-quantiles 8", QRDQNConfig(num_quantiles=8)),
        ("--alpha 1 --epsilon 0.5 --method cql", CQLConfig(alpha=1.0, epsilon=0.5)),
        ("--method rem --discount 0.9", REMConfig(discount=0.9)),
    ],
)
def test_a_method_trains_with_its_own_settings(start: Start, options: str, expected: MethodConfig) -> None:
    config, training = start("train.py", f"{options} --max-updates 7")
    assert config == expected
    assert training.max_updates == 7
    # Chen et al. 2021, appendix A, for Pong; Agarwal et al. 2020, appendix.
    adam = (512, 6e-4, 1e-8, "cosine") if isinstance(expected, ModelConfig) else (32, 5e-5, 0.01 / 32, "constant")
    assert (training.batch_size, training.learning_rate, training.adam_eps, training.schedule) == adam


def test_context_lengths_of_behavior_cloning_are_compared(start: Start) -> None:
    config, _ = start("ablate_context_length.py", "--method bc --context-lengths 2 --recipe fast --target-returns 1")
    assert isinstance(config, ModelConfig)
    assert (config.method, config.context_length, config.encoder_norm) == ("bc", 2, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "--data {store} --method hf_decision_transformer --recipe fast",
            "--recipe must be 'paper' for HF-DT, not 'fast'",
        ),
        ("--data {store} --method rem --discount 2", "--discount must be between 0 and 1, not 2.0"),
        (
            f"--data {DATA / 'version_1' / 'store'} --method qrdqn",
            "does not tell terminated from truncated episodes, like all stores of format 1",
        ),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("train.py", f"{options} --out {{tmp}}/new --batch-size 4", message)


def test_a_run_resumes_only_with_its_own_method(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_small_layers(monkeypatch.setattr)
    out = tmp_path / "run"
    options = f"--data {run.parent / 'store'} --out {out} --batch-size 4 --max-updates 1".split()
    assert call(monkeypatch, "train.py", *options, "--method", "cql", "--num-quantiles", 2) == 0
    files = sorted(out.rglob("*"))
    for other, name in (([], "dt"), (["--method", "qrdqn", "--num-quantiles", "2"], "qrdqn")):
        assert call(monkeypatch, "train.py", *options, *other, "--resume") == 1
        message = f"error: {out} was trained with --method cql, not {name}; resume it with cql, or start a new run\n"
        assert capsys.readouterr().err.endswith(message)
    assert sorted(out.rglob("*")) == files
    assert call(monkeypatch, "train.py", *options, "--method", "cql", "--num-quantiles", 2, "--resume") == 0
