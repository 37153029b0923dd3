"""All stages on one GPU in ten minutes: edits, training, picture pairs, filter; each part's file as soon as it is there.

Every part first shows that both sides agree, in float32 without TF32, and is left out if they do not. Then each has its
share of the time, and what it has measured stays if it runs out of it. Weights are random: speed does not depend on
them, and no quality is claimed.
Run: `python benchmarks/gpu.py [--only edit] [--seconds 560]`. Writes benchmarks/results/*_gpu.json; then run page.py.
With `--quick`: small on whatever device there is, a trial of the script itself, to the screen.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import edit_gpu
import filter_gpu
import pairs_gpu
import torch
import training_gpu
from diffusers.utils import logging
from gpu_parts import Deadline, Row, release, stopped_after, without_tf32
from side_by_side import write_rows
from tqdm import tqdm
from training_cpu import matmul_peak
from training_sides import SIZES, random_base

from ip2p_lib.backbone import Backbone

RESULTS = Path(__file__).parent / "results"
PARTS: dict[
    str, tuple[ModuleType, float]
] = {  # and each part's share of the time that is left after the checks
    "edit": (edit_gpu, 0.40),
    "training": (training_gpu, 0.28),
    "pairs": (pairs_gpu, 0.22),
    "filter": (filter_gpu, 0.10),
}
SECONDS = 560  # in all; who lends a GPU for ten minutes wants to have it back
GRACE = 15  # seconds that a part may go over its share before it is stopped


@contextmanager
def told(what: str) -> Iterator[None]:
    """Say in one line what went wrong inside the block, and go on."""
    try:
        yield
    except (ValueError, RuntimeError, TimeoutError) as error:  # an OutOfMemoryError is a RuntimeError
        tqdm.write(f"{what}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
    finally:
        release()


def checked(base: Backbone, names: list[str], quick: bool) -> dict[str, Row]:
    """What the parts whose sides agree found on the way."""
    found = {}
    with without_tf32():
        for name in tqdm(names, desc="equality"):
            with told(name):
                found[name] = PARTS[name][0].equal(copy.deepcopy(base), quick)
    return found


def measured(
    base: Backbone,
    checks: dict[str, Row],
    quick: bool,
    deadline: Deadline,
    write: Callable[[str, list[Row]], None],
) -> None:
    """All parts one after the other; `write` is given a part's rows whenever there is one more."""
    peak = None if quick else round(matmul_peak())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    shared = {"device": device} | ({} if peak is None else {"peak_gflop_per_second": peak})
    weights = sum(PARTS[name][1] for name in checks)
    for name, check in checks.items():
        part, weight = PARTS[name]
        seconds = max(deadline.left, 1) * weight / weights
        weights -= weight
        rows: list[Row] = []
        with told(name), stopped_after(seconds + GRACE):
            for row in part.rows(copy.deepcopy(base), quick, Deadline(seconds), peak):
                rows.append({**check, **row, **shared})
                write(name, rows)


def main() -> None:
    """Measure, and write the result files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be repeated")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    asked = parser.parse_args()
    if not asked.quick and not torch.cuda.is_available():
        parser.error("needs a CUDA device, found none; see the scripts that end in _cpu.py, or try --quick")
    logging.set_verbosity_error()
    deadline = Deadline(asked.seconds)
    command = " ".join(["python", "benchmarks/gpu.py", *sys.argv[1:]])
    found: dict[str, list[Row]] = {}

    def write(name: str, rows: list[Row]) -> None:
        found[name] = rows
        if not asked.quick:
            write_rows(RESULTS / f"{name}_gpu.json", rows, command)

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    base = random_base(SIZES["quick" if asked.quick else "cuda"], kind)
    checks = checked(base, asked.only or list(PARTS), asked.quick)
    measured(base, checks, asked.quick, deadline, write)
    if asked.quick:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    if missing := [name for name in asked.only or PARTS if name not in found]:
        sys.exit(f"nothing was measured for: {', '.join(missing)}")


if __name__ == "__main__":
    main()
