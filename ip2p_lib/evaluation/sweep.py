"""A system measured along its dial, the same edits with the same noise at every point; resumes where it stopped."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ip2p_lib import storage
from ip2p_lib.backbone import ClipEncoder, weights_mark
from ip2p_lib.baselines import Edited, System
from ip2p_lib.evaluation.cases import Case, Opened, open_case
from ip2p_lib.evaluation.rows import EditRow, as_json, measure, unmeasured
from ip2p_lib.fitting import NoRoomError
from ip2p_lib.judge import Judge
from ip2p_lib.presets import EditConfig

RECORD = "sweep.json"
UNREADABLE = (ValueError, TypeError, RecursionError)  # what a damaged line may raise


@dataclass(frozen=True, slots=True)
class Instruments:
    """What measures: CLIP, the judge where there is one, and the size of pictures."""

    clip: ClipEncoder
    judge: Judge | None
    config: EditConfig  # resolution and multiple count

    @property
    def mark(self) -> list[Any]:
        """Measures of equal marks can be compared."""
        judge = weights_mark(self.judge) if self.judge else None
        return [self.clip.mark, judge, self.config.resolution, self.config.multiple]


@dataclass(frozen=True, slots=True)
class Done:
    """Progress: one block of one point is on disk."""

    system: str
    dial: float
    edits: int  # in the block
    faults: tuple[str, ...]  # "id: what was wrong"
    resumed: bool  # it had been there already


def block_path(folder: Path, dial: float, number: int) -> Path:
    """Where a block of a point lies."""
    return folder / f"at-{dial:g}" / f"rows-{number:05d}.jsonl"


def sweep(
    system: System,
    values: Sequence[float],
    cases: Sequence[Case],
    folder: Path,
    instruments: Instruments,
    *,
    seed: int = 0,
    block: int = 64,
) -> Iterator[Done]:
    """Edit every case at every value of the dial and write what was measured, block by block.

    Case i has the seed `seed + i` at every point and in every system: what differs between points is the
    dial alone. A block is on disk as a whole or not at all, and is never made twice. Values may be added in a
    later run; anything else that differs is refused.

    Raises:
        ValueError: there is nothing to measure, a value occurs twice, or the folder belongs to other cases,
            weights or settings.
    """
    if not cases or not values:
        raise ValueError(f"a sweep needs cases and values, got {len(cases)} and {len(values)}")
    if len({f"{v:g}" for v in values}) < len(values) or len({c.triplet.id for c in cases}) < len(cases):
        raise ValueError("values of a dial, and ids of cases, must differ from each other; some are equal")
    storage.claim_folder(folder, configuration(system, cases, instruments, seed, block), RECORD)
    for value in values:
        for number, start in enumerate(range(0, len(cases), block)):
            path, part = block_path(folder, value, number), cases[start : start + block]
            resumed = path.exists()
            if not resumed:
                seeds = range(seed + start, seed + start + len(part))
                _write(path, measured(system, value, part, seeds, instruments))
            faults = tuple(f"{r.id}: {r.fault}" for r in _read(path) if r.fault)
            yield Done(system.name, value, len(part), faults, resumed)


def configuration(
    system: System, cases: Sequence[Case], instruments: Instruments, seed: int, block: int
) -> dict[str, Any]:
    """All that the rows of a sweep depend on, but the dial."""
    told = [[*c.triplet.as_row().items(), *map(_content, (c.picture, c.truth, c.mask))] for c in cases]
    return {
        "system": system.name,
        "system_mark": system.mark,
        "instruments": storage.fingerprint(instruments.mark),
        "cases": len(cases),
        "cases_mark": storage.fingerprint(told),
        "seed": seed,
        "block": block,
    }


def _content(path: Path | None) -> str:
    """A file by its content, wherever it lies; one that is not there by its name."""
    return storage.sha256(path) if path and path.is_file() else str(path)


def measured(
    system: System, value: float, cases: Sequence[Case], seeds: Sequence[int], instruments: Instruments
) -> list[EditRow]:
    """Rows of some cases at one value, in their order; what is wrong with one of them spares the others."""
    found: dict[int, EditRow] = {}
    usable: dict[int, Opened] = {}
    for i, case in enumerate(cases):
        try:
            usable[i] = open_case(case, instruments.config)
        except (ValueError, OSError) as error:
            found[i] = unmeasured(case, value, f"picture: {error}")
    made: dict[int, Edited] = {}
    for i, result in _edited(system, value, usable, seeds):
        if isinstance(result, str):
            found[i] = unmeasured(cases[i], value, f"edit: {result}")
        else:
            made[i] = result
    rows = measure([usable[i] for i in made], list(made.values()), value, instruments.clip, instruments.judge)
    found |= dict(zip(made, rows, strict=True))
    return [found[i] for i in range(len(cases))]


def _edited(
    system: System, value: float, usable: dict[int, Opened], seeds: Sequence[int]
) -> Iterator[tuple[int, Edited | str]]:
    """Results by index: of all cases at once or, if the system refuses one of them, one by one."""

    def run(chosen: Sequence[int]) -> list[Edited]:
        rows = [usable[i] for i in chosen]
        return system.run(
            [r.picture for r in rows], [r.case.triplet for r in rows], value, [seeds[i] for i in chosen]
        )

    yield from run_each(run, list(usable))


def run_each(
    run: Callable[[Sequence[int]], list[Edited]], chosen: Sequence[int]
) -> list[tuple[int, Edited | str]]:
    """Results by index: of all at once or, if a system refuses one of them, one by one; a refusal as its reason.

    Raises:
        NoRoomError: the memory does not hold one edit, which says nothing about the edit.
    """
    if not chosen:
        return []
    try:
        return list(zip(chosen, run(chosen), strict=True))
    except ValueError:
        return [(i, _one(run, i)) for i in chosen]


def _one(run: Callable[[Sequence[int]], list[Edited]], index: int) -> Edited | str:
    try:
        return run([index])[0]
    except NoRoomError:
        raise
    except ValueError as error:
        return str(error)


def _write(path: Path, rows: Sequence[EditRow]) -> None:
    with storage.atomic_file(path) as partial:
        lines = (json.dumps(as_json(row), ensure_ascii=False) + "\n" for row in rows)
        partial.write_text("".join(lines), encoding="utf-8")


def _read(path: Path) -> list[EditRow]:
    try:
        return [EditRow.from_row(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    except UNREADABLE as error:
        raise ValueError(
            f"{path} must hold rows of a sweep, but is damaged ({error}); delete it and run again"
        ) from error


def read_points(folder: Path) -> dict[float, list[EditRow]]:
    """Rows of a system's folder by the dial's value, ascending.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a file is damaged.
    """
    found = [row for path in sorted(folder.glob("at-*/rows-*.jsonl")) for row in _read(path)]
    if not found:
        raise FileNotFoundError(
            f"{folder} must hold rows of a sweep, found none; make them with `ip2p evaluate`"
        )
    return {v: [r for r in found if r.dial == v] for v in sorted({r.dial for r in found})}
