"""The saliency maps of traced episodes that the pictures, the video and the page show."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from atari_dt.batches.contexts import ContextBatch
from atari_dt.hardware import translate_out_of_memory
from atari_dt.interpretation.episode_trace import EpisodeTrace, Floats, TracedEvaluation
from atari_dt.interpretation.saliency import gradient_times_input, occlusion, sum_by_cell, sum_by_frame
from atari_dt.interpretation.saliency_vectors import entry_occlusion
from atari_dt.interpretation.visualization_config import Explained, SaliencyConfig
from atari_dt.methods.registry import find_method
from atari_dt.model.pretrained import PretrainedModel
from replay_data.progress import ProgressBar

GRADIENT, OCCLUSION = "gradient × input", "occlusion"

_CELLS = 14  # cells of a gradient map along a side, of 6 pixels each

_BATCH_SIZE = 16  # contexts in one backward pass


def name_explained(traced: TracedEvaluation, explain: Explained) -> str:
    """Return the name of what saliency explains, as in a sentence, such as ``"the logit"``."""
    score = find_method(traced.model.config).action_score
    return score if explain == "score" else "the advantage"


def saliency_maps(traced: TracedEvaluation, config: SaliencyConfig, show_progress: bool) -> list[dict[str, Floats]]:
    """Compute the saliency maps of every step of every episode.

    Args:
        traced: Traced evaluation.
        config: What is explained, and by which methods.
        show_progress: Whether to show a progress bar on standard error.

    Returns:
        The maps of each episode by method, float32 ``[T, K + 3, cells, cells]``; of a model of vectors, the saliency of
        entries, ``[T, K, D]``.

    Raises:
        InputError: If the device has too little memory.
    """
    return [_episode_maps(traced, episode, config, show_progress) for episode in traced.episodes]


def newest_state_maps(
    traced: TracedEvaluation, episode: EpisodeTrace, step: int, config: SaliencyConfig
) -> dict[str, Floats]:
    """Compute the saliency maps of a step's newest state by name, each ``[4, cells, cells]``, or ``[D]`` of vectors."""
    batch = episode.batch(np.array([step]), next(traced.model.parameters()).device)
    newest = int(episode.num_steps[step]) - 1
    if traced.model.observation.is_vector:
        entries = {
            GRADIENT: gradient_times_input(traced.model, batch, config.explain),
            OCCLUSION: entry_occlusion(traced.model, batch, last_steps=1, explain=config.explain),
        }
        return {name: saliency[0, newest].cpu().numpy() for name, saliency in entries.items()}
    drops = occlusion(traced.model, batch, config.patch, last_steps=1, explain=config.explain)
    maps = {
        GRADIENT: sum_by_cell(gradient_times_input(traced.model, batch, config.explain), _CELLS),
        f"{OCCLUSION} ({config.patch}×{config.patch} pixels)": drops,
    }
    return {name: saliency[0, newest].cpu().numpy() for name, saliency in maps.items()}


def _episode_maps(
    traced: TracedEvaluation, episode: EpisodeTrace, config: SaliencyConfig, show_progress: bool
) -> dict[str, Floats]:
    model = traced.model
    device = next(model.parameters()).device
    maps: dict[str, list[Floats]] = {GRADIENT: [], **({OCCLUSION: []} if config.occlusion else {})}
    with (
        ProgressBar(total=len(episode), unit="step", desc="saliency", leave=False, disable=not show_progress) as bar,
        translate_out_of_memory(device, "`episodes`, or set `device` to cpu"),
    ):
        for steps in np.array_split(np.arange(len(episode)), -(-len(episode) // _BATCH_SIZE)):
            batch = episode.batch(steps, device)
            maps[GRADIENT].append(_gradient(model, batch, config).cpu().numpy())
            if config.occlusion:
                maps[OCCLUSION].append(_occlusion(model, batch, config).cpu().numpy())
            bar.update(len(steps))
    return {name: np.concatenate(batches) for name, batches in maps.items()}


def _gradient(model: PretrainedModel, batch: ContextBatch, config: SaliencyConfig) -> Tensor:
    """Return gradient × input of contexts, ``[B, K + 3, cells, cells]``, or ``[B, K, D]`` of vectors."""
    saliency = gradient_times_input(model, batch, config.explain)
    return saliency if model.observation.is_vector else sum_by_cell(sum_by_frame(saliency), _CELLS)


def _occlusion(model: PretrainedModel, batch: ContextBatch, config: SaliencyConfig) -> Tensor:
    """Return the occlusion of the newest states, with the shape of `_gradient`, with cells of the config's patches."""
    if model.observation.is_vector:
        return entry_occlusion(model, batch, last_steps=1, explain=config.explain)
    return sum_by_frame(occlusion(model, batch, config.patch, last_steps=1, explain=config.explain))
