"""The miniature's autoencoder: 64 px pictures to 4 x 16 x 16 latents, in diffusers' format."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ip2p_lib.miniature.pictures import BASE_SEED, as_tensor, drawn_scenes
from ip2p_lib.optimisation import FitConfig, Report, batch_indices, fit


@dataclass(frozen=True, kw_only=True)
class VaeRecipe:
    """Sizes and weights of the autoencoder's training."""

    channels: tuple[int, ...] = (16, 48, 96)
    pictures: int = 30_000
    batch_size: int = 16
    kl_weight: float = 1e-4  # per latent number; enough to keep latents near unit scale
    steps: int = 5_000
    seed: int = 11

    @property
    def fit(self) -> FitConfig:
        """Optimiser settings."""
        return FitConfig(
            steps=self.steps, learning_rate=2e-3, weight_decay=1e-4, adam_beta2=0.99, warmup_steps=100,
            decay_steps=self.steps, max_grad_norm=1.0, ema_decay=0.998, mixed_precision="auto",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DecoderRecipe:
    """The decoder's own training, after which the latents are still what they were."""

    pictures: int = 30_000
    batch_size: int = 32
    steps: int = 4_000
    seed: int = 16

    @property
    def fit(self) -> FitConfig:
        """Optimiser settings."""
        return FitConfig(
            steps=self.steps, learning_rate=1.5e-3, weight_decay=1e-4, adam_beta2=0.99, warmup_steps=50,
            decay_steps=self.steps, max_grad_norm=1.0, ema_decay=0.997, mixed_precision="auto",
        )  # fmt: skip


def build_vae(channels: tuple[int, ...]) -> AutoencoderKL:
    """A KL autoencoder that halves the side twice; the wide layers sit at the small resolutions."""
    return AutoencoderKL(
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
    )


def vae_loss(vae: AutoencoderKL, pixels: Tensor, noise: Tensor, kl_weight: float) -> Tensor:
    """Absolute and squared error of the reconstruction plus the latents' divergence from a unit normal.

    Args:
        pixels: (B, 3, H, W) in [-1, 1].
        noise: unit normal, the latents' shape, for the reparametrised sample.
    """
    posterior = vae.encode(pixels).latent_dist
    rebuilt = vae.decode(posterior.mean + posterior.std * noise).sample.float()
    divergence = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float())
    return reconstruction_loss(rebuilt, pixels) + kl_weight * divergence.mean()


def reconstruction_loss(rebuilt: Tensor, pixels: Tensor) -> Tensor:
    """Mean absolute error plus twice the mean squared error of pictures in [-1, 1]."""
    return F.l1_loss(rebuilt, pixels) + 2 * F.mse_loss(rebuilt, pixels)


def drawn_batch(
    recipe: VaeRecipe | DecoderRecipe, pictures: NDArray[np.uint8], step: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Pixels of a step's pictures (B, 3, 64, 64) and noise for their latents (B, 4, 16, 16), keyed by the step."""
    picked = np.sort(batch_indices(len(pictures), recipe.batch_size, step, recipe.seed))
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    noise = torch.randn(len(picked), 4, 16, 16, generator=generator)
    return as_tensor(pictures[picked], device), noise.to(device)


def train_vae(recipe: VaeRecipe, work: Path) -> Iterator[Report]:
    """Train the autoencoder, resuming in `work/vae`."""
    _, pictures = drawn_scenes(recipe.pictures, BASE_SEED, work)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(recipe.seed)  # initial weights only, inside the fork
        vae = build_vae(recipe.channels)

    def loss_at(step: int) -> Tensor:
        return vae_loss(vae, *drawn_batch(recipe, pictures, step, vae.device), recipe.kl_weight)

    return fit(vae, loss_at, recipe.fit, folder=work / "vae")


def train_decoder(recipe: DecoderRecipe, vae: AutoencoderKL, work: Path) -> Iterator[Report]:
    """Train the decoder alone, resuming in `work/decoder`: pictures get sharper, and no latent changes.

    So whatever was trained on the latents stays right. As in the training before, it decodes samples around the mean.
    """
    _, pictures = drawn_scenes(recipe.pictures, BASE_SEED, work)
    vae.requires_grad_(False)
    for part in (vae.post_quant_conv, vae.decoder):
        part.requires_grad_(True)

    def loss_at(step: int) -> Tensor:
        pixels, noise = drawn_batch(recipe, pictures, step, vae.device)
        with torch.no_grad():
            posterior = vae.encode(pixels).latent_dist
        return reconstruction_loss(vae.decode(posterior.mean + posterior.std * noise).sample.float(), pixels)

    return fit(vae, loss_at, recipe.fit, folder=work / "decoder")


@torch.no_grad()
def set_scale(vae: AutoencoderKL, pixels: Tensor) -> float:
    """Set the config's scaling_factor so that sampled latents have unit deviation; returns it."""
    scale = 1 / vae.encode(pixels).latent_dist.mean.float().std().item()
    vae.register_to_config(scaling_factor=round(scale, 5))
    return scale
