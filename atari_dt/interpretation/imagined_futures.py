"""How well a Trajectory Transformer imagines the future: its errors under the actions that were played.

The error of a plan's observations against what came would mix two things, because other actions were played than
planned. So the model imagines here what comes after the actions that were played.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure

from atari_dt.interpretation.episode_trace import Floats, Ints
from atari_dt.model.trajectory_transformer import TrajectoryTransformer
from atari_dt.policies.beam_search import imagine_observations
from atari_dt.rendering.figures import to_png
from replay_data import InputError

FORMAT_VERSION = 1

_ROWS = 256  # sequences of a batch
_MAX_PANELS = 12  # of the figure
_COLUMNS = 4


class PlayedEpisode(NamedTuple):
    """What happened in an episode of T steps.

    Attributes:
        states: uint8 ``[T, V]``.
        actions: int64 ``[T]``.
        rewards: Reward of each step, in the units of the training data, float32 ``[T]``.
    """

    states: npt.NDArray[np.uint8]
    actions: Ints
    rewards: Floats


@dataclass(frozen=True)
class PredictionErrors:
    """Mean absolute errors of imagined observations, in the unit of each entry.

    Attributes:
        names: Names of the V entries of an observation.
        num_predictions: Number of steps from which the future was imagined.
        context: Number of earlier steps that the model read in front of these.
        imagined: Error after h = 1, …, H steps, float64 ``[H, V]``.
        unchanged: Error if observations stayed as they were, float64 ``[H, V]``.
        discretized: Error of the tokens of the observations that came, without any prediction, float64 ``[V]``.
    """

    names: tuple[str, ...]
    num_predictions: int
    context: int
    imagined: npt.NDArray[np.float64]
    unchanged: npt.NDArray[np.float64]
    discretized: npt.NDArray[np.float64]

    @property
    def horizon(self) -> int:
        """H."""
        return len(self.imagined)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object of the errors by name of the entry."""
        return {
            "format_version": FORMAT_VERSION,
            "num_predictions": self.num_predictions,
            "context": self.context,
            "horizon": self.horizon,
            "mean_absolute_errors": {
                name: {
                    "discretized": float(self.discretized[entry]),
                    "imagined": self.imagined[:, entry].tolist(),
                    "unchanged": self.unchanged[:, entry].tolist(),
                }
                for entry, name in enumerate(self.names)
            },
        }


def open_loop_errors(
    model: TrajectoryTransformer, episodes: Sequence[PlayedEpisode], horizon: int, context: int
) -> PredictionErrors:
    """Compare what a model imagines under the played actions with what came.

    The model reads the steps up to an observation, and then the actions alone: it takes the most likely observations,
    rewards and values for what comes. This starts from every step that has ``context`` steps before it and ``horizon``
    after it.

    Args:
        model: Model in evaluation mode, on the device it runs on.
        episodes: Episodes of the model's game.
        horizon: H.
        context: Number of earlier steps that the model reads, less than the number of steps in a sequence.

    Raises:
        InputError: If all episodes are too short.
    """
    device = next(model.parameters()).device
    windows = [(episode, first) for episode in episodes for first in range(len(episode.actions) - context - horizon)]
    if not windows:
        raise InputError(
            f"predictions over {horizon} steps after {context} need an episode of at least {context + horizon + 1} "
            "steps; all are shorter"
        )
    imagined_errors, unchanged_errors = [], []
    for start in range(0, len(windows), _ROWS):
        rows = windows[start : start + _ROWS]
        states, actions, rewards = (
            torch.from_numpy(
                np.stack([getattr(episode, name)[first : first + context + horizon + 1] for episode, first in rows])
            )
            for name in ("states", "actions", "rewards")
        )
        known = (each[:, : context + 1].to(device) for each in (states, actions, rewards, torch.zeros_like(rewards)))
        tokens = model.encode_steps(*known)[:, :-3]
        imagined = imagine_observations(model, tokens, actions[:, context:-1].to(device), context).cpu()
        came, current = states[:, context + 1 :].float(), states[:, context, None].float()
        imagined_errors.append((imagined - came).abs().sum(0, dtype=torch.float64))
        unchanged_errors.append((current - came).abs().sum(0, dtype=torch.float64))
    all_states = torch.from_numpy(np.concatenate([episode.states for episode in episodes])).to(device)
    decoded = model.decode_observations(model.encode_observations(all_states))
    return PredictionErrors(
        model.observation.entry_names,
        len(windows),
        context,
        (sum(imagined_errors[1:], imagined_errors[0]) / len(windows)).numpy(),
        (sum(unchanged_errors[1:], unchanged_errors[0]) / len(windows)).numpy(),
        (decoded - all_states).abs().mean(0, dtype=torch.float64).cpu().numpy(),
    )


def most_changing_entries(errors: PredictionErrors) -> list[int]:
    """Return the indices of the entries that change most over the horizon, twelve at most, ascending."""
    order = np.argsort(-errors.unchanged[-1], kind="stable")
    return sorted(order[:_MAX_PANELS].tolist())


def errors_figure(errors: PredictionErrors, title: str) -> bytes:
    """Draw the errors over the horizon, one panel for each entry, as the content of a PNG file.

    There are twelve panels at most: those of the entries that change most.
    """
    shown = most_changing_entries(errors)
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(0.8 + 3.1 * columns, 1.2 + 2.5 * rows), layout="constrained")
    suffix = "" if len(shown) == len(errors.names) else f" ({len(shown)} of {len(errors.names)} entries)"
    figure.suptitle(f"{title}, open-loop prediction error{suffix}", fontsize=11)
    steps = np.arange(1, errors.horizon + 1)
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).flatten()
    for axes, entry in zip(panels, shown, strict=False):
        axes.plot(steps, errors.unchanged[:, entry], color="0.5", linestyle=":", label="if nothing changed")
        axes.plot(steps, errors.imagined[:, entry], color="tab:blue", marker="o", markersize=3, label="imagined")
        axes.axhline(errors.discretized[entry], color="tab:orange", linestyle="--", label="discretization alone")
        axes.set_title(errors.names[entry], fontsize=9)
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    panels[0].legend(fontsize=7)
    figure.supxlabel("steps after the last known observation", fontsize=9)
    figure.supylabel("mean absolute error (units of the RAM)", fontsize=9)
    return to_png(figure)
