"""The targets of tests/hostile_files.py that need PyTorch: agents, checkpoints, runs, results and recordings."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atari_dt.collection.policies.loading import load_policies
from atari_dt.collection.recorder_checkpoint import RecorderCheckpoint
from atari_dt.collection.rollout import CompressedEpisode, FinishedEpisode
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.evaluation.scores import EvaluationScores, read_scores
from atari_dt.experiments.archive import SweepArchive, read_archive
from atari_dt.experiments.run_config import EvaluationConfig, RunConfig, read_run_config
from atari_dt.experiments.run_result import RunFailure, read_costs, read_failure, read_result
from atari_dt.games.catalogue import find_game
from atari_dt.hardware import set_up_compute
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.training.checkpoint import GeneratorState, read_checkpoint, save_checkpoint
from atari_dt.training.distributed import ProcessGroup
from atari_dt.training.learner import Learner
from atari_dt.training.metrics import read_metrics
from atari_dt.training.training_run import Hardware, TrainingRun, read_training_run
from replay_data.episode import Episode
from tests.atari_dt.collection.policies.saved_agents import write_agent
from tests.atari_dt.experiments.finished_runs import finish_run
from tests.atari_dt.models import DATASET
from tests.conftest import DATA
from tests.hostile_files import MEANINGS, Target, random_episodes

CONFIG = ModelConfig(context_length=2, num_layers=1, num_heads=1, embed_dim=8)
TRAINING = TrainingConfig(max_updates=2, batch_size=2, device="cpu", precision="fp32")


def tiny_model() -> DecisionTransformer:
    torch.manual_seed(0)
    model = DecisionTransformer(CONFIG, len(MEANINGS), max_timestep=8)
    model.dataset, model.training_config = DATASET, TRAINING
    return model.eval()


def build_checkpoint(directory: Path) -> None:
    tiny_model().save_pretrained(directory / "model")
    (directory / "model" / "README.md").unlink()


def build_original_checkpoint(directory: Path) -> None:
    (directory / "original").mkdir(parents=True)
    shutil.copy(DATA / "original_model" / "dt_small.pth", directory / "original")


def read_original_model(_: Path, path: Path) -> dict[str, Any]:
    return describe_model(DecisionTransformer.from_original_checkpoint(path, num_heads=2))


def read_model(directory: Path, _: Path) -> dict[str, Any]:
    return describe_model(DecisionTransformer.from_pretrained(directory / "model"))


def describe_model(model: DecisionTransformer) -> dict[str, Any]:
    """Check the weights of a model, and play a step with it."""
    assert all(weights.isfinite().all() for weights in model.state_dict().values())
    states = torch.zeros(1, 1, 4, 84, 84, dtype=torch.uint8)
    steps = torch.zeros(1, 1, dtype=torch.int64)
    with torch.no_grad():
        logits = model(states, steps, steps.float(), steps).action_logits
    assert logits.shape == (1, 1, model.num_actions)
    content = model.checkpoint_config.to_json()
    model.generate_model_card(repo_id="user/name")
    return {"config": json.dumps(content, allow_nan=False), "logits": logits.tolist()}


def build_run(directory: Path) -> None:
    training = directory / "training"
    training.mkdir(parents=True)
    run = TrainingRun(
        *("data", DATASET.digest or "", "float32", "cpu", 1, CONFIG, TRAINING),
        versions={"torch": "2.13"},
        hardware=Hardware("abacus", 2, None),
    )
    (training / "config.json").write_text(json.dumps(run.to_json()))
    learner = tiny_learner()
    sum(parameter.sum() for parameter in learner.model.parameters()).backward()  # type: ignore[union-attr]
    learner.optimizer.step()
    save_checkpoint(training, TRAINING, learner, [GeneratorState.current(torch.device("cpu"))], 2, 8)
    evaluation = EvaluationConfig(return_multiples=(1.0,), target_returns=(3.0,))
    config = RunConfig(Path("data"), CONFIG, TRAINING, evaluation)
    finish_run(directory / "sweep", "run", config, [(1.0, 6.0, (1.0, 2.0)), (None, 3.0, (0.0, 4.0))])
    (directory / "sweep" / "failed").mkdir()
    (directory / "sweep" / "failed" / "failure.json").write_text(json.dumps(RunFailure("no luck").to_json()))
    scores = read_scores(DATA / "version_1" / "evaluation" / "scores.json")
    (directory / "scores.json").write_text(json.dumps(scores.to_json()))
    episodes = [
        FinishedEpisode(
            CompressedEpisode.pack(Episode(**{**episode, "actions": episode["actions"].astype("uint8")})),
            {"skill": 0.5},
        )
        for episode in random_episodes()
    ]
    (directory / "checkpoints").mkdir()
    RecorderCheckpoint(1, 158, episodes, 200, ".partial-x", b"state").write(directory)


def tiny_learner() -> Learner:
    return Learner(tiny_model(), TRAINING, set_up_compute("cpu", "fp32", "off", 0), ProcessGroup())


cached_learner = cache(tiny_learner)


def read_run(directory: Path, path: Path) -> dict[str, Any]:
    """Read the files that are read together with one of them; compare what was read with its own JSON."""
    training, run = directory / "training", directory / "sweep" / "run"
    if "checkpoints" in path.relative_to(directory).parts:
        if path.is_relative_to(training):
            learner = cached_learner()
            checkpoint = read_checkpoint(training / "checkpoints" / "update-00000002", learner.model)
            checkpoint.restore(learner, seed=0, rank=0)
            sum(parameter.sum() for parameter in learner.model.parameters()).backward()  # type: ignore[union-attr]
            learner.optimizer.step()
            assert (checkpoint.update, checkpoint.tokens) >= (0, 0)
            return {"weights": [weights.sum().item() for weights in checkpoint.weights.values()]}
        recorded = RecorderCheckpoint.read(directory)
        episodes = [episode.unpack() for episode, _ in recorded.episodes]
        assert all(len(episode.frames) == len(episode.actions) for episode in episodes)
        return {"progress": json.dumps(recorded.to_json(), allow_nan=False)}
    if path.name == "metrics.jsonl":
        lines = read_metrics(run / "training")
        return {"lines": json.dumps([line.to_json() for line in lines], allow_nan=False)}
    if path.name == "failure.json":
        failure = read_failure(path.parent)
        return {"reason": failure and failure.reason}
    result: Any
    if path.is_relative_to(training):
        result = read_training_run(training)
        assert result.segments(2)
        assert replace(result, data="x").settings() == result.settings()
    elif path.name == "scores.json":
        result = read_scores(path)
        assert EvaluationScores.from_json(result.to_json()) == result
    else:
        result = {"experiment.json": read_run_config, "result.json": read_result, "costs.json": read_costs}[path.name](
            run
        )
        assert type(result).from_json(json.loads(json.dumps(result.to_json()))) == result
    return {path.name: json.dumps(result.to_json(), allow_nan=False)}


def build_agent(directory: Path) -> None:
    (directory / "agents").mkdir(parents=True)
    write_agent(directory / "agents" / "agent.zip")


def read_agent(_: Path, path: Path) -> dict[str, Any]:
    (policy,) = load_policies([str(path)], find_game("Breakout"), len(MEANINGS), "cpu")
    actions = policy.choose_actions(np.zeros((2, 4, 84, 84), np.uint8))
    assert actions.shape == (2,)
    assert actions.max() < len(MEANINGS)
    return {"digest": policy.digest}


def build_archive(directory: Path) -> None:
    directory.mkdir(parents=True)
    shutil.copy(DATA / "sweep_archive.json", directory / "archive.json")


def read_sweep_archive(_: Path, path: Path) -> dict[str, Any]:
    archive = read_archive(path)
    content = json.dumps(archive.to_json(), allow_nan=False)
    assert SweepArchive.from_json(json.loads(content)) == archive
    return {"archive": content}


TARGETS = {
    "agent": Target(build_agent, read_agent),
    "archive": Target(build_archive, read_sweep_archive),
    "checkpoint": Target(build_checkpoint, read_model),
    "original checkpoint": Target(build_original_checkpoint, read_original_model),
    "run": Target(build_run, read_run),
}
