"""The tables and the figure of an ablation of attention heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from atari_dt.evaluation.statistics import interquartile_mean
from atari_dt.interpretation.head_ablation import Replacement
from atari_dt.interpretation.head_ablation_results import AblationResult, HeadResults, rank_correlation
from atari_dt.rendering.tables import align_columns

_REPLACED_BY: dict[Replacement, str] = {"mean": "mean output", "uniform": "uniform attention"}


@dataclass(frozen=True)
class HeadStudy:
    """What the ablation of each head and each layer of a model changes.

    Attributes:
        results: Results.
    """

    results: HeadResults

    def tables(self) -> dict[str, list[list[str]]]:
        """Return the tables by name: ``layers`` for whole layers, ``heads`` for each head; headers first."""
        return {"layers": self._layers_table(), "heads": self._heads_table()}

    def figures(self) -> dict[str, bytes]:
        """Return the figure as the content of a PNG file, under the name ``""``."""
        from atari_dt.interpretation.head_ablation_figure import draw_effects  # tables need no matplotlib

        return {"": draw_effects(self.results)}

    def summary(self) -> str:
        """Return the tables as text, with a line on the intact model and one on correlations."""
        settings = self.results.settings
        correlations = ", ".join(
            f"{rank_correlation(values, self.results.by_head('mean')):+.2f} with the {name}"
            for name, values in (("entropy", self.results.entropy), ("mean distance", self.results.mean_distance))
        )
        lines = [
            *(f"{align_columns(table)}\n" for table in self.tables().values()),
            f"{settings.title}; scores are interquartile means, of episodes: {settings.episodes}",
            f"rank correlation of KL without a head: {correlations} of its attention",
            f"({self.results.num_contexts:,} contexts of {settings.context_length} steps)",
        ]
        return "\n".join(lines)

    def _layers_table(self) -> list[list[str]]:
        rows = [["ablated", "by", "same action", "KL (nats)", "score", "change in score"]]
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
        rows = [[*header, "KL with uniform attention"]]
        for layer in range(self.results.settings.num_layers):
            for head in range(self.results.settings.num_heads):
                uniform = self.results.find("uniform", layer, head)
                rows.append(
                    [
                        uniform.ablation.name,
                        f"{self.results.entropy[layer, head]:.2f}",
                        f"{self.results.mean_distance[layer, head]:.1f}",
                        *self._cells(self.results.find("mean", layer, head)),
                        format_divergence(uniform.effect.divergence),
                    ]
                )
        return rows

    def _cells(self, result: AblationResult) -> list[str]:
        """Return agreement, divergence and change in score of an ablation as text."""
        change = ""
        if (difference := self.results.score_change(result)) is not None:
            change = format_signed(difference.value)
            if difference.interval is not None:
                change += f" ({' to '.join(map(format_signed, difference.interval))})"
        return [f"{result.effect.agreement:.1%}", format_divergence(result.effect.divergence), change]


def read_study(content: Any) -> HeadStudy:
    """Read the content of ``heads.json``.

    Raises:
        InputError, ValueError, KeyError, TypeError: If the content is malformed.
    """
    return HeadStudy(HeadResults.from_json(content))


def format_divergence(nats: float) -> str:
    """Return a divergence with two significant digits, such as ``"0.0031"``."""
    return f"{nats:.2g}" if nats >= 1e-4 else f"{nats:.0e}" if nats else "0"


def format_signed(points: float) -> str:
    """Return a difference of scores with its sign, such as ``"−1.5"``."""
    return f"{round(points, 1) + 0:+.1f}".replace("-", "−")  # + 0 turns -0.0 into 0.0


def _format_score(scores: tuple[float, ...]) -> str:
    """Return the interquartile mean of scores as text."""
    return f"{interquartile_mean(np.array(scores)):.1f}"
