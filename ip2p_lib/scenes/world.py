"""What a picture of the world contains: the `Scene` record, its sampling, and edits one attribute away."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

SUBJECTS = (
    "house", "car", "cat", "robot", "mushroom", "balloon", "rocket", "sailboat", "umbrella", "castle",
)  # fmt: skip
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
PLACES = ("meadow", "beach", "desert", "city", "mountains", "forest")
TIMES = ("day", "sunset", "night")
WEATHERS = ("clear", "rain", "snow")
STYLES = ("plain", "pencil", "watercolour", "pixel", "poster")
EXTRAS = ("rainbow", "fence", "lamp", "kite")

ATTRIBUTES = {
    "subject": SUBJECTS,
    "colour": COLOURS,
    "place": PLACES,
    "time": TIMES,
    "weather": WEATHERS,
    "style": STYLES,
}
KINDS = ("replace", "recolour", "place", "time", "weather", "restyle", "add", "remove")
KIND_OF_ATTRIBUTE = {
    "subject": "replace",
    "colour": "recolour",
    "place": "place",
    "time": "time",
    "weather": "weather",
    "style": "restyle",
}
EXTRA_SETS = tuple(c for n in range(3) for c in combinations(EXTRAS, n))  # none, one or two


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture of the world, in words. `layout` seeds position, size, horizon and decoration.

    Raises:
        ValueError: an attribute is not one of its known values.
    """

    subject: str
    colour: str
    place: str
    time: str
    weather: str
    style: str
    extras: tuple[str, ...] = ()
    layout: int = 0

    def __post_init__(self) -> None:
        for name, values in ATTRIBUTES.items():
            value = getattr(self, name)
            if value not in values:
                raise ValueError(f"Scene.{name} must be one of {', '.join(values)}; got {value!r}")
        if self.extras not in EXTRA_SETS:
            raise ValueError(
                f"Scene.extras must be at most two of {EXTRAS}, in this order; got {self.extras!r}"
            )


@dataclass(frozen=True, slots=True)
class SceneEdit:
    """A change of exactly one thing. The render of `after` is the exact answer to the edit."""

    kind: str
    before: Scene
    after: Scene
    old: str
    new: str

    def laid_out(self, layout: int) -> "SceneEdit":
        """The same edit of the same things, standing elsewhere."""
        before, after = (replace(s, layout=layout) for s in (self.before, self.after))
        return replace(self, before=before, after=after)


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene. Day, clear weather and the plain style are a little likelier than the rest."""

    def pick(values: tuple[str, ...], first: float) -> str:
        return values[0] if rng.random() < first else values[rng.integers(1, len(values))]

    extras_count = rng.choice(3, p=(0.55, 0.35, 0.10))
    extras = [e for e in EXTRA_SETS if len(e) == extras_count]
    return Scene(
        subject=SUBJECTS[rng.integers(len(SUBJECTS))],
        colour=COLOURS[rng.integers(len(COLOURS))],
        place=PLACES[rng.integers(len(PLACES))],
        time=pick(TIMES, 0.4),
        weather=pick(WEATHERS, 0.5),
        style=pick(STYLES, 0.3),
        extras=extras[rng.integers(len(extras))],
        layout=int(rng.integers(2**31)),
    )


def sample_scenes(count: int, seed: int) -> list[Scene]:
    """Draw `count` scenes; the i-th depends on `seed` and i alone, whatever `count` is."""
    return [sample_scene(np.random.default_rng((seed, i))) for i in range(count)]


def edits(scene: Scene) -> Iterator[SceneEdit]:
    """Every scene one edit away from `scene`, by kind, in a fixed order."""
    changed: dict[str, Any]
    for name, values in ATTRIBUTES.items():
        old = getattr(scene, name)
        for new in values:
            if new != old:
                changed = {name: new}
                yield SceneEdit(KIND_OF_ATTRIBUTE[name], scene, replace(scene, **changed), old, new)
    for extra in EXTRAS:
        if extra in scene.extras:
            kept = tuple(e for e in scene.extras if e != extra)
            yield SceneEdit("remove", scene, replace(scene, extras=kept), extra, "")
        elif len(scene.extras) < 2:
            grown = tuple(e for e in EXTRAS if e in (*scene.extras, extra))
            yield SceneEdit("add", scene, replace(scene, extras=grown), "", extra)


def sample_edit(scene: Scene, rng: np.random.Generator) -> SceneEdit:
    """Draw a kind that is possible for this scene, each equally likely, then an edit of that kind."""
    by_kind: dict[str, list[SceneEdit]] = {}
    for edit in edits(scene):
        by_kind.setdefault(edit.kind, []).append(edit)
    options = by_kind[list(by_kind)[rng.integers(len(by_kind))]]
    return options[rng.integers(len(options))]
