"""The noise schedule, what the network is trained to predict, and the seeded sampler as a generator."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

PREDICTIONS = ("epsilon", "v_prediction")


def prediction_type(scheduler: Any) -> str:
    """What the network predicts that a diffusers scheduler belongs to.

    Raises:
        ValueError: neither epsilon nor v_prediction.
    """
    kind = scheduler.config.prediction_type
    if kind not in PREDICTIONS:
        raise ValueError(f"prediction_type must be one of {', '.join(PREDICTIONS)}; got {kind!r}")
    return kind


@dataclass(frozen=True, slots=True)
class Schedule:
    """Cumulative signal fractions of a discrete diffusion, and what its network predicts.

    `alphas_cumprod` is (T,) in (0, 1], falling: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise.
    """

    alphas_cumprod: Tensor
    prediction_type: str

    @classmethod
    def of(cls, scheduler: Any) -> "Schedule":
        """The schedule that a diffusers scheduler was configured with.

        Raises:
            ValueError: its prediction type is neither epsilon nor v_prediction.
        """
        return cls(scheduler.alphas_cumprod.float(), prediction_type(scheduler))

    @property
    def num_train_timesteps(self) -> int:
        """Number of noise levels."""
        return len(self.alphas_cumprod)

    def to(self, device: torch.device) -> "Schedule":
        """The same on a device, where looking up levels waits for no copy."""
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(device))

    def levels(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise amplitudes at `timesteps`, shaped to broadcast over `like`."""
        shape = (-1, *(1,) * (like.ndim - 1))
        kept = self.alphas_cumprod.to(like.device)[timesteps].view(shape).to(like.dtype)
        return kept.sqrt(), (1 - kept).sqrt()

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Latents as they are at `timesteps`, (B, C, h, w)."""
        signal, spread = self.levels(timesteps, latents)
        return signal * latents + spread * noise


def training_target(schedule: Schedule, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the network should answer: the noise, or the velocity (Salimans and Ho 2022, eq. 9)."""
    if schedule.prediction_type == "epsilon":
        return noise
    signal, spread = schedule.levels(timesteps, latents)
    return signal * noise - spread * latents


def seeded_noise(seeds: Sequence[int], shape: tuple[int, ...], *, draw: int = 0) -> Tensor:
    """Unit normal noise (B, *shape), one row per seed; `draw` numbers the draws of one trajectory.

    Row i depends on (seeds[i], draw) alone: not on its batch mates, the device or earlier draws.
    Drawn on the CPU; move it where it is needed.
    """
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed((int(seed) * 1_000_003 + draw * 7_919) % (2**63 - 1))
        rows.append(torch.randn(shape, generator=generator))
    return torch.stack(rows)


@dataclass(frozen=True, slots=True)
class Step:
    """State after one sampler step."""

    index: int  # 0-based
    count: int
    sigma: float  # noise level the step ended at
    latents: Tensor  # (B, C, h, w), clean latents plus sigma times noise; changed in place, sampling goes on from it
    denoised: Tensor  # the sampler's estimate of the clean latents, same shape


Denoiser = Callable[[Tensor, Tensor, int], Tensor]  # scaled input, timestep, step index -> model output


def sampling_sigmas(scheduler: Any, num_inference_steps: int) -> tuple[Tensor, Tensor]:
    """Noise levels (N + 1,), last 0, and timesteps (N,), uniform in t as the released code has them.

    Source: timothybrooks/instruct-pix2pix@0dffd1e through k-diffusion's CompVisDenoiser.get_sigmas.

    Raises:
        ValueError: num_inference_steps is outside 1..T.
    """
    count = len(scheduler.alphas_cumprod)
    if not 1 <= num_inference_steps <= count:
        raise ValueError(f"num_inference_steps must lie in 1..{count}, got {num_inference_steps}")
    kept = scheduler.alphas_cumprod.double()
    log_sigmas = (((1 - kept) / kept) ** 0.5).log()
    timesteps = torch.linspace(count - 1, 0, num_inference_steps, dtype=torch.float64)
    low = timesteps.floor().long()
    high = timesteps.ceil().long()
    fraction = timesteps - low
    sigmas = ((1 - fraction) * log_sigmas[low] + fraction * log_sigmas[high]).exp()
    return torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)]).float(), timesteps.float()


def ancestral_step(sigma: float, sigma_next: float) -> tuple[float, float]:
    """Split a step into the noise level reached deterministically and the noise added afterwards.

    Returns:
        (sigma_down, sigma_up) with sigma_down^2 + sigma_up^2 = sigma_next^2.

    Source: crowsonkb/k-diffusion@4601bf0:k_diffusion/sampling.py, eta = 1.
    """
    if sigma_next == 0:
        return 0.0, 0.0
    up = min(sigma_next, (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5)
    return (sigma_next**2 - up**2) ** 0.5, up


def denoised_from(output: Tensor, latents: Tensor, sigma: float, kind: str) -> Tensor:
    """Estimate of the clean latents, (B, C, h, w).

    Args:
        output: the network's answer, (B, C, h, w), to `latents` scaled to unit variance.
        latents: clean latents plus `sigma` times noise.
        kind: what the network predicts, epsilon or v_prediction.
    """
    if kind == "epsilon":
        return latents - sigma * output
    scale = 1 / (sigma**2 + 1)
    return latents * scale - output * sigma * scale**0.5


def euler_ancestral(
    predict: Denoiser,
    scheduler: Any,
    *,
    seeds: Sequence[int],
    shape: tuple[int, ...],
    num_inference_steps: int,
    device: torch.device | str = "cpu",
    first_step: int = 0,
    start: Tensor | None = None,
) -> Iterator[Step]:
    """Sample by Euler ancestral steps, yielding after each; the caller may stop at any of them.

    All state is float32. Initial and ancestral noise are keyed by each row's seed, so rows with equal
    seeds share all noise, as prompt-to-prompt needs, and no row depends on another.

    Args:
        predict: network answer for (input scaled to unit variance, timestep, step index), (B, C, h, w).
        scheduler: any diffusers scheduler; its betas and prediction type are used.
        seeds: one per row of the batch.
        shape: (C, h, w) of one row's latents.
        num_inference_steps: length of the schedule.
        first_step, start: begin inside the schedule, from clean latents `start` noised to that level.
    """
    sigmas, timesteps = sampling_sigmas(scheduler, num_inference_steps)
    kind = prediction_type(scheduler)
    latents = seeded_noise(seeds, shape).to(device) * float(sigmas[first_step])
    if start is not None:
        latents = latents + start
    for i in range(first_step, num_inference_steps):
        sigma, following = float(sigmas[i]), float(sigmas[i + 1])
        scaled = latents / (sigma**2 + 1) ** 0.5
        output = predict(scaled, timesteps[i].to(device), i).float()
        denoised = denoised_from(output, latents, sigma, kind)
        down, up = ancestral_step(sigma, following)
        latents = (
            denoised if down == 0 and up == 0 else latents + (latents - denoised) / sigma * (down - sigma)
        )
        if up > 0:
            latents = latents + up * seeded_noise(seeds, shape, draw=i + 1).to(device)
        yield Step(i, num_inference_steps, following, latents, denoised)
