"""Pairs by the word-level prompt-to-prompt of Hertz et al. 2022, with the sampler and noise of the others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ip2p_lib.attention import AttentionMaps, LocalBlend, WordControl, WordEdit, word_attention
from ip2p_lib.attention.words import Span
from ip2p_lib.backbone import Backbone
from ip2p_lib.diffusion import euler_ancestral
from ip2p_lib.guidance import single_guidance


@dataclass(frozen=True, slots=True)
class WordStep:
    """State of S pairs after a step."""

    index: int
    before: Tensor  # (S, C, h, w)
    after: Tensor  # (S, C, h, w)
    mask: Tensor | None  # (S, 1, h, w), where a local blend lets them differ


@torch.no_grad()
def word_pair_steps(
    backbone: Backbone,
    source: str,
    target: str,
    edit: WordEdit,
    *,
    seeds: Sequence[int],
    guidance_scale: float,
    num_inference_steps: int,
    size: int,
    self_span: Span = (0.0, 0.4),
    blend: LocalBlend | None = None,
    maps: AttentionMaps | None = None,
) -> Iterator[WordStep]:
    """Sample one pair of captions from S seeds, yielding after every step; the last holds the result.

    Args:
        edit: from `attention.replacement` or `attention.refinement`, reweighted and rescheduled as wanted.
        size: side of the pictures in pixels.
        self_span: shares of the steps between which self-attention follows too, at 16 x 16 places at most.
        blend: keep the source outside what some words look at.
        maps: empty; filled with the cross-attention of S sources and then S targets.

    Raises:
        ValueError: `maps` are not empty or of another resolution than the blend's, no layer has that
            resolution, or there is no seed.

    Source: google/prompt-to-prompt: ptp_utils.py and prompt-to-prompt_stable.ipynb, whose DDIM steps are
    Euler ancestral here.
    """
    count, device = len(seeds), backbone.device
    if not count:
        raise ValueError("a pair must have at least one seed, got none")
    maps = _maps(blend, maps)
    states = backbone.encode_text(["", source, target])[[0] * 2 * count + [1] * count + [2] * count]
    control = WordControl(edit, num_inference_steps, self_span, maps=maps)

    def predict(scaled: Tensor, timestep: Tensor, step: int) -> Tensor:
        control.step = step
        doubled = torch.cat([scaled, scaled]).to(backbone.unet.dtype)
        with word_attention(backbone.unet, control):  # not between steps, where the UNet is the caller's
            uncond, cond = backbone.unet(doubled, timestep, states).sample.chunk(2)
        return single_guidance(cond.float(), uncond.float(), guidance_scale)

    side = size // backbone.factor
    for state in euler_ancestral(
        predict, backbone.scheduler, seeds=[*seeds, *seeds], shape=(backbone.latent_channels, side, side),
        num_inference_steps=num_inference_steps, device=device,
    ):  # fmt: skip
        before, after = state.latents.chunk(2)
        mask = None
        if blend is not None and maps is not None and state.index >= int(blend.start * num_inference_steps):
            mask = blend.mask(maps, (side, side))
            after.copy_(torch.where(mask > 0, after, before))  # the sampler goes on from here
        yield WordStep(state.index, before, after, mask)


def _maps(blend: LocalBlend | None, maps: AttentionMaps | None) -> AttentionMaps | None:
    """Where to record: what the caller gave, or what the blend needs."""
    if maps is None:
        return AttentionMaps(blend.side) if blend is not None else None
    if maps.total is not None:
        raise ValueError(
            "maps must be empty when sampling begins, but hold those of another run; make new ones"
        )
    if blend is not None and maps.side != blend.side:
        raise ValueError(f"maps must have the side of the blend, {blend.side}, got {maps.side}")
    return maps
