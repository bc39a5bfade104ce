"""A drawing surface for text, rectangles and pixel images in units independent of the resolution."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

from atari_dt.rendering.video import Pixels

PAGE_COLOR, TEXT_COLOR, FAINT_COLOR, LINE_COLOR = "#ffffff", "#1b1f26", "#5d6675", "#d9dee6"


class Canvas:
    """Image to draw on, with an even number of pixels along each side, as video codecs require.

    Args:
        width: Width in units.
        height: Height in units.
        scale: Pixels per unit.

    Attributes:
        image: Image drawn so far.
    """

    def __init__(self, width: float, height: float, scale: int):
        self._scale = scale
        columns, rows = (2 * math.ceil(side * scale / 2) for side in (width, height))
        self.image = Image.new("RGB", (columns, rows), PAGE_COLOR)
        self._draw = ImageDraw.Draw(self.image)

    def draw_text(
        self, x: float, y: float, text: str, size: int, color: str = TEXT_COLOR, bold: bool = False, anchor: str = "la"
    ) -> None:
        """Draw text with its anchor at ``(x, y)``; the default anchor is the upper left corner (Pillow's names)."""
        position = x * self._scale, y * self._scale
        self._draw.text(position, text, color, _font(size * self._scale, bold), anchor)

    def text_width(self, text: str, size: int) -> float:
        """Return the width of text in the regular font."""
        return _font(size * self._scale, False).getlength(text) / self._scale

    def fill_rectangle(self, left: float, top: float, right: float, bottom: float, color: str) -> None:
        """Fill a rectangle of at least one pixel."""
        corners = [round(value * self._scale) for value in (left, top, right, bottom)]
        corners[3] = max(corners[1], corners[3] - 1)
        self._draw.rectangle((corners[0], corners[1], max(corners[0], corners[2] - 1), corners[3]), color)

    def draw_pixels(self, x: float, y: float, pixels: Pixels) -> None:
        """Draw an image, one unit per pixel, with its upper left corner at ``(x, y)``."""
        enlarged = pixels.repeat(self._scale, axis=0).repeat(self._scale, axis=1)
        self.image.paste(Image.fromarray(enlarged), (round(x * self._scale), round(y * self._scale)))


@functools.cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which Matplotlib ships."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)
