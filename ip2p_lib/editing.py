"""Edit pictures by instruction with two guidance scales: the library's front door."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ip2p_lib import images
from ip2p_lib.backbone import Backbone, check_instruction
from ip2p_lib.diffusion import Step
from ip2p_lib.guidance import Branches
from ip2p_lib.presets import EditConfig
from ip2p_lib.records import Recipe
from ip2p_lib.samplers import check_sampler, sample

MAX_SCALE = 100.0


@dataclass(frozen=True, slots=True)
class EditResult:
    """One edited picture and the recipe that repeats it."""

    picture: Image.Image
    recipe: Recipe

    def save(self, path: Path) -> None:
        """Write a PNG that carries its recipe."""
        images.save_with_recipe(self.picture, path, asdict(self.recipe))


@torch.no_grad()
def edit_latents(
    editor: Backbone,
    condition: Tensor,
    text_states: Tensor,
    null_states: Tensor,
    *,
    guidance_scales: Sequence[float],
    image_guidance_scales: Sequence[float],
    seeds: Sequence[int],
    num_inference_steps: int,
    sampler: str = "euler_ancestral",
) -> Iterator[Step]:
    """Sample the edit, yielding after each step; stop by leaving the loop.

    Only predictions whose weight is non-zero are computed: three in general, two where s_I = 1 or
    s_T = s_I, one where both are 1.

    Args:
        condition: unscaled latents of the input pictures, (B, C, h, w).
        text_states: of the instructions, (B, T, D).
        null_states: of "", (1, T, D).
        guidance_scales, image_guidance_scales, seeds: one per row.

    Source: InstructPix2Pix section 3.2.1; timothybrooks/instruct-pix2pix@0dffd1e:edit_cli.py.
    """
    count = len(condition)
    branches = Branches.of(guidance_scales, image_guidance_scales)
    null = null_states.expand(count, -1, -1)
    states = torch.cat([text_states if used else null for used in branches.has_text])
    pictures = torch.cat([condition if used else torch.zeros_like(condition) for used in branches.has_image])

    def predict(scaled: Tensor, timestep: Tensor, step: int) -> Tensor:
        repeated = scaled.to(pictures.dtype).repeat(len(branches.has_text), 1, 1, 1)
        output = editor.unet(torch.cat([repeated, pictures], dim=1), timestep, states).sample
        return branches.combine(output.float())

    yield from sample(
        sampler,
        predict,
        editor.scheduler,
        seeds=seeds,
        shape=tuple(condition.shape[1:]),
        num_inference_steps=num_inference_steps,
        device=condition.device,
    )


def _spread(value: Any, count: int, name: str) -> list[Any]:
    """One value for all rows, or one per row."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * count
    if len(values) != count:
        raise ValueError(f"{name} must be one value or {count}, one per edit; got {len(values)}")
    return values


def check_scales(guidance_scales: Sequence[float], image_guidance_scales: Sequence[float]) -> None:
    """Refuse scales the formula has no use for. Values below 1 are legal, and so is 0.

    Raises:
        ValueError: a scale is not a number from 0 to 100.
    """
    for name, values in (
        ("guidance_scale", guidance_scales),
        ("image_guidance_scale", image_guidance_scales),
    ):
        for value in values:
            if not 0 <= value <= MAX_SCALE:  # also refuses NaN
                raise ValueError(f"{name} must lie in 0..{MAX_SCALE:g}, got {value}")


def recipe_of(
    editor: Backbone,
    source: str,
    instruction: str,
    config: EditConfig,
    *,
    guidance_scale: float | None = None,
    image_guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    sampler: str | None = None,
    seed: int = 0,
) -> Recipe:
    """What `edit` writes into its result, where None takes the value of `config`; `source` is the input's digest."""
    return Recipe(
        instruction,
        config.guidance_scale if guidance_scale is None else guidance_scale,
        config.image_guidance_scale if image_guidance_scale is None else image_guidance_scale,
        config.num_inference_steps if num_inference_steps is None else num_inference_steps,
        seed,
        editor.name,
        config.resolution,
        source,
        sampler or config.sampler,
    )


