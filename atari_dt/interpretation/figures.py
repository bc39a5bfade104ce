"""Pictures of what a model attends to: a step's context as a strip, attention over distance, every head."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from PIL import Image

from atari_dt.config import Conditioning
from atari_dt.interpretation.attention import AttentionByDistance, token_types
from atari_dt.interpretation.episode_trace import EpisodeTrace, TracedEvaluation, format_number
from atari_dt.rendering.canvas import FAINT_COLOR, LINE_COLOR, PAGE_COLOR, Canvas
from atari_dt.rendering.figures import to_png
from atari_dt.rendering.video import Pixels

Floats = npt.NDArray[np.float32]

COLORS = {"return": "#e08a00", "state": "#3b82f6", "action": "#16a34a"}

FOR, AGAINST = "#ff2d75", "#00b8d9"

_SIDE, _GAP, _BARS, _LABEL = 84, 8, 60, 16  # of a cell of the strip, in pixels

_COLUMNS = 13  # of the strip, at most

_KEY = 44  # height of the two lines beneath it


@dataclass(frozen=True)
class StepView:
    """One step of an episode, and what is to be shown of it.

    Attributes:
        recording: what was played.
        episode: one of its episodes.
        step: of the episode.
        weights: ``[K, kinds]``, attention to the step's context.
        what: these weights are, such as ``"layer 1, head 3"``.
        saliency: ``[K + 3, cells, cells]``, of the frames of its context.
    """

    recording: TracedEvaluation
    episode: EpisodeTrace
    step: int
    weights: Floats
    what: str
    saliency: Floats

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of token."""
        return token_types(self.recording.model.config.conditioning)

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """With which the action was drawn, ``[num_actions]``."""
        return self.episode.probabilities[self.step, self.recording.played]

    @property
    def action(self) -> str:
        """The name of the action taken."""
        return self.recording.dataset.action_meanings[self.episode.actions[self.step]]


def step_figure(moment: StepView, stacks: dict[str, Floats]) -> Image.Image:
    """Draw one step: the strip of its context, and its newest state.

    Args:
        moment: the step.
        stacks: by name, maps of the newest state's four frames, each ``[4, cells, cells]``.
    """
    pen = Canvas(scale=2)
    strip_height, width = _strip_size(len(moment.weights))
    width = max(width, len(stacks) * (4 * (_SIDE + _GAP) + 3 * _GAP))
    y = 66 + strip_height + _KEY
    pen.start(width + 2 * _GAP, y + 20 + _SIDE + _GAP)
    pen.text(_GAP, 6, f"{moment.recording.game.name}: what the model attends to at step {moment.step}", 16, bold=True)
    _draw_moment(pen, _GAP, moment)
    for i, (name, maps) in enumerate(stacks.items()):
        x = _GAP + i * (4 * (_SIDE + _GAP) + 3 * _GAP)
        pen.text(x, y, f"the newest state's four frames, {name}", 11, FAINT_COLOR)
        for frame in range(4):
            picture = overlay(moment.episode.states[moment.step, frame], maps[frame], np.abs(maps).max())
            pen.picture(x + frame * (_SIDE + _GAP), y + 20, picture)
    return pen.image


def video_frame(moment: StepView) -> Pixels:
    """Draw the game beside the strip of a step, uint8 ``[height, width, 3]``, both even."""
    pen = Canvas(scale=1)
    episode, step = moment.episode, moment.step
    screen = episode.palette[episode.screens[step]].repeat(2, axis=0).repeat(2, axis=1)
    screen_height, screen_width = screen.shape[:2]
    strip_height, strip_width = _strip_size(len(moment.weights))
    actions = moment.recording.dataset.action_meanings
    left, y = screen_width + 3 * _GAP, 66 + strip_height + _KEY
    pen.start(left + strip_width + _GAP, max(screen_height + 40, y + 18 * len(actions) + _GAP))
    pen.image.paste(Image.fromarray(screen), (_GAP, _GAP))
    pen.text(_GAP, screen_height + 2 * _GAP, f"score {format_number(float(episode.scores[step]))}", 14, bold=True)
    pen.text(_GAP + screen_width, screen_height + 2 * _GAP, f"step {step}", 14, anchor="ra")
    pen.text(left, 6, f"{moment.recording.game.name}: what the model attends to", 16, bold=True)
    _draw_moment(pen, left, moment)
    start = left + max(pen.width(name, 11) for name in actions) + 2 * _GAP
    for action, (name, probability) in enumerate(zip(actions, moment.probabilities, strict=True)):
        line = y + 18 * action
        pen.text(left, line, name, 11, bold=name == moment.action)
        pen.bar(start, line + 1, start + 240 * probability, line + 13, COLORS["state"])
        pen.text(start + 240 + _GAP, line, f"{probability:.0%}", 11)
    return np.asarray(pen.image)


