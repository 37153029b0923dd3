"""Time an edit against diffusers' pipeline, with the shipped miniature and at half the width of Stable Diffusion.

Both sides get the same latents, noise, text states and timesteps and are checked for equal latents first, after 20 steps at
general scales; then rounds alternate and medians of the ratios of neighbours are taken. Time is that of the processor, on
one thread. What encoding and decoding cost is the same on both sides and left out; ours keeps packed weights from one
edit to the next, as a session does. The wide network has random weights: speed does not depend on them, and no quality is
claimed.
Run: `python benchmarks/edit_cpu.py [--note "what else the machine does"]`. Writes benchmarks/results/edit_cpu.json.
With `--quick`: a minute's trial, to the screen.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from edit_sides import Scales, Sides, random_editor
from side_by_side import compared, in_rounds, write_rows
from training_sides import SIZES

from ip2p_lib.backbone import load_editor
from ip2p_lib.editing import Memory
from ip2p_lib.presets import MINIATURE

RESULT = Path(__file__).parent / "results" / "edit_cpu.json"
GENERIC: Scales = (7.5, 1.5)
ZERO: dict[str, Scales] = {"s_I = 1": (7.5, 1.0), "s_T = s_I": (2.0, 2.0)}
BATCH = 8


def load() -> float:
    """How many programs wanted a processor over the last minute, this one among them: above the cores, times are rough."""
    return round(os.getloadavg()[0], 1)


def against_pipeline(sides: Sides, name: str, scales: Scales, steps: int, rounds: int) -> dict[str, object]:
    """A row: whole edits by both sides. Equality over `sides.steps` steps, time over `steps`."""
    error = sides.equal_within(scales)
    short = replace(sides, steps=steps)
    memory = Memory()  # as a session has it: weights stay packed from one edit to the next
    ways = {"ours": lambda: short.ours(scales, memory=memory), "theirs": lambda: short.theirs(scales)}
    taken = in_rounds(ways, name, rounds, warm_up=1, clock=time.process_time)
    row = compared(taken["ours"], taken["theirs"], name)
    what = "an edit" if sides.count == 1 else f"{sides.count} edits in a batch"
    return {
        **row,
        "scales": f"s_T {scales[0]:g}, s_I {scales[1]:g}",
        "unit": f"processor seconds for {what} of {steps} steps",
        "equal_within": error,
        "equal_after_steps": sides.steps,
        "load_average": load(),
    }


def parts(sides: Sides, name: str, rounds: int) -> dict[str, object]:
    """A row: one UNet call for three predictions as what they share is taken away, one thing after the other."""
    with torch.no_grad():
        taken = in_rounds(sides.calls(), name, rounds, clock=time.process_time)
    gains = {f"{way}, over {before}": gain(taken[way], taken[before]) for before, way in pairwise(taken)}
    *_, last = taken
    return {
        "name": name,
        "ratio": gain(taken[last], taken["plain"])[0],
        "gains": {**gains, "all, over plain": gain(taken[last], taken["plain"])},
        "theirs": round(median(taken["plain"]), 4),
        "rounds": rounds,
        "unit": "processor seconds for a call; gains as median, and its 95 % interval by ranks",
        "load_average": load(),
    }


def gain(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """Median of the ratios of neighbours, and the interval of ranks that holds the true one in 95 % of cases."""
    ratios = sorted(t / o for o, t in zip(ours, theirs, strict=True))
    half = 0.98 * len(ratios) ** 0.5
    low, high = max(0, int(len(ratios) / 2 - half)), min(len(ratios) - 1, int(len(ratios) / 2 + half))
    return round(median(ratios), 3), round(ratios[low], 3), round(ratios[high], 3)


def measured(sides: Sides, suffix: str, steps: int, rounds: int, calls: int) -> list[dict[str, object]]:
    """All rows of one network."""
    rows = [against_pipeline(sides, f"edit_generic{suffix}_cpu", GENERIC, steps, rounds)]
    for (what, scales), short in zip(ZERO.items(), ("", "_equal_scales"), strict=True):
        name = f"edit_zero_branch{short}{suffix}_cpu"
        row = against_pipeline(replace(sides, steps=steps), name, scales, steps, rounds)
        rows.append({**row, "branch": what})
    return [*rows, parts(sides, f"edit_parts{suffix}_cpu", calls)]


def batched(alone: Sides, steps: int, rounds: int) -> dict[str, object]:
    """A row: edits in a batch against diffusers' batch, and against our own one by one."""
    together = replace(alone, count=BATCH, steps=steps)
    row = against_pipeline(together, "edit_batch_miniature_cpu", GENERIC, steps, rounds)
    one, many = replace(alone, steps=steps), replace(together, steps=steps)
    kept, kept_one = Memory(), Memory()
    ways = {
        "batch": lambda: many.ours(GENERIC, memory=kept),
        "one by one": lambda: [one.ours(GENERIC, memory=kept_one) for _ in range(BATCH)],
    }
    taken = in_rounds(ways, "batch", rounds, warm_up=1, clock=time.process_time)
    gain = compared(taken["batch"], taken["one by one"], "batch")
    return {**row, "one_by_one": gain["theirs"], "batch_over_one_by_one": gain["ratio"]}


def main() -> None:
    """Measure, and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--note", default="one thread")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    miniature = Sides(load_editor(MINIATURE), 16, steps=4 if asked.quick else 20)
    rows = measured(miniature, "_miniature", *((2, 2, 4) if asked.quick else (10, 7, 150)))
    rows.append(batched(miniature, *((2, 2) if asked.quick else (5, 3))))
    wide = Sides(
        random_editor(SIZES["quick" if asked.quick else "cpu"], "cpu"), 8 if asked.quick else 32, steps=20
    )
    rows += measured(wide, "", *((2, 2, 4) if asked.quick else (5, 5, 9)))
    if asked.quick:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        write_rows(RESULT, rows, " ".join(["python", "benchmarks/edit_cpu.py", *sys.argv[1:]]), asked.note)


if __name__ == "__main__":
    main()
