"""The four CLIP similarities of an edit, with the reference's preprocessing."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ip2p_lib.backbone import ClipEncoder
from ip2p_lib.fitting import Room
from ip2p_lib.records import ClipScores


def preprocess(pixels: Tensor, clip: ClipEncoder) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] as CLIP takes them: squashed bicubically to a square, normalised.

    No antialiasing, no crop, no clamp: the thresholds of the paper belong to exactly this.

    Raises:
        ValueError: values lie outside [0, 1] (the released metrics script feeds [-1, 1]).

    Source: timothybrooks/instruct-pix2pix@0dffd1e:metrics/clip_similarity.py.
    """
    low, high = pixels.amin().item(), pixels.amax().item()
    if low < -1e-3 or high > 1 + 1e-3:
        raise ValueError(
            f"CLIP takes pictures in [0, 1], got values from {low:.2f} to {high:.2f}; see images.to_unit"
        )
    squashed = F.interpolate(pixels, (clip.size, clip.size), mode="bicubic", align_corners=False)
    mean, std = (torch.tensor(v, device=pixels.device).view(1, 3, 1, 1) for v in (clip.mean, clip.std))
    return (squashed - mean) / std


@torch.no_grad()
def image_features(
    clip: ClipEncoder, pixels: Tensor, *, batch_size: int = 256, room: Room | None = None
) -> Tensor:
    """Unit-length features (N, D) of pictures (N, 3, H, W) in [0, 1]; fewer at a time where memory runs out."""
    room = Room("pictures for CLIP") if room is None else room

    def encode(part: Any) -> Tensor:
        return clip.model.encode_image(preprocess(part.to(clip.device), clip))

    blocks = [f for b in pixels.split(batch_size) for f in room.parts(encode, cast(Any, b))]
    return F.normalize(torch.cat(blocks).float(), dim=-1)


@torch.no_grad()
def text_features(clip: ClipEncoder, texts: Sequence[str], *, batch_size: int = 256) -> Tensor:
    """Unit-length features (N, D) of texts; equal texts are encoded once."""
    unique = list(dict.fromkeys(texts))
    tokens = clip.tokenize(unique).to(clip.device)
    encoded = torch.cat([clip.model.encode_text(b) for b in tokens.split(batch_size)])
    position = {text: i for i, text in enumerate(unique)}
    return F.normalize(encoded.float(), dim=-1)[[position[t] for t in texts]]


def similarities(image_0: Tensor, image_1: Tensor, text_0: Tensor, text_1: Tensor) -> dict[str, Tensor]:
    """The four cosines (N,) from unit-length features (N, D), under their released names.

    Equal pictures or equal captions have no direction; their directional similarity is 0.

    Source: InstructPix2Pix section 3.1.2, after StyleGAN-NADA (Gal et al. 2021).
    """
    return {
        "clip_sim_0": F.cosine_similarity(image_0, text_0),
        "clip_sim_1": F.cosine_similarity(image_1, text_1),
        "clip_sim_dir": F.cosine_similarity(image_1 - image_0, text_1 - text_0),
        "clip_sim_image": F.cosine_similarity(image_0, image_1),
    }


def encode_edits(
    clip: ClipEncoder,
    before: Tensor,
    after: Tensor,
    captions: Sequence[str],
    edited_captions: Sequence[str],
    *,
    room: Room | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit-length features (N, D) of both pictures and both captions of N edits, pictures in [0, 1].

    All pictures go through CLIP together, and equal captions once.
    """
    first, second = image_features(clip, torch.cat([before, after]), room=room).chunk(2)
    text, edited_text = text_features(clip, [*captions, *edited_captions]).chunk(2)
    return first, second, text, edited_text


def score_edits(
    clip: ClipEncoder, before: Tensor, after: Tensor, captions: Sequence[str], edited_captions: Sequence[str]
) -> list[ClipScores]:
    """Scores of N edits from pictures (N, 3, H, W) in [0, 1] and their captions."""
    cosines = similarities(*encode_edits(clip, before, after, captions, edited_captions))
    return [ClipScores(**{n: v[i].item() for n, v in cosines.items()}) for i in range(len(before))]
