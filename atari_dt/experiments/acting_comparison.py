"""Play trained models in one way after another, and keep the results in a file that a later call completes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
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
from atari_dt.experiments.acting_variants import ActingPlan
from atari_dt.games.catalogue import find_game
from atari_dt.hardware import find_device
from atari_dt.methods.registry import load_model
from atari_dt.model.pretrained import checkpoint_updates
from atari_dt.rendering.study_file import Session, strip_paths
from replay_data import InputError
from replay_data.storage.paths import check_writable
from replay_data.storage.regular_files import hash_file


def compare_acting(
    checkpoints: Sequence[Path],
    plan: ActingPlan,
    out: Path,
    play: PlayConfig,
    command: Sequence[str],
    *,
    num_envs: int = 16,
    show_progress: bool = True,
) -> ActingComparison:
    """Play every variant that ``out`` does not have yet, and write ``out`` after each.

    Args:
        checkpoints: Checkpoints, one for each training seed.
        plan: Variants to play, from the configs of these checkpoints.
        out: JSON file of the results. If it exists, it must have the same models and settings, and keeps its variants.
        play: Episodes, limit of steps, seed and device; the variants replace its protocol and sampling.
        command: Words of the command line, for the record.
        num_envs: Number of environments stepped in parallel; the scores do not depend on it.
        show_progress: Whether to show progress bars and to print a line for each variant.

    Raises:
        InputError: If a checkpoint is damaged, two of them are the same, the models differ in more than their seed, or
            ``out`` cannot be written or is another file.
        KeyboardInterrupt: On Ctrl-C; the same call continues with the variant that was interrupted.
    """
    device = find_device(play.device)
    settings = _read_settings(checkpoints, play)
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
            evaluation = evaluate_runs(
                checkpoints,
                dataclasses.replace(play, protocol=variant.protocol, sampling=variant.sampling),
                return_multiples=None if variant.return_multiple is None else [variant.return_multiple],
                return_percentiles=None if variant.return_percentile is None else [variant.return_percentile],
                num_envs=num_envs,
                show_progress=show_progress,
            )
        except KeyboardInterrupt:
            kept = f"{out} has {len(results)} of {len(earlier) + len(pending)} ways to act; the same command continues"
            raise KeyboardInterrupt(kept if results else "nothing was kept") from None
        episodes = tuple(
            RunEpisodes(
                target_return=result.target_return if evaluation.conditioned else None,
                scores=tuple(result.scores.tolist()),
                returns=tuple(result.returns.tolist()),
                lengths=tuple(result.lengths.tolist()),
            )
            for (result,) in evaluation.results
        )
        result = VariantResult(variant, len(sessions), float(evaluation.random.scores.mean()), episodes)
        results = (*results, result)
        comparison = ActingComparison(settings, (*sessions, session), plan.left_out, results)
        comparison.write(out)
    assert comparison is not None  # the default is in the file or was pending
    return comparison


def _read_settings(checkpoints: Sequence[Path], play: PlayConfig) -> ComparisonSettings:
    """Return the settings of all variants."""
    models = [load_model(checkpoint) for checkpoint in checkpoints]
    datasets = [model.require_dataset() for model in models]
    runs = []
    for checkpoint, model, dataset in zip(checkpoints, models, datasets, strict=True):
        assert dataset.max_return is not None  # checked by the plan
        updates, path = checkpoint_updates(checkpoint), checkpoint.absolute()
        run = ComparedRun(
            name=strip_paths(str(path if updates is None else path.parents[1])),
            weights_sha256=hash_file(checkpoint / "model.safetensors"),
            seed=None if model.training_config is None else model.training_config.seed,
            updates=updates,
            data_digest=dataset.digest,
            max_return=dataset.max_return,
            mean_return=dataset.mean_return,
        )
        runs.append(run)
    if len({run.weights_sha256 for run in runs}) < len(runs):
        raise InputError("two of these runs have the same weights; give each run once")
    return ComparisonSettings(
        game=datasets[0].game,
        reward_clipping=datasets[0].reward_clipping,
        method=models[0].config.method,
        runs=tuple(runs),
        episodes=play.episodes,
        max_steps=play.max_steps,
        seed=play.seed,
        rom_sha256=rom_sha256(find_game(datasets[0].game)),
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
