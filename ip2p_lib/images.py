"""Pictures in and out. The only place where value ranges change: bytes, [0, 1] and [-1, 1]."""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from ip2p_lib import records, storage
from ip2p_lib.fitting import Result, Room

MAX_PIXELS = 50_000_000
MAX_ASPECT = 20  # beyond, rounding the short side up makes the long one enormous
RECIPE_KEY = "ip2p-recipe"


def open_picture(path: Path) -> Image.Image:
    """Open any picture file as upright RGB; transparency is laid on white.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a readable picture, no area, or more than 50 million pixels.
    """
    if not path.is_file():
        raise FileNotFoundError(f"input must be a picture file, found none at {path}")
    try:
        return _decoded(path, str(path))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} must be a picture that Pillow can read, but: {error}") from error


def _decoded(file: Path | io.BytesIO, name: str) -> Image.Image:
    """Open and decode as upright RGB, unless that would take too much memory."""
    try:
        with Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"{name} must have at most {MAX_PIXELS:,} pixels, got {image.width} x {image.height};"
                    " reduce it first"
                )
            image.load()
            return to_rgb(image)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} must have at most {MAX_PIXELS:,} pixels; reduce it first") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright RGB of any mode: palettes resolved, 16 bits reduced, transparency on white.

    Raises:
        ValueError: the picture has no area.
    """
    if not image.width or not image.height:
        raise ValueError(f"a picture must have an area, got {image.width} x {image.height}")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        if image.mode == "F" and np.nanmin(values) >= 0 and np.nanmax(values) <= 1:
            values = 255 * values  # as such files usually are
        is_16_bit = image.mode.startswith("I;16") or values.max() > 255
        grey = np.nan_to_num(values / 257 if is_16_bit else values).clip(0, 255).round()
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image).convert("RGB")
    return image.convert("RGB")


def edit_size(width: int, height: int, resolution: int, multiple: int) -> tuple[int, int]:
    """Size at which a picture is edited: long side near `resolution`, both sides whole multiples.

    The short side is rounded up, so the long side may exceed `resolution`. Exact rational arithmetic:
    the released code's floats lose a whole multiple at, for instance, 1000 x 667.

    Source: timothybrooks/instruct-pix2pix@0dffd1e:edit_cli.py, with multiple = 64.

    Raises:
        ValueError: a side is not positive, or one is more than 20 times the other.
    """
    if min(width, height, resolution, multiple) < 1:
        raise ValueError(f"sides must be positive, got {width} x {height} for resolution {resolution}")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(
            f"a picture's sides may differ at most {MAX_ASPECT} times, got {width} x {height}; crop it first"
        )
    short = min(width, height)
    factor = Fraction(resolution, max(width, height))
    factor = Fraction(ceil(short * factor / multiple) * multiple, short)
    return int(width * factor // multiple) * multiple, int(height * factor // multiple) * multiple


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize and centre-crop to exactly `size` (width, height)."""
    return image if image.size == size else ImageOps.fit(image, size, method=Image.Resampling.LANCZOS)


def by_size(pictures: Sequence[Image.Image], batch_size: int) -> Iterator[list[int]]:
    """Indices of pictures in batches of one size."""
    for size in dict.fromkeys(p.size for p in pictures):
        rows = [i for i, p in enumerate(pictures) if p.size == size]
        yield from (rows[i : i + batch_size] for i in range(0, len(rows), batch_size))


def fitted(
    work: Callable[[Sequence[int]], Iterable[Result]],
    pictures: Sequence[Image.Image],
    batch_size: int,
    items: str,
) -> Iterator[Result]:
    """Results of the work on indices of pictures, in batches of one size and no larger than memory holds.

    Args:
        items: what they are, in the plural, for messages.

    Raises:
        ValueError: not even one fits.
    """
    rooms: dict[tuple[int, int], Room] = {}  # what fits depends on the size
    for rows in by_size(pictures, batch_size):
        room = rooms.setdefault(pictures[rows[0]].size, Room(items))
        for done in room.parts(work, rows):
            yield from done


def paste_back(original: Image.Image, edited: Image.Image) -> Image.Image:
    """Put an edit, made of the middle of a picture as `fit` cuts it, back at the picture's own size."""
    out, (width, height) = to_rgb(original), edited.size
    scale = min(Fraction(out.width, width), Fraction(out.height, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    corner = (out.width - size[0]) // 2, (out.height - size[1]) // 2
    out.paste(edited.resize(size, Image.Resampling.LANCZOS), corner)
    return out


def digest(picture: Image.Image) -> str:
    """Short digest of a picture's pixels as upright RGB."""
    rgb = to_rgb(picture)
    return storage.fingerprint([rgb.size, hashlib.sha256(rgb.tobytes()).hexdigest()])


def to_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size to (B, 3, H, W) float32 in [-1, 1].

    Raises:
        ValueError: the sizes differ.
    """
    sizes = {p.size for p in pictures}
    if len(sizes) != 1:
        raise ValueError(f"pictures of a batch must share one size, got {sorted(sizes)}")
    stacked = np.stack([np.asarray(p.convert("RGB")) for p in pictures])  # (B, H, W, 3)
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1], clipped, to RGB pictures; values are rounded, not truncated."""
    values = ((pixels.detach().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return [Image.fromarray(v) for v in values.permute(0, 2, 3, 1).cpu().numpy()]


def to_unit(pixels: Tensor) -> Tensor:
    """[-1, 1] to [0, 1], clipped: the range that CLIP's preprocessing expects."""
    return ((pixels + 1) / 2).clamp(0, 1)


def from_unit(pixels: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]."""
    return 2 * pixels - 1


def grid(pictures: Sequence[Image.Image], columns: int, *, gap: int = 2) -> Image.Image:
    """Pictures of one size side by side on white, row by row."""
    width, height = pictures[0].size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, ((i % columns) * (width + gap), (i // columns) * (height + gap)))
    return sheet


def png_bytes(image: Image.Image) -> bytes:
    """A picture as PNG, the form in which shards hold it."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def from_bytes(data: bytes, name: str = "picture") -> Image.Image:
    """A picture from encoded bytes, as RGB.

    Raises:
        ValueError: the bytes are not a picture, or one of more than 50 million pixels.
    """
    try:
        return _decoded(io.BytesIO(data), name)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{name} must hold a picture, but: {error}") from error


def save_with_recipe(image: Image.Image, path: Path, recipe: Mapping[str, Any]) -> None:
    """Write a PNG that carries the recipe of its making in a text chunk."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(RECIPE_KEY, json.dumps(dict(recipe)))
    with storage.atomic_file(path) as partial:
        image.save(partial, "PNG", pnginfo=chunks)


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe in an edited PNG.

    Raises:
        ValueError: the file carries none, or one whose fields are of other kinds than `records.Recipe`'s.
    """
    try:
        with Image.open(path) as image:
            text = image.info.get(RECIPE_KEY)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} must be a picture with a recipe, but: {error}") from error
    if not isinstance(text, str):
        raise ValueError(f"{path} must carry a recipe, found none; was it written by `ip2p edit`?")
    try:
        return records.checked_recipe(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} must carry a recipe as `ip2p edit` writes it, but: {error}") from error
