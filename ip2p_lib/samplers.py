"""Samplers by name: the released code's Euler ancestral steps, and diffusers' schedulers for the others."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from ip2p_lib.diffusion import (
    Denoiser,
    Step,
    denoised_from,
    euler_ancestral,
    prediction_type,
    sampling_sigmas,
    seeded_noise,
)

# Timesteps are spaced evenly from the noisiest on, so that few steps begin at pure noise too.
OTHERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "euler": (EulerDiscreteScheduler, {}),
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": True}),
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": (UniPCMultistepScheduler, {}),
}
SAMPLERS = ("euler_ancestral", *OTHERS)
SHARED = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
)


def check_sampler(name: str) -> None:
    """Refuse an unknown sampler.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}; got {name!r}")


def make_scheduler(name: str, trained: Any) -> Any:
    """diffusers' scheduler for a sampler of `OTHERS`, with the noise levels a model was trained on."""
    kind, options = OTHERS[name]
    shared = {key: trained.config[key] for key in SHARED}
    shared["rescale_betas_zero_snr"] = trained.config.get("rescale_betas_zero_snr", False)
    return kind(**shared, **options, timestep_spacing="trailing")


def timesteps_of(name: str, trained: Any, num_inference_steps: int) -> Tensor:
    """The timesteps that `sample` visits, in order, (N,).

    Raises:
        ValueError: the name or the number of steps is not usable.
    """
    check_sampler(name)
    if name == "euler_ancestral":
        return sampling_sigmas(trained, num_inference_steps)[1]
    return scheduled(name, trained, num_inference_steps).timesteps


def scheduled(name: str, trained: Any, num_inference_steps: int) -> Any:
    """diffusers' scheduler for a sampler of `OTHERS`, ready for exactly so many steps.

    For some numbers, 61 of a thousand among them, the float range behind diffusers' trailing spacing has one timestep
    more, and that is -1, which reads the noisiest level. It is cut off.

    Raises:
        ValueError: the number of steps is not usable.
    """
    total = len(trained.alphas_cumprod)
    if not 1 <= num_inference_steps <= total:
        raise ValueError(f"num_inference_steps must lie in 1..{total}, got {num_inference_steps}")
    scheduler = make_scheduler(name, trained)
    scheduler.set_timesteps(num_inference_steps)
    if len(scheduler.timesteps) > num_inference_steps:
        scheduler.num_inference_steps = num_inference_steps
        scheduler.timesteps = scheduler.timesteps[:num_inference_steps]
        if hasattr(scheduler, "sigmas"):
            scheduler.sigmas = torch.cat([scheduler.sigmas[:num_inference_steps], scheduler.sigmas[-1:]])
    return scheduler


def sample(
    name: str,
    predict: Denoiser,
    trained: Any,
    *,
    seeds: Sequence[int],
    shape: tuple[int, ...],
    num_inference_steps: int,
    device: torch.device | str = "cpu",
) -> Iterator[Step]:
    """Sample by name, yielding after each step; the caller may stop at any of them.

    Noise is keyed by each row's seed, whatever the sampler, so that rows do not depend on each other.

    Args:
        name: of `SAMPLERS`. All but the first add no noise on the way.
        predict: network answer for (input of unit variance, timestep, step index), (B, C, h, w).
        trained: the scheduler that came with the model; its betas and prediction type count.
        seeds: one per row.
        shape: (C, h, w) of one row's latents.

    Raises:
        ValueError: the name or the number of steps is not usable.
    """
    check_sampler(name)
    prediction_type(trained)
    common = {"seeds": seeds, "shape": shape, "num_inference_steps": num_inference_steps, "device": device}
    if name == "euler_ancestral":
        yield from euler_ancestral(predict, trained, **common)  # type: ignore[arg-type]
        return
    scheduler = scheduled(name, trained, num_inference_steps)
    latents = seeded_noise(seeds, shape).to(device) * float(scheduler.init_noise_sigma)
    for i, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(latents, timestep)
        output = predict(scaled, timestep.to(device), i).float()
        denoised = clean_estimate(output, scaled, trained, int(timestep))
        latents = scheduler.step(output, timestep, latents, return_dict=False)[0]
        yield Step(i, len(scheduler.timesteps), _level(scheduler, i), latents, denoised)


def clean_estimate(output: Tensor, scaled: Tensor, trained: Any, timestep: int) -> Tensor:
    """What the network takes the clean latents for, given its input of unit variance."""
    kept = float(trained.alphas_cumprod[timestep])
    sigma = ((1 - kept) / kept) ** 0.5
    return denoised_from(output, scaled * (sigma**2 + 1) ** 0.5, sigma, prediction_type(trained))


def _level(scheduler: Any, index: int) -> float:
    """Noise level after a step, as sigma of clean latents plus noise."""
    following = index + 1
    if following >= len(scheduler.timesteps):
        return 0.0
    kept = float(scheduler.alphas_cumprod[int(scheduler.timesteps[following])])
    return float(((1 - kept) / kept) ** 0.5)
