"""Numbers that summarize where a model attends: the content of ``attention.json`` and the printed table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from atari_dt.interpretation.attention import AttentionByDistance, attention_by_distance
from atari_dt.interpretation.episode_trace import Floats, TracedEvaluation
from atari_dt.rendering.tables import align_columns
from replay_data import InputError
from replay_data.episode import STACK

FORMAT_VERSION = 2

_ENTRIES_IN_TABLE = 10


@dataclass(frozen=True)
class SaliencyShares:
    """Mean shares of the absolute saliency in full contexts.

    Attributes:
        newest_first: Share of each frame, newest first, float64 ``[K + 3]``; of each step, ``[K]``, for vectors.
        entry_names: Name of each entry of a vector; empty for frames.
        by_entry: Share of each entry, float64 ``[D]``; empty for frames.
    """

    newest_first: Floats
    entry_names: tuple[str, ...]
    by_entry: Floats

    def to_json(self) -> dict[str, Any]:
        """Return the shares as fields of ``attention.json`` and ``saliency.json``."""
        if not self.entry_names:
            return {"saliency_by_frame_newest_first": self.newest_first.tolist()}
        return {
            "saliency_by_step_newest_first": self.newest_first.tolist(),
            "saliency_by_entry": dict(zip(self.entry_names, self.by_entry.tolist(), strict=True)),
        }

    def to_table(self) -> str:
        """Return a table with the share of each frame, or of the entries with the largest shares."""
        if self.entry_names:
            largest = np.argsort(-self.by_entry, kind="stable")[:_ENTRIES_IN_TABLE]
            rows = [[self.entry_names[entry], f"{self.by_entry[entry]:.1%}"] for entry in largest]
            return align_columns([["entry", "share of the saliency"], *rows])
        shares = enumerate(self.newest_first)
        rows = [["newest" if distance == 0 else f"−{distance}", f"{share:.1%}"] for distance, share in shares]
        return align_columns([["frame", "share of the saliency"], *rows])


@dataclass(frozen=True)
class AttentionSummary:
    """Attention and saliency averaged over full contexts, and target-return sensitivity over all steps.

    Attributes:
        traced: Traced evaluation.
        attention: Attention by distance.
        shares: Mean shares of the absolute saliency.
        greedy_action_differs: Share of the steps whose most likely action differs between the lowest and the highest
            target return.
    """

    traced: TracedEvaluation
    attention: AttentionByDistance
    shares: SaliencyShares
    greedy_action_differs: float

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``attention.json``: shares of 1, entropy in nats, distances in steps."""
        traced = self.traced
        return {
            "format_version": FORMAT_VERSION,
            "game": traced.game.name,
            "run": str(traced.checkpoint),
            "seed": traced.seed,
            "target_return": traced.target_return if traced.conditioned else None,
            "scores": traced.result.scores.tolist(),
            "steps": [len(episode) for episode in traced.episodes],
            "num_contexts": self.attention.num_contexts,
            "context_length": traced.context_length,
            "token_types": traced.token_types,
            "attention_by_layer_head_distance_token_type": self.attention.weights.tolist(),
            "entropy_by_layer_head": self.attention.entropy.tolist(),
            "mean_distance_by_layer_head": self.attention.mean_distance.tolist(),
            **self.shares.to_json(),
            "lowest_and_highest_target_return": traced.target_returns[[0, -1]].tolist() if traced.conditioned else None,
            "greedy_action_differs": self.greedy_action_differs,
        }

    def to_table(self) -> str:
        """Return a table with the mean of each layer's heads, and uniform attention to compare with."""
        traced, attention = self.traced, self.attention
        layers, _, steps, num_types = attention.weights.shape
        rows = [["", "entropy (nats)", "mean distance (steps)", "newest step", *traced.token_types]]
        means = [
            (f"layer {layer + 1}", attention.entropy[layer].mean(), attention.weights[layer].mean(0))
            for layer in range(layers)
        ]
        uniform = ("uniform attention", np.log(num_types * steps - 1), attention.uniform)
        for name, entropy, weights in [*means, uniform]:
            mean_distance = weights.sum(1) @ np.arange(steps)
            shares = [f"{share:.1%}" for share in (weights[0].sum(), *weights.sum(0))]
            rows.append([name, f"{entropy:.2f}", f"{mean_distance:.1f}", *shares])
        lines = [align_columns(rows), ""]
        if self.shares.entry_names:
            lines += [self.shares.to_table(), "", f"The newest state holds {self.shares.newest_first[0]:.1%} of it."]
        else:
            newest = self.shares.newest_first[:STACK].sum()
            lines.append(f"The newest four frames hold {newest:.1%} of the saliency.")
        if traced.conditioned:
            lowest, highest = (traced.target_label(float(target)) for target in traced.target_returns[[0, -1]])
            lines.append(
                f"Between target returns {lowest} and {highest}, the most likely action differs in "
                f"{self.greedy_action_differs:.1%} of the steps."
            )
        lines.append(f"({attention.num_contexts:,} contexts of {steps} steps)")
        return "\n".join(lines)


