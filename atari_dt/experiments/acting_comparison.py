"""Play trained models in one way after another, and keep the results in a file that a later call completes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from atari_dt.config import describe_differences
from atari_dt.environment.rom import rom_sha256
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.run_evaluation import evaluate_runs
from atari_dt.experiments.acting_results import (
    ActingComparison,
    ComparedRun,
    ComparisonSettings,
    RunEpisodes,
    VariantResult,
)
from atari_dt.experiments.acting_variants import ActingPlan, ActingVariant
from atari_dt.games.catalogue import find_game
from atari_dt.hardware import find_device
from atari_dt.methods.registry import load_model
from atari_dt.model.checkpoint_config import CheckpointConfig
from atari_dt.model.pretrained import checkpoint_updates, latest_checkpoint, read_checkpoint_config
from atari_dt.rendering.study_file import Session, shorten_path, weights_sha256
from replay_data import InputError
from replay_data.storage.paths import check_writable

Planner = Callable[[Sequence[CheckpointConfig]], ActingPlan]
"""Function from the configs of the checkpoints to the variants to play."""


def compare_acting(
    run_directories: Sequence[Path],
    out: Path,
    plan_for: Planner,
    play: PlayConfig,
    command: Sequence[str],
    *,
    num_envs: int = 16,
    show_progress: bool = True,
) -> ActingComparison:
    """Play every variant that ``out`` does not have yet, and write ``out`` after each.

    Args:
        run_directories: Run directories or checkpoints, one for each training seed.
        out: JSON file of the results. If it exists, it is of the same models and settings, and keeps its variants.
        plan_for: Function that returns the variants.
        play: Episodes, limit of steps, seed and device; the variants replace its protocol and sampling.
        command: Words of the command line, for the record.
        num_envs: Number of environments stepped in parallel; the scores do not depend on it.
        show_progress: Whether to show progress bars and to print a line for each variant.

    Raises:
        InputError: If a run does not exist, the runs differ in more than their seed, ``out`` is of something else or
            cannot be written, or a model cannot act in one of these ways.
        KeyboardInterrupt: On Ctrl-C; the same call continues with the variant that was interrupted.
    """
    if not run_directories:
        raise InputError("no run was given; give the directory of at least one run")
    device = find_device(play.device)
    checkpoints = [latest_checkpoint(directory) for directory in run_directories]
    configs = [read_checkpoint_config(checkpoint) for checkpoint in checkpoints]
    plan = plan_for(configs)
    settings = _find_settings(checkpoints, configs, play)
    check_writable(out)
    comparison = _read_earlier(out, settings)
    results = () if comparison is None else comparison.results
    sessions = () if comparison is None else comparison.sessions
    earlier = {result.variant.name for result in results}
    pending = [variant for variant in plan.variants if variant.name not in earlier]
    session = Session.begin(command, device)
    for index, variant in enumerate(pending, start=1):
        if show_progress:
            print(f"{index} of {len(pending)}: {variant.label}", flush=True)
        try:
            result = _play(checkpoints, variant, play, len(sessions), num_envs, show_progress)
        except KeyboardInterrupt:
            kept = f"{out} has {len(results)} of {len(earlier) + len(pending)} ways to act" if results else ""
            message = f"{kept}; the same command continues" if kept else "nothing was kept"
            raise KeyboardInterrupt(message) from None
        results = (*results, result)
        comparison = ActingComparison(settings, (*sessions, session), plan.left_out, results)
        comparison.write(out)
    assert comparison is not None  # the default is in the file or was pending
    return comparison


def _play(
    checkpoints: Sequence[Path],
    variant: ActingVariant,
    play: PlayConfig,
    session: int,
    num_envs: int,
    show_progress: bool,
) -> VariantResult:
    """Play the episodes of a variant."""
    evaluation = evaluate_runs(
        checkpoints,
        dataclasses.replace(play, protocol=variant.protocol, sampling=variant.sampling),
        return_multiples=None if variant.return_multiple is None else [variant.return_multiple],
        return_percentiles=None if variant.return_percentile is None else [variant.return_percentile],
        num_envs=num_envs,
        show_progress=show_progress,
    )
    runs = [
        RunEpisodes(
            result.target_return if evaluation.conditioned else None,
            tuple(result.scores.tolist()),
            tuple(result.returns.tolist()),
            tuple(result.lengths.tolist()),
        )
        for (result,) in evaluation.results
    ]
    return VariantResult(variant, session, float(evaluation.random.scores.mean()), tuple(runs))


def _find_settings(
    checkpoints: Sequence[Path], configs: Sequence[CheckpointConfig], play: PlayConfig
) -> ComparisonSettings:
    """Return what all variants have in common; `plan_variants` has checked the configs."""
    runs = []
    for checkpoint, config in zip(checkpoints, configs, strict=True):
        dataset = config.dataset
        assert dataset is not None
        assert dataset.max_return is not None
        updates = checkpoint_updates(checkpoint)
        run = checkpoint.absolute() if updates is None else checkpoint.absolute().parents[1]
        seed = None if config.training is None else config.training.seed
        returns = dataset.max_return, dataset.mean_return
        load_model(checkpoint)  # raises if it is damaged
        digest = weights_sha256(checkpoint)
        runs.append(ComparedRun(shorten_path(run), digest, seed, updates, dataset.digest, *returns))
    if len({run.weights_sha256 for run in runs}) < len(runs):
        raise InputError("two of these runs have the same weights; give each run once")
    dataset = configs[0].dataset
    assert dataset is not None
    return ComparisonSettings(
        game=dataset.game,
        reward_clipping=dataset.reward_clipping,
        method=configs[0].model.method,
        runs=tuple(runs),
        episodes=play.episodes,
        max_steps=play.max_steps,
        seed=play.seed,
        rom_sha256=rom_sha256(find_game(dataset.game)),
    )


def _read_earlier(out: Path, settings: ComparisonSettings) -> ActingComparison | None:
    """Return the comparison in ``out``; None if there is no such file.

    Raises:
        InputError: If the file is another one, or has other settings.
    """
    comparison = ActingComparison.read(out)
    if comparison is None:
        return None
    runs = [(run.name, run.weights_sha256) for run in comparison.settings.runs]
    if runs != [(run.name, run.weights_sha256) for run in settings.runs]:
        names = ", ".join(name for name, _ in runs)
        raise InputError(
            f"{out} has results of other runs ({names}), or of these runs before they were trained on; choose another "
            "`out`"
        )
    if differences := describe_differences(vars(comparison.settings), vars(settings), ignore=("runs",)):
        raise InputError(f"{out} has results of other settings: {differences}; use the same, or choose another `out`")
    return comparison
