"""Triplets from the world's own grammar, and what the world makes of anybody's triplets: for measuring."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from ip2p_lib.records import Triplet
from ip2p_lib.scenes.language import caption, held_out_instruction, instruction
from ip2p_lib.scenes.reading import read_caption, read_change, triplet_fault
from ip2p_lib.scenes.world import Scene, SceneEdit, sample_edit, sample_scene


def world_triplet(index: int, seed: int, *, held_out: bool = False) -> Triplet:
    """The `index`-th triplet of a seed; independent of all others.

    Args:
        held_out: phrase the instruction as no training text does.
    """
    rng = np.random.default_rng((seed, index, 3))
    edit = sample_edit(sample_scene(np.random.default_rng((seed, index))), rng)
    phrasing = int(rng.integers(2**31))
    say = held_out_instruction if held_out else instruction
    return Triplet(
        id=f"{seed}-{index:07d}",
        input=caption(edit.before, phrasing),
        edit=say(edit, phrasing),
        output=caption(edit.after, phrasing),
        source={"kind": edit.kind, "before": asdict(edit.before), "after": asdict(edit.after)},
    )


def world_triplets(count: int, seed: int, *, held_out: bool = False) -> Iterator[Triplet]:
    """Triplets 0 to count - 1 of a seed."""
    return (world_triplet(i, seed, held_out=held_out) for i in range(count))


def _scene(fields: dict[str, Any]) -> Scene:
    return Scene(**{**fields, "extras": tuple(fields["extras"])})


def edit_of(triplet: Triplet) -> SceneEdit:
    """The world's edit that a triplet was made from: for measuring only.

    Raises:
        ValueError: the triplet does not come from the world.
    """
    if "before" not in triplet.source:
        raise ValueError(
            f"triplet {triplet.id} must come from the picture world to be judged; its source does not say so"
        )
    before, after = _scene(triplet.source["before"]), _scene(triplet.source["after"])
    return SceneEdit(triplet.source["kind"], before, after, "", "")


def understood(triplet: Triplet) -> SceneEdit | None:
    """The edit that a triplet of any origin stands for, or None if the world finds a fault in it."""
    if triplet_fault(triplet.input, triplet.edit, triplet.output):
        return None
    before, after = read_caption(triplet.input), read_caption(triplet.output)
    return read_change(before, after) if before and after else None
