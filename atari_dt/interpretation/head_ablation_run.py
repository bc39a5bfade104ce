"""Ablate every head and layer of a trained model: record contexts, measure effects, and play with each ablation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from atari_dt.config import ModelConfig
from atari_dt.environment.rom import rom_sha256
from atari_dt.evaluation.evaluator import evaluate, evaluate_policy, make_dataset_env
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.games.catalogue import find_game
from atari_dt.hardware import find_device, keep_freed_memory, translate_out_of_memory
from atari_dt.interpretation.head_ablation import Contexts, list_ablations, measure_effect, observe
from atari_dt.interpretation.head_ablation_results import AblationResult, HeadResults, HeadSettings
from atari_dt.interpretation.head_ablation_study import HeadStudy
from atari_dt.interpretation.tracing import played_target_return
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.pretrained import latest_checkpoint, read_checkpoint_config
from atari_dt.policies.decision_transformer import DecisionTransformerPolicy
from atari_dt.policies.policy import Floats, Ints
from atari_dt.rendering.study_file import Session
from replay_data import InputError
from replay_data.progress import ProgressBar
from replay_data.storage.atomic import atomic_directory, atomic_write
from replay_data.storage.paths import check_new_directory
from replay_data.storage.regular_files import hash_file

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
    """Measure the effect of ablating each head and each layer's attention of a trained model.

    The intact model plays episodes, and the effects are measured on a sample of their contexts. Each ablated model then
    plays the same episodes: the same emulator seeds, and the same random numbers for its actions. Uniform attention of
    a single head is measured but not played. All models act without a cache.

    ``heads.json`` is written after every ablation that was played, and ``heads.png`` at the end. If ``out`` holds a
    study with the same settings, the study continues.

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
        KeyboardInterrupt: On Ctrl-C; the same call continues with the ablation that was interrupted.
        OSError: If a file cannot be written.
    """
    play = play or PlayConfig()
    if max_contexts < 1:
        raise InputError(f"`max_contexts` must be at least 1, not {max_contexts}")
    device = find_device(play.device)
    if device.type == "cpu":
        keep_freed_memory()
    model, settings = _load(run_directory, play, max_contexts, (return_multiple, return_percentile, target_return))
    play = dataclasses.replace(play, protocol=settings.protocol)
    results = _read_earlier(out, settings)
    try:
        if results is None or (scores and results.unplayed):
            session = Session.begin(command, device)
            with translate_out_of_memory(device, "`max_contexts`"):
                results = _run(model.to(device), out, play, session, settings, results, scores, show_progress)
    except KeyboardInterrupt:
        kept = "the finished ablations are kept; run the same command again to resume"
        raise KeyboardInterrupt(kept if (out / STUDY_FILE).exists() else "nothing was kept") from None
    study = HeadStudy(results)
    atomic_write(out / FIGURE_FILE, study.figures()[""])
    return study


def _run(
    model: DecisionTransformer,
    out: Path,
    play: PlayConfig,
    session: Session,
    settings: HeadSettings,
    earlier: HeadResults | None,
    scores: bool,
    show_progress: bool,
) -> HeadResults:
    """Measure all effects, and play with the ablations that have no scores in the earlier results."""
    intact_scores, contexts = _play_intact(model, settings, play, show_progress)
    if earlier is not None and earlier.scores != intact_scores:
        raise InputError(
            f"the intact model does not score as it did for {out / STUDY_FILE}, which another version or machine may "
            "have written; choose another directory"
        )
    observed = observe(model, contexts)
    ablations = list_ablations(settings.num_layers, settings.num_heads)
    bar = ProgressBar(ablations, unit="ablation", desc="measuring", leave=False, disable=not show_progress)
    effects = [measure_effect(model, contexts, observed, ablation) for ablation in bar]
    earlier_scores = [None for _ in ablations] if earlier is None else [each.scores for each in earlier.ablations]
    results = HeadResults(
        session=session,
        settings=settings,
        num_contexts=len(contexts),
        scores=intact_scores,
        entropy=tuple(map(tuple, observed.attention.entropy.tolist())),
        mean_distance=tuple(map(tuple, observed.attention.mean_distance.tolist())),
        ablations=tuple(map(AblationResult, ablations, effects, earlier_scores)),
    )
    if earlier is None:
        with atomic_directory(out) as directory:
            results.write(directory / STUDY_FILE)
    if scores:
        target = 0.0 if settings.target_return is None else settings.target_return
        for index in ProgressBar(results.unplayed, unit="ablation", desc="playing", disable=not show_progress):
            ablated = ablations[index].apply(model, observed.means)
            (result,) = evaluate(ablated, [target], play, num_envs=_NUM_ENVS, show_progress=False)
            results = results.with_scores(index, tuple(result.scores.tolist()))
            results.write(out / STUDY_FILE)
    return results


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
        weights_sha256=hash_file(checkpoint / "model.safetensors"),
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


def _read_earlier(out: Path, settings: HeadSettings) -> HeadResults | None:
    """Return the results in a directory, or None if the directory does not exist.

    Raises:
        InputError: If the directory holds anything else, or a study with other settings.
    """
    if not (out / STUDY_FILE).exists():
        check_new_directory(out)
    earlier = HeadResults.read(out / STUDY_FILE)
    if earlier is not None and (differences := earlier.settings.differences(settings)):
        raise InputError(f"{out} holds a study with other settings: {differences}; choose another directory")
    return earlier


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


class ContextRecorder:
    """Policy that keeps a random sample of the full contexts of another policy.

    Every context of K steps has the same chance to be in the sample (Vitter 1985, algorithm R), whatever the number and
    the lengths of the episodes. Shorter contexts, of the first steps of an episode, are left out.

    Args:
        policy: Policy that plays, with ``keep_last_step``.
        context_length: K.
        max_contexts: Size of the sample; all contexts are kept if there are fewer.
        seed: Seed of the sample.
    """

    def __init__(self, policy: DecisionTransformerPolicy, context_length: int, max_contexts: int, seed: int):
        self._policy, self._context_length, self._max_contexts = policy, context_length, max_contexts
        self._rng = np.random.default_rng(seed)
        self._num_seen = 0
        self._sample: list[tuple[Tensor, ...]] = []

    @property
    def returns_to_go(self) -> Floats:
        """Return-to-go of each environment, float32 ``[N]``."""
        return self._policy.returns_to_go

    def start(self, env_indices: Ints, target_returns: Floats, seeds: Ints) -> None:
        """Begin an episode in each of the given environments."""
        self._policy.start(env_indices, target_returns, seeds)

    @torch.inference_mode()
    def act(self, env_indices: Ints, states: npt.NDArray[np.uint8], rewards: Floats) -> Ints:
        """Choose actions with the other policy, int64 ``[M]``, and sample the contexts."""
        actions = self._policy.act(env_indices, states, rewards)
        step = self._policy.last_step
        assert step is not None
        inputs = step.forward_pass
        taken = torch.from_numpy(actions).to(inputs.actions.device)[:, None]
        columns = inputs.state_tokens, torch.cat([inputs.actions, taken], 1), inputs.returns_to_go, inputs.timesteps
        for row in np.flatnonzero(step.num_steps == self._context_length):
            index = len(self._sample)
            if index == self._max_contexts:
                index = int(self._rng.integers(self._num_seen + 1))
            self._num_seen += 1
            if index < self._max_contexts:
                self._sample[index : index + 1] = [tuple(values[row].clone() for values in columns)]
        return actions

    def contexts(self) -> Contexts:
        """Return the sample.

        Raises:
            InputError: If no episode lasted K steps.
        """
        if not self._sample:
            raise InputError(
                f"no episode lasted {self._context_length} steps, the model's context length; change `seed` or raise "
                "`episodes`"
            )
        return Contexts(*(torch.stack(column) for column in zip(*self._sample, strict=True)))
