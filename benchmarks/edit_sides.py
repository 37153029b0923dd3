"""Both sides of the editing benchmark: diffusers' pipeline and ours, on the same latents, noise, texts and timesteps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from torch import Tensor
from training_sides import Size, random_base

from ip2p_lib.backbone import Backbone
from ip2p_lib.diffusion import seeded_noise
from ip2p_lib.editing import Memory, edit_latents
from ip2p_lib.editing.packing import packed_convolutions
from ip2p_lib.editing.reuse import SharedWork
from ip2p_lib.samplers import make_scheduler
from ip2p_lib.unet import as_editor_unet

SAMPLER = "euler"  # no noise on the way, so that both sides can end at equal latents
Scales = tuple[float, float]  # s_T, s_I


def random_editor(size: Size, device: str) -> Backbone:
    """An editor of Stable Diffusion's form with random frozen weights, also for the picture's channels."""
    return editor_of(random_base(size, device))


def editor_of(base: Backbone) -> Backbone:
    """An editor around a copy of a text-to-image model's UNet, the weights of the picture's channels random."""
    unet = as_editor_unet(base.unet, base.latent_channels).eval().requires_grad_(False)
    new = unet.conv_in.weight[:, base.latent_channels :]
    new.copy_(0.05 * torch.randn(new.shape, generator=torch.Generator().manual_seed(4)))
    return base.with_unet(unet, "random")


@dataclass
class Sides:
    """Edits of random latents under random text states, by either side; the autoencoder plays no part.

    `theirs` may be another UNet with the same weights, such as a compiled one.
    """

    editor: Backbone
    side: int  # of the latents
    count: int = 1
    steps: int = 20
    other: Any = None

    def __post_init__(self) -> None:
        unet, generator = self.editor.unet, torch.Generator().manual_seed(2)
        width = unet.config.cross_attention_dim
        length = self.editor.tokenizer.model_max_length
        shapes = ((self.count, 4, self.side, self.side), (self.count, length, width), (1, length, width))
        drawn = [torch.randn(shape, generator=generator) for shape in shapes]
        self.condition, self.texts, self.null = (t.to(unet.device, unet.dtype) for t in drawn)
        self.seeds = list(range(self.count))
        self.pipeline = StableDiffusionInstructPix2PixPipeline(
            vae=self.editor.vae, text_encoder=self.editor.text_encoder, tokenizer=self.editor.tokenizer,
            unet=unet if self.other is None else self.other,
            scheduler=make_scheduler(SAMPLER, self.editor.scheduler), safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        self.pipeline.set_progress_bar_config(disable=True)

    def theirs(self, scales: Scales) -> Tensor:
        """Latents of diffusers' pipeline, (B, C, h, w)."""
        noise = seeded_noise(self.seeds, tuple(self.condition.shape[1:]))
        return self.pipeline(
            prompt_embeds=self.texts,
            negative_prompt_embeds=self.null.expand(self.count, -1, -1),
            image=self.condition,
            latents=noise.to(self.condition),
            num_inference_steps=self.steps,
            guidance_scale=scales[0],
            image_guidance_scale=scales[1],
            output_type="latent",
        ).images

    def ours(self, scales: Scales, graph: bool = False, memory: Memory | None = None) -> Tensor:
        """Latents of `edit_latents`, (B, C, h, w)."""
        *_, last = edit_latents(
            self.editor, self.condition, self.texts, self.null, guidance_scales=[scales[0]] * self.count,
            image_guidance_scales=[scales[1]] * self.count, seeds=self.seeds, num_inference_steps=self.steps,
            sampler=SAMPLER, graph=graph, memory=memory,
        )  # fmt: skip
        return last.latents

    def equal_within(self, scales: Scales, limit: float = 1e-3) -> float:
        """Largest difference between both sides' latents.

        Raises:
            ValueError: it is above the limit.
        """
        error = (self.ours(scales) - self.theirs(scales)).abs().max().item()
        if not error <= limit:
            raise ValueError(f"both sides must agree within {limit}, got {error}")
        return float(f"{error:.1e}")

    def calls(self) -> dict[str, Any]:
        """One UNet call of three predictions: as it is, and with one thing shared after the other."""
        pictures = torch.cat([self.condition, self.condition, torch.zeros_like(self.condition)])
        states = torch.cat([self.texts, *[self.null.expand(self.count, -1, -1)] * 2])
        inputs, timesteps = torch.cat([pictures, pictures], dim=1), torch.tensor([500.0])
        unet, dtype = self.editor.unet, self.condition.dtype
        ways: dict[str, Any] = {"plain": lambda: unet(inputs, timesteps[0], states).sample}
        shared: Sequence[tuple[str, SharedWork]] = (
            ("text", SharedWork(unet, alike=0)),
            ("and common rows", SharedWork(unet, alike=self.count)),
            ("and timesteps", SharedWork(unet, alike=self.count, timesteps=timesteps, dtype=dtype)),
            (
                "and packed weights",
                SharedWork(
                    unet, alike=self.count, timesteps=timesteps, dtype=dtype, packed=packed_convolutions
                ),
            ),
        )
        for name, work in shared:
            ways[name] = lambda work=work: work(inputs, timesteps[0], states, 0)
        return ways
