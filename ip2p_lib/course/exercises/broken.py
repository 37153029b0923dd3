"""Faulty versions whose symptoms the notebooks show, for the learner to find the cause. The answers are in here."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from PIL import Image
from torch import Tensor

from ip2p_lib.attention import is_shared
from ip2p_lib.attention.sharing import attend, heads, joined
from ip2p_lib.backbone import Backbone
from ip2p_lib.diffusion import euler_ancestral
from ip2p_lib.editing import edit
from ip2p_lib.guidance import single_guidance
from ip2p_lib.presets import EditConfig
from ip2p_lib.records import Triplet


def colleagues_edits(
    editor: Backbone,
    picture: Image.Image,
    instruction: str,
    scales: Sequence[tuple[float, float]],
    *,
    config: EditConfig,
    seed: int,
) -> list[Any]:
    """Results of an edit at pairs of (text scale, image scale), with a fault."""
    return edit(
        editor, picture, instruction, config=config, seed=seed,
        guidance_scale=[image for _, image in scales], image_guidance_scale=[text for text, _ in scales],
    )  # fmt: skip


def colleagues_draws(logits: Tensor, seeds: Sequence[int], temperature: float) -> list[int]:
    """One token for each row of logits (B, V) and its seed, with a fault."""
    generator = torch.Generator().manual_seed(seeds[0])
    draws = torch.rand(len(seeds), 1, generator=generator, dtype=torch.float64)
    cumulative = (logits.double() / temperature).softmax(-1).cumsum(-1)
    return (cumulative <= draws).sum(-1).clamp(max=logits.shape[-1] - 1).tolist()


class _Lending:
    """Attention of four rows, two of which use the maps of the other two while it is on."""

    on = False

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, *_a: Any, **_k: Any
    ) -> Tensor:
        q = heads(attn, attn.to_q(hidden_states))
        k, v = (heads(attn, project(encoder_hidden_states)) for project in (attn.to_k, attn.to_v))
        if self.on:
            q, k = q[[0, 0, 2, 2]], k[[0, 0, 2, 2]]
        return joined(attn, attend(attn, q, k, v))


@torch.no_grad()
def colleagues_pair(
    base: Backbone, triplet: Triplet, seed: int, threshold: float, scale: float, *, steps: int, size: int
) -> tuple[Tensor, Tensor]:
    """Latents of source and target, (1, C, h, w) each, with a fault."""
    before, lending = dict(base.unet.attn_processors), _Lending()
    states = base.encode_text(["", "", triplet.input, triplet.output])
    side = size // base.factor

    def predict(scaled: Tensor, timestep: Tensor, step: int) -> Tensor:
        lending.on = is_shared(threshold, step, steps)
        uncond, cond = base.unet(torch.cat([scaled, scaled]), timestep, states).sample.chunk(2)
        return single_guidance(cond, uncond, scale)

    base.unet.set_attn_processor({n: lending if ".attn2." in n else p for n, p in before.items()})
    try:
        *_, last = euler_ancestral(
            predict, base.scheduler, seeds=[seed, seed], shape=(base.latent_channels, side, side),
            num_inference_steps=steps, device=base.device,
        )  # fmt: skip
    finally:
        base.unet.set_attn_processor(before)
    source, target = last.latents.chunk(2)
    return source, target
