"""A page to scrub through an episode with: one HTML file that needs no network."""

from __future__ import annotations

import base64
import html
import json
import zlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from atari_dt.interpretation.attention import token_types
from atari_dt.interpretation.episode_trace import EpisodeTrace, TracedEvaluation
from atari_dt.rendering.video import STEPS_PER_SECOND

Maps = Mapping[str, npt.NDArray[np.float32]]

_LEVELS = 15  # of saliency, in each direction


def viewer_page(recording: TracedEvaluation, saliency: Sequence[Maps]) -> str:
    """Pack episodes into the page, with everything that it shows.

    Attention weights are kept as 8-bit square roots (at most 0.4% off, less where they are small), probabilities in 16
    bits, saliency in 31 levels relative to the largest of its step.

    Args:
        recording: what was played.
        saliency: for each episode its maps by name, each float32 ``[T, K + 3, cells, cells]`` (see
            `atari_dt.interpretation.saliency.by_frame`).

    Returns:
        HTML.
    """
    config, result = recording.model.config, recording.result
    data = {
        "run": str(recording.checkpoint),
        "about": f"{recording.conditions}, seed {recording.seed}",
        "contextLength": config.context_length,
        "layers": config.num_layers,
        "heads": config.num_heads,
        "kinds": token_types(config.conditioning),
        "conditioned": recording.conditioned,
        "actions": recording.dataset.action_meanings,
        "targets": recording.targets.tolist(),
        "targetLabels": [recording.target_label(target) for target in recording.targets.tolist()],
        "played": recording.played,
        "stepsPerSecond": STEPS_PER_SECOND,
        "saliency": list(saliency[0]),
        "episodes": [
            {"score": score, "steps": len(episode), "cutOff": recording.cut_off(episode), **_pack(episode, maps)}
            for episode, maps, score in zip(recording.episodes, saliency, result.scores.tolist(), strict=True)
        ],
    }
    title = html.escape(f"{recording.game.name}: what the model attends to")
    template = resources.files(__package__).joinpath("viewer.html").read_text(encoding="utf-8")
    # No "<" is left in the data, so that nothing in it can end its element.
    return template.replace("{{title}}", title).replace(
        "{{data}}", json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    )


def _pack(episode: EpisodeTrace, maps: Maps) -> dict[str, Any]:
    everything = np.arange(len(episode))
    newest = episode.returns_to_go[everything, episode.num_steps - 1]
    return {
        "screenSize": episode.screens.shape[1:],
        "palette": _deflated(episode.palette),
        "screens": _deflated(_differences(episode.screens)),
        "frames": _deflated(_differences(episode.states[:, 3])),
        "actions": _deflated(episode.actions.astype(np.uint8)),
        "scores": _deflated(episode.scores.astype("<f4")),
        "returnsToGo": _deflated(newest.astype("<f4")),
        "attention": _deflated(_square_roots(episode.attention)),
        "rollout": _deflated(_square_roots(episode.rollout)),
        "probabilities": _deflated(np.rint(episode.probabilities * 65535).astype("<u2")),
        "saliency": {
            name: {"cells": values.shape[-1], "values": _deflated(_levels(values))} for name, values in maps.items()
        },
    }


def _deflated(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()


def _differences(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The first frame, and each other one's exclusive or with the one before: mostly zeros."""
    return np.concatenate([frames[:1], frames[1:] ^ frames[:-1]])


def _square_roots(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.rint(255 * np.sqrt(weights.clip(0, 1))).astype(np.uint8)


def _levels(saliency: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    most = np.abs(saliency).max((1, 2, 3), keepdims=True)
    return np.rint(np.sign(saliency) * _LEVELS * np.sqrt(np.abs(saliency) / np.maximum(most, 1e-30))).astype(np.int8)
