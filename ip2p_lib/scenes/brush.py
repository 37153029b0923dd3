"""A thin pen over Pillow: unit coordinates, a local frame per object, colours as float triples."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[float, float, float]
Point = tuple[float, float]

WHITE: Colour = (250, 250, 246)
INK: Colour = (38, 34, 46)


def mix(a: Colour, b: Colour, t: float) -> Colour:
    """Colour a fraction `t` of the way from a to b."""
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def shade(colour: Colour, factor: float | Colour) -> Colour:
    """Colour multiplied by one factor or by one per channel."""
    factors = (factor,) * 3 if isinstance(factor, int | float) else factor
    return (colour[0] * factors[0], colour[1] * factors[1], colour[2] * factors[2])


def rgb(colour: Colour) -> tuple[int, int, int]:
    """Colour rounded into 0..255."""
    red, green, blue = (int(min(255.0, max(0.0, c)) + 0.5) for c in colour)
    return (red, green, blue)


class Brush:
    """Draws in a frame whose origin, scale and mirroring are set by `at`.

    Args:
        image: RGB or RGBA picture drawn upon; the unit square covers it.
    """

    def __init__(self, image: Image.Image) -> None:
        self._draw = ImageDraw.Draw(image)
        self._pixels = image.width
        self._x, self._y, self._scale, self._flip = 0.0, 0.0, 1.0, 1.0

    def at(self, x: float, y: float, scale: float, *, flip: bool = False) -> "Brush":
        """The same paper seen from (x, y), with lengths times `scale`, mirrored if `flip`."""
        other = object.__new__(Brush)
        other._draw, other._pixels = self._draw, self._pixels
        other._x, other._y, other._scale, other._flip = x, y, scale, -1.0 if flip else 1.0
        return other

    def _map(self, points: Sequence[Point]) -> list[Point]:
        s, n = self._scale, self._pixels
        return [((self._x + self._flip * s * x) * n, (self._y + s * y) * n) for x, y in points]

    def _width(self, width: float) -> int:
        return max(1, round(width * self._pixels))

    def polygon(self, points: Sequence[Point], fill: Colour, outline: Colour | None = None) -> None:
        """Filled polygon, with an outline one hundredth of the picture wide."""
        mapped = self._map(points)
        self._draw.polygon(mapped, fill=rgb(fill))
        if outline is not None:
            self._draw.line([*mapped, mapped[0], mapped[1]], rgb(outline), self._width(0.012), "curve")

    def box(
        self, x0: float, y0: float, x1: float, y1: float, fill: Colour, outline: Colour | None = None
    ) -> None:
        """Filled rectangle from corner to corner."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, outline)

    def ellipse(
        self, cx: float, cy: float, rx: float, ry: float, fill: Colour, outline: Colour | None = None
    ) -> None:
        """Filled ellipse around (cx, cy)."""
        (xa, ya), (xb, yb) = self._map([(cx - rx, cy - ry), (cx + rx, cy + ry)])
        bounds = (min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb))
        edge = None if outline is None else rgb(outline)
        self._draw.ellipse(bounds, fill=rgb(fill), outline=edge, width=self._width(0.012))

    def dome(
        self, cx: float, cy: float, rx: float, ry: float, fill: Colour, outline: Colour | None = None
    ) -> None:
        """Upper half of an ellipse whose flat side lies at `cy`."""
        angles = [math.pi * i / 18 for i in range(19)]
        self.polygon([(cx + rx * math.cos(a), cy - ry * math.sin(a)) for a in angles], fill, outline)

    def line(self, points: Sequence[Point], colour: Colour, width: float = 0.012) -> None:
        """Open line; `width` is a fraction of the picture, whatever the frame's scale."""
        self._draw.line(self._map(points), rgb(colour), self._width(width), "curve")

    def arc(self, cx: float, cy: float, radius: float, colour: Colour, width: float) -> None:
        """Upper half of a circle's rim, `width` thick inwards."""
        (xa, ya), (xb, yb) = self._map([(cx - radius, cy - radius), (cx + radius, cy + radius)])
        self._draw.arc((xa, ya, xb, yb), 180, 360, rgb(colour), self._width(width))


def gradient(size: int, top: Colour, bottom: Colour, end: float) -> Image.Image:
    """Square picture running from `top` to `bottom`, reached at height `end` (0 top, 1 bottom)."""
    t = np.clip(np.linspace(0, 1, size) / end, 0, 1)[:, None]
    column = np.asarray(top) * (1 - t) + np.asarray(bottom) * t
    rows = np.repeat(column[:, None, :], size, axis=1)
    return Image.fromarray((rows + 0.5).clip(0, 255).astype(np.uint8))
