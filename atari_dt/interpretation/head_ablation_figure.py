"""The figure of an ablation of attention heads: what each head does, and whether its attention tells."""

from __future__ import annotations

import math
from typing import Any, get_args

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure, FigureBase
from matplotlib.image import AxesImage

from atari_dt.evaluation.statistics import interquartile_mean
from atari_dt.interpretation.head_ablation import Replacement
from atari_dt.interpretation.head_ablation_results import AblationResult, Doubles, HeadResults, rank_correlation
from atari_dt.rendering.figures import to_png

_SMALLEST = 1e-5  # nats; smaller divergences are drawn as this one, since a logarithmic scale has no 0

_TITLES: dict[Replacement, str] = {"mean": "output replaced by its mean", "uniform": "attention made uniform"}

_SCORES_HEIGHT = 2.6  # inches

_NUM_LABELS = 5  # heads of the scatter plot that are named


def draw_effects(results: HeadResults) -> bytes:
    """Draw the effect of each ablation as the content of a PNG file.

    Heat maps show the divergence of the actions for each head and layer, a scatter plot the divergence over the entropy
    of the head's attention, and, if the ablated models played, a row of points the change in their scores.
    """
    played = [result for result in results.ablations if result.scores is not None]
    layers, heads = results.settings.num_layers, results.settings.num_heads
    width, height = max(6.2 + 0.75 * (heads + 1), 11), max(1.9 + 0.34 * (layers + 1), 3.4)
    figure = Figure(figsize=(width, height + (_SCORES_HEIGHT if played else 0)), layout="constrained")
    top: FigureBase = figure
    if played:
        top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(height, _SCORES_HEIGHT))[:, 0]
    left, right, scatter = top.subplots(1, 3, width_ratios=(3, 3, 2.4))
    largest = max(result.effect.divergence for result in results.ablations)
    norm = LogNorm(_SMALLEST * 10, max(largest, _SMALLEST * 100), clip=True)
    images = [
        _draw_heat_map(axes, results, replacement, norm)
        for axes, replacement in zip((left, right), get_args(Replacement), strict=True)
    ]
    left.set_ylabel("layer")
    label = "KL(intact ‖ ablated) (nats)\nin cells: same most likely action"
    top.colorbar(images[0], ax=[left, right], label=label, shrink=0.9, pad=0.01)
    colors = mpl.colormaps["viridis"](np.linspace(0, 0.85, layers))
    _draw_scatter(scatter, results, colors)
    if played:
        _draw_scores(bottom.subplots(), results, played, colors)
    top.suptitle(f"{results.settings.title}: how the actions change without each head", fontsize=11)
    return to_png(figure)


def _draw_heat_map(axes: Axes, results: HeadResults, replacement: Replacement, norm: LogNorm) -> AxesImage:
    """Draw the divergence of each head, layer and all layers, with the share of the contexts whose action stays."""
    layers, heads = results.settings.num_layers, results.settings.num_heads
    values = np.full((layers + 1, heads + 1), np.nan)
    for result in results.ablations:
        ablation = result.ablation
        if ablation.replacement != replacement:
            continue
        row = layers if ablation.layer is None else ablation.layer
        column = heads if ablation.head is None else ablation.head
        values[row, column] = max(result.effect.divergence, _SMALLEST)
        color = "white" if norm(values[row, column]) < 0.6 else "black"
        axes.text(column, row, f"{result.effect.agreement:.0%}", ha="center", va="center", fontsize=7.5, color=color)
    image = axes.imshow(np.ma.masked_invalid(values), norm=norm, cmap="magma", aspect="auto")
    for edge in (heads - 0.5, layers - 0.5):
        draw = axes.axvline if edge == heads - 0.5 else axes.axhline
        draw(edge, color="white", linewidth=3)
    axes.set_xticks(range(heads + 1), [*map(str, range(1, heads + 1)), "all"])
    axes.set_yticks(range(layers + 1), [*map(str, range(1, layers + 1)), "all"])
    axes.set(xlabel="head", title=_TITLES[replacement])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


def _draw_scatter(axes: Axes, results: HeadResults, colors: Any) -> None:
    """Draw the divergence of each head's mean ablation over the entropy of its attention."""
    divergence = np.maximum(results.by_head("mean"), _SMALLEST)
    for layer, color in enumerate(colors):
        axes.plot(results.entropy[layer], divergence[layer], "o", color=color, label=f"layer {layer + 1}")
    for index in np.argsort(-divergence, axis=None, kind="stable")[:_NUM_LABELS]:
        layer, head = np.unravel_index(index, divergence.shape)
        axes.annotate(
            f"{layer + 1}.{head + 1}",
            (float(results.entropy[layer, head]), float(divergence[layer, head])),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    uniform = math.log(results.settings.num_tokens)
    axes.axvline(uniform, color="0.5", linestyle=":", label=f"uniform (ln {results.settings.num_tokens})")
    axes.set_yscale("log")
    axes.set(xlabel="entropy of the head's attention (nats)", ylabel="KL without the head (nats)")
    axes.set_title(f"layer.head, rank correlation {_signed_correlation(results.entropy, divergence)}", fontsize=10)
    axes.margins(x=0.25, y=0.15)
    axes.legend(fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _signed_correlation(a: Doubles, b: Doubles) -> str:
    return f"{rank_correlation(a, b):+.2f}".replace("-", "−")


def _draw_scores(axes: Axes, results: HeadResults, played: list[AblationResult], colors: Any) -> None:
    """Draw the change in score of each ablation that was played, with its interval."""
    order = sorted(played, key=lambda each: _place(each, results.settings.num_layers, results.settings.num_heads))
    labels, marked = [], set()
    for position, result in enumerate(order):
        ablation = result.ablation
        difference = results.score_change(result)
        assert difference is not None
        color = "black" if ablation.layer is None else colors[ablation.layer]
        group = _TITLES[ablation.replacement]
        marker = "o" if ablation.replacement == "mean" else "D"
        error = None
        if difference.interval is not None:
            low, high = difference.interval
            error = [[max(0.0, difference.value - low)], [max(0.0, high - difference.value)]]
        axes.errorbar(
            position,
            difference.value,
            error,
            marker=marker,
            color=color,
            markersize=5 if ablation.head is not None else 8,
            elinewidth=1,
            label=None if group in marked else group,
        )
        marked.add(group)
        labels.append(str(ablation.head + 1) if ablation.head is not None else ablation.name)
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set_xticks(range(len(order)), labels, fontsize=7)
    for text, result in zip(axes.get_xticklabels(), order, strict=True):
        if result.ablation.head is None:
            text.set_rotation(90)
    axes.set_xlim(-0.7, len(order) - 0.3)
    axes.set(ylabel="change in score (points)")
    score = interquartile_mean(np.array(results.scores))
    episodes = f"{results.settings.episodes} episodes (intact: {score:.1f})"
    axes.set_title(f"change in the interquartile mean of {episodes}, 95% interval; numbers: heads", fontsize=10)
    axes.legend(fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _place(result: AblationResult, num_layers: int, num_heads: int) -> tuple[int, int, str]:
    """Return where an ablation stands in the row of scores: by layer, its heads first, then the layer as a whole."""
    ablation = result.ablation
    return (
        num_layers if ablation.layer is None else ablation.layer,
        num_heads if ablation.head is None else ablation.head,
        ablation.replacement,
    )
