"""Time the miniature's writer: a batch against one caption at a time, and a run of 1,000 triplets.

Both sides write the same completions with the same seeds; pairs are interleaved and medians compared.
Run: `.venv/bin/python benchmarks/triplets_cpu.py` on an idle machine. Writes benchmarks/results/triplets_cpu.json.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from side_by_side import write_rows
from tqdm import tqdm

from ip2p_lib.backbone import load_writer
from ip2p_lib.presets import MINIATURE
from ip2p_lib.triplets import Completion, Request, prompt_for, world_captions, write_all
from ip2p_lib.triplets.local import LocalWriter
from ip2p_lib.triplets.writing import attempt_seed

RESULT = Path(__file__).parent / "results" / "triplets_cpu.json"
SEED, ROUNDS, BATCH, SINGLES, RUN = 905, 7, 64, 16, 1_000


def timed(work: Callable[[], list[Completion]]) -> tuple[list[Completion], float]:
    """What a piece of work returns, and its seconds."""
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def batch_against_singles(writer: LocalWriter) -> dict[str, object]:
    """Seconds per completion, batched and one at a time, and the share of equal texts."""
    captions = world_captions(SEED)
    ours, theirs, equal = [], [], []
    for _ in tqdm(range(ROUNDS), desc="rounds"):
        chosen = [next(captions) for _ in range(BATCH)]
        requests = [Request(prompt_for(c.text), attempt_seed(SEED, c.id, 0)) for c in chosen]
        together, seconds = timed(lambda r=requests: writer(r))
        ours.append(seconds / BATCH)
        alone, seconds = timed(lambda r=requests: [writer([one])[0] for one in r[:SINGLES]])
        theirs.append(seconds / SINGLES)
        equal += [a.text == b.text for a, b in zip(together, alone, strict=False)]
    return {
        "name": "triplets_batched_cpu",
        "ratio": round(median(t / o for t, o in zip(theirs, ours, strict=True)), 2),
        "ours": round(median(ours), 4),
        "theirs": round(median(theirs), 4),
        "unit": "seconds per completion",
        "equal_within": f"{sum(equal)} of {len(equal)} texts equal",
    }


def thousand(writer: LocalWriter) -> dict[str, object]:
    """Seconds for a whole run of 1,000 triplets, filters and journal included."""
    with TemporaryDirectory() as name:
        started = time.perf_counter()
        steps = write_all(
            world_captions(SEED + 1), writer, MINIATURE.write, Path(name) / "t.jsonl", made_by={}, count=RUN
        )
        for _ in tqdm(steps, desc="blocks"):
            pass
        seconds = time.perf_counter() - started
    return {"name": "triplets_1000_seconds", "ratio": None, "ours": round(seconds, 1), "unit": "seconds"}


def main() -> None:
    """Measure and write the result file."""
    writer = LocalWriter(load_writer(MINIATURE), MINIATURE.write)
    rows = [batch_against_singles(writer), thousand(writer)]
    write_rows(RESULT, rows, "python benchmarks/triplets_cpu.py")


if __name__ == "__main__":
    main()
