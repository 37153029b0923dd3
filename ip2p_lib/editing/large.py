"""Pictures too large for the autoencoder in one go: cut into tiles, so that memory does not grow with the picture."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ip2p_lib import images
from ip2p_lib.backbone import Backbone

WHOLE = 768 * 768  # pixels up to which a picture is one piece
TILE = 512  # side of a tile, of which neighbours share a quarter


@contextmanager
def tiled(vae: Any, pixels: int) -> Iterator[bool]:
    """Let the autoencoder work in tiles inside the block if a picture has more than `WHOLE` pixels.

    Tiles are blended where they overlap. Each is normalised by its own statistics, so the result is close to that
    in one piece, not equal. Yields whether there are tiles; an autoencoder that knows none works in one piece.
    """
    names = ("use_tiling", "tile_sample_min_size", "tile_latent_min_size")
    if pixels <= WHOLE or not all(hasattr(vae, name) for name in names):
        yield False
        return
    before = {name: getattr(vae, name) for name in names}
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    try:
        for name, value in zip(names, (True, TILE, TILE // factor), strict=True):
            setattr(vae, name, value)
        yield True
    finally:
        for name, value in before.items():
            setattr(vae, name, value)


def encoded(editor: Backbone, picture: Image.Image) -> Tensor:
    """Unscaled latents of one RGB picture, (1, C, h, w), whole or in tiles."""
    with tiled(editor.vae, picture.width * picture.height):
        return editor.image_latents(images.to_tensor([picture]))


def decoded(editor: Backbone, latents: Tensor) -> list[Image.Image]:
    """Pictures of scaled latents (B, C, h, w); those that need tiles one after the other.

    Raises:
        ValueError: one of them is not finite.
    """
    with tiled(editor.vae, latents[0, 0].numel() * editor.factor**2) as in_tiles:
        parts = latents.split(1) if in_tiles else [latents]
        pixels = torch.cat([editor.decode_latents(part).cpu() for part in parts])
    if not pixels.isfinite().all():
        raise ValueError(
            f"the numbers that {editor.name} computes must be finite, but a picture came out as NaN: half precision"
            " overflowed, for which float32 helps (`--precision no`), or its weights are broken"
        )
    return images.to_pictures(pixels)
