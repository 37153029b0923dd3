"""SDEdit (Meng et al. 2021): noise a picture part of the way, denoise it under another caption."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ip2p_lib import images, storage
from ip2p_lib.backbone import Backbone, model_mark
from ip2p_lib.baselines.systems import Edited, System
from ip2p_lib.diffusion import Denoiser, euler_ancestral, seeded_noise
from ip2p_lib.editing.large import decoded
from ip2p_lib.guidance import single_guidance
from ip2p_lib.records import Triplet
from ip2p_lib.samplers import check_sampler, scheduled

STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)  # the paper begins at 0.3; weak ones reach small changes
ABOUT = {
    "output": "SDEdit under the output caption",
    "edit": "SDEdit under the instruction",
    "none": "image-to-image without any text",
}
NAMES = {"output": "sdedit", "edit": "sdedit-instruction", "none": "no-text"}


def first_step(strength: float, num_inference_steps: int) -> int:
    """The step at which denoising begins; `num_inference_steps` where none is left to do.

    Raises:
        ValueError: strength is not a number from 0 to 1.

    Source: diffusers, StableDiffusionImg2ImgPipeline.get_timesteps; the same rule as in SDEdit's own script.
    """
    if not 0 <= strength <= 1:  # also refuses NaN
        raise ValueError(f"strength must lie in 0..1 (nothing to everything is painted anew), got {strength}")
    return num_inference_steps - int(num_inference_steps * strength)


def guided(base: Backbone, captions: Sequence[str], guidance_scale: float) -> Denoiser:
    """The text-to-image network under captions, guided away from the empty one.

    At scale 1 the empty caption has no weight, and is not computed.
    """
    states = base.encode_text(captions)
    if guidance_scale == 1:
        return lambda scaled, timestep, step: base.unet(scaled.to(base.unet.dtype), timestep, states).sample
    both = torch.cat([base.encode_text([""]).expand(len(states), -1, -1), states])

    def predict(scaled: Tensor, timestep: Tensor, step: int) -> Tensor:
        doubled = torch.cat([scaled, scaled]).to(base.unet.dtype)
        uncond, cond = base.unet(doubled, timestep, both).sample.float().chunk(2)
        return single_guidance(cond, uncond, guidance_scale)

    return predict


@torch.no_grad()
def sdedit_latents(
    base: Backbone,
    latents: Tensor,
    captions: Sequence[str],
    *,
    strength: float,
    guidance_scale: float,
    seeds: Sequence[int],
    num_inference_steps: int,
    sampler: str = "euler_ancestral",
) -> Tensor:
    """Noise clean latents to `strength`, then denoise them under their captions.

    Strength 0 gives the latents back. Row i depends on its own latents, caption and seed alone.

    Args:
        latents: scaled, (B, C, h, w).
        captions: one per row: what the result should show.
        strength: share of the schedule that is run, in [0, 1].
        guidance_scale: of the text; 1 means none.
        seeds: one per row.
        sampler: of `samplers.SAMPLERS`.

    Returns:
        Scaled latents, (B, C, h, w), float32.

    Raises:
        ValueError: strength or sampler is not usable.

    Source: SDEdit (arXiv:2108.01073), algorithm 1, in the latents of a text-to-image model.
    """
    first, shape = first_step(strength, num_inference_steps), tuple(latents.shape[1:])
    check_sampler(sampler)
    latents = latents.float()
    if first == num_inference_steps:
        return latents
    predict = guided(base, captions, guidance_scale)
    if sampler == "euler_ancestral":
        *_, last = euler_ancestral(
            predict, base.scheduler, seeds=seeds, shape=shape, num_inference_steps=num_inference_steps,
            device=latents.device, first_step=first, start=latents,
        )  # fmt: skip
        return last.latents
    scheduler = scheduled(sampler, base.scheduler, num_inference_steps)
    if hasattr(scheduler, "set_begin_index"):  # DDIM finds its place by the timestep
        scheduler.set_begin_index(first)
    timesteps = scheduler.timesteps[first:]
    noise = seeded_noise(seeds, shape).to(latents.device)
    latents = scheduler.add_noise(latents, noise, timesteps[:1].expand(len(latents)))
    for i, timestep in enumerate(timesteps, first):
        output = predict(scheduler.scale_model_input(latents, timestep), timestep, i).float()
        latents = scheduler.step(output, timestep, latents, return_dict=False)[0]
    return latents


def sdedit(
    base: Backbone,
    *,
    text: str = "output",
    guidance_scale: float = 7.5,
    num_inference_steps: int = 100,
    sampler: str = "euler_ancestral",
    batch_size: int = 32,
) -> System:
    """SDEdit as a system; the dial is its strength.

    Args:
        base: text-to-image model.
        text: "output" for the triplet's output caption (more than our editor is told), "edit" for the
            instruction (which the model was never taught to follow), "none" for no text and no guidance.

    Raises:
        ValueError: `text` is none of the three.
    """
    if text not in ABOUT:
        raise ValueError(f"SDEdit's text must be one of {', '.join(ABOUT)}; got {text!r}")

    def run(
        pictures: Sequence[Image.Image], triplets: Sequence[Triplet], value: float, seeds: Sequence[int]
    ) -> list[Edited]:
        captions = [{"output": t.output, "edit": t.edit, "none": ""}[text] for t in triplets]

        def edited(rows: Sequence[int]) -> list[tuple[int, Image.Image]]:
            clean = base.latent_moments(images.to_tensor([pictures[r] for r in rows]))[0]
            latents = sdedit_latents(
                base,
                clean,
                [captions[r] for r in rows],
                strength=value,
                guidance_scale=1.0 if text == "none" else guidance_scale,
                seeds=[seeds[r] for r in rows],
                num_inference_steps=num_inference_steps,
                sampler=sampler,
            )
            return list(zip(rows, decoded(base, latents), strict=True))

        out: list[Edited] = [Edited(p) for p in pictures]
        for r, picture in images.fitted(edited, pictures, batch_size, "edits"):
            out[r] = Edited(picture)
        return out

    settings = [model_mark(base), text, guidance_scale, num_inference_steps, sampler]
    return System(
        name=NAMES[text],
        about=ABOUT[text],
        dial="strength",
        values=STRENGTHS,
        run=run,
        mark=storage.fingerprint(settings),
    )
