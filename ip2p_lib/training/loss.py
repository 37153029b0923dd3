"""What the UNet is trained on: conditioning dropout, timesteps, the loss of any step number."""

from dataclasses import replace

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from ip2p_lib.backbone import Backbone
from ip2p_lib.dataset import EditDataset
from ip2p_lib.diffusion import Schedule, training_target
from ip2p_lib.optimisation import processes
from ip2p_lib.presets import TrainConfig

TEXT_CACHE_BYTES = 2**29


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
    """The loss of any step number: its batch, dropout, timesteps and noise follow from (seed, step).

    Among several processes each computes its own rows of the batch, or `part` of them; what is drawn for a row
    does not depend on who computes it.

    Raises:
        ValueError: the batch does not divide among the processes, or the UNet and the pairs do not fit.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        backbone: Backbone,
        data: EditDataset,
        config: TrainConfig,
        part: int | None = None,
    ) -> None:
        self._unet, self._backbone, self._data, self._config = unet, backbone, data, config
        self._schedule = Schedule.of(backbone.scheduler)
        self._text: dict[str, Tensor] = {}
        group = processes()
        share, rest = divmod(config.batch_size, group.num_processes)
        if rest:
            raise ValueError(
                f"batch_size must divide among {group.num_processes} processes, got {config.batch_size}"
            )
        part = group.process_index if part is None else part
        self._rows = slice(part * share, (part + 1) * share)

    def _states(self, texts: list[str]) -> Tensor:
        """Text states (B, T, D), remembered as long as they take less than `TEXT_CACHE_BYTES`."""
        missing = [t for t in dict.fromkeys(texts) if t not in self._text]
        if missing and sum(v.nbytes for v in self._text.values()) > TEXT_CACHE_BYTES:
            self._text.clear()
            missing = list(dict.fromkeys(texts))
        if missing:
            self._text.update(zip(missing, self._backbone.encode_text(missing), strict=True))
        return torch.stack([self._text[t] for t in texts])

    def describe(self, step: int) -> str:
        """Which pairs a micro-step shows, for messages."""
        pairs, _ = self._data.picks(step, self._config.batch_size, self._config.seed, flip=False)
        return f"pairs {', '.join(map(str, pairs))}"

    def __call__(self, step: int) -> Tensor:
        """Loss of a micro-step counted from 0: of this process's rows."""
        config, rows = self._config, self._rows
        pairs, flips = self._data.picks(step, config.batch_size, config.seed, flip=config.flip)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        shape = (config.batch_size, *self._data.condition.shape[2:])
        sampling, noise = (torch.randn(shape, generator=generator)[rows] for _ in range(2))
        timesteps = draw_timesteps(
            len(pairs), self._schedule.num_train_timesteps, config.noisy_fraction, generator
        )[rows]
        drop_text, drop_image = (
            d[rows]
            for d in conditioning_dropout(
                torch.rand(len(pairs), generator=generator), config.conditioning_dropout
            )
        )
        mean, std, condition = self._data.latents(pairs[rows], flips[rows])
        texts = [
            "" if dropped else self._data.instructions[p]
            for p, dropped in zip(pairs[rows], drop_text, strict=True)
        ]
        self._schedule = self._schedule.to(self._unet.device)  # copied once
        return edit_loss(
            self._unet,
            self._schedule,
            latents=self._moved(mean + std * sampling),
            condition=self._moved(torch.where(drop_image.view(-1, 1, 1, 1), 0.0, condition)),
            text_states=self._states(texts).to(self._unet.device),
            noise=self._moved(noise),
            timesteps=self._moved(timesteps),
        )

    def _moved(self, tensor: Tensor) -> Tensor:
        """On the UNet's device; the host does not wait for the copy."""
        device = self._unet.device
        return (
            tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
        )


@torch.no_grad()
def validation_loss(
    unet: UNet2DConditionModel,
    backbone: Backbone,
    data: EditDataset,
    config: TrainConfig,
    *,
    batches: int = 8,
) -> float:
    """Loss without dropout on fixed batches and noise, comparable between checkpoints.

    The caller computes all of it, whatever number of processes a batch was cut for.
    """
    config = replace(config, conditioning_dropout=0.0, seed=config.seed + 977, flip=False)
    parts = [EditLoss(unet, backbone, data, config, part) for part in range(processes().num_processes)]
    return float(np.mean([loss(step).item() for step in range(batches) for loss in parts]))
