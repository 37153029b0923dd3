"""Time an edit against diffusers' pipeline, with the shipped miniature and at half the width of Stable Diffusion.

Both sides get the same latents, noise, text states and timesteps and are checked for equal latents first, after 20 steps at
general scales; then rounds alternate and medians of the ratios of neighbours are taken. Time is that of the processor, on
one thread. What encoding and decoding cost is the same on both sides and left out. The wide network has random weights:
speed does not depend on them, and no quality is claimed.
Run: `python benchmarks/edit_cpu.py [--note "what else the machine does"]`. Writes benchmarks/results/edit_cpu.json.
With `--quick`: a minute's trial, to the screen.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from edit_sides import Scales, Sides, random_editor
from side_by_side import compared, in_rounds, write_rows
from training_sides import SIZES

from ip2p_lib.backbone import load_editor
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
    ways = {"ours": lambda: short.ours(scales), "theirs": lambda: short.theirs(scales)}
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
    plain = taken.pop("plain")
    ratios = {
        way: round(median(p / s for p, s in zip(plain, seconds, strict=True)), 3)
        for way, seconds in taken.items()
    }
    return {
        "name": name,
        "ratios": ratios,
        "theirs": round(median(plain), 4),
        "unit": "processor seconds for a call",
        "load_average": load(),
    }


def measured(sides: Sides, suffix: str, steps: int, rounds: int) -> list[dict[str, object]]:
    """All rows of one network."""
    rows = [against_pipeline(sides, f"edit_generic{suffix}_cpu", GENERIC, steps, rounds)]
    for (what, scales), short in zip(ZERO.items(), ("", "_equal_scales"), strict=True):
        name = f"edit_zero_branch{short}{suffix}_cpu"
        row = against_pipeline(replace(sides, steps=steps), name, scales, steps, rounds)
        rows.append({**row, "branch": what})
    return [*rows, parts(sides, f"edit_parts{suffix}_cpu", rounds)]


def batched(alone: Sides, steps: int, rounds: int) -> dict[str, object]:
    """A row: edits in a batch against diffusers' batch, and against our own one by one."""
    together = replace(alone, count=BATCH, steps=steps)
    row = against_pipeline(together, "edit_batch_miniature_cpu", GENERIC, steps, rounds)
    one, many = replace(alone, steps=steps), replace(together, steps=steps)
    ways = {
        "batch": lambda: many.ours(GENERIC),
        "one by one": lambda: [one.ours(GENERIC) for _ in range(BATCH)],
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
    rows = measured(miniature, "_miniature", *((2, 2) if asked.quick else (10, 7)))
    rows.append(batched(miniature, *((2, 2) if asked.quick else (5, 3))))
    wide = Sides(
        random_editor(SIZES["quick" if asked.quick else "cpu"], "cpu"), 8 if asked.quick else 32, steps=20
    )
    rows += measured(wide, "", *((2, 2) if asked.quick else (5, 5)))
    if asked.quick:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        write_rows(RESULT, rows, " ".join(["python", "benchmarks/edit_cpu.py", *sys.argv[1:]]), asked.note)


if __name__ == "__main__":
    main()
