"""Ablate every head and layer of a trained model: record contexts, measure effects, and play with each ablation."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from atari_dt.config import ModelConfig
from atari_dt.environment.rom import rom_sha256
from atari_dt.evaluation.evaluator import evaluate, evaluate_policy, make_dataset_env
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.games.catalogue import find_game
from atari_dt.hardware import find_device, keep_freed_memory, translate_out_of_memory
from atari_dt.interpretation.head_ablation import Contexts, list_ablations, measure_effect, observe
from atari_dt.interpretation.head_ablation_contexts import ContextRecorder
from atari_dt.interpretation.head_ablation_results import AblationResult, HeadResults, HeadSettings
from atari_dt.interpretation.head_ablation_study import HeadStudy
from atari_dt.interpretation.tracing import played_target_return
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.pretrained import latest_checkpoint, read_checkpoint_config
from atari_dt.policies.decision_transformer import DecisionTransformerPolicy
from atari_dt.rendering.study_file import Session, weights_sha256
from replay_data import InputError
from replay_data.progress import ProgressBar
from replay_data.storage.atomic import atomic_write
from replay_data.storage.locks import exclusive_lock
from replay_data.storage.paths import check_new_directory

STUDY_FILE, FIGURE_FILE = "heads.json", "heads.png"

_NUM_ENVS = 16  # environments stepped in parallel; the order of the contexts, and so their sample, depends on it


def ablate_heads(
    run_directory: Path,
    out: Path,
    play: PlayConfig | None = None,
    *,
    max_contexts: int = 2000,
    scores: bool = True,
    return_multiple: float | None = None,
    return_percentile: int | None = None,
    target_return: float | None = None,
    command: Sequence[str] = (),
    show_progress: bool = True,
) -> HeadStudy:
    """Measure what each head and each layer's attention of a trained model does, by ablating it.

    The intact model plays episodes, and the effects are measured on a sample of their contexts. Each ablated model then
    plays the same episodes: the same emulator seeds, and the same random numbers for its actions. Models whose heads
    have uniform attention play only for whole layers. All of them act without a cache.

    ``out`` gets ``heads.json``, which grows with every ablation that was played, and ``heads.png`` at the end. If it
    holds the unfinished study of an earlier call with the same settings, the study continues.

    Args:
        run_directory: Run directory or checkpoint of a Decision Transformer or of behavior cloning.
        out: Directory to create or to continue in.
        play: How the models play.
        max_contexts: Largest number of contexts to measure effects on.
        scores: Whether the ablated models play.
        return_multiple: Target return as a multiple of the dataset's largest return; 1 by default.
        return_percentile: Target return as a percentile of the dataset's episode returns, instead of a multiple.
        target_return: Target return in the dataset's reward units, instead of a multiple.
        command: Words of the command line, for the record.
        show_progress: Whether to show progress bars on standard error.

    Raises:
        InputError: If the model is of another method, the run, ROM or device does not exist, a number is out of range,
            the protocol does not fit the model, no episode lasted K steps, or ``out`` holds something else.
        OSError: If a file cannot be written.
    """
    play = play or PlayConfig()
    if max_contexts < 1:
        raise InputError(f"`max_contexts` must be at least 1, not {max_contexts}")
    device = find_device(play.device)
    if device.type == "cpu":
        keep_freed_memory()
    model, settings = _load(run_directory, play, max_contexts, (return_multiple, return_percentile, target_return))
    model = model.to(device)
    play = dataclasses.replace(play, protocol=settings.protocol)
    with _study_directory(out):
        earlier = _read_earlier(out, settings)
        session = Session.begin(command, device)
        with translate_out_of_memory(device, "`max_contexts`"):
            intact_scores, contexts = _play_intact(model, settings, play, show_progress)
            observed = observe(model, contexts)
            ablations = list_ablations(settings.num_layers, settings.num_heads)
            bar = ProgressBar(ablations, unit="ablation", desc="measuring", leave=False, disable=not show_progress)
            effects = [measure_effect(model, contexts, observed, ablation) for ablation in bar]
        results = HeadResults(
            session=session,
            settings=settings,
            num_contexts=len(contexts),
            scores=intact_scores,
            entropy=tuple(map(tuple, observed.attention.entropy.tolist())),
            mean_distance=tuple(map(tuple, observed.attention.mean_distance.tolist())),
            ablations=tuple(AblationResult(*pair) for pair in zip(ablations, effects, strict=True)),
        )
        if earlier is not None:
            results = _continue(results, earlier, out)
        results.write(out / STUDY_FILE)
        played = [index for index, ablation in enumerate(ablations) if ablation.plays] if scores else []
        missing = [index for index in played if results.ablations[index].scores is None]
        target = 0.0 if settings.target_return is None else settings.target_return
        for index in ProgressBar(missing, unit="ablation", desc="playing", disable=not (missing and show_progress)):
            ablated = ablations[index].apply(model, observed.means)
            (result,) = evaluate(ablated, [target], play, num_envs=_NUM_ENVS, show_progress=False)
            results = results.with_scores(index, tuple(result.scores.tolist()))
            results.write(out / STUDY_FILE)
        study = HeadStudy(results)
        atomic_write(out / FIGURE_FILE, study.figures()[""])
    return study


def _load(
    run_directory: Path, play: PlayConfig, max_contexts: int, target: tuple[float | None, int | None, float | None]
) -> tuple[DecisionTransformer, HeadSettings]:
    """Return the model of a run, and the settings of its study.

    Args:
        run_directory, play, max_contexts: As in `ablate_heads`.
        target: Multiple, percentile and number of the target return, as in `played_target_return`.
    """
    checkpoint = latest_checkpoint(run_directory)
    config = read_checkpoint_config(checkpoint).model
    if not isinstance(config, ModelConfig):
        raise InputError(
            f"{checkpoint} holds a model of {config.title}; only the heads of this project's Decision Transformer and "
            "of behavior cloning can be ablated"
        )
    if play.max_steps < config.context_length:
        raise InputError(f"`max_steps` must be at least {config.context_length}, the model's context length")
    if play.protocol.cache == "on":
        raise InputError("`cache` must be 'auto' or 'off': ablated models act without a cache")
    play.planning.check(config)
    model = DecisionTransformer.from_pretrained(checkpoint)
    dataset = model.require_dataset()
    environment = play.environment(dataset)
    parts = [part for part in checkpoint.absolute().parts if part not in ("checkpoints", "training")]
    settings = HeadSettings(
        game=find_game(dataset.game).name,
        method="dt" if config.conditioned else "bc",
        run="/".join(parts[-2:]),
        weights_sha256=weights_sha256(checkpoint),
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        context_length=config.context_length,
        target_return=played_target_return(model, *target),
        protocol=dataclasses.replace(play.protocol, cache="off").resolved(dataset, config),
        sampling=play.sampling,
        seed=play.seed,
        episodes=play.episodes,
        max_steps=play.max_steps,
        rom_sha256=rom_sha256(find_game(dataset.game), environment.rom),
        max_contexts=max_contexts,
    )
    return model, settings


def _play_intact(
    model: DecisionTransformer, settings: HeadSettings, play: PlayConfig, show_progress: bool
) -> tuple[tuple[float, ...], Contexts]:
    """Play episodes with the intact model; return their scores, and a sample of their contexts."""
    dataset = model.require_dataset()
    num_envs = min(_NUM_ENVS, play.episodes)
    policy = DecisionTransformerPolicy(model, num_envs, play.protocol, play.sampling, keep_last_step=True)
    recorder = ContextRecorder(policy, settings.context_length, settings.max_contexts, play.seed)
    env = make_dataset_env(dataset, num_envs, play.environment(dataset), model.observation)
    target = 0.0 if settings.target_return is None else settings.target_return
    (result,) = evaluate_policy(
        recorder, env, [target], play.episodes, dataset.reward_clipping, play.seed, show_progress
    )
    return tuple(result.scores.tolist()), recorder.contexts()


@contextmanager
def _study_directory(out: Path) -> Iterator[None]:
    """Create and lock the directory of a study; remove it again if nothing was written."""
    partial = f".{STUDY_FILE}.partial-"
    killed = out.is_dir() and all(path.name.startswith(partial) for path in out.iterdir())  # before the first file
    if not killed and not (out / STUDY_FILE).exists():
        check_new_directory(out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive_lock(out, "ablating heads in"):
            yield
    except KeyboardInterrupt:
        kept = "the finished ablations are kept; run the same command again to resume"
        raise KeyboardInterrupt(kept if (out / STUDY_FILE).exists() else "nothing was kept") from None
    finally:
        with contextlib.suppress(OSError):  # it holds files
            out.rmdir()


def _read_earlier(out: Path, settings: HeadSettings) -> HeadResults | None:
    """Return the results of the unfinished study in a directory, or None if there is none.

    Raises:
        InputError: If the study is finished, or has other settings.
    """
    earlier = HeadResults.read(out / STUDY_FILE)
    if earlier is None:
        return None
    if differences := earlier.settings.differences(settings):
        raise InputError(f"{out} holds a study with other settings: {differences}; choose another directory")
    if (out / FIGURE_FILE).exists() and all(result.scores for result in earlier.ablations if result.ablation.plays):
        raise InputError(f"{out} holds the finished study already; choose another directory or delete it first")
    return earlier


def _continue(results: HeadResults, earlier: HeadResults, out: Path) -> HeadResults:
    """Return results with the scores of earlier ones.

    Raises:
        InputError: If the intact model scores otherwise, so that the scores are not comparable.
    """
    if earlier.scores != results.scores:
        raise InputError(
            f"the intact model does not score as it did for {out / STUDY_FILE}, which another version or machine may "
            "have written; choose another directory"
        )
    for index, result in enumerate(earlier.ablations):
        if result.scores is not None:
            results = results.with_scores(index, result.scores)
    return results
