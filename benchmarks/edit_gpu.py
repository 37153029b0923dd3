"""Time an edit at the size of Stable Diffusion on a GPU: diffusers' pipeline as it is and compiled, ours and ours as a graph.

512 pixels, random weights, bf16; what encoding and decoding cost is the same on both sides and left out. Equal latents are
checked first, in float32 without TF32. Rounds alternate; each time waits for the device. The share of the peak is the
operations of the UNet rows that were computed, per second, over what large products of bf16 matrices reach.
Run: `python benchmarks/edit_gpu.py`. Writes benchmarks/results/edit_gpu.json.
With `--quick`: small and in float32 on whatever device there is, a trial of the script itself, to the screen.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from edit_sides import Scales, Sides, random_editor
from side_by_side import compared, in_rounds, write_rows
from training_cpu import matmul_peak, operations
from training_sides import SIZES

from ip2p_lib.backbone import Backbone
from ip2p_lib.editing import Memory

RESULT = Path(__file__).parent / "results" / "edit_gpu.json"
GENERIC: Scales = (7.5, 1.5)
STEPS, BATCHES = (20, 100), (4, 16)


def waited(work: Callable[[], object]) -> Callable[[], object]:
    """The same work, ended only when the device has ended."""

    def whole() -> None:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return whole


def in_dtype(editor: Backbone, dtype: torch.dtype) -> Backbone:
    """The same editor after its networks were cast, in place."""
    for part in (editor.unet, editor.vae, editor.text_encoder):
        part.to(dtype=dtype)
    return editor


def rows_of(
    ours: Sides, compiled: Sides, gflop: float, peak: float | None, rounds: int, device: str
) -> list[dict[str, object]]:
    """Rows for one number of edits and of steps: ours as a graph against each other way."""
    memory = Memory()
    ways = {
        "graph": waited(lambda: ours.ours(GENERIC, graph=True, memory=memory)),
        "eager": waited(lambda: ours.ours(GENERIC)),
        "diffusers": waited(lambda: ours.theirs(GENERIC)),
        "diffusers, compiled": waited(lambda: compiled.theirs(GENERIC)),
    }
    name = f"edit_512_gpu_{ours.count}x{ours.steps}"
    taken = in_rounds(ways, name, rounds)
    rows = []
    for way in ("diffusers", "diffusers, compiled", "eager"):
        row = compared(taken["graph"], taken[way], name)
        row |= {
            "against": way,
            "unit": f"seconds for {ours.count} edits of {ours.steps} steps",
            "device": device,
        }
        if peak is not None:
            done = gflop * ours.steps
            row["share_of_peak"] = round(done / median(taken["graph"]) / peak, 3)
            row["share_of_peak_theirs"] = round(done / median(taken[way]) / peak, 3)
        rows.append(row)
    return rows


def counted(sides: Sides) -> float:
    """Operations of a step's UNet call with nothing shared, in units of 1e9."""
    with torch.no_grad():
        return operations(sides.calls()["plain"])


def measured(quick: bool) -> list[dict[str, object]]:
    """All rows."""
    has_gpu = torch.cuda.is_available()
    kind = "cuda" if has_gpu else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    editor, side = random_editor(SIZES["quick" if quick else "cuda"], kind), 8 if quick else 64
    error = Sides(editor, side, steps=20).equal_within(GENERIC)
    in_dtype(editor, torch.float32 if quick else torch.bfloat16)
    compiled = torch.compile(editor.unet, backend="eager" if quick else "inductor")
    peak = None if quick else matmul_peak()
    device = torch.cuda.get_device_name() if has_gpu else "no GPU"
    plan = [(1, 2)] if quick else [*((1, n) for n in STEPS), *((n, STEPS[0]) for n in BATCHES)]
    rows = []
    for count, steps in plan:
        ours = Sides(editor, side, count, steps)
        rounds = 1 if quick else 5 if count == 1 and steps == STEPS[0] else 3
        rows += rows_of(ours, replace(ours, other=compiled), counted(ours), peak, rounds, device)
    main = {**rows[0], "name": "edit_512_gpu"}
    return [{**row, "equal_within": error} for row in (main, *rows)]


def main() -> None:
    """Measure, and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    if not asked.quick and not torch.cuda.is_available():
        parser.error("needs a CUDA device, found none; see edit_cpu.py, or try --quick")
    rows = measured(asked.quick)
    if asked.quick:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        write_rows(RESULT, rows, "python benchmarks/edit_gpu.py")


if __name__ == "__main__":
    main()