def attention_of_full_contexts(traced: TracedEvaluation) -> AttentionByDistance:
    """Average attention by distance over all contexts of K steps.

    Raises:
        InputError: If no episode lasted K steps.
    """
    full_contexts = _full_contexts(traced)
    return attention_by_distance(
        np.concatenate([episode.attention[full] for episode, full in zip(traced.episodes, full_contexts, strict=True)])
    )


def summarize_attention(
    traced: TracedEvaluation, attention: AttentionByDistance, saliency: Sequence[Floats]
) -> AttentionSummary:
    """Summarize a traced evaluation.

    Args:
        traced: Traced evaluation.
        attention: Its attention by distance; see `attention_of_full_contexts`.
        saliency: Saliency maps of each episode; see `saliency_shares`.
    """
    greedy = np.concatenate([episode.preferences[:, [0, -1]].argmax(-1) for episode in traced.episodes])
    differs = float((greedy[:, 0] != greedy[:, 1]).mean())
    return AttentionSummary(traced, attention, saliency_shares(traced, saliency), differs)


def saliency_shares(traced: TracedEvaluation, saliency: Sequence[Floats]) -> SaliencyShares:
    """Return the shares of frames, or of steps and entries, in the absolute saliency, averaged over the full contexts.

    Args:
        traced: Traced evaluation.
        saliency: Saliency maps of each episode, float32 ``[T, K + 3, cells, cells]``, or ``[T, K, D]`` of vectors.

    Raises:
        InputError: If no episode lasted K steps.
    """
    full_contexts = _full_contexts(traced)
    absolute = [np.abs(maps[full]) for maps, full in zip(saliency, full_contexts, strict=True)]
    newest_first = _mean_shares([maps.sum(tuple(range(2, maps.ndim))) for maps in absolute])[::-1]
    names = traced.entry_names
    by_entry = _mean_shares([maps.sum(1) for maps in absolute]) if names else np.zeros(0, np.float32)
    return SaliencyShares(newest_first, names, by_entry)


def _mean_shares(amounts: Sequence[Floats]) -> Floats:
    """Return the share of each of P parts in the sum of its row, averaged over all rows of arrays ``[N, P]``."""
    shares = [rows / np.maximum(rows.sum(1, keepdims=True), 1e-30) for rows in amounts]
    return np.concatenate(shares).mean(0)


def _full_contexts(traced: TracedEvaluation) -> list[npt.NDArray[np.bool_]]:
    """Return which steps of each episode have a context of K steps, bool ``[T]``.

    Raises:
        InputError: If no step has.
    """
    context_length = traced.context_length
    full_contexts = [episode.num_steps == context_length for episode in traced.episodes]
    if not any(full.any() for full in full_contexts):
        raise InputError(
            f"no episode lasted {context_length} steps, the model's context length; change `seed` or raise `episodes`"
        )
    return full_contexts
