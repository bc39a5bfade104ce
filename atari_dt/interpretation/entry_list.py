"""A drawn list of the entries of a vector: bytes of the RAM or variables with their values and their saliency."""

from __future__ import annotations

from collections.abc import Sequence

from atari_dt.interpretation.episode_trace import Floats
from atari_dt.interpretation.saliency_vectors import raised_and_lowered, top_entries
from atari_dt.rendering.canvas import FAINT_COLOR, LINE_COLOR, Canvas

POSITIVE_COLOR, NEGATIVE_COLOR = "#ff2d75", "#00b8d9"  # saliency that raises and lowers the score

_NUM_ROWS = 10

# Lengths in units of the canvas.
_LINE_HEIGHT, _TEXT_SIZE, _GAP = 18, 11, 8
_NAME_WIDTH, _VALUE_WIDTH, _BAR_WIDTH = 165, 30, 70  # of a bar to one side
ENTRIES_WIDTH = _NAME_WIDTH + _VALUE_WIDTH + 2 * _BAR_WIDTH + 4 * _GAP


def entries_height(num_entries: int) -> float:
    """Return the height of a list of the top entries out of ``num_entries``."""
    return _LINE_HEIGHT * (1 + min(_NUM_ROWS, num_entries)) + _GAP


def draw_entries(
    canvas: Canvas, left: float, top: float, title: str, entries: Sequence[tuple[str, int]], saliency: Floats
) -> None:
    """Draw the ten entries with the largest absolute saliency, summed over steps, largest first.

    What raises the score is a bar to the right of a line, what lowers it a bar to the left; see `raised_and_lowered`.

    Args:
        canvas: Canvas to draw on.
        left: Left side of the list.
        top: Upper side of the list.
        title: Text above the list.
        entries: Name and value of each of the D entries.
        saliency: Saliency of the entries, ``[K, D]``.
    """
    canvas.draw_text(left, top, title, _TEXT_SIZE, FAINT_COLOR)
    raised, lowered = raised_and_lowered(saliency)
    longest = max(raised.max(), lowered.max(), 1e-30)
    values_x = left + _NAME_WIDTH + _VALUE_WIDTH
    center = values_x + _GAP + _BAR_WIDTH
    for row, entry in enumerate(top_entries(saliency, _NUM_ROWS), start=1):
        y = top + _LINE_HEIGHT * row
        name, value = entries[entry]
        canvas.draw_text(left, y, _shorten(canvas, name), _TEXT_SIZE)
        canvas.draw_text(values_x, y, str(value), _TEXT_SIZE, anchor="ra")
        for length, side, color in ((lowered[entry], -1, NEGATIVE_COLOR), (raised[entry], 1, POSITIVE_COLOR)):
            if length > 0:
                end = center + side * _BAR_WIDTH * length / longest
                canvas.fill_rectangle(min(center, end), y + 1, max(center, end), y + 13, color)
        canvas.fill_rectangle(center, y - 1, center + 1, y + 15, LINE_COLOR)


def _shorten(canvas: Canvas, name: str) -> str:
    """Return a name that fits its column, with an ellipsis in place of what does not."""
    if canvas.text_width(name, _TEXT_SIZE) <= _NAME_WIDTH:
        return name
    while canvas.text_width(f"{name}…", _TEXT_SIZE) > _NAME_WIDTH:
        name = name[:-1]
    return f"{name}…"
