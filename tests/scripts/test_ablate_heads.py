"""ablate_heads.py: what it measures, how it continues, and what it refuses."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from atari_dt.config import ModelConfig
from atari_dt.evaluation.evaluator import evaluate
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.interpretation import head_ablation_run
from atari_dt.interpretation.head_ablation import attention_layers
from atari_dt.interpretation.head_ablation_results import HeadResults, rank_correlation
from atari_dt.interpretation.head_ablation_study import HeadStudy, read_study
from atari_dt.method_config import CQLConfig
from atari_dt.model import DatasetInfo, DecisionTransformer
from atari_dt.model.q_network import QNetwork
from atari_dt.policies.protocol import EvaluationProtocol
from replay_data import InputError, TrajectoryStore
from tests.mutations import HOSTILE_VALUES
from tests.scripts.commands import Refuse, call

OPTIONS = ("--episodes", 1, "--max-steps", 9, "--max-contexts", 7, "--return-multiple", 0.5, "--seed", 3)


def read(path: Path) -> HeadResults:
    results = HeadResults.read(path)
    assert results is not None
    return results


@pytest.fixture(scope="module")
def heads_run(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model whose heads matter, with its study in ``heads`` beside it."""
    path = tmp_path_factory.mktemp("heads") / "run"
    model = DecisionTransformer(ModelConfig(2, 1, 2, 16), num_actions=4, max_timestep=100)
    for name, parameter in model.named_parameters():
        if not name.startswith("state_encoder"):
            parameter.data.normal_(std=0.7)
    model.dataset = DatasetInfo.from_store(TrajectoryStore.open(run.parent / "store"))
    model.save_pretrained(path / "checkpoints" / "update-00000007")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert call(monkeypatch, "ablate_heads.py", path, "--out", path.parent / "heads", *OPTIONS) == 0
    return path


@pytest.fixture
def results(heads_run: Path) -> HeadResults:
    return read(heads_run.parent / "heads" / "heads.json")


def test_the_models_play_the_same_episodes(heads_run: Path, results: HeadResults) -> None:
    assert {path.name for path in (heads_run.parent / "heads").iterdir()} == {"heads.json", "heads.png"}
    assert (heads_run.parent / "heads" / "heads.png").read_bytes().startswith(b"\x89PNG")
    assert results.num_contexts == 7  # of 8 full contexts
    model = DecisionTransformer.from_pretrained(heads_run / "checkpoints" / "update-00000007")
    target = 0.5 * model.require_dataset().max_return  # type: ignore[operator]
    play = PlayConfig(EvaluationProtocol(cache="off"), episodes=1, max_steps=9, seed=3)
    (intact,) = evaluate(model, [target], play, show_progress=False)
    assert results.settings.target_return == target
    assert results.scores == tuple(intact.scores)
    assert [(each.ablation.replacement, each.ablation.layer, each.ablation.head) for each in results.ablations] == [
        *(("mean", 0, 0), ("mean", 0, 1), ("mean", 0, None), ("mean", None, None)),
        *(("uniform", 0, 0), ("uniform", 0, 1), ("uniform", 0, None), ("uniform", None, None)),
    ]
    assert [each.scores is None for each in results.ablations] == [*[False] * 4, True, True, False, False]
    assert all(each.effect.divergence > 0 for each in results.ablations)
    layer, whole = results.find("mean", 0), results.find("mean")
    assert dataclasses.replace(layer, ablation=whole.ablation) == whole  # there is only one layer
    assert results.session.command.startswith(
        "python scripts/ablate_heads.py heads0/run --out heads0/heads --episodes 1"
    )
    assert str(heads_run.parent) not in json.dumps(results.to_json())


def test_tables_show_every_layer_and_head(results: HeadResults) -> None:
    played = [dataclasses.replace(each, scores=(3.0, 9.0) if each.scores else None) for each in results.ablations]
    settings = dataclasses.replace(results.settings, episodes=2)
    study = HeadStudy(dataclasses.replace(results, settings=settings, scores=(1.0, 2.0), ablations=tuple(played)))
    layers, heads = study.tables()["layers"], study.tables()["heads"]
    names = ["ablated", "nothing", "layer 1", "layer 1", "all layers", "all layers"]
    assert [row[0] for row in layers] == names
    assert layers[1][4:] == ["1.5", ""]
    assert layers[3][4:] == ["6.0", "+4.5 (+2.0 to +7.0)"]  # from 1 and 2 points to 3 and 9
    assert {len(row) for row in layers} == {6}
    assert [row[0] for row in heads] == ["head", "layer 1, head 1", "layer 1, head 2"]
    assert heads[1][1] == f"{results.entropy[0][0]:.2f}"
    assert heads[2][3] == f"{100 * results.find('mean', 0, 1).effect.agreement:.1f}%"
    assert {len(row) for row in heads} == {7}


