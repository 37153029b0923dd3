"""One form for everything that edits, so that one function measures our editor and all it is compared with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from ip2p_lib import images, storage
from ip2p_lib.backbone import Backbone, model_mark
from ip2p_lib.editing import edit
from ip2p_lib.presets import EditConfig
from ip2p_lib.records import Triplet
from ip2p_lib.scenes import render
from ip2p_lib.triplets import edit_of


@dataclass(frozen=True, slots=True)
class Edited:
    """What a system makes of one picture; `source` where it made its input itself."""

    picture: Image.Image
    source: Image.Image | None = None


# pictures (RGB), their triplets, the dial's value, a seed for each -> one result for each, of its input's size
Run = Callable[[Sequence[Image.Image], Sequence[Triplet], float, Sequence[int]], list[Edited]]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A way to edit with one dial that trades the change against what is kept.

    A result depends on its own picture, triplet, seed and the dial alone, so that points of a sweep share
    their noise and a run may be cut into blocks anywhere.
    """

    name: str
    about: str
    dial: str  # what the dial is
    values: tuple[float, ...]  # where a sweep measures by default
    run: Run
    mark: str  # digest of weights and settings: results of equal marks can be compared
    own_sources: bool = False  # paints its inputs instead of editing those given
    slow: bool = False  # minutes for what others do in seconds


# Image scales of the released metrics script, which edits with 1.5: in the same proportion to a preset's own.
RELEASED_SWEEP = tuple(s / 1.5 for s in (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2))


def spread(value: float, factors: Sequence[float]) -> tuple[float, ...]:
    """Values of a dial around its default."""
    return tuple(round(value * f, 2) for f in factors)


def our_editor(editor: Backbone, config: EditConfig, *, dial: str = "s_I", batch_size: int = 32) -> System:
    """The editor under test, by its instruction; the dial is one guidance scale, the other keeps its default.

    Raises:
        ValueError: the dial is neither s_I nor s_T.
    """
    names = {"s_I": "image_guidance_scale", "s_T": "guidance_scale"}
    if dial not in names:
        raise ValueError(f"an editor's dial must be s_I or s_T, got {dial!r}")

    def run(
        pictures: Sequence[Image.Image], triplets: Sequence[Triplet], value: float, seeds: Sequence[int]
    ) -> list[Edited]:
        scales = {names[dial]: value}
        results = edit(
            editor, list(pictures), [t.edit for t in triplets], config=config, seed=list(seeds),
            batch_size=batch_size, guidance_scale=scales.get("guidance_scale"),
            image_guidance_scale=scales.get("image_guidance_scale"),
        )  # fmt: skip
        return [Edited(r.picture) for r in results]

    of_image = dial == "s_I"
    return System(
        name="ours" if of_image else "ours-text",
        about="the editor, by its instruction" + ("" if of_image else ", text scale swept"),
        dial=dial,
        values=spread(config.image_guidance_scale, RELEASED_SWEEP)
        if of_image
        else spread(config.guidance_scale, (0.5, 0.75, 1, 1.5, 2, 3, 4)),
        run=run,
        mark=storage.fingerprint([model_mark(editor), str(config), dial]),
    )


def nothing() -> System:
    """Give the picture back: nothing changed, everything kept."""
    return System(
        name="nothing",
        about="the picture as it was",
        dial="none",
        values=(0.0,),
        run=lambda pictures, triplets, value, seeds: [Edited(images.to_rgb(p)) for p in pictures],
        mark="nothing",
    )


def exact_answer() -> System:
    """Draw the exact answer: what the measures say of a perfect edit. Only for triplets of the world."""

    def run(
        pictures: Sequence[Image.Image], triplets: Sequence[Triplet], value: float, seeds: Sequence[int]
    ) -> list[Edited]:
        drawn = (render(edit_of(t).after, p.width) for p, t in zip(pictures, triplets, strict=True))
        return [Edited(p) for p in drawn]

    return System(
        name="truth", about="the exact answer, drawn", dial="none", values=(0.0,), run=run, mark="truth"
    )
