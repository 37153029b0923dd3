"""Fine-tune the widened UNet on edit pairs: conditioning dropout, the loss, the run."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from ip2p_lib import storage
from ip2p_lib.backbone import Backbone
from ip2p_lib.dataset import EditDataset
from ip2p_lib.diffusion import Schedule, training_target
from ip2p_lib.optimisation import FitConfig, Report, fit
from ip2p_lib.pairs import claim_folder
from ip2p_lib.presets import TrainConfig


def conditioning_dropout(draws: Tensor, prob: float) -> tuple[Tensor, Tensor]:
    """Which examples lose their instruction, and which lose their input picture.

    One uniform draw per example is cut into four disjoint events: text only, both, picture only
    (each with probability `prob`), neither.

    Args:
        draws: uniform in [0, 1), (B,).
        prob: probability of each of the three events, in [0, 1/3]; 0.05 in the paper.

    Returns:
        (drop_text, drop_image), each (B,) and True where that condition is replaced by its null.

    Raises:
        ValueError: prob lies outside [0, 1/3].

    Source: InstructPix2Pix (arXiv:2211.09800), section 3.2.1; the released code's one-draw form.
    """
    if not 0 <= prob <= 1 / 3:
        raise ValueError(f"prob must lie in [0, 1/3] so that three events fit in one draw, got {prob}")
    drop_text = draws < 2 * prob
    drop_image = (prob <= draws) & (draws < 3 * prob)
    return drop_text, drop_image


def draw_timesteps(count: int, total: int, noisy_fraction: float, generator: torch.Generator) -> Tensor:
    """Timesteps (B,): uniform, but a share of them from the noisier half, where layout is decided."""
    uniform = torch.randint(0, total, (count,), generator=generator)
    noisy = torch.randint(total // 2, total, (count,), generator=generator)
    return torch.where(torch.rand(count, generator=generator) < noisy_fraction, noisy, uniform)


def edit_loss(
    unet: UNet2DConditionModel,
    schedule: Schedule,
    *,
    latents: Tensor,
    condition: Tensor,
    text_states: Tensor,
    noise: Tensor,
    timesteps: Tensor,
) -> Tensor:
    """Mean squared error of the prediction, given picture and instruction.

    Args:
        latents: scaled latents of the edited picture, (B, C, h, w).
        condition: unscaled latents of the input picture, zeros where dropped, same shape.
        text_states: of the instruction, of "" where dropped, (B, T, D).
    """
    noisy = schedule.add_noise(latents, noise, timesteps)
    target = training_target(schedule, latents, noise, timesteps)
    predicted = unet(torch.cat([noisy, condition], dim=1), timesteps, text_states).sample
    return F.mse_loss(predicted.float(), target.float())


class EditLoss:
    """The loss of any step number: its batch, dropout, timesteps and noise follow from (seed, step)."""

    def __init__(
        self, unet: UNet2DConditionModel, backbone: Backbone, data: EditDataset, config: TrainConfig
    ) -> None:
        self._unet, self._backbone, self._data, self._config = unet, backbone, data, config
        self._schedule = Schedule.of(backbone.scheduler)
        self._text: dict[str, Tensor] = {}

    def _states(self, texts: list[str]) -> Tensor:
        """Text states (B, T, D); each distinct instruction is encoded once and remembered."""
        missing = [t for t in dict.fromkeys(texts) if t not in self._text]
        if len(self._text) > 20_000:
            self._text.clear()
            missing = list(dict.fromkeys(texts))
        if missing:
            self._text.update(zip(missing, self._backbone.encode_text(missing), strict=True))
        return torch.stack([self._text[t] for t in texts])

    def __call__(self, step: int) -> Tensor:
        """Loss of a micro-step counted from 0."""
        config, device = self._config, self._unet.device
        pairs, flips = self._data.picks(step, config.batch_size, config.seed, flip=config.flip)
        mean, std, condition = self._data.latents(pairs, flips)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        latents = mean + std * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(mean.shape, generator=generator)
        timesteps = draw_timesteps(
            len(pairs), self._schedule.num_train_timesteps, config.noisy_fraction, generator
        )
        drop_text, drop_image = conditioning_dropout(
            torch.rand(len(pairs), generator=generator), config.conditioning_dropout
        )
        condition = torch.where(drop_image.view(-1, 1, 1, 1), 0.0, condition)
        texts = [
            "" if dropped else self._data.instructions[p] for p, dropped in zip(pairs, drop_text, strict=True)
        ]
        return edit_loss(
            self._unet,
            self._schedule,
            latents=latents.to(device),
            condition=condition.to(device),
            text_states=self._states(texts).to(device),
            noise=noise.to(device),
            timesteps=timesteps.to(device),
        )


def fit_config(config: TrainConfig) -> FitConfig:
    """The optimiser's part of a training configuration."""
    return FitConfig(
        steps=config.steps,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_steps,
        cosine_decay=config.cosine_decay,
        ema_decay=config.ema_decay,
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        checkpoint_every=config.checkpoint_every,
    )


def train_editor(
    unet: UNet2DConditionModel,
    backbone: Backbone,
    data: EditDataset,
    config: TrainConfig,
    folder: Path | None = None,
) -> Iterator[Report]:
    """Train a widened UNet in place, yielding after every step; resumes in `folder`.

    Args:
        unet: from `unet.widen_unet`.
        backbone: supplies text states and the noise schedule; its networks stay frozen.

    Raises:
        ValueError: the folder holds a run of another configuration or other pairs.
    """
    if folder is not None:
        pairs = {"prompts": len(data), "instructions": storage.fingerprint(data.instructions)}
        claim_folder(folder, {"stage": "train", **asdict(config), **pairs, "base": backbone.name})
    first = list(unet.conv_in.parameters())
    ids = {id(p) for p in first}
    rest = [p for p in unet.parameters() if id(p) not in ids]
    groups = [
        {"params": rest, "lr": config.learning_rate},
        {"params": first, "lr": config.conv_in_learning_rate or config.learning_rate},
    ]
    return fit(unet, EditLoss(unet, backbone, data, config), fit_config(config), folder=folder, groups=groups)


@torch.no_grad()
def validation_loss(
    unet: UNet2DConditionModel,
    backbone: Backbone,
    data: EditDataset,
    config: TrainConfig,
    *,
    batches: int = 8,
) -> float:
    """Loss without dropout on fixed batches and noise, comparable between checkpoints."""
    from dataclasses import replace

    loss = EditLoss(
        unet, backbone, data, replace(config, conditioning_dropout=0.0, seed=config.seed + 977, flip=False)
    )
    return float(np.mean([loss(step).item() for step in range(batches)]))