def edit(
    editor: Backbone,
    pictures: Image.Image | Sequence[Image.Image],
    instructions: str | Sequence[str],
    *,
    config: EditConfig,
    guidance_scale: float | Sequence[float] | None = None,
    image_guidance_scale: float | Sequence[float] | None = None,
    num_inference_steps: int | None = None,
    sampler: str | None = None,
    seed: int | Sequence[int] = 0,
    batch_size: int = 32,
) -> list[EditResult]:
    """Edit one or many pictures with one or many instructions.

    Pictures, instructions, scales and seeds are each one value or one per edit. A result depends on
    its own row alone, not on its batch mates.

    Args:
        pictures: any mode and size; resized by the released rule to `config.resolution`.
        config: the preset's defaults, used where an argument is None.

    Raises:
        ValueError: lengths do not match, or an instruction, scale or picture is not usable.
    """
    given: tuple[Any, ...] = (pictures, instructions, guidance_scale, image_guidance_scale, seed)
    count = max((len(v) for v in given if _is_many(v)), default=1)
    texts = _spread(instructions, count, "instructions")
    s_text = _spread(
        config.guidance_scale if guidance_scale is None else guidance_scale, count, "guidance_scale"
    )
    s_image = _spread(
        config.image_guidance_scale if image_guidance_scale is None else image_guidance_scale,
        count,
        "image_guidance_scale",
    )
    seeds = _spread(seed, count, "seed")
    steps = config.num_inference_steps if num_inference_steps is None else num_inference_steps
    check_scales(s_text, s_image)
    check_sampler(sampler or config.sampler)
    for text in dict.fromkeys(texts):
        check_instruction(editor, text)
    resized = [
        images.fit(p, images.edit_size(*p.size, config.resolution, config.multiple))
        for p in (images.to_rgb(p) for p in _spread(pictures, count, "pictures"))
    ]
    out = list(resized)  # each replaced by its edit
    for rows in _batches([p.size for p in resized], batch_size):
        condition = editor.image_latents(images.to_tensor([resized[r] for r in rows]))
        *_, last = edit_latents(
            editor,
            condition,
            editor.encode_text([texts[r] for r in rows]),
            editor.encode_text([""]),
            guidance_scales=[s_text[r] for r in rows],
            image_guidance_scales=[s_image[r] for r in rows],
            seeds=[seeds[r] for r in rows],
            num_inference_steps=steps,
            sampler=config.sampler if sampler is None else sampler,
        )
        for r, picture in zip(rows, images.to_pictures(editor.decode_latents(last.latents)), strict=True):
            out[r] = picture
    sources = _spread(pictures, count, "pictures")
    marks = {key: images.digest(p) for key, p in {id(p): p for p in sources}.items()}  # each picture once
    recipes = [
        recipe_of(
            editor, marks[id(p)], t, config, guidance_scale=a, image_guidance_scale=b,
            num_inference_steps=steps, sampler=sampler, seed=s,
        )
        for t, a, b, s, p in zip(texts, s_text, s_image, seeds, sources, strict=True)
    ]  # fmt: skip
    return [EditResult(p, r) for p, r in zip(out, recipes, strict=True)]


def film(
    editor: Backbone,
    picture: Image.Image,
    instruction: str,
    *,
    config: EditConfig,
    guidance_scale: float | None = None,
    image_guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    sampler: str | None = None,
    seed: int = 0,
) -> Iterator[tuple[Step, Image.Image]]:
    """The same edit step by step, with what the sampler takes the result for after each; leave to stop.

    Raises:
        ValueError: the instruction, a scale or the picture is not usable.
    """
    s_text, s_image = (
        default if value is None else value
        for value, default in (
            (guidance_scale, config.guidance_scale),
            (image_guidance_scale, config.image_guidance_scale),
        )
    )
    check_scales([s_text], [s_image])
    check_instruction(editor, instruction)
    rgb = images.to_rgb(picture)
    resized = images.fit(rgb, images.edit_size(*rgb.size, config.resolution, config.multiple))
    for step in edit_latents(
        editor,
        editor.image_latents(images.to_tensor([resized])),
        editor.encode_text([instruction]),
        editor.encode_text([""]),
        guidance_scales=[s_text],
        image_guidance_scales=[s_image],
        seeds=[seed],
        num_inference_steps=num_inference_steps or config.num_inference_steps,
        sampler=sampler or config.sampler,
    ):
        yield step, images.to_pictures(editor.decode_latents(step.denoised))[0]


def _is_many(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _batches(sizes: Sequence[tuple[int, int]], batch_size: int) -> Iterator[list[int]]:
    """Row indices in batches of equal picture size."""
    for size in dict.fromkeys(sizes):
        rows = [i for i, s in enumerate(sizes) if s == size]
        yield from (rows[i : i + batch_size] for i in range(0, len(rows), batch_size))
