"""The viewer: one HTML file that shows traced episodes step by step, without network access."""

from __future__ import annotations

import base64
import html
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from atari_dt.interpretation.episode_trace import EpisodeTrace, Floats, TracedEvaluation
from atari_dt.interpretation.predictions import predict_next
from atari_dt.rendering.video import STEPS_PER_SECOND

SaliencyMaps = Mapping[str, Floats]

_SALIENCY_LEVELS = 15  # of each sign


def viewer_page(traced: TracedEvaluation, saliency: Sequence[SaliencyMaps], explained: str) -> str:
    """Return the page with the episodes packed into it.

    Attention weights are stored as 8-bit square roots (an error of at most 0.4%, less for small weights), probabilities
    and Q in 16 bits, and saliency in 31 levels relative to the step's largest value. Predicted states are rounded.

    Args:
        traced: Traced evaluation.
        saliency: Saliency maps of each episode by method, each float32 ``[T, K + 3, cells, cells]`` (see
            `atari_dt.interpretation.saliency.sum_by_frame`), or ``[T, K, D]`` of vectors.
        explained: What the saliency raises and lowers, such as ``"the logit"``.

    Returns:
        HTML.
    """
    num_layers, num_heads = traced.episodes[0].attention.shape[1:3]
    data = {
        "run": str(traced.checkpoint),
        "settings": f"{traced.overrides}, seed {traced.seed}",
        "contextLength": traced.context_length,
        "numLayers": num_layers,
        "numHeads": num_heads,
        "tokenTypes": traced.token_types,
        "leadIn": traced.lead_in,
        "observation": traced.model.observation.kind,
        "entryNames": traced.entry_names,
        "conditioned": traced.conditioned,
        "actionMeanings": traced.dataset.action_meanings,
        "targetReturns": traced.target_returns.tolist(),
        "targetReturnLabels": [traced.target_label(target) for target in traced.target_returns.tolist()],
        "playedIndex": traced.played_index,
        "stepsPerSecond": STEPS_PER_SECOND,
        "preference": traced.preference,
        "saliencyMethods": list(saliency[0]),
        "explained": explained,
        "episodes": [
            {
                "score": score,
                "numSteps": len(episode),
                "truncated": traced.truncated(episode),
                **_pack(episode, maps),
                **_pack_preferences(traced, episode),
                **(_pack_entries(traced, episode) if traced.entry_names else {}),
            }
            for episode, maps, score in zip(traced.episodes, saliency, traced.result.scores.tolist(), strict=True)
        ],
    }
    title = html.escape(traced.title)
    template = resources.files(__package__).joinpath("viewer.html").read_text(encoding="utf-8")
    # Escaping every "<" keeps the data from ending its own script element.
    embedded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return template.replace("{{title}}", title).replace("{{data}}", embedded)


def _pack(episode: EpisodeTrace, maps: SaliencyMaps) -> dict[str, Any]:
    """Return the arrays of an episode as base64 text."""
    returns_to_go = episode.returns_to_go[np.arange(len(episode)), episode.num_steps - 1]
    return {
        "screenSize": episode.screens.shape[1:],
        "palette": _deflate(episode.palette),
        "screens": _deflate(_xor_differences(episode.screens)),
        "frames": _deflate(_xor_differences(episode.frames)),
        "actions": _deflate(episode.actions.astype(np.uint8)),
        "scores": _deflate(episode.scores.astype("<f4")),
        "returnsToGo": _deflate(returns_to_go.astype("<f4")),
        "attention": _deflate(_square_roots(episode.attention)),
        "rollout": _deflate(_square_roots(episode.rollout)),
        "saliency": {
            name: {"size": math.prod(values.shape[2:]), "values": _deflate(_saliency_levels(values))}
            for name, values in maps.items()
        },
    }


def _pack_preferences(traced: TracedEvaluation, episode: EpisodeTrace) -> dict[str, Any]:
    """Return the probabilities or Q of an episode in 16 bits, and the range that the 16 bits span."""
    low, high = 0.0, 1.0
    if traced.preference != "probability":
        low, high = float(episode.preferences.min()), float(episode.preferences.max())
    levels = np.rint((episode.preferences - low) / max(high - low, 1e-30) * 65535)
    return {
        "preferences": _deflate(levels.astype("<u2")),
        "preferenceRange": (low, high),
        "largestSpread": episode.largest_spread,
    }


def _pack_entries(traced: TracedEvaluation, episode: EpisodeTrace) -> dict[str, Any]:
    """Return the vectors of an episode, and what the model predicted of the next ones, if it did."""
    packed: dict[str, Any] = {"states": _deflate(_xor_differences(episode.states))}
    predictions = predict_next(traced.model, episode)
    if predictions.states is not None:
        packed["predictedStates"] = _deflate(np.rint(predictions.states).clip(-(2**15), 2**15 - 1).astype("<i2"))
    if predictions.returns is not None:
        packed["predictedReturns"] = _deflate(predictions.returns.astype("<f4"))
    return packed


def _deflate(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 9)).decode()


def _xor_differences(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the first frame, and the exclusive or of each later frame with the previous one: mostly zeros."""
    return np.concatenate([frames[:1], frames[1:] ^ frames[:-1]])


def _square_roots(weights: Floats) -> npt.NDArray[np.uint8]:
    return np.rint(255 * np.sqrt(weights.clip(0, 1))).astype(np.uint8)


def _saliency_levels(saliency: Floats) -> npt.NDArray[np.int8]:
    """Return the signed square roots of saliency, scaled so that each step's largest value has the highest level."""
    largest = np.abs(saliency).max(tuple(range(1, saliency.ndim)), keepdims=True)
    roots = np.sqrt(np.abs(saliency) / np.maximum(largest, 1e-30))
    return np.rint(np.sign(saliency) * _SALIENCY_LEVELS * roots).astype(np.int8)
