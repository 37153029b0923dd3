"""The five styles: each turns a drawn picture (float RGB) into how that medium would show it."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.float32]  # (S, S, 3) in 0..255
Mask = NDArray[np.float32]  # (S, S, 1) in 0..1, where the subject is


def luminance(pixels: Pixels) -> Pixels:
    """Brightness of each pixel, (S, S, 1)."""
    return pixels @ np.asarray([[0.3], [0.59], [0.11]], dtype=np.float32)


def edges(grey: Pixels) -> Pixels:
    """How sharply brightness changes, clipped to 0..1, (S, S, 1)."""
    step = max(1, grey.shape[0] // 96)
    dx = np.abs(np.roll(grey, step, 1) - np.roll(grey, -step, 1))
    dy = np.abs(np.roll(grey, step, 0) - np.roll(grey, -step, 0))
    strength = np.maximum(dx, dy) / 70
    border = 2 * step
    strength[:border], strength[-border:], strength[:, :border], strength[:, -border:] = 0, 0, 0, 0
    return np.clip(strength, 0, 1)


def smooth_noise(size: int, cells: int, rng: np.random.Generator) -> Pixels:
    """Cloudy noise in -1..1 with about `cells` blotches a side, (S, S, 1)."""
    small = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32), mode="F")
    return np.asarray(small.resize((size, size), Image.Resampling.BICUBIC))[:, :, None]


def plain(pixels: Pixels, subject: Mask, rng: np.random.Generator) -> Pixels:
    return pixels


def pencil(pixels: Pixels, subject: Mask, rng: np.random.Generator) -> Pixels:
    """Graphite and faint coloured pencil on cream paper; the subject alone is filled in strongly."""
    size = pixels.shape[0]
    grey = luminance(pixels)
    row, column = np.mgrid[:size, :size].astype(np.float32) / size
    hatch = 0.5 + 0.5 * np.sin((row + column) * 2 * np.pi * 13)[:, :, None]
    faint = grey + 0.38 * (pixels - grey)
    tone = 255 - (255 - faint) * (0.72 - 0.16 * hatch)
    tone = np.minimum(tone, 255 * (1 - 0.66 * edges(grey)))
    paper = tone * (np.asarray([[250, 245, 232]], dtype=np.float32) / 250)
    colour = 255 - (255 - pixels) * (0.86 - 0.22 * hatch)
    return paper * (1 - subject) + colour * subject


def watercolour(pixels: Pixels, subject: Mask, rng: np.random.Generator) -> Pixels:
    """Thin washes that pool and fade, stopping short of the paper's edge."""
    size = pixels.shape[0]
    pool = smooth_noise(size, 6, rng) * 0.16
    wash = 255 - (255 - pixels) * (0.74 + pool)
    row, column = np.mgrid[:size, :size].astype(np.float32) / (size - 1)
    margin = np.minimum(np.minimum(row, 1 - row), np.minimum(column, 1 - column))[:, :, None]
    painted = np.clip((margin - 0.045 - 0.03 * smooth_noise(size, 9, rng)) / 0.03, 0, 1)
    return 253 * (1 - painted) + wash * painted


def pixel(pixels: Pixels, subject: Mask, rng: np.random.Generator) -> Pixels:
    """Thirty-two blocks a side and five levels a channel, whatever the size."""
    size = pixels.shape[0]
    small = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize((32, 32), Image.Resampling.BOX)
    levels = np.round((np.asarray(small, dtype=np.float32) * 1.08 - 8) / 51) * 51
    blocks = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    return np.asarray(blocks.resize((size, size), Image.Resampling.NEAREST), dtype=np.float32)


def poster(pixels: Pixels, subject: Mask, rng: np.random.Generator) -> Pixels:
    """A travel poster: flat saturated inks, thick key lines and a cream border."""
    size = pixels.shape[0]
    grey = luminance(pixels)
    inks = grey + (pixels - grey) * 1.3
    inks = np.round(inks / 42) * 42
    inks = inks * (1 - 0.72 * edges(grey) * (edges(grey) > 0.35))
    border = round(size * 0.07)
    out = np.empty_like(pixels)
    out[:] = (244, 232, 204)
    inner = slice(border, size - border)
    out[inner, inner] = inks[inner, inner]
    line = max(1, round(size * 0.016))
    for edge in (slice(border, border + line), slice(size - border - line, size - border)):
        out[edge, inner] = (52, 44, 60)
        out[inner, edge] = (52, 44, 60)
    return out


STYLES: dict[str, Callable[[Pixels, Mask, np.random.Generator], Pixels]] = {
    f.__name__: f for f in (plain, pencil, watercolour, pixel, poster)
}
