"""Pictures of one step of an episode: the frames of its context with their saliency, and attention if there is any.

The saliency of a model of frames is blended into the frames; that of a model of vectors is drawn as a list of entries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from atari_dt.interpretation.entry_list import (
    ENTRIES_WIDTH,
    NEGATIVE_COLOR,
    POSITIVE_COLOR,
    draw_entries,
    entries_height,
)
from atari_dt.interpretation.episode_trace import EpisodeTrace, Floats, TracedEvaluation, format_number
from atari_dt.interpretation.saliency import FRAME_SIZE
from atari_dt.interpretation.saliency_maps import GRADIENT
from atari_dt.rendering.canvas import FAINT_COLOR, LINE_COLOR, PAGE_COLOR, Canvas
from atari_dt.rendering.video import Pixels
from replay_data.episode import STACK
from replay_data.opencv import cv2

TOKEN_COLORS = {"return": "#e08a00", "state": "#3b82f6", "action": "#16a34a"}

_MAX_OPACITY = 0.85  # of saliency over a frame

_MAX_COLUMNS = 13  # of the strip
_MAX_ZOOM = 2  # of the frames of a short strip

# Lengths in units of the canvas.
_GAP = 8
_BARS_HEIGHT, _BAR_WIDTH, _VALUE_HEIGHT = 60, 20, 18
_LABEL_HEIGHT = 16
_LINE_HEIGHT, _SWATCH = 18, 10
_MIN_STRIP_WIDTH = 520  # of the text above the strip
_TITLE_Y, _RUN_Y, _STATUS_Y, _STRIP_Y = 6, 28, 44, 66
_TITLE_SIZE, _STATUS_SIZE, _TEXT_SIZE, _FRAME_LABEL_SIZE, _VALUE_SIZE, _NOTE_SIZE = 16, 14, 11, 10, 9, 8
_STACK_TITLE_HEIGHT = 20
_STACK_WIDTH = STACK * (FRAME_SIZE + _GAP) + 3 * _GAP
_ACTION_BAR_WIDTH = 240
_SCREEN_SCALE = 2

_MAX_NAME_LENGTH = 40  # of the run, in characters

_MIN_SHOWN_WEIGHT = 0.0005


@dataclass(frozen=True)
class StepView:
    """One step of an episode with the attention and saliency to draw.

    Attributes:
        traced: Traced evaluation.
        episode: One of its episodes.
        step: Index of the step in the episode.
        weights: Attention to the tokens of the context, ``[K, token_types]``.
        weights_name: Name of the weights, such as ``"attention of layer 1, head 3"``.
        saliency: Saliency of the frames of the context, ``[K + 3, cells, cells]``; of entries, ``[K, D]``, for vectors.
        explained: What the saliency raises and lowers, such as ``"the logit"``.
    """

    traced: TracedEvaluation
    episode: EpisodeTrace
    step: int
    weights: Floats
    weights_name: str
    saliency: Floats
    explained: str

    @property
    def token_types(self) -> tuple[str, ...]:
        """Types of a step's tokens; empty without attention."""
        return self.traced.token_types

    @property
    def preferences(self) -> npt.NDArray[np.float64]:
        """Action probabilities under the played target return, or Q of the actions, ``[num_actions]``."""
        return self.episode.preferences[self.step, self.traced.played_index]

    @property
    def bars(self) -> npt.NDArray[np.float64]:
        """Lengths of the bars of the actions as fractions of 1, ``[num_actions]``.

        These are the probabilities, or how far Q is above the smallest Q of the step, as a fraction of the episode's
        largest difference.
        """
        if self.traced.preference == "probability":
            return self.preferences
        return (self.preferences - self.preferences.min()) / max(self.episode.largest_spread, 1e-30)

    @property
    def action(self) -> str:
        """Name of the action taken."""
        return self.traced.dataset.action_meanings[self.episode.actions[self.step]]

    def describe_preference(self, action: int) -> str:
        """Return the probability or Q of an action as text, such as ``"43%"`` or ``"Q 1.234"``."""
        value = self.preferences[action]
        return f"{value:.0%}" if self.traced.preference == "probability" else f"Q {value:.3f}"

    @property
    def entries(self) -> list[tuple[str, int]]:
        """Name and value of each entry of the newest state, a vector; empty for frames."""
        names = self.traced.entry_names
        return list(zip(names, self.episode.states[self.step].tolist(), strict=True)) if names else []

    @property
    def legend(self) -> list[list[tuple[str, str]]]:
        """Lines of the legend below the strip: color and text of each entry."""
        lines = [
            [
                (POSITIVE_COLOR, f"raises {self.explained} of {self.action}"),
                (NEGATIVE_COLOR, f"lowers {self.explained} of {self.action}"),
            ]
        ]
        if self.token_types:
            tokens = [(TOKEN_COLORS[name], name) for name in self.token_types]
            lines.insert(0, [*tokens, (PAGE_COLOR, f"{self.weights_name}, in %")])
        if self.traced.preference == "Q":
            lines.append([(TOKEN_COLORS["state"], "Q above the smallest Q of the step")])
        return lines


