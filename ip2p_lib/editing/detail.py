"""Detail that the autoencoder loses, put back where an edit leaves the picture as it was."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ip2p_lib import images

Pictures = Sequence[Image.Image]
FADE = 0.1  # of a range of 2; so far from its input, a place gets 1/e of the detail


def with_detail(edited: Tensor, rebuilt: Tensor, original: Tensor) -> Tensor:
    """Add what the autoencoder loses of the input, the less of it the more an edit changed a place.

    An edit is decoded from latents, so it is soft even where it changes nothing. What the input loses on that way is
    known: `original - rebuilt`.

    Args:
        edited: decoded edits (B, 3, H, W) in [-1, 1].
        rebuilt: the inputs, encoded and decoded without an edit, same shape and range.
        original: the inputs, same shape and range.

    Returns:
        `original` where `edited` is `rebuilt`, and `edited` where it is far from it; clipped to [-1, 1].
    """
    apart = (edited - rebuilt).abs().mean(1, keepdim=True)
    return (edited + torch.exp(-((apart / FADE) ** 2)) * (original - rebuilt)).clamp(-1, 1)


def restored(edited: Pictures, rebuilt: Pictures, originals: Pictures) -> list[Image.Image]:
    """The same for pictures of one size."""
    return images.to_pictures(with_detail(*(images.to_tensor(p) for p in (edited, rebuilt, originals))))
