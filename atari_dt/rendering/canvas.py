"""Draw text, bars and pictures in units independent of the resolution."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

from atari_dt.rendering.video import Pixels

PAGE_COLOR, TEXT_COLOR, FAINT_COLOR, LINE_COLOR = "#ffffff", "#1b1f26", "#5d6675", "#d9dee6"


class Canvas:
    """Draws in units that are ``scale`` pixels large."""

    def __init__(self, scale: int):
        self._scale = scale

    def start(self, width: float, height: float) -> None:
        """Begin a picture; both sides even, as video wants them."""
        size = tuple(2 * math.ceil(side * self._scale / 2) for side in (width, height))
        self.image = Image.new("RGB", (size[0], size[1]), PAGE_COLOR)
        self._draw = ImageDraw.Draw(self.image)

    def text(
        self, x: float, y: float, text: str, size: int, color: str = TEXT_COLOR, bold: bool = False, anchor: str = "la"
    ) -> None:
        """Write at a place, which is the text's upper left corner unless ``anchor`` says otherwise (see Pillow's)."""
        place = x * self._scale, y * self._scale
        self._draw.text(place, text, color, _font(size * self._scale, bold), anchor)

    def width(self, text: str, size: int) -> float:
        """How wide a text is."""
        return _font(size * self._scale, False).getlength(text) / self._scale

    def bar(self, left: float, top: float, right: float, bottom: float, color: str) -> None:
        """Fill a rectangle, which is at least a pixel high."""
        corners = [round(value * self._scale) for value in (left, top, right, bottom)]
        corners[3] = max(corners[1], corners[3] - 1)
        self._draw.rectangle((corners[0], corners[1], max(corners[0], corners[2] - 1), corners[3]), color)

    def picture(self, x: float, y: float, pixels: Pixels) -> None:
        """Paste a picture, a pixel a unit."""
        large = pixels.repeat(self._scale, axis=0).repeat(self._scale, axis=1)
        self.image.paste(Image.fromarray(large), (round(x * self._scale), round(y * self._scale)))


@functools.cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, as it comes with Matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)