@dataclass(frozen=True)
class _Strip:
    """Layout of the strip of a context: its frames in rows, each above the attention to its step's tokens.

    Attributes:
        rows: Number of rows.
        columns: Number of columns.
        zoom: Units per pixel of a frame.
        bars_height: Height of the bars below a frame.
    """

    rows: int
    columns: int
    zoom: int
    bars_height: int

    @classmethod
    def of(cls, view: StepView) -> _Strip:
        """Return the layout of a strip of K frames and the lead-in frames of the oldest state, if there are any."""
        num_frames = len(view.weights) + view.traced.lead_in
        rows = math.ceil(num_frames / _MAX_COLUMNS)
        zoom = _MAX_ZOOM if num_frames * _MAX_ZOOM <= _MAX_COLUMNS else 1
        return cls(rows, math.ceil(num_frames / rows), zoom, _BARS_HEIGHT if view.token_types else 0)

    @property
    def frame_size(self) -> int:
        """Side of a frame."""
        return FRAME_SIZE * self.zoom

    @property
    def row_height(self) -> int:
        """Height of a row."""
        return self.frame_size + self.bars_height + _LABEL_HEIGHT + _GAP

    @property
    def height(self) -> int:
        """Height of all rows."""
        return self.rows * self.row_height

    @property
    def width(self) -> int:
        """Width of all columns, or of the text above them."""
        return max(self.columns * (self.frame_size + _GAP), _MIN_STRIP_WIDTH)


def step_figure(view: StepView, stacks: dict[str, Floats], show_actions: bool = False) -> Image.Image:
    """Draw one step: the frames of its context, and the newest state.

    Args:
        view: Step to draw.
        stacks: Saliency of the newest state by name, each ``[4, cells, cells]``, or ``[D]`` of vectors.
        show_actions: Whether to draw the probability or Q of every action.
    """
    strip = _Strip.of(view)
    newest_width, newest_height = _newest_state_size(view, stacks)
    newest_y = _STRIP_Y + strip.height + _legend_height(view)
    actions_y = newest_y + newest_height + 2 * _GAP
    height = actions_y + _actions_height(view) if show_actions else actions_y - _GAP
    canvas = Canvas(max(strip.width, newest_width) + 2 * _GAP, height, scale=2)
    canvas.draw_text(_GAP, _TITLE_Y, f"{view.traced.title} at step {view.step}", _TITLE_SIZE, bold=True)
    _draw_context(canvas, _GAP, view)
    _draw_newest_state(canvas, _GAP, newest_y, view, stacks)
    if show_actions:
        _draw_actions(canvas, _GAP, actions_y, view)
    return canvas.image


def video_frame(view: StepView) -> Pixels:
    """Draw the screen beside one step's context and the preferences of its actions.

    Returns:
        uint8 ``[height, width, 3]``, both even.
    """
    episode, step, strip = view.episode, view.step, _Strip.of(view)
    screen = episode.palette[episode.screens[step]].repeat(_SCREEN_SCALE, axis=0).repeat(_SCREEN_SCALE, axis=1)
    screen_height, screen_width = screen.shape[:2]
    left, entries_y = screen_width + 3 * _GAP, _STRIP_Y + strip.height + _legend_height(view)
    actions_y = entries_y + _entries_height(view)
    height = max(screen_height + 5 * _GAP, actions_y + _actions_height(view))
    canvas = Canvas(left + strip.width + _GAP, height, scale=1)
    canvas.draw_pixels(_GAP, _GAP, screen)
    status_y = screen_height + 2 * _GAP
    canvas.draw_text(_GAP, status_y, f"score {format_number(float(episode.scores[step]))}", _STATUS_SIZE, bold=True)
    canvas.draw_text(_GAP + screen_width, status_y, f"step {step}", _STATUS_SIZE, anchor="ra")
    canvas.draw_text(left, _TITLE_Y, view.traced.title, _TITLE_SIZE, bold=True)
    _draw_context(canvas, left, view)
    if view.entries:
        _draw_entries(canvas, left, entries_y, view)
    _draw_actions(canvas, left, actions_y, view)
    return np.asarray(canvas.image)