def distance_figure(distance: AttentionByDistance, title: str) -> bytes:
    """Draw attention against distance, a line a layer, and each head's entropy and mean distance; return a PNG file."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    layers, _, steps, kinds = distance.weights.shape
    by_step = distance.weights.sum(-1)
    back = np.arange(steps)
    tokens = kinds * steps - 1
    even = distance.even.sum(-1)
    colors = mpl.colormaps["viridis"](np.linspace(0, 0.85, layers))
    left.plot(back, even, color="0.5", linestyle=":", label="all tokens alike")
    for layer in range(layers):
        left.plot(back, by_step[layer].T, color=colors[layer], linewidth=0.6, alpha=0.35)
        label = f"layer {layer + 1}: entropy {distance.entropy[layer].mean():.2f} nats"
        left.plot(
            back, by_step[layer].mean(0), color=colors[layer], linewidth=2.2, marker="o", markersize=3, label=label
        )
        right.plot(
            distance.mean_distance[layer],
            distance.entropy[layer],
            "o",
            color=colors[layer],
            label=f"layer {layer + 1}",
        )
    left.set(xlabel="steps before the acting one", ylabel="mean attention to a step", title=title)
    left.set(xlim=(-0.3, steps - 0.7), ylim=(0, 1.05 * max(by_step.max(), even.max())))
    left.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    left.legend(fontsize=8, title="mean of the heads; thin: each head", title_fontsize=8)
    right.axhline(
        math.log(tokens), color="0.5", linestyle=":", label=f"all tokens alike (ln {tokens} = {math.log(tokens):.2f})"
    )
    right.set(xlabel="mean distance in steps", ylabel="entropy in nats", title="every head")
    right.set_ylim(0, 1.3 * math.log(tokens))  # the legend has the room above
    right.margins(x=0.2)
    right.legend(fontsize=8, ncols=2, loc="upper left")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)


def heads_figure(attention: Floats, conditioning: Conditioning, title: str) -> bytes:
    """Draw the attention of every layer and head at one step, ``[layers, heads, steps, kinds]``; return a PNG file."""
    layers, heads, steps, _ = attention.shape
    kinds = token_types(conditioning)
    figure = Figure(figsize=(2 + 1.5 * heads, 1.2 + 1.0 * layers), layout="constrained")
    figure.suptitle(title, fontsize=11)
    for layer, row in enumerate(figure.subplots(layers, heads, sharex=True, sharey=True, squeeze=False)):
        for head, axes in enumerate(row):
            back = 0.5 - steps, 0.5
            image = axes.imshow(
                attention[layer, head].T, aspect="auto", norm=PowerNorm(0.5, 0, attention.max()), cmap="viridis",
                extent=(*back, len(kinds) - 0.5, -0.5),
            )  # fmt: skip
            axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=7)
            axes.set_yticks(range(len(kinds)), kinds, fontsize=7)
            axes.tick_params(axis="x", labelsize=7)
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    figure.supxlabel("steps back", fontsize=9)
    figure.colorbar(image, ax=figure.axes, label="attention", shrink=0.8)
    return to_png(figure)


def overlay(frame: npt.NDArray[np.uint8], cells: Floats, most: float) -> Pixels:
    """Lay a saliency map ``[cells, cells]`` over a grey frame ``[84, 84]``; the frame shines through where it stays
    below ``most``.

    Returns:
        uint8 ``[84, 84, 3]``.
    """
    strength = (np.abs(cells) / max(most, 1e-30)).clip(0, 1).astype(np.float32)
    both = np.stack([np.where(cells > 0, strength, 0), np.where(cells < 0, strength, 0)], axis=-1)
    alpha = 0.85 * cv2.resize(both, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    colors = np.array([_rgb(FOR), _rgb(AGAINST)], dtype=np.float32)
    left = frame * (1 - alpha[..., 0] - alpha[..., 1])
    mixed = left[..., None] + alpha @ colors
    return np.rint(mixed).clip(0, 255).astype(np.uint8)


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _strip_size(steps: int) -> tuple[int, int]:
    """Height and width of a strip of K steps; wide enough for the words about it."""
    lines, columns = _grid(steps)
    return lines * (_SIDE + _BARS + _LABEL + _GAP), max(columns * (_SIDE + _GAP), 520)


def _grid(steps: int) -> tuple[int, int]:
    """Lines and columns of a strip: K frames, and the three that only the oldest stacks hold."""
    lines = math.ceil((steps + 3) / _COLUMNS)
    return lines, math.ceil((steps + 3) / lines)


def _draw_moment(pen: Canvas, left: float, moment: StepView) -> None:
    """Draw, beneath a title, what was asked for and done, the strip, and its key."""
    recording, episode, step = moment.recording, moment.episode, moment.step
    asked = f"target return {recording.target_label(float(recording.targets[recording.played]))}"
    name = recording.name if len(recording.name) <= 40 else f"…{recording.name[-39:]}"
    pen.text(left, 28, f"{name} · {asked}", 11, FAINT_COLOR)
    to_go = format_number(float(episode.returns_to_go[step, episode.num_steps[step] - 1]))
    still = f" · return-to-go {to_go}" if recording.conditioned else ""
    probability = moment.probabilities[episode.actions[step]]
    score = format_number(float(episode.scores[step]))
    pen.text(left, 44, f"score {score}{still} · takes {moment.action} ({probability:.0%})", 11)
    _draw_strip(pen, left, 66, moment)
    y = 66 + _strip_size(len(moment.weights))[0]
    tokens = [(COLORS[kind], kind) for kind in moment.kinds]
    pixels = [(FOR, f"pixels for {moment.action}"), (AGAINST, f"pixels against {moment.action}")]
    for line, parts in enumerate(([*tokens, (PAGE_COLOR, f"{moment.what}, in %")], pixels)):
        x = left
        for color, text in parts:
            pen.bar(x, y + 18 * line + 3, x + 10, y + 18 * line + 13, color)
            pen.text(x + 14, y + 18 * line, text, 11)
            x += pen.width(text, 11) + 28


def _draw_strip(pen: Canvas, left: float, top: float, moment: StepView) -> None:
    steps, num_steps = len(moment.weights), int(moment.episode.num_steps[moment.step])
    lines, columns = _grid(steps)
    most, most_salient = moment.weights.max(), np.abs(moment.saliency).max()
    width = 20
    for back in range(min(num_steps + 3, moment.step + 1)):
        line, column = divmod(lines * columns - 1 - back, columns)  # the newest frame is the last one
        x, y = left + column * (_SIDE + _GAP), top + line * (_SIDE + _BARS + _LABEL + _GAP)
        frame = moment.episode.states[moment.step - back, 3]
        pen.picture(x, y, overlay(frame, moment.saliency[num_steps + 2 - back], most_salient))
        floor = y + _SIDE + _BARS
        pen.text(x + _SIDE / 2, floor + 3, f"−{back}" if back else "now", 10, FAINT_COLOR, anchor="ma")
        if back >= num_steps:
            pen.text(x + _SIDE / 2, floor - 8, "in the oldest stacks", 8, FAINT_COLOR, anchor="ms")
            continue
        start = x + (_SIDE - len(moment.kinds) * width) / 2
        for kind, weight in zip(moment.kinds, moment.weights[num_steps - 1 - back], strict=True):
            height = (_BARS - 18) * weight / most
            pen.bar(start + 1, floor - height, start + width - 1, floor, COLORS[kind])
            if weight >= 0.0005:
                percent = f"{100 * weight:.{1 if weight < 0.0995 else 0}f}"
                pen.text(start + width / 2, floor - height - 2, percent, 9, FAINT_COLOR, anchor="ms")
            start += width
        pen.bar(x, floor, x + _SIDE, floor + 1, LINE_COLOR)
