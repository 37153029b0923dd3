"""Draw a `Scene`: the picture, many pictures, and the exact mask of an edit."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ip2p_lib.scenes import places
from ip2p_lib.scenes.brush import Brush, gradient, mix, shade
from ip2p_lib.scenes.places import Ground, Layout
from ip2p_lib.scenes.styles import STYLES
from ip2p_lib.scenes.subjects import DRAW, PALETTE, Paints
from ip2p_lib.scenes.world import Scene

SUPERSAMPLING = 3  # drawn three times as large, then reduced: smooth edges without a vector library
MAX_SIZE = 1024


def render(scene: Scene, size: int = 64) -> Image.Image:
    """Draw a scene as an RGB picture of `size` by `size` pixels.

    Deterministic: the same scene and size give the same bytes. Two scenes that differ in one
    attribute differ only where that attribute shows.

    Raises:
        ValueError: size is not a multiple of 32 between 32 and 1024.
    """
    if size % 32 or not 32 <= size <= MAX_SIZE:
        raise ValueError(f"render size must be a multiple of 32 from 32 to {MAX_SIZE}, got {size}")
    layout = Layout.from_seed(scene.layout)
    backdrop = _draw_backdrop(scene, layout, size * SUPERSAMPLING)
    drawn, subject = _draw_foreground(scene, layout, backdrop)
    pixels = np.asarray(drawn, dtype=np.float32)
    mask = np.asarray(subject, dtype=np.float32)[:, :, None] / np.float32(255)
    styled = STYLES[scene.style](pixels, mask, layout.rng(5))
    large = Image.fromarray((styled + 0.5).clip(0, 255).astype(np.uint8))
    return large.resize((size, size), Image.Resampling.BOX)


def _draw_backdrop(scene: Scene, layout: Layout, size: int) -> Image.Image:
    top, bottom = places.SKIES[scene.time]
    if scene.weather != "clear":
        top, bottom = (mix(c, places.OVERCAST[scene.time], 0.55) for c in (top, bottom))
    image = gradient(size, top, bottom, layout.horizon)
    brush = Brush(image)
    places.draw_sun(brush, scene.time, layout)
    if scene.weather != "clear":
        places.draw_clouds(brush, scene.time, layout)
    for extra in scene.extras:
        if extra in places.BEHIND and extra != "kite":
            places.BEHIND[extra](brush, layout)
    places.PLACES[scene.place](brush, Ground(scene.time, scene.weather), layout)
    if "kite" in scene.extras:
        places.kite(brush, layout)
    return image


def _draw_foreground(scene: Scene, layout: Layout, image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """Subject and what stands around it; also where the subject is seen, as an L image."""
    brush = Brush(image)
    for extra in scene.extras:
        if extra in places.BESIDE:
            places.BESIDE[extra](brush, layout)
    before = image.copy()
    dim = 0.86 if scene.time == "night" else 1.0
    frame = brush.at(layout.subject_x, layout.subject_y, layout.subject_scale, flip=layout.subject_flip)
    DRAW[scene.subject](frame, Paints(shade(PALETTE[scene.colour], dim)))
    changed = (np.asarray(image) != np.asarray(before)).any(axis=2)
    for extra in scene.extras:
        if extra in places.BEFORE:
            places.BEFORE[extra](brush, layout)
    places.draw_fall(brush, scene.weather, layout)
    return image, Image.fromarray(changed.astype(np.uint8) * 255)


def edit_mask(before: Scene, after: Scene, size: int = 64, *, tolerance: int = 8) -> NDArray[np.bool_]:
    """Where the exact answer to an edit differs from its input, (size, size), True where it does.

    A pixel counts when any channel moves by more than `tolerance` of 255.
    """
    a = np.asarray(render(before, size), dtype=np.int16)
    b = np.asarray(render(after, size), dtype=np.int16)
    return (np.abs(a - b) > tolerance).any(axis=2)


def _render_block(scenes: Sequence[Scene], size: int) -> NDArray[np.uint8]:
    return np.stack([np.asarray(render(s, size)) for s in scenes])


def render_many(
    scenes: Sequence[Scene], size: int = 64, *, workers: int | None = None
) -> Iterable[NDArray[np.uint8]]:
    """Draw scenes on all cores; yields blocks of up to 256 pictures, (N, size, size, 3), in order."""
    blocks = [scenes[i : i + 256] for i in range(0, len(scenes), 256)]
    workers = workers or os.cpu_count() or 1
    if workers == 1 or len(blocks) == 1:
        yield from (_render_block(b, size) for b in blocks)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_render_block, blocks, [size] * len(blocks))
