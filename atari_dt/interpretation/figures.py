"""Charts of attention: by distance over all contexts, and of every head at one step."""

from __future__ import annotations

import math
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from atari_dt.interpretation.attention import AttentionByDistance
from atari_dt.interpretation.episode_trace import Floats
from atari_dt.rendering.figures import to_png

_UNIFORM_STYLE: dict[str, Any] = {"color": "0.5", "linestyle": ":"}


def distance_figure(attention: AttentionByDistance, title: str) -> bytes:
    """Draw each layer's attention by distance, and each head's entropy over its mean distance; return a PNG file."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    colors = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(attention.weights)))
    _draw_attention_by_distance(left, attention, colors)
    left.set_title(title)
    _draw_entropy(right, attention, colors)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)


def _draw_attention_by_distance(axes: Axes, attention: AttentionByDistance, colors: Floats) -> None:
    by_step, uniform = attention.weights.sum(-1), attention.uniform.sum(-1)
    distances = np.arange(len(uniform))
    axes.plot(distances, uniform, **_UNIFORM_STYLE, label="uniform attention")
    for layer, color in enumerate(colors):
        axes.plot(distances, by_step[layer].T, color=color, linewidth=0.6, alpha=0.35)
        label = f"layer {layer + 1}: entropy {attention.entropy[layer].mean():.2f} nats"
        axes.plot(distances, by_step[layer].mean(0), color=color, linewidth=2.2, marker="o", markersize=3, label=label)
    axes.set(xlabel="distance (steps)", ylabel="mean attention per step")
    axes.set(xlim=(-0.3, len(uniform) - 0.7), ylim=(0, 1.05 * max(by_step.max(), uniform.max())))
    axes.locator_params("x", integer=True, min_n_ticks=1)
    axes.legend(fontsize=8, title="thick: mean of the heads, thin: each head", title_fontsize=8)


def _draw_entropy(axes: Axes, attention: AttentionByDistance, colors: Floats) -> None:
    for layer, color in enumerate(colors):
        mean_distance, entropy = attention.mean_distance[layer], attention.entropy[layer]
        axes.plot(mean_distance, entropy, "o", color=color, label=f"layer {layer + 1}")
    num_tokens = attention.uniform.size - 1
    max_entropy = math.log(num_tokens)
    label = f"uniform attention (ln {num_tokens} = {max_entropy:.2f})"
    axes.axhline(max_entropy, **_UNIFORM_STYLE, label=label)
    axes.set(xlabel="mean distance (steps)", ylabel="entropy (nats)", title="attention heads")
    axes.set_ylim(0, 1.3 * max_entropy)  # leaves room for the legend
    axes.margins(x=0.2)
    axes.legend(fontsize=8, ncols=2, loc="upper left")


def heads_figure(attention: Floats, token_types: tuple[str, ...], title: str) -> bytes:
    """Draw the attention of every layer and head at one step; return a PNG file.

    Args:
        attention: Weights ``[layers, heads, steps, token_types]``.
        token_types: Types of a step's tokens.
        title: Title of the figure.
    """
    layers, heads, steps, _ = attention.shape
    figure = Figure(figsize=(2 + 1.5 * heads, 1.2 + 1.0 * layers), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for layer, row in enumerate(figure.subplots(layers, heads, sharex=True, sharey=True, squeeze=False)):
        for head, axes in enumerate(row):
            image = axes.imshow(
                attention[layer, head].T,
                aspect="auto",
                norm=PowerNorm(0.5, 0, attention.max()),
                cmap="viridis",
                extent=(0.5 - steps, 0.5, len(token_types) - 0.5, -0.5),
            )
            axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=7)
            axes.set_yticks(range(len(token_types)), token_types, fontsize=7)
            axes.tick_params(axis="x", labelsize=7)
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    figure.supxlabel("step relative to the newest", fontsize=9)
    figure.colorbar(image, ax=figure.axes, label="attention", shrink=0.8)
    return to_png(figure)
