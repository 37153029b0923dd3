"""Wishes that the method does not grant: to count, to move, to swap. Made, measured, and nothing promised.

The world has no exact answers to them, since it cannot be told where things stand. So what is measured is
whether the subject has left its place, and what else the judge reads to have changed.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ip2p_lib import images
from ip2p_lib.backbone import Backbone
from ip2p_lib.editing import edit
from ip2p_lib.evaluation.intervals import share
from ip2p_lib.evaluation.report import plain
from ip2p_lib.judge import Judge, read_attributes
from ip2p_lib.presets import EditConfig
from ip2p_lib.scenes import edit_mask, render, sample_scene
from ip2p_lib.scenes.world import ATTRIBUTES, COLOURS, Scene

WISHES = {
    "move": "move the {noun} to the left",
    "count": "add another {noun}",
    "swap": "swap the {noun} and the street lamp",
}
SHOWN = 4  # pictures on the sheet
FAR = 0.1  # of the picture's width counts as having moved; the subject is nearly half as wide


@dataclass(frozen=True, slots=True)
class Wish:
    """One wish about one picture."""

    kind: str
    scene: Scene
    instruction: str


@dataclass(frozen=True, slots=True)
class Granted:
    """What came of a wish."""

    wish: Wish
    before: Image.Image
    after: Image.Image
    shift: int  # where the subject is found again, pixels to the right of its old place
    changed: tuple[str, ...]  # attributes and extras that the judge reads otherwise than the scene has them

    @property
    def moved(self) -> bool:
        """Whether the subject is found again elsewhere."""
        return abs(self.shift) >= FAR * self.before.width

    @property
    def said(self) -> str:
        """In words what the judge reads, and where the subject went."""
        names = (f"another {n}" if n in ATTRIBUTES else f"a {n} came or went" for n in self.changed)
        moved = [f"subject {abs(self.shift)} px to the {'right' if self.shift > 0 else 'left'}"]
        return ", ".join([*(list(names) or ["the same scene"]), *(moved if self.moved else [])])


def wishes(count: int, seed: int) -> Iterator[Wish]:
    """`count` wishes of each kind, about the same scenes; all have a lamp to swap with."""
    for i in range(count):
        scene = replace(sample_scene(np.random.default_rng((seed, i))), extras=("lamp",), style="plain")
        for kind, words in WISHES.items():
            yield Wish(kind, scene, words.format(noun=scene.subject))


def subject_mask(scene: Scene, size: int) -> NDArray[np.bool_]:
    """Where the subject's colour shows, (size, size): where two colours of it differ."""
    other = next(c for c in reversed(COLOURS) if c != scene.colour)
    return edit_mask(scene, replace(scene, colour=other), size)


def shift_of(before: Tensor, after: Tensor, mask: NDArray[np.bool_], reach: int) -> int:
    """How far to the right a part of a picture is found again, in pixels; negative: to the left.

    The part is slid sideways over the other picture, as far as `reach` and never over the edge; the place with
    the least mean distance wins, the nearest of equals.

    Args:
        before, after: (3, H, W).
        mask: (H, W), the part in `before`.

    Raises:
        ValueError: the mask is empty.
    """
    rows, columns = np.nonzero(mask)
    if not len(rows):
        raise ValueError("a part to look for must have pixels, its mask has none")
    low, high = max(-reach, -int(columns.min())), min(reach, mask.shape[1] - 1 - int(columns.max()))
    part = before[:, rows, columns]
    shifts = sorted(range(low, high + 1), key=abs)
    return min(shifts, key=lambda s: (after[:, rows, columns + s] - part).abs().mean().item())


@torch.no_grad()
def grant(
    editor: Backbone, judge: Judge, wished: Sequence[Wish], config: EditConfig, *, seed: int = 0
) -> list[Granted]:
    """Make every wish of an editor, at its own scales; wish i has the seed `seed + i`."""
    size = config.resolution
    before = [render(w.scene, size) for w in wished]
    seeds = [seed + i for i in range(len(wished))]
    results = edit(editor, before, [w.instruction for w in wished], config=config, seed=seeds)
    after = [r.picture for r in results]
    verdicts = read_attributes(judge, images.to_tensor(after))
    found = []
    for wish, old, new, verdict in zip(wished, before, after, verdicts, strict=True):
        first, second = images.to_tensor([old, new])
        shift = shift_of(first, second, subject_mask(wish.scene, size), size // 3)
        found.append(Granted(wish, old, new, shift, tuple(verdict.differs(wish.scene))))
    return found


def told(found: Sequence[Granted]) -> dict[str, Any]:
    """By kind of wish: how often the subject left its place, and how often the judge reads another scene."""
    lines = {}
    for kind, words in WISHES.items():
        chosen = [g for g in found if g.wish.kind == kind]
        names = Counter(c for g in chosen for c in g.changed)
        lines[kind] = {
            "instruction": words,
            "moved": plain(share([float(g.moved) for g in chosen])),
            "moved_left": plain(share([float(g.moved and g.shift < 0) for g in chosen])),
            "another_scene": plain(share([float(bool(g.changed)) for g in chosen])),
            "changed": dict(names.most_common()),
            "shown": [{"subject": g.wish.scene.subject, "judge": g.said} for g in chosen[:SHOWN]],
        }
    return lines