def overlay(frame: npt.NDArray[np.uint8], cells: Floats, scale: float) -> Pixels:
    """Blend a saliency map into a gray frame.

    Args:
        frame: uint8 ``[84, 84]``.
        cells: Saliency ``[cells, cells]``.
        scale: Absolute saliency that is drawn with the highest opacity.

    Returns:
        uint8 ``[84, 84, 3]``.
    """
    strength = (np.abs(cells) / max(scale, 1e-30)).clip(0, 1).astype(np.float32)
    signed = np.stack([np.where(cells > 0, strength, 0), np.where(cells < 0, strength, 0)], axis=-1)
    alpha = _MAX_OPACITY * cv2.resize(signed, (FRAME_SIZE, FRAME_SIZE), interpolation=cv2.INTER_LINEAR)
    colors = np.array([_rgb(POSITIVE_COLOR), _rgb(NEGATIVE_COLOR)], dtype=np.float32)
    background = frame * (1 - alpha[..., 0] - alpha[..., 1])
    return np.rint(background[..., None] + alpha @ colors).clip(0, 255).astype(np.uint8)


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _newest_state_size(view: StepView, stacks: dict[str, Floats]) -> tuple[float, float]:
    """Return width and height of what `_draw_newest_state` draws."""
    if view.traced.entry_names:
        return (1 + len(stacks)) * ENTRIES_WIDTH, _entries_height(view)
    return len(stacks) * _STACK_WIDTH, _STACK_TITLE_HEIGHT + FRAME_SIZE


def _draw_newest_state(canvas: Canvas, left: float, top: float, view: StepView, stacks: dict[str, Floats]) -> None:
    """Draw the stack of the newest state, or its entries beside those of the whole context, side by side."""
    if view.traced.entry_names:
        _draw_entries(canvas, left, top, view)
    for i, (name, maps) in enumerate(stacks.items()):
        if view.traced.entry_names:
            x = left + (1 + i) * ENTRIES_WIDTH
            draw_entries(canvas, x, top, f"newest step: {name}", view.entries, maps[None])
            continue
        x = left + i * _STACK_WIDTH
        canvas.draw_text(x, top, f"newest state: {name}", _TEXT_SIZE, FAINT_COLOR)
        for frame in range(STACK):
            pixels = overlay(view.episode.states[view.step, frame], maps[frame], np.abs(maps).max())
            canvas.draw_pixels(x + frame * (FRAME_SIZE + _GAP), top + _STACK_TITLE_HEIGHT, pixels)


def _entries_height(view: StepView) -> float:
    return entries_height(len(view.entries)) if view.entries else 0


def _draw_entries(canvas: Canvas, left: float, top: float, view: StepView) -> None:
    """Draw the entries of a vector with their saliency in all steps of the context."""
    draw_entries(canvas, left, top, f"all steps: {GRADIENT}", view.entries, view.saliency)


def _legend_height(view: StepView) -> int:
    return len(view.legend) * _LINE_HEIGHT + _GAP


def _actions_height(view: StepView) -> int:
    return _LINE_HEIGHT * len(view.preferences) + _GAP


def _draw_actions(canvas: Canvas, left: float, top: float, view: StepView) -> None:
    """Draw the name, the bar, and the probability or Q of every action."""
    names = view.traced.dataset.action_meanings
    bars_x = left + max(canvas.text_width(name, _TEXT_SIZE) for name in names) + 2 * _GAP
    for action, (name, length) in enumerate(zip(names, view.bars, strict=True)):
        y = top + _LINE_HEIGHT * action
        canvas.draw_text(left, y, name, _TEXT_SIZE, bold=name == view.action)
        canvas.fill_rectangle(bars_x, y + 1, bars_x + _ACTION_BAR_WIDTH * length, y + 13, TOKEN_COLORS["state"])
        canvas.draw_text(bars_x + _ACTION_BAR_WIDTH + _GAP, y, view.describe_preference(action), _TEXT_SIZE)