def test_an_interrupted_study_continues(
    heads_run: Path, results: HeadResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = results.to_json()
    kept = [0, 2, 3]
    for index, entry in enumerate(content["ablations"]):
        entry["scores"] = [70.0 + index] if index in kept else None
    out = tmp_path / "heads"
    out.mkdir()
    (out / "heads.json").write_text(json.dumps(content))
    models = []

    def play(model: DecisionTransformer, *_: Any, **__: Any) -> list[Any]:
        models.append(model)
        return [SimpleNamespace(scores=np.array([len(models)]))]

    monkeypatch.setattr(head_ablation_run, "evaluate", play)
    monkeypatch.setattr(HeadStudy, "figures", lambda _: {"": b"figure"})
    assert call(monkeypatch, "ablate_heads.py", heads_run, "--out", out, *OPTIONS) == 0
    continued = read(out / "heads.json")
    scores = [(70,), (1,), (72,), (73,), None, None, (2,), (3,)]
    assert [each.scores for each in continued.ablations] == scores
    assert [each.effect for each in continued.ablations] == [each.effect for each in results.ablations]
    assert continued.entropy == results.entropy
    attentions = [attention_layers(model)[0] for model in models]
    assert [attention.edit_heads is None for attention in attentions] == [False, True, True]
    assert [bool(attention.qkv.weight[:16].any()) for attention in attentions] == [True, False, False]


def test_other_studies_are_not_overwritten(
    heads_run: Path,
    results: HeadResults,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    finished = heads_run.parent / "heads"
    before = (finished / "heads.json").read_bytes()
    (finished / "heads.png").write_bytes(b"of an earlier call without scores")
    assert call(monkeypatch, "ablate_heads.py", heads_run, "--out", finished, *OPTIONS) == 0
    assert "layer 1, head 2" in capsys.readouterr().out
    assert (finished / "heads.json").read_bytes() == before
    assert (finished / "heads.png").read_bytes().startswith(b"\x89PNG")
    assert (
        call(monkeypatch, "ablate_heads.py", heads_run, "--out", finished, *OPTIONS, "--seed", 4, "--noop-max", 2) == 1
    )
    assert (
        "other settings: seed (was 3, is 4), noop_max (was 0, is 2); choose another directory"
        in capsys.readouterr().err
    )
    out = tmp_path / "heads"
    out.mkdir()
    (out / "notes.txt").touch()
    assert call(monkeypatch, "ablate_heads.py", heads_run, "--out", out, *OPTIONS) == 1
    assert f"{out} exists already" in capsys.readouterr().err
    (out / "heads.json").write_text("{}")
    assert call(monkeypatch, "ablate_heads.py", heads_run, "--out", out, *OPTIONS) == 1
    assert "heads.json is not a file of this command" in capsys.readouterr().err
    assert (out / "heads.json").read_text() == "{}"
    content = results.to_json()
    content["ablations"][0]["scores"] = None
    (out / "heads.json").write_text(json.dumps({**content, "scores": [5.0]}))
    assert call(monkeypatch, "ablate_heads.py", heads_run, "--out", out, *OPTIONS) == 1
    assert "the intact model does not score as it did" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{tmp}/nowhere --out {tmp}/new", "no run with a checkpoint at {tmp}/nowhere"),
        ("{run} --out {pong}", "{pong} exists already"),
        ("{run} --out {tmp}/new --max-contexts 0", "--max-contexts must be at least 1, not 0"),
        ("{run} --out {tmp}/new --max-steps 1", "--max-steps must be at least 2"),
        ("{run} --out {tmp}/new --return-multiple 1 --target-return 2", "set only one of --return-multiple"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("ablate_heads.py", options, message)


def test_models_without_heads_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    QNetwork(CQLConfig(), 4).save_pretrained(tmp_path / "cql")
    assert call(monkeypatch, "ablate_heads.py", tmp_path / "cql", "--out", tmp_path / "new") == 1
    assert "holds a model of conservative Q-learning (CQL); only the heads of" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["cql"]


def test_rank_correlation_equals_that_of_scipy() -> None:
    a, b = np.random.default_rng(0).integers(0, 5, (2, 4, 6)).astype(float)  # with ties
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a.ravel(), b.ravel()).statistic)
    assert rank_correlation(a, np.ones((4, 6))) == 0


def test_damaged_studies_are_errors_or_valid(results: HeadResults) -> None:
    content = json.loads(json.dumps(results.to_json()))
    assert read_study(content).results.to_json() == results.to_json()
    num_errors = 0
    for path in _paths({**content, "ablations": content["ablations"][:1]}):
        for value in HOSTILE_VALUES[::7]:
            damaged = copy.deepcopy(content)
            *parents, last = path
            target = damaged
            for key in parents:
                target = target[key]
            target[last] = value
            try:
                json.dumps(read_study(damaged).results.to_json()).encode()
            except (InputError, ValueError, KeyError, TypeError):
                num_errors += 1
    assert num_errors > 150


def _paths(content: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every object, list and value inside a JSON value."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*prefix, key)
        yield from _paths(value, (*prefix, key))
