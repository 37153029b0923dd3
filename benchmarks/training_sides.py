"""Both sides of the training benchmark: one network, one batch of random pairs, and whether they agree."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from PIL import Image
from script_loop import ScriptLoop
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from ip2p_lib import images, records
from ip2p_lib.backbone import Backbone, load_text_to_image
from ip2p_lib.dataset import EditDataset, open_dataset
from ip2p_lib.diffusion import Schedule
from ip2p_lib.optimisation import FitConfig, fit
from ip2p_lib.presets import MINIATURE, TrainConfig
from ip2p_lib.training import conditioning_dropout, edit_loss, train_editor
from ip2p_lib.unet import as_editor_unet

DROPOUT = 0.05


@dataclass(frozen=True)
class Size:
    """Widths of UNet, autoencoder and text encoder, all in Stable Diffusion's proportions; pictures and batch."""

    unet: tuple[int, ...]
    vae: tuple[int, ...]
    text: int
    resolution: int
    batch: int
    groups: int = 32

    def config(self) -> TrainConfig:
        """As the released configuration, with the script's clipping."""
        return TrainConfig(
            batch_size=self.batch, gradient_accumulation_steps=1, max_grad_norm=1.0, mixed_precision="auto",
            resolution=self.resolution, conditioning_dropout=DROPOUT,
        )  # fmt: skip


SIZES = {
    "quick": Size((32, 64, 64, 64), (16, 32, 32, 32), 64, 64, 2, groups=16),
    "cpu": Size((160, 320, 640, 640), (64, 128, 256, 256), 384, 256, 1),
    "cuda": Size((320, 640, 1280, 1280), (128, 256, 512, 512), 768, 256, 32),
}


