"""The GPU benchmark's part about training: a step at 256 pixels against the loop of diffusers' script, and how it grows.

Full size, random weights and pictures, bf16 on both sides. The share of the peak counts the UNet's operations only.
Run through `python benchmarks/gpu.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from gpu_parts import Deadline, Row, peak_gib, release, rounds_within
from training_cpu import timed
from training_sides import SIZES, Bench, check_step, check_weights

from ip2p_lib.backbone import Backbone
from ip2p_lib.training import train_editor

BATCHES = (32, 64, 128, 256, 512)
COMPILING = 90  # seconds that must be left to begin with it


def equal(base: Backbone, quick: bool) -> Row:
    """Loss and gradient of both sides at full size, and weights of a small network after three steps."""
    with TemporaryDirectory() as name:
        return {**check_step(_bench(base, quick, Path(name), batch=2)), **check_weights()}


def _bench(base: Backbone, quick: bool, folder: Path, batch: int | None = None) -> Bench:
    size = SIZES["quick" if quick else "cuda"]
    return Bench(replace(size, batch=batch or size.batch), base.device.type, folder, base)


def rows(base: Backbone, quick: bool, deadline: Deadline, peak: float | None) -> Iterator[Row]:
    """The step and its parts, peak memory, larger batches until one does not fit, and the compiled step last."""
    with TemporaryDirectory() as name:
        bench = _bench(base, quick, Path(name))
        step, parts = timed(bench, "gpu", dict, peak, rounds=1 if quick else 7)
        release()
        sides = {"ours": bench.ours, "theirs": lambda: bench.script(bench.size.config()).step}
        peaks = {side: peak_gib(lambda make=make: _steps(make())) for side, make in sides.items()}
        yield {**step, "peak_gib": peaks}
        yield parts
        gflop = step["gflop"]["network"] / bench.size.batch
        yield from _grown(bench, (4,) if quick else BATCHES, gflop, peak, deadline)
        if not quick and deadline.left > COMPILING:
            yield from _batch(bench, BATCHES[1], gflop, peak, is_compiled=True)


def _steps(step: Callable[[], object]) -> None:
    for _ in range(2):
        step()


def _batch(
    bench: Bench, batch: int, gflop: float, peak: float | None, is_compiled: bool = False
) -> Iterator[Row]:
    """Our step at another batch."""
    config = replace(bench.size.config(), batch_size=batch, compile=is_compiled)
    run = train_editor(bench.unet, bench.base, bench.data, config)
    held = peak_gib(lambda: next(run).loss.item())
    seconds = median(rounds_within({"ours": lambda: next(run).loss.item()}, 0 if peak is None else 8)["ours"])
    row: Row = {
        "name": f"training_step_gpu_{batch}{'_compiled' * is_compiled}",
        "value": round(batch / seconds, 1),
    }
    row |= {"unit": "pairs per second", "batch": batch, "peak_gib": held}
    yield row if peak is None else {**row, "share_of_peak": round(gflop * batch / seconds / peak, 3)}


def _grown(
    bench: Bench, batches: tuple[int, ...], gflop: float, peak: float | None, deadline: Deadline
) -> Iterator[Row]:
    """Rows of larger and larger batches, and what the best of them reaches."""
    found: list[Row] = []
    last: Row = {"name": "training_largest_batch_gpu", "unit": "largest batch that was tried and fits"}
    for batch in batches:
        if deadline.left < 0:
            last["stopped"] = f"before {batch}, for want of time"
            break
        try:
            found += _batch(bench, batch, gflop, peak)
        except torch.cuda.OutOfMemoryError:
            last["does_not_fit"] = batch
            break
        finally:
            bench.unet.zero_grad()
            release()
    yield from found
    if found:
        yield {**last, "value": found[-1]["batch"], "peak_gib": found[-1]["peak_gib"]}
        best = max(found, key=lambda row: row["value"])
        if "share_of_peak" in best:
            unit = f"share of the peak at batch {best['batch']}"
            yield {"name": "training_share_of_peak_gpu", "value": best["share_of_peak"], "unit": unit}
