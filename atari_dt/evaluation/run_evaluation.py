"""Evaluate the runs of one or more training seeds, and a uniform-random policy to compare them with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from atari_dt.evaluation.evaluator import evaluate, evaluate_random
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.results import Evaluation
from atari_dt.evaluation.target_returns import (
    compute_target_returns,
    default_percentiles,
    lacks_positive_return,
    look_up_percentiles,
    returns_source,
)
from atari_dt.hardware import find_device, keep_freed_memory, translate_out_of_memory
from atari_dt.methods.registry import load_model
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.pretrained import PretrainedModel, latest_checkpoint
from replay_data import InputError, TrajectoryStore

DEFAULT_MULTIPLES = (0.5, 1.0, 2.0)


def evaluate_runs(
    run_directories: Sequence[Path],
    play: PlayConfig | None = None,
    *,
    return_multiples: Sequence[float] | None = None,
    return_percentiles: Sequence[int] | None = None,
    target_returns: Sequence[float] | None = None,
    data: TrajectoryStore | None = None,
    num_envs: int = 16,
    show_progress: bool = True,
) -> Evaluation:
    """Evaluate trained models and a uniform-random policy under the same protocol.

    Multiples are played first, then percentiles, then numbers. If none is given, the target returns are
    `DEFAULT_MULTIPLES` of the dataset's largest return; if that is not positive, they are `default_percentiles`.

    Args:
        run_directories: Run directories or checkpoints, one for each training seed.
        play: How the models play.
        return_multiples: Target returns as multiples of the dataset's largest return.
        return_percentiles: Target returns as percentiles of the dataset's episode returns, from 0 to 100.
        target_returns: Target returns as numbers, in the dataset's reward units.
        data: Store whose returns replace those of the model's dataset.
        num_envs: Number of environments stepped in parallel; the scores do not depend on it.
        show_progress: Whether to show progress bars on standard error.

    Raises:
        InputError: If a run, ROM or device does not exist, the runs differ in their game, the sticky actions or reward
            clipping of their data, or the config of their networks, or a model cannot be played under this protocol.
    """
    play = play or PlayConfig()
    device = find_device(play.device)
    if device.type == "cpu":
        keep_freed_memory()
    if not run_directories:
        raise InputError("no run was given; give the directory of at least one run")
    checkpoints = [latest_checkpoint(directory) for directory in run_directories]
    models = [load_model(path).to(device) for path in checkpoints]
    datasets = [model.require_dataset() for model in models]
    if different := _find_differences(models, datasets):
        raise InputError(
            f"these runs differ in {', '.join(different)}; evaluate runs together only if they differ in nothing but "
            "their seed"
        )
    config = models[0].config
    play = dataclasses.replace(play, protocol=play.protocol.resolved(datasets[0], config))
    if config.conditioned:
        targets = _resolve_targets(datasets, return_multiples, return_percentiles, target_returns, data)
    elif return_multiples or return_percentiles or target_returns or data:
        raise InputError(
            f"{config.title} has no target return; leave `return_multiples`, `return_percentiles`, "
            "`target_returns` and `data` out"
        )
    else:
        targets = _Targets((None,), (None,), [[0.0] for _ in models])
    with translate_out_of_memory(device, "`num_envs`"):
        results = [
            evaluate(model, model_target_returns, play, num_envs=num_envs, show_progress=show_progress)
            for model, model_target_returns in zip(models, targets.target_returns, strict=True)
        ]
    random = evaluate_random(datasets[0], play, num_envs=num_envs, show_progress=False)
    return Evaluation(
        checkpoints=tuple(checkpoints),
        datasets=tuple(datasets),
        config=config,
        return_multiples=targets.return_multiples,
        return_percentiles=targets.return_percentiles,
        results=tuple(map(tuple, results)),
        random=random,
        protocol=play.protocol,
        sampling=play.sampling,
        seed=play.seed,
        environment=play.environment(datasets[0]),
        planning=play.planning if config.plans else None,
    )


def _find_differences(models: Sequence[PretrainedModel], datasets: Sequence[DatasetInfo]) -> list[str]:
    """Return the names of settings that differ between runs; of runs of different methods, no further ones."""
    shared = ("game", "sticky_actions", "reward_clipping")
    settings: list[dict[str, object]] = [
        {name: getattr(dataset, name) for name in shared} | {"method": model.config.method}
        for model, dataset in zip(models, datasets, strict=True)
    ]
    if len({each["method"] for each in settings}) == 1:
        settings = [each | vars(model.config) for each, model in zip(settings, models, strict=True)]
    return [name for name, value in settings[0].items() if any(each[name] != value for each in settings)]


class _Targets(NamedTuple):
    """The target returns of an evaluation.

    Attributes:
        return_multiples: As in `Evaluation`, ``[targets]``.
        return_percentiles: As in `Evaluation`, ``[targets]``.
        target_returns: Target returns of each model, ``[models][targets]``.
    """

    return_multiples: tuple[float | None, ...]
    return_percentiles: tuple[int | None, ...]
    target_returns: list[list[float]]


def _resolve_targets(
    datasets: Sequence[DatasetInfo],
    return_multiples: Sequence[float] | None,
    return_percentiles: Sequence[int] | None,
    target_returns: Sequence[float] | None,
    data: TrajectoryStore | None,
) -> _Targets:
    """Return the target returns of models that were trained on ``datasets``; the arguments are `evaluate_runs`'."""
    if not return_multiples and not return_percentiles and not target_returns:
        given = {
            "return_multiples": return_multiples,
            "return_percentiles": return_percentiles,
            "target_returns": target_returns,
        }
        for name, values in given.items():
            if values is not None:
                raise InputError(f"`{name}` must have at least 1 number")
        sources = [returns_source(dataset, data) for dataset in datasets]
        if lacks_positive_return(sources):
            return_percentiles = default_percentiles(sources)
        else:
            return_multiples = DEFAULT_MULTIPLES
    multiples, percentiles, numbers = return_multiples or (), return_percentiles or (), target_returns or ()
    if data and not multiples and not percentiles:
        raise InputError(
            "`data` has no effect on `target_returns`; leave it out, or give `return_multiples` or `return_percentiles`"
        )
    return _Targets(
        (*multiples, *(None for _ in percentiles), *(None for _ in numbers)),
        (*(None for _ in multiples), *percentiles, *(None for _ in numbers)),
        [
            [
                *(compute_target_returns(dataset, multiples, data) if multiples else ()),
                *(look_up_percentiles(dataset, percentiles, data) if percentiles else ()),
                *numbers,
            ]
            for dataset in datasets
        ],
    )
