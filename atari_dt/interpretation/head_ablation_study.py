"""Tables and figure of an ablation of attention heads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from atari_dt.evaluation.statistics import interquartile_mean
from atari_dt.interpretation.head_ablation import Replacement
from atari_dt.interpretation.head_ablation_results import AblationResult, HeadResults, rank_correlation
from atari_dt.rendering.tables import align_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import FigureBase
    from matplotlib.image import AxesImage

_REPLACED_BY: dict[Replacement, str] = {"mean": "mean output", "uniform": "uniform attention"}

_SMALLEST = 1e-5  # nats; smaller divergences are drawn as this one, since a logarithmic scale has no 0

_SCORES_HEIGHT = 2.6  # inches

_NUM_LABELS = 5  # heads of the scatter plot that are named


@dataclass(frozen=True)
class HeadStudy:
    """The ablation of the heads and layers of a model, as a `atari_dt.experiments.study.Study`."""

    results: HeadResults

    def tables(self) -> dict[str, list[list[str]]]:
        """Return the tables ``layers``, of whole layers, and ``heads``, of each head; headers first."""
        return {"layers": self._layers_table(), "heads": self._heads_table()}

    def figures(self) -> dict[str, bytes]:
        """Return the figure as the content of a PNG file, under the name ``""``.

        Heat maps show the divergence of the actions for each head and layer, and a scatter plot the divergence over the
        entropy of the head's attention. If the ablated models played, the change in their scores is below.
        """
        import matplotlib as mpl  # takes half a second, and tables do not need it
        from matplotlib.colors import LogNorm
        from matplotlib.figure import Figure

        from atari_dt.rendering.figures import to_png

        played = [result for result in self.results.ablations if result.scores is not None]
        layers, heads = self.results.settings.num_layers, self.results.settings.num_heads
        width, height = max(6.2 + 0.75 * (heads + 1), 11), max(1.9 + 0.34 * (layers + 1), 3.4)
        figure = Figure(figsize=(width, height + (_SCORES_HEIGHT if played else 0)), layout="constrained")
        colors = mpl.colormaps["viridis"](np.linspace(0, 0.85, layers))
        top: FigureBase = figure
        if played:
            top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(height, _SCORES_HEIGHT))[:, 0]
            self._draw_scores(bottom.subplots(), played, colors)
        left, right, scatter = top.subplots(1, 3, width_ratios=(3, 3, 2.4))
        largest = max(result.effect.divergence for result in self.results.ablations)
        norm = LogNorm(10 * _SMALLEST, max(largest, 100 * _SMALLEST), clip=True)
        image = self._draw_heat_map(left, "mean", norm)
        self._draw_heat_map(right, "uniform", norm)
        left.set_ylabel("layer")
        label = "KL(intact ‖ ablated) (nats)\nin cells: same most likely action"
        top.colorbar(image, ax=[left, right], label=label, shrink=0.9, pad=0.01)
        self._draw_scatter(scatter, colors)
        top.suptitle(f"{self.results.settings.title}: change of the actions without each head", fontsize=11)
        return {"": to_png(figure)}

    def summary(self) -> str:
        """Return the tables as text, with a line on the intact model and one on correlations."""
        settings, divergences = self.results.settings, self.results.divergences()
        correlations = ", ".join(
            f"{_format_signed(rank_correlation(np.array(values), divergences), 2)} with the {name}"
            for name, values in (("entropy", self.results.entropy), ("mean distance", self.results.mean_distance))
        )
        lines = [
            *(f"{align_columns(table)}\n" for table in self.tables().values()),
            f"{settings.title}",
            f"score: interquartile mean; episodes of each model: {settings.episodes}",
            f"KL (Kullback-Leibler divergence) and same action: over {self.results.num_contexts:,} contexts",
            f"rank correlation of the heads' KL: {correlations} of their attention",
        ]
        return "\n".join(lines)

    def _layers_table(self) -> list[list[str]]:
        rows = [["ablated", "replaced by", "same action", "KL (nats)", "score", "change in score"]]
        rows.append(["nothing", "", "", "", _format_score(self.results.scores), ""])
        for layer in (*range(self.results.settings.num_layers), None):
            for replacement in get_args(Replacement):
                result = self.results.find(replacement, layer)
                *effect, change = self._cells(result)
                score = "" if result.scores is None else _format_score(result.scores)
                rows.append([result.ablation.name, _REPLACED_BY[replacement], *effect, score, change])
        return rows

    def _heads_table(self) -> list[list[str]]:
        header = ["head", "entropy (nats)", "mean distance (steps)", "same action", "KL (nats)", "change in score"]
        rows = [[*header, "KL with uniform attention (nats)"]]
        for layer in range(self.results.settings.num_layers):
            for head in range(self.results.settings.num_heads):
                uniform = self.results.find("uniform", layer, head)
                rows.append(
                    [
                        uniform.ablation.name,
                        f"{abs(self.results.entropy[layer][head]):.2f}",  # rounding may leave a tiny negative number
                        f"{self.results.mean_distance[layer][head]:.1f}",
                        *self._cells(self.results.find("mean", layer, head)),
                        _format_divergence(uniform.effect.divergence),
                    ]
                )
        return rows

    def _cells(self, result: AblationResult) -> list[str]:
        """Return agreement, divergence and change in score of an ablation as text."""
        change = ""
        if (difference := self.results.score_change(result)) is not None:
            change = _format_signed(difference.value)
            if difference.interval is not None:
                change += f" ({' to '.join(map(_format_signed, difference.interval))})"
        return [f"{result.effect.agreement:.1%}", _format_divergence(result.effect.divergence), change]

    def _draw_heat_map(self, axes: Axes, replacement: Replacement, norm: Normalize) -> AxesImage:
        """Draw the divergence of each head, layer and all layers, with the share of the contexts whose action stays."""
        layers, heads = self.results.settings.num_layers, self.results.settings.num_heads
        values = np.full((layers + 1, heads + 1), np.nan)
        for result in self.results.ablations:
            ablation = result.ablation
            if ablation.replacement != replacement:
                continue
            row = layers if ablation.layer is None else ablation.layer
            column = heads if ablation.head is None else ablation.head
            values[row, column] = max(result.effect.divergence, _SMALLEST)
            color = "white" if norm(values[row, column]) < 0.6 else "black"
            text = f"{result.effect.agreement:.0%}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=color)
        image = axes.imshow(np.ma.masked_invalid(values), norm=norm, cmap="magma", aspect="auto")
        axes.axvline(heads - 0.5, color="white", linewidth=3)
        axes.axhline(layers - 0.5, color="white", linewidth=3)
        axes.set_xticks(range(heads + 1), [*map(str, range(1, heads + 1)), "all"])
        axes.set_yticks(range(layers + 1), [*map(str, range(1, layers + 1)), "all"])
        axes.set(xlabel="head", title=_REPLACED_BY[replacement])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        return image

    def _draw_scatter(self, axes: Axes, colors: Any) -> None:
        """Draw the divergence of each head's mean ablation over the entropy of its attention."""
        entropy, exact = np.array(self.results.entropy), self.results.divergences()
        divergences = np.maximum(exact, _SMALLEST)
        for layer, color in enumerate(colors):
            axes.plot(entropy[layer], divergences[layer], "o", color=color, label=f"layer {layer + 1}")
        for index in np.argsort(-exact, axis=None, kind="stable")[:_NUM_LABELS]:
            layer, head = np.unravel_index(index, exact.shape)
            point = float(entropy[layer, head]), float(divergences[layer, head])
            name = f"{layer + 1}.{head + 1}"
            axes.annotate(name, point, xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)
        num_tokens = self.results.settings.num_tokens
        axes.axvline(math.log(num_tokens), color="0.5", linestyle=":", label=f"uniform (ln {num_tokens})")
        axes.set_yscale("log")
        axes.set(xlabel="entropy of the head's attention (nats)", ylabel="KL without the head (nats)")
        correlation = _format_signed(rank_correlation(entropy, exact), 2)
        axes.set_title(f"layer.head, rank correlation {correlation}", fontsize=10)
        axes.margins(x=0.25, y=0.15)
        axes.legend(fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)

    def _draw_scores(self, axes: Axes, played: list[AblationResult], colors: Any) -> None:
        """Draw the change in score of each ablation that was played, with its interval, by layer, heads first."""
        settings = self.results.settings
        ablations = [result.ablation for result in played]
        layers = [settings.num_layers if each.layer is None else each.layer for each in ablations]
        heads = [settings.num_heads if each.head is None else each.head for each in ablations]
        order = sorted(range(len(played)), key=lambda i: (layers[i], heads[i], ablations[i].replacement))
        labeled = set[str]()
        for position, index in enumerate(order):
            ablation, difference = ablations[index], self.results.score_change(played[index])
            assert difference is not None
            color = "black" if ablation.layer is None else colors[ablation.layer]
            label = None if ablation.replacement in labeled else _REPLACED_BY[ablation.replacement]
            labeled.add(ablation.replacement)
            marker, size = "o" if ablation.replacement == "mean" else "D", 8 if ablation.head is None else 5
            axes.plot(position, difference.value, marker, color=color, markersize=size, label=label)
            if difference.interval is not None:
                axes.vlines(position, *difference.interval, color=color, linewidth=1)
        axes.axhline(0, color="0.5", linewidth=0.8)
        names = [str(each.head + 1) if each.head is not None else each.name for each in ablations]
        axes.set_xticks(range(len(order)), [names[index] for index in order], fontsize=7)
        for text, index in zip(axes.get_xticklabels(), order, strict=True):
            text.set_rotation(90 if ablations[index].head is None else 0)
        axes.set_xlim(-0.7, len(order) - 0.3)
        axes.set(ylabel="change in score (points)")
        score = f"{settings.episodes} episodes (intact: {_format_score(self.results.scores)})"
        axes.set_title(f"change in the interquartile mean of {score}, 95% interval; numbers: heads", fontsize=10)
        axes.legend(fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)


def read_study(content: Any) -> HeadStudy:
    """Read the content of ``heads.json``.

    Raises:
        InputError, ValueError, KeyError, TypeError: If the content is malformed.
    """
    return HeadStudy(HeadResults.from_json(content))


def _format_divergence(nats: float) -> str:
    """Return a divergence with two significant digits, such as ``"0.0031"``."""
    return f"{nats:.2g}" if nats >= 1e-4 else f"{nats:.0e}" if nats else "0"


def _format_signed(value: float, digits: int = 1) -> str:
    """Return a number with its sign, such as ``"−1.5"``."""
    return f"{round(value, digits) + 0:+.{digits}f}".replace("-", "−")  # + 0 turns -0.0 into 0.0


def _format_score(scores: tuple[float, ...]) -> str:
    """Return the interquartile mean of scores as text."""
    return f"{interquartile_mean(np.array(scores)):.1f}"