def random_base(size: Size, device: str) -> Backbone:
    """A text-to-image model of Stable Diffusion's form with random frozen weights."""
    tokenizer = load_text_to_image(MINIATURE).tokenizer
    tokenizer.model_max_length = 77
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(1)
        unet = UNet2DConditionModel(
            sample_size=size.resolution // 8, block_out_channels=size.unet, attention_head_dim=8,
            norm_num_groups=size.groups, cross_attention_dim=size.text,
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=size.vae, layers_per_block=2, norm_num_groups=size.groups,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=size.text, intermediate_size=4 * size.text,
                num_hidden_layers=12, num_attention_heads=size.text // 64, bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )  # fmt: skip
    for part in (unet, vae, text_encoder):
        part.to(device).eval().requires_grad_(False)
    scheduler = EulerAncestralDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    return Backbone(tokenizer, text_encoder, vae, unet, scheduler, "random")


def write_pairs(folder: Path, size: Size) -> tuple[Tensor, Tensor, list[str]]:
    """A batch of random pairs as a dataset, and its pixels (B, 3, H, W) before and after, and instructions."""
    shape = (2, size.batch, size.resolution, size.resolution, 3)
    noise = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    before, after = ([Image.fromarray(a) for a in part] for part in noise)
    texts = [f"make it night, number {n}" for n in range(size.batch)]
    columns = {
        records.ORIGINAL_IMAGE: [images.png_bytes(p) for p in before],
        records.EDIT_PROMPT: texts,
        records.EDITED_IMAGE: [images.png_bytes(p) for p in after],
    }
    pq.write_table(pa.table(columns), folder / "pairs.parquet")
    return images.to_tensor(before), images.to_tensor(after), texts


class Bench:
    """Both sides on one network and one batch of pairs, which lie in a folder."""

    def __init__(self, size: Size, device: str, folder: Path, base: Backbone | None = None) -> None:
        self.size, self.folder, self.base = size, folder, base or random_base(size, device)
        self.before, self.after, self.texts = write_pairs(folder, size)
        self.unet = as_editor_unet(self.base.unet, self.base.latent_channels)
        self.generator = torch.Generator(device).manual_seed(3)

    @cached_property
    def data(self) -> EditDataset:
        """The pairs, encoded when first asked for."""
        return open_dataset(self.folder, self.base, resolution=self.size.resolution)

    def script(self, config: TrainConfig) -> ScriptLoop:
        """The script's side."""
        return ScriptLoop(self.base, self.unet, (self.before, self.after), self.texts, config)

    def ours(self) -> Callable[[], object]:
        """A step of our side; waits for the device, so that its time is all there is."""
        run = train_editor(self.unet, self.base, self.data, self.size.config())
        return lambda: next(run).loss.item()

    def latents(self) -> list[Tensor]:
        """Mean, deviation and condition of the batch, from the cache."""
        rows = np.arange(self.size.batch)
        return [t.to(self.unet.device) for t in self.data.latents(rows, 0 * rows)]

    def look_up(self) -> tuple[Tensor, Tensor]:
        """Latents for the script's loop from our cache."""
        mean, std, condition = self.latents()
        sampling = torch.randn(mean.shape, generator=self.generator, device=mean.device)
        return mean + std * sampling, condition

    def drawn(self, seed: int) -> dict[str, Tensor]:
        """What is drawn in a step: the posterior's sample, noise, timesteps, and what is dropped."""
        generator = torch.Generator().manual_seed(seed)
        shape = (self.size.batch, *self.data.condition.shape[2:])
        sampling, noise = (torch.randn(shape, generator=generator) for _ in range(2))
        timesteps = torch.randint(0, 1000, shape[:1], generator=generator)
        dropped = torch.rand(shape[:1], generator=generator) * 4 * DROPOUT  # so that most are
        drawn = {"sampling": sampling, "noise": noise, "timesteps": timesteps, "dropped": dropped}
        return {name: t.to(self.unet.device) for name, t in drawn.items()}

    def our_loss(self, unet: UNet2DConditionModel, drawn: Mapping[str, Tensor]) -> Tensor:
        """Our loss at given draws."""
        drop_text, drop_image = conditioning_dropout(drawn["dropped"], DROPOUT)
        mean, std, condition = self.latents()
        texts = ["" if drop else t for t, drop in zip(self.texts, drop_text, strict=True)]
        return edit_loss(
            unet, Schedule.of(self.base.scheduler), latents=mean + std * drawn["sampling"],
            condition=torch.where(drop_image.view(-1, 1, 1, 1), 0.0, condition),
            text_states=self.base.encode_text(texts), noise=drawn["noise"], timesteps=drawn["timesteps"],
        )  # fmt: skip

    def their_loss(self, script: ScriptLoop, drawn: Mapping[str, Tensor]) -> Tensor:
        """The script's loss at the same latents and draws."""
        mean, std, condition = self.latents()
        return script.loss((mean + std * drawn["sampling"], condition), script.read(), drawn)


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm."""
    return ((found - expected).norm() / expected.norm()).item()


def gradient_norm(unet: UNet2DConditionModel, loss: Tensor) -> Tensor:
    """Of all weights; gradients are gone afterwards."""
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in unet.parameters() if p.grad is not None])
    unet.zero_grad()
    return norm


def check_step(bench: Bench) -> dict[str, object]:
    """Loss and gradient norm of both sides at the same draws in float32, and what the cache rounds off.

    Raises:
        ValueError: they differ by more than 1e-5, or the cache by more than 1e-2, relative.
    """
    drawn, script = bench.drawn(1), bench.script(replace(bench.size.config(), mixed_precision="no"))
    losses = [bench.our_loss(bench.unet, drawn), bench.their_loss(script, drawn)]
    norms = [gradient_norm(bench.unet, loss) for loss in losses]
    error = max(relative(*losses), relative(*norms))
    cache = relative(bench.latents()[2], bench.base.image_latents(bench.before))
    if error > 1e-5 or cache > 1e-2:
        raise ValueError(f"both sides must agree within 1e-5 and the cache within 1e-2, got {error}, {cache}")
    return {"equal_within": float(f"{error:.1e}"), "cache_rounds_off": float(f"{cache:.1e}")}


def check_weights(steps: int = 3) -> dict[str, object]:
    """Weights of a small network after some steps of both loops at the same draws, in float32.

    Raises:
        ValueError: they differ by more than 1e-5, relative.
    """
    with TemporaryDirectory() as name:
        bench = Bench(SIZES["quick"], "cpu", Path(name))
        other = copy.deepcopy(bench.unet)
        script = bench.script(replace(bench.size.config(), mixed_precision="no"))
        for step in range(steps):
            script.learn(bench.their_loss(script, bench.drawn(step)))
        for _ in fit(
            other,
            lambda step: bench.our_loss(other, bench.drawn(step)),
            FitConfig(steps=steps, max_grad_norm=1.0),
        ):
            pass
    ours, theirs = (torch.nn.utils.parameters_to_vector(u.parameters()) for u in (other, bench.unet))
    error = relative(ours, theirs)
    if error > 1e-5:
        raise ValueError(f"weights must agree within 1e-5 after {steps} steps, got {error}")
    return {"weights_equal_within": float(f"{error:.1e}")}
