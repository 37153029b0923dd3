"""Fair comparisons: rounds in which the ways alternate, medians, peak memory, rows that say where they come from."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from tqdm import tqdm

from ip2p_lib import storage

ROUNDS, WARM_UP = 7, 2


def seconds_of(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """How long a piece of work takes."""
    started = clock()
    work()
    return clock() - started


def in_rounds(
    ways: Mapping[str, Callable[[], object]],
    name: str,
    rounds: int = ROUNDS,
    warm_up: int = WARM_UP,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every way in every round, warm-up left out; in a round each way has its turn."""
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for number in tqdm(range(warm_up + rounds), desc=name):
        for way, work in ways.items():
            seconds = seconds_of(work, clock)
            if number >= warm_up:
                taken[way].append(seconds)
    return taken


def compared(ours: Sequence[float], theirs: Sequence[float], name: str) -> dict[str, object]:
    """A row: medians of both, and of the ratios of neighbours."""
    ratios = [t / o for o, t in zip(ours, theirs, strict=True)]
    return {
        "name": name,
        "ratio": round(median(ratios), 2),
        "lowest": round(min(ratios), 2),
        "highest": round(max(ratios), 2),
        "ours": round(median(ours), 4),
        "theirs": round(median(theirs), 4),
    }


def interleaved(ours: Callable[[], object], theirs: Callable[[], object], name: str) -> dict[str, object]:
    """Time two ways of doing the same."""
    taken = in_rounds({"ours": ours, "theirs": theirs}, name)
    return compared(taken["ours"], taken["theirs"], name)


def peak_mb() -> int:
    """Peak of this program's resident memory.

    VmHWM belongs to this program alone; ru_maxrss would begin with what the process that started it had.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return round(int(peak) / 1024)


def write_rows(path: Path, rows: Sequence[Mapping[str, object]], command: str, note: str = "") -> None:
    """Write a result file: each row with machine (and what is to be said of it), versions, commit, date and command."""
    about = storage.environment()
    shared = {
        "machine": ", ".join(filter(None, (about["machine"], note))), "versions": about["versions"], "commit": about["commit"],
        "date": datetime.now(UTC).date().isoformat(), "command": command,
    }  # fmt: skip
    storage.write_json(path, [{**row, **shared} for row in rows])
