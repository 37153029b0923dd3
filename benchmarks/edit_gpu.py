"""The GPU benchmark's part about edits: diffusers' pipeline as it is and compiled, ours, and ours as a graph.

512 pixels, random weights, bf16; what encoding and decoding cost is the same on both sides and left out. The share of
the peak is the operations of the UNet rows of all three predictions, per second, over what large products of bf16
matrices reach. Run through `python benchmarks/gpu.py`.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median

import torch
from edit_sides import Scales, Sides, editor_of
from gpu_parts import Deadline, Row, cast, largest, peak_gib, release, rounds_within
from side_by_side import compared
from training_cpu import operations

from ip2p_lib.backbone import Backbone
from ip2p_lib.editing import Memory

GENERIC: Scales = (7.5, 1.5)
FIRST, PLAN = (1, 20), ((1, 20), (1, 100), (16, 20))  # edits at a time, steps
SIZES_TRIED = (32, 64, 128)
COMPILING = 60  # seconds that must be left to begin with it


def equal(base: Backbone, quick: bool) -> Row:
    """Both sides' latents after 20 steps in float32."""
    return {"equal_within": Sides(editor_of(base), 8 if quick else 64, steps=20).equal_within(GENERIC)}


def rows(base: Backbone, quick: bool, deadline: Deadline, peak: float | None) -> Iterator[Row]:
    """A row for each way and each number of edits and steps; the compiled pipeline last."""
    editor, side = cast(editor_of(base), torch.bfloat16), 8 if quick else 64
    wide = editor.with_unet(copy.deepcopy(editor.unet).to(memory_format=torch.channels_last), "channels last")
    for count, steps in ((1, 2),) if quick else PLAN:
        if deadline.left < (0 if quick else COMPILING):
            break
        ours, other = Sides(editor, side, count, steps), Sides(wide, side, count, steps)
        yield from _compared(ours, other, peak, 0 if quick else deadline.left / 8)
        release()
    yield {"name": "edit_largest_batch_gpu", **largest(
        lambda n: Sides(editor, side, n, 1).ours(GENERIC), (2,) if quick else SIZES_TRIED, deadline)}  # fmt: skip
    if deadline.left > COMPILING or quick:
        yield from _compiled(editor, wide, side, (1, 2) if quick else FIRST, peak, quick)


def _compared(ours: Sides, wide: Sides, peak: float | None, seconds: float) -> Iterator[Row]:
    memory, wide_memory = Memory(), Memory()
    ways = {
        "graph": lambda: ours.ours(GENERIC, graph=True, memory=memory),
        "graph, channels last": lambda: wide.ours(GENERIC, graph=True, memory=wide_memory),
        "eager": lambda: ours.ours(GENERIC),
        "diffusers": lambda: ours.theirs(GENERIC),
    }
    taken = rounds_within(ways, seconds)
    gflop = counted(ours) * ours.steps
    found = [
        _row(taken, way, against, ours, gflop, peak)
        for way, against in (("graph", "diffusers"), ("graph", "eager"), ("graph, channels last", "graph"), ("eager", "diffusers"))
        if way in taken and against in taken
    ]  # fmt: skip
    if found and (ours.count, ours.steps) in (FIRST, (1, 2)):
        peaks = {way: peak_gib(ways[way]) for way in ("eager", "diffusers")}
        yield {**found[0], "name": "edit_512_gpu", "peak_gib": peaks}
    yield from found


def _row(
    taken: Mapping[str, Sequence[float]],
    way: str,
    against: str,
    sides: Sides,
    gflop: float,
    peak: float | None,
) -> Row:
    row: Row = {**compared(taken[way], taken[against], f"edit_512_gpu_{sides.count}x{sides.steps}")}
    row |= {"way": way, "against": against, "unit": f"seconds for {sides.count} edits of {sides.steps} steps"}
    if peak is not None:
        row["share_of_peak"] = round(gflop / median(taken[way]) / peak, 3)
        row["share_of_peak_theirs"] = round(gflop / median(taken[against]) / peak, 3)
    return row


def _compiled(
    editor: Backbone, wide: Backbone, side: int, size: tuple[int, int], peak: float | None, quick: bool
) -> Iterator[Row]:
    """Ours as a graph against the pipeline around a compiled UNet in channels-last layout, its documented best."""
    compiled = torch.compile(wide.unet, backend="eager" if quick else "inductor")
    ours, memory = Sides(editor, side, *size), Memory()
    theirs = replace(ours, other=compiled)
    ways = {
        "graph": lambda: ours.ours(GENERIC, graph=True, memory=memory),
        "diffusers, compiled, channels last": lambda: theirs.theirs(GENERIC),
    }
    taken = rounds_within(ways, 0 if quick else 20)
    if len(taken) == len(ways):
        yield _row(
            taken, "graph", "diffusers, compiled, channels last", ours, counted(ours) * ours.steps, peak
        )


def counted(sides: Sides) -> float:
    """Operations of a step's UNet call with nothing shared, in units of 1e9."""
    with torch.no_grad():
        return operations(sides.calls()["plain"])
