"""What Text2LIVE asks of an edit layer, through any open_clip model; gradients flow to the pixels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ip2p_lib.backbone import ClipEncoder
from ip2p_lib.similarity import preprocess

GREEN = (0.0, 177 / 255, 64 / 255)  # the screen behind a layer


def composite(layer: Tensor, background: Tensor) -> Tensor:
    """Lay colour and opacity (B, 4, H, W) over a background (B, 3, H, W), all in [0, 1]."""
    colour, opacity = layer[:, :3], layer[:, 3:]
    return opacity * colour + (1 - opacity) * background


def over_green(layer: Tensor) -> Tensor:
    """The layer alone, over a green screen, (B, 3, H, W) in [0, 1]."""
    green = torch.tensor(GREEN, device=layer.device, dtype=layer.dtype).view(1, 3, 1, 1)
    return composite(layer, green.expand(len(layer), 3, *layer.shape[2:]))


def sparsity(opacity: Tensor) -> tuple[Tensor, Tensor]:
    """Mean opacity, and a smooth count of what is not transparent; both 0 for an empty layer.

    Args:
        opacity: in [0, 1], any shape.

    Source: Text2LIVE (arXiv:2204.02491), equation 4: L1, and 2 sigmoid(5 a) - 1 for L0.
    """
    return opacity.abs().mean(), (2 * torch.sigmoid(5 * opacity) - 1).mean()


def random_views(count: int, generator: torch.Generator, *, smallest: float = 0.6) -> Tensor:
    """Affine maps (count, 2, 3) to crops of one picture: the whole first, then random ones, half of them flipped.

    Args:
        smallest: least side of a crop as a share of the picture's.
    """
    side = smallest + (1 - smallest) * torch.rand(count, generator=generator)
    corner = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - side[:, None])
    flip = 1 - 2 * (torch.rand(count, generator=generator) < 0.5).float()
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0], maps[:, 1, 1], maps[:, :, 2] = side * flip, side, corner
    maps[0] = torch.eye(2, 3)
    return maps


def take_views(picture: Tensor, maps: Tensor, size: int) -> Tensor:
    """Views (V, 3, size, size) of one picture (1, 3, H, W), values kept within its range."""
    longest = round(size / 0.6)
    if min(picture.shape[2:]) > longest:  # or the crops would alias
        picture = F.interpolate(picture, (longest, longest), mode="area")
    shape = [len(maps), 3, size, size]
    grid = F.affine_grid(maps.to(picture), shape, align_corners=False)
    repeated = picture.expand(len(maps), -1, -1, -1)
    return F.grid_sample(repeated, grid, padding_mode="border", align_corners=False)


def embed(clip: ClipEncoder, pixels: Tensor) -> Tensor:
    """Unit-length features (B, D) of pictures (B, 3, H, W) in [0, 1], with gradients."""
    return F.normalize(clip.model.encode_image(preprocess(pixels.clamp(0, 1), clip)).float(), dim=-1)


def text_loss(features: Tensor, text: Tensor) -> Tensor:
    """Mean cosine distance of views (V, D) from a text (1, D): 0 for agreement, 2 for the opposite."""
    return (1 - F.cosine_similarity(features, text)).mean()


def direction_loss(before: Tensor, after: Tensor, text: Tensor, edited_text: Tensor) -> Tensor:
    """Mean cosine distance of the change of views (V, D) from the change of text (1, D)."""
    return (1 - F.cosine_similarity(after - before, edited_text - text, eps=1e-6)).mean()


def self_similarity(places: Tensor) -> Tensor:
    """Cosines between all places of each picture, (B, N, D) to (B, N, N)."""
    unit = F.normalize(places, dim=-1)
    return unit @ unit.transpose(1, 2)


def structure_loss(before: Tensor, after: Tensor) -> Tensor:
    """Mean square between the self-similarities of two pictures' places, (B, N, D) each."""
    return F.mse_loss(self_similarity(after), self_similarity(before))


def _block_keys(transformer: Any) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The module to listen to in a vision transformer, and how its output becomes keys (B, N, D)."""
    block = transformer.resblocks[-1]
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias

    def keys(normed: Tensor) -> Tensor:
        width = normed.shape[-1]
        found = F.linear(normed, weight[width : 2 * width], None if bias is None else bias[width : 2 * width])
        return found if getattr(transformer, "batch_first", True) else found.transpose(0, 1)

    return block.ln_1, keys


def places_of(clip: ClipEncoder, pixels: Tensor) -> Tensor:
    """What CLIP sees at each place of pictures (B, 3, H, W) in [0, 1]: (B, N, D), with gradients.

    Of a vision transformer, the keys of its last block, class token included; of CLIP's ResNet, the features
    after its third stage.

    Raises:
        ValueError: the network is of neither kind.
    """
    visual = clip.model.visual
    if hasattr(visual, "transformer") and hasattr(visual.transformer, "resblocks"):
        module, convert = _block_keys(visual.transformer)
    elif hasattr(visual, "layer3"):
        module, convert = visual.layer3, lambda x: x.flatten(2).transpose(1, 2)
    else:
        raise ValueError(
            f"Text2LIVE's structure loss needs CLIP's vision transformer or ResNet, got {type(visual).__name__}"
        )
    found: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    try:
        clip.model.encode_image(preprocess(pixels.clamp(0, 1), clip))
    finally:
        handle.remove()
    return convert(found[0]).float()
