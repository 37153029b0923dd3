"""A latent diffusion model in parts, and what its text encoder can read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock

import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

# A fast tokenizer keeps padding and truncation as state: two threads that want different ones get each other's.
TOKENIZING = Lock()


@dataclass(frozen=True, slots=True)
class Backbone:
    """A latent diffusion model in parts: the text-to-image model, or an editor with a wider UNet."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    scheduler: EulerAncestralDiscreteScheduler
    name: str = "unnamed"
    files: str = ""  # digest of those it was loaded from; "" if from the hub or made here

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.unet.device

    @property
    def factor(self) -> int:
        """Pixels per latent along a side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_channels(self) -> int:
        """Channels of a picture's latents."""
        return self.vae.config.latent_channels

    def with_unet(self, unet: UNet2DConditionModel, name: str) -> "Backbone":
        """The same model around another UNet."""
        return replace(self, unet=unet, name=name, files="")

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Last hidden states of the frozen text encoder, (B, T, D), padded and cut to its length."""
        with TOKENIZING:
            tokens = self.tokenizer(
                list(texts),
                padding="max_length",
                truncation=True,
                max_length=self.tokenizer.model_max_length,
                return_tensors="pt",
            )
        ids = tokens.input_ids.to(self.device)
        return self.text_encoder(ids).last_hidden_state.to(self.unet.dtype)

    @torch.no_grad()
    def image_latents(self, pixels: Tensor) -> Tensor:
        """The image condition: mode of the encoder, NOT scaled, (B, C, h, w), for pixels in [-1, 1]."""
        return self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist.mode()

    @torch.no_grad()
    def latent_moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of scaled latents, each (B, C, h, w), for pixels in [-1, 1]."""
        posterior = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist
        scale = self.vae.config.scaling_factor
        return posterior.mean * scale, posterior.std * scale

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) to pixels (B, 3, H, W) in [-1, 1], clipped; NaN where a number is not finite."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.device, self.vae.dtype)
        pixels = self.vae.decode(scaled).sample.float()
        return torch.where(pixels.isfinite(), pixels, torch.nan).clamp(-1, 1)


def check_instruction(backbone: Backbone, instruction: str) -> None:
    """Refuse an instruction that the text encoder cannot read.

    A word counts as unknown when the tokenizer has to spell it out in pieces of one or two letters.

    Raises:
        ValueError: it is empty, does not fit, or more than half of its words are unknown.
    """
    words = re.findall(r"\w+", instruction.lower())
    if not words:
        raise ValueError(f"an instruction must contain words, got {instruction!r}; try 'make it night'")
    with TOKENIZING:
        unknown = [w for w in words if len(w) > 2 and len(backbone.tokenizer.tokenize(w)) > len(w) / 2]
        length = len(backbone.tokenizer(instruction).input_ids)
    if len(unknown) * 2 > len(words):
        raise ValueError(
            f"an instruction must use words that {backbone.name} knows; unknown here: {', '.join(unknown[:5])};"
            " try 'make it night' or 'add a rainbow'"
        )
    limit = backbone.tokenizer.model_max_length
    if length > limit:
        raise ValueError(f"an instruction must fit in {limit} tokens, got {length}; shorten it")
