"""Time a training step against the loop of diffusers' script, by part, and the peak memory of both.

Both sides train one network of Stable Diffusion's form at an equal batch, and are checked for an equal loss and gradient
first; rounds alternate and medians are compared. Weights and pictures are random: speed does not depend on them. The
script's side gets its pictures as tensors; what it spends on decoding and resizing them each time is not counted.
Run: `.venv/bin/python benchmarks/training_cpu.py` on an idle machine. Writes benchmarks/results/training_cpu.json.
With `--quick`: a minute's trial, to the screen. On a GPU see gpu.py.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from side_by_side import ROUNDS, compared, in_rounds, peak_mb, seconds_of, write_rows
from torch.utils.flop_counter import FlopCounterMode
from training_sides import SIZES, Bench, Size, check_step, check_weights

RESULT = Path(__file__).parent / "results" / "training_cpu.json"


def operations(work: Callable[[], object]) -> float:
    """Floating-point operations of a piece of work, in units of 1e9."""
    with FlopCounterMode(display=False) as counter:
        work()
    return round(counter.get_total_flops() / 1e9, 1)


def timed(
    bench: Bench,
    kind: str,
    check: Callable[[], Mapping[str, object]],
    peak: float | None = None,
    rounds: int = ROUNDS,
) -> list[dict[str, object]]:
    """The rows about time: the step, its parts, and what the cache costs; `peak` is the device's, as `matmul_peak`."""
    encoding, checked = seconds_of(lambda: bench.data), check()
    script = bench.script(bench.size.config())
    kept = script.read()
    counted = {
        "network": operations(lambda: script.loss(bench.look_up(), kept).backward()),
        "autoencoder": operations(script.encode),
        "text encoder": operations(script.read),
    }
    bench.unet.zero_grad()
    ways = {
        "script": script.step,
        "latents": lambda: script.step(bench.look_up),
        "texts": lambda: script.step(bench.look_up, lambda: kept),
        "ours": bench.ours(),
    }
    taken = in_rounds(ways, "training step", rounds, warm_up=1)
    row = compared(taken["ours"], taken["script"], f"training_step_{kind}")
    row |= {"unit": f"seconds per step of {bench.size.batch} pairs", **checked}
    row |= {"dtype": str(script.dtype).removeprefix("torch."), "gflop": counted}
    if peak is not None:
        row["share_of_peak"] = round(counted["network"] / median(taken["ours"]) / peak, 3)
    return [row, parts(taken, encoding / bench.size.batch, bench.size.batch, kind)]


def parts(taken: Mapping[str, list[float]], encoding: float, batch: int, kind: str) -> dict[str, object]:
    """Where the gain comes from, as the script's loop is given one thing of ours after the other."""
    seconds = [median(taken[way]) for way in ("script", "latents", "texts", "ours")]
    latents, texts, rest = ((a - b) / (seconds[0] - seconds[3]) for a, b in pairwise(seconds))
    return {
        "name": f"training_step_parts_{kind}",
        "latents_cached": round(latents, 3),
        "texts_remembered": round(texts, 3),
        "fused_optimiser_and_average": round(rest, 3),
        "unit": "share of the seconds gained",
        "seconds": [round(s, 4) for s in seconds],
        "encoding_a_pair_once": round(encoding, 3),
        "repaid_after_visits": round(encoding / ((seconds[0] - seconds[1]) / batch), 1),
    }


def matmul_peak() -> float:
    """What the device reaches in a large product of bf16 matrices, in units of 1e9 operations a second."""
    a, b = (torch.ones(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def products() -> None:
        for _ in range(20):
            torch.mm(a, b)
        torch.cuda.synchronize()

    products()
    return float(20 * 2 * 8192**3 / 1e9 / seconds_of(products))


def peak_of(side: str, size: Size, steps: int = 2) -> None:
    """Some steps of one side; prints the peak of memory in MB. Ours begins with an empty cache."""
    with TemporaryDirectory() as name:
        bench = Bench(size, "cpu", Path(name))
        step = bench.ours() if side == "ours" else bench.script(size.config()).step
        for _ in range(steps):
            step()
    sys.stdout.write(f"{peak_mb()}\n")


def memory(arguments: Sequence[str]) -> dict[str, object]:
    """Peak memory of both sides, each in a process of its own."""
    peaks = {}
    for side in ("ours", "theirs"):
        command = [sys.executable, __file__, *arguments, "--peak", side]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[side] = int(run.stdout.split()[-1])
    ratio = round(peaks["theirs"] / peaks["ours"], 2)
    return {"name": "training_memory_cpu", "ratio": ratio, **peaks, "unit": "MB at the peak"}


def main() -> None:
    """Measure, and write the result file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peak", choices=("ours", "theirs"))
    asked = parser.parse_args()
    size = SIZES["quick" if asked.quick else "cpu"]
    if asked.peak:
        peak_of(asked.peak, size)
        return
    with TemporaryDirectory() as name:
        bench = Bench(size, "cpu", Path(name))
        rows = timed(bench, "cpu", lambda: {**check_step(bench), **check_weights()})
    rows.append(memory(sys.argv[1:]))
    command = " ".join(["python", "benchmarks/training_cpu.py", *sys.argv[1:]])
    if asked.quick:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        write_rows(RESULT, rows, command)


if __name__ == "__main__":
    main()
