"""Evaluate the runs of one or more training seeds beside a uniform-random policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atari_dt.environment.rom import Rom
from atari_dt.evaluation.evaluator import evaluate, evaluate_random
from atari_dt.evaluation.policy import Sampling
from atari_dt.evaluation.protocol import EvaluationProtocol
from atari_dt.evaluation.results import Evaluation
from atari_dt.evaluation.target_returns import compute_target_returns, require_dataset
from atari_dt.games.catalogue import find_game
from atari_dt.hardware import find_device, keep_freed_memory, translate_out_of_memory
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.pretrained import latest_checkpoint
from replay_data import InputError, TrajectoryStore

DEFAULT_MULTIPLES = (0.5, 1.0, 2.0)


def evaluate_runs(
    run_directories: Sequence[Path],
    *,
    return_multiples: Sequence[float] | None = None,
    targets: Sequence[float] | None = None,
    store: TrajectoryStore | None = None,
    episodes: int = 16,
    num_envs: int = 16,
    max_steps: int = 27_000,
    seed: int = 0,
    protocol: EvaluationProtocol | None = None,
    sampling: Sampling | None = None,
    rom: Path | None = None,
    device: str = "auto",
    show_progress: bool = True,
) -> Evaluation:
    """Let trained models and a random player play under the same conditions.

    Args:
        run_directories: what scripts/train.py wrote, or checkpoints of it: one for each training seed.
        return_multiples: of the dataset's largest return; by default `DEFAULT_MULTIPLES`, if no targets are given.
        targets: target returns by number, beside the multiples.
        store: take the largest return from this store instead of the one that a model was trained on.
        episodes: of each model under each target return.
        num_envs: games played at once.
        max_steps: after which an episode is cut off.
        seed: of the emulator, the no-ops and the action sampling.
        protocol: by default as the data was made.
        sampling: by default from the softmax of the logits.
        rom: a ROM file to be played instead of the one that comes with ALE.
        device: where the models run.
        show_progress: progress bars on standard error.

    Raises:
        InputError: if a run, ROM or device is not there, a number is out of range, runs do not belong together, or
            a model cannot be played under these conditions.
    """
    where = find_device(device)
    if where.type == "cpu":
        keep_freed_memory()
    protocol, sampling = protocol or EvaluationProtocol(), sampling or Sampling()
    if not run_directories:
        raise InputError("no run was given; give what scripts/train.py wrote")
    checkpoints = [latest_checkpoint(directory) for directory in run_directories]
    models = [DecisionTransformer.from_pretrained(path).to(where) for path in checkpoints]
    datasets = [require_dataset(model) for model in models]
    kinds = {
        (dataset.game, dataset.sticky_actions, dataset.reward_clipping, model.config.conditioning)
        for dataset, model in zip(datasets, models, strict=True)
    }
    if len(kinds) > 1:
        raise InputError(
            "these runs differ in their game, sticky actions, reward clipping or conditioning; "
            "runs that are evaluated together differ only in their seed"
        )
    protocol = protocol.resolved(datasets[0])
    conditioned = models[0].config.conditioning == "return"
    if not conditioned:
        if return_multiples or targets or store:
            raise InputError("behavior cloning has no target return; leave return multiples, targets and data out")
        multiples: tuple[float | None, ...] = (None,)
        targets_of = [[0.0] for _ in models]
    else:
        if return_multiples is None:
            return_multiples = () if targets else DEFAULT_MULTIPLES
        if store and not return_multiples:
            raise InputError(
                "the largest return of the data means nothing to target returns given by number; leave it out"
            )
        multiples = (*return_multiples, *(None for _ in targets or ()))
        targets_of = [
            [*(compute_target_returns(dataset, return_multiples, store) if return_multiples else ()), *(targets or ())]
            for dataset in datasets
        ]
    played_rom = None if rom is None else Rom(rom, find_game(datasets[0].game))
    conditions: dict[str, Any] = {
        "episodes": episodes,
        "num_envs": num_envs,
        "max_steps": max_steps,
        "seed": seed,
        "protocol": protocol,
        "rom": played_rom,
    }
    with translate_out_of_memory(where, "--num-envs"):
        results = [
            evaluate(model, its_targets, sampling=sampling, show_progress=show_progress, **conditions)
            for model, its_targets in zip(models, targets_of, strict=True)
        ]
    random = evaluate_random(datasets[0], show_progress=False, **conditions)
    return Evaluation(
        checkpoints=tuple(checkpoints),
        datasets=tuple(datasets),
        conditioned=conditioned,
        return_multiples=multiples,
        results=tuple(map(tuple, results)),
        random=random,
        protocol=protocol,
        sampling=sampling,
        seed=seed,
        environment=protocol.environment(datasets[0], max_steps, played_rom),
    )
