"""Pictures in, edited pictures out, and the recipe that repeats each."""

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
from ip2p_lib.editing.detail import restored
from ip2p_lib.editing.large import decoded
from ip2p_lib.editing.latents import edit_latents
from ip2p_lib.editing.memory import Memory
from ip2p_lib.presets import EditConfig
from ip2p_lib.records import Recipe
from ip2p_lib.samplers import check_sampler

MAX_SCALE = 100.0


@dataclass(frozen=True, slots=True)
class EditResult:
    """One edited picture and the recipe that repeats it."""

    picture: Image.Image
    recipe: Recipe

    def save(self, path: Path) -> None:
        """Write a PNG that carries its recipe."""
        images.save_with_recipe(self.picture, path, asdict(self.recipe))


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
    restore_detail: bool | None = None,
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
        config.restore_detail if restore_detail is None else restore_detail,
        editor.files,
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
    restore_detail: bool | None = None,
    seed: int | Sequence[int] = 0,
    batch_size: int = 32,
    graph: bool = False,
    memory: Memory | None = None,
) -> list[EditResult]:
    """Edit one or many pictures with one or many instructions.

    Pictures, instructions, scales and seeds are each one value or one per edit. A result depends on
    its own row alone, not on its batch mates.

    Args:
        pictures: any mode and size; resized by the released rule to `config.resolution`. Above 768 x 768 pixels the
            autoencoder works in tiles.
        config: the preset's defaults, used where an argument is None.
        restore_detail: put back what the autoencoder loses of a picture, where the edit changes nothing.
        batch_size: edits at a time, if memory holds so many; where it runs out, half as many.
        graph: on a CUDA device, capture a step as a graph and replay it; no difference elsewhere.
        memory: what to look up and keep pictures' latents, texts' states and captured steps in; None keeps nothing
            after this call. Results are the same.

    Raises:
        ValueError: lengths do not match, or an instruction, scale or picture is not usable.
    """
    given: tuple[Any, ...] = (pictures, instructions, guidance_scale, image_guidance_scale, seed)
    count = max((len(v) for v in given if _is_many(v)), default=1)
    texts = _spread(instructions, count, "instructions")
    s_text = _spread(guidance_scale, count, "guidance_scale")
    s_image = _spread(image_guidance_scale, count, "image_guidance_scale")
    seeds, sources = _spread(seed, count, "seed"), _spread(pictures, count, "pictures")
    marks = {key: images.digest(p) for key, p in {id(p): p for p in sources}.items()}  # each picture once
    recipes = [
        recipe_of(
            editor, marks[id(p)], t, config, guidance_scale=a, image_guidance_scale=b,
            num_inference_steps=num_inference_steps, sampler=sampler, restore_detail=restore_detail, seed=s,
        )
        for t, a, b, s, p in zip(texts, s_text, s_image, seeds, sources, strict=True)
    ]  # fmt: skip
    _check(editor, recipes)
    memory = Memory() if memory is None else memory
    out = [resized(p, config) for p in sources]  # each replaced by its edit

    def edited(rows: Sequence[int]) -> list[tuple[int, Image.Image]]:
        inputs, parts = [out[r] for r in rows], [recipes[r] for r in rows]
        *_, last = sampled(editor, inputs, parts, graph, memory)
        return list(zip(rows, shown(editor, last.latents, inputs, parts, memory), strict=True))

    for r, picture in images.fitted(edited, out, batch_size, "edits"):
        out[r] = picture
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
    restore_detail: bool | None = None,
    seed: int = 0,
    memory: Memory | None = None,
) -> Iterator[tuple[Step, Image.Image]]:
    """The same edit step by step, with what it is taken for after each, in the end the edit; leave to stop.

    Raises:
        ValueError: the instruction, a scale or the picture is not usable.
    """
    recipe = recipe_of(
        editor, images.digest(picture), instruction, config, guidance_scale=guidance_scale,
        image_guidance_scale=image_guidance_scale, num_inference_steps=num_inference_steps, sampler=sampler,
        restore_detail=restore_detail, seed=seed,
    )  # fmt: skip
    _check(editor, [recipe])
    memory = Memory() if memory is None else memory
    inputs = [resized(picture, config)]
    for step in sampled(editor, inputs, [recipe], False, memory):
        is_last = (
            step.index + 1 == step.count
        )  # where the estimate, rounded elsewhere, is only nearly the edit
        latents = step.latents if is_last else step.denoised
        yield step, shown(editor, latents, inputs, [recipe], memory)[0]


def _check(editor: Backbone, recipes: Sequence[Recipe]) -> None:
    """Refuse what cannot be edited before anything is computed."""
    check_scales([r.guidance_scale for r in recipes], [r.image_guidance_scale for r in recipes])
    check_sampler(recipes[0].sampler)
    for text in dict.fromkeys(r.instruction for r in recipes):
        check_instruction(editor, text)


def resized(picture: Image.Image, config: EditConfig) -> Image.Image:
    """A picture of any mode and size as RGB at the size to edit.

    Raises:
        ValueError: the picture has no area, or its sides are too far apart.
    """
    rgb = images.to_rgb(picture)
    return images.fit(rgb, images.edit_size(*rgb.size, config.resolution, config.multiple))


def sampled(
    editor: Backbone, pictures: Sequence[Image.Image], recipes: Sequence[Recipe], graph: bool, memory: Memory
) -> Iterator[Step]:
    """The steps of edits of RGB pictures of one size to edit; all recipes have one sampler and number of steps."""
    yield from edit_latents(
        editor,
        torch.cat([memory.latents(editor, p) for p in pictures]),
        torch.cat([memory.states(editor, r.instruction) for r in recipes]),
        memory.states(editor, ""),
        guidance_scales=[r.guidance_scale for r in recipes],
        image_guidance_scales=[r.image_guidance_scale for r in recipes],
        seeds=[r.seed for r in recipes],
        num_inference_steps=recipes[0].num_inference_steps,
        sampler=recipes[0].sampler,
        graph=graph,
        memory=memory,
    )


def shown(
    editor: Backbone,
    latents: Tensor,
    pictures: Sequence[Image.Image],
    recipes: Sequence[Recipe],
    memory: Memory,
) -> list[Image.Image]:
    """What scaled latents (B, C, h, w) look like as edits of `pictures`, by recipes that agree on detail."""
    edited = decoded(editor, latents)
    if not recipes[0].restore_detail:
        return edited
    return restored(edited, [memory.rebuilt(editor, p) for p in pictures], pictures)


def _is_many(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
