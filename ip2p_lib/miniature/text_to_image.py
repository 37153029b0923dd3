"""The miniature's text-to-image model: a small latent diffusion UNet on captions of the world."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from ip2p_lib import storage
from ip2p_lib.diffusion import Schedule, training_target
from ip2p_lib.miniature.pictures import BASE_SEED, as_tensor, drawn_scenes
from ip2p_lib.miniature.tokenizer import MAX_LENGTH
from ip2p_lib.optimisation import FitConfig, Report, batch_indices, fit, processes
from ip2p_lib.scenes.language import caption


@dataclass(frozen=True, kw_only=True)
class UNetRecipe:
    """Sizes and weights of the text-to-image training."""

    channels: tuple[int, ...] = (80, 128, 160)
    pictures: int = 30_000
    batch_size: int = 64
    kite_share: float = 0.4  # of each batch; a kite is thin and small, and at its own 14 % was never learned
    caption_dropout: float = 0.1
    steps: int = 5_000
    seed: int = 14

    @property
    def fit(self) -> FitConfig:
        """Optimiser settings."""
        return FitConfig(
            steps=self.steps, learning_rate=1.2e-3, weight_decay=0.01, adam_beta2=0.99, warmup_steps=100,
            decay_steps=self.steps, max_grad_norm=1.0, ema_decay=0.995, mixed_precision="auto",
        )  # fmt: skip


def build_unet(channels: tuple[int, ...], text_width: int) -> UNet2DConditionModel:
    """A UNet with self- and cross-attention at 8 x 8 and 4 x 4; 16 x 16, where a CPU's time goes, convolves."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def miniature_scheduler() -> EulerAncestralDiscreteScheduler:
    """Stable Diffusion's noise schedule; the network predicts velocity, which learns colours sooner."""
    return EulerAncestralDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="linspace",
    )


@torch.no_grad()
def encoded_pictures(vae: AutoencoderKL, recipe: UNetRecipe, work: Path) -> NDArray[np.float16]:
    """Scaled latents (mode) of the training pictures, kept in `work`."""
    path = work / f"latents-{BASE_SEED}-{recipe.pictures}.npy"
    if not path.exists():
        _, pictures = drawn_scenes(recipe.pictures, BASE_SEED, work)
        blocks = []
        for i in tqdm(range(0, len(pictures), 250), desc="encoding", unit="block"):
            latents = vae.encode(as_tensor(pictures[i : i + 250], vae.device)).latent_dist.mode()
            blocks.append((latents * vae.config.scaling_factor).half().cpu().numpy())
        with storage.atomic_file(path) as partial, partial.open("wb") as file:
            np.save(file, np.concatenate(blocks))
    return np.load(path, mmap_mode="r")


def picked_scenes(count: int, kites: NDArray[np.int64], recipe: UNetRecipe, step: int) -> NDArray[np.int64]:
    """The scenes of a step: any of `count`, and the recipe's share of those with a kite, in a keyed order."""
    share = round(recipe.batch_size * recipe.kite_share)
    any_of = batch_indices(count, recipe.batch_size - share, step, recipe.seed)
    some = kites[batch_indices(len(kites), share, step, recipe.seed)] if share else kites[:0]
    return np.random.default_rng((recipe.seed, step)).permutation(np.concatenate([any_of, some]))


def train_text_to_image(
    recipe: UNetRecipe, vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, work: Path
) -> Iterator[Report]:
    """Train the UNet, resuming in `work/unet`. Captions are phrased anew at every visit."""
    scenes, _ = drawn_scenes(recipe.pictures, BASE_SEED, work)
    latents_of = encoded_pictures(vae, recipe, work)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(recipe.seed)
        unet = build_unet(recipe.channels, text_encoder.config.hidden_size)
    if processes().device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())  # over few positions twice as fast as the fused kernel
    schedule = Schedule.of(miniature_scheduler())
    generator = torch.Generator()
    kites = np.flatnonzero(["kite" in s.extras for s in scenes])

    def loss_at(step: int) -> Tensor:
        generator.manual_seed(recipe.seed * 1_000_003 + step)
        picked = picked_scenes(len(scenes), kites, recipe, step)
        dropped = torch.rand(len(picked), generator=generator) < recipe.caption_dropout
        texts = [
            "" if dropped[row] else caption(scenes[i], step * 7919 + int(i)) for row, i in enumerate(picked)
        ]
        tokens = tokenizer(
            texts, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        with torch.no_grad():
            states = text_encoder.to(unet.device)(tokens.input_ids.to(unet.device)).last_hidden_state
        latents = torch.from_numpy(latents_of[picked].astype(np.float32))
        noise = torch.randn(latents.shape, generator=generator)
        # One timestep from each of B equal bands: the loss varies less than with independent draws.
        bands = torch.arange(len(latents)) + torch.rand(len(latents), generator=generator)
        timesteps = (bands * schedule.num_train_timesteps / len(latents)).long()
        noisy = schedule.add_noise(latents, noise, timesteps)
        target = training_target(schedule, latents, noise, timesteps)
        predicted = unet(noisy.to(unet.device), timesteps.to(unet.device), states).sample
        return F.mse_loss(predicted.float(), target.to(unet.device))

    return fit(unet, loss_at, recipe.fit, folder=work / "unet")