def _draw_context(canvas: Canvas, left: float, view: StepView) -> None:
    """Draw the run and the step's status, the strip below them, and its legend."""
    traced, episode, step = view.traced, view.episode, view.step
    name = traced.name if len(traced.name) <= _MAX_NAME_LENGTH else f"…{traced.name[1 - _MAX_NAME_LENGTH :]}"
    run = f"{name} · target return {traced.target_label(traced.target_return)}"
    canvas.draw_text(left, _RUN_Y, run, _TEXT_SIZE, FAINT_COLOR)
    returns_to_go = format_number(float(episode.returns_to_go[step, episode.num_steps[step] - 1]))
    score = format_number(float(episode.scores[step]))
    preference = view.describe_preference(int(episode.actions[step]))
    status = [f"score {score}", f"return-to-go {returns_to_go}", f"action {view.action} ({preference})"]
    if not traced.conditioned:
        del status[1]
    canvas.draw_text(left, _STATUS_Y, " · ".join(status), _TEXT_SIZE)
    _draw_strip(canvas, left, _STRIP_Y, view)
    for line, entries in enumerate(view.legend):
        x, y = left, _STRIP_Y + _Strip.of(view).height + _LINE_HEIGHT * line
        for color, text in entries:
            canvas.fill_rectangle(x, y + 3, x + _SWATCH, y + 3 + _SWATCH, color)
            canvas.draw_text(x + _SWATCH + 4, y, text, _TEXT_SIZE)
            x += canvas.text_width(text, _TEXT_SIZE) + 28


def _draw_strip(canvas: Canvas, left: float, top: float, view: StepView) -> None:
    """Draw the frames of a context, with the saliency of pixels, each above the attention to its step's tokens."""
    strip, num_steps = _Strip.of(view), int(view.episode.num_steps[view.step])
    max_weight, max_saliency = view.weights.max(initial=0), np.abs(view.saliency).max()
    num_frames = num_steps + view.traced.lead_in
    for distance in range(min(num_frames, view.step + 1)):
        row, column = divmod(strip.rows * strip.columns - 1 - distance, strip.columns)  # the newest frame comes last
        x = left + column * (strip.frame_size + _GAP)
        y = top + row * strip.row_height
        frame = view.episode.frames[view.step - distance]
        if view.entries:
            pixels = frame[..., None].repeat(3, axis=-1)
        else:
            pixels = overlay(frame, view.saliency[num_frames - 1 - distance], max_saliency)
        canvas.draw_pixels(x, y, pixels.repeat(strip.zoom, axis=0).repeat(strip.zoom, axis=1))
        floor, center = y + strip.frame_size + strip.bars_height, x + strip.frame_size / 2
        label = f"−{distance}" if distance else "now"
        canvas.draw_text(center, floor + 3, label, _FRAME_LABEL_SIZE, FAINT_COLOR, anchor="ma")
        if not view.token_types:
            continue
        if distance >= num_steps:
            canvas.draw_text(center, floor - 8, "lead-in", _NOTE_SIZE, FAINT_COLOR, anchor="ms")
            continue
        bar_x = x + (strip.frame_size - len(view.token_types) * _BAR_WIDTH) / 2
        for token_type, weight in zip(view.token_types, view.weights[num_steps - 1 - distance], strict=True):
            height = (_BARS_HEIGHT - _VALUE_HEIGHT) * weight / max_weight
            canvas.fill_rectangle(bar_x + 1, floor - height, bar_x + _BAR_WIDTH - 1, floor, TOKEN_COLORS[token_type])
            if weight >= _MIN_SHOWN_WEIGHT:
                percent = f"{100 * weight:.{1 if weight < 0.0995 else 0}f}"
                text_x = bar_x + _BAR_WIDTH / 2
                canvas.draw_text(text_x, floor - height - 2, percent, _VALUE_SIZE, FAINT_COLOR, anchor="ms")
            bar_x += _BAR_WIDTH
        canvas.fill_rectangle(x, floor, x + strip.frame_size, floor + 1, LINE_COLOR)
