"""What a learner has done so far, in one small file of their own: `.ip2p/progress.json`. Nothing leaves the machine."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ip2p_lib import storage

VARIABLE = "IP2P_PROGRESS"  # a folder
NOTEBOOKS = Path(__file__).resolve().parents[3] / "notebooks"


@dataclass(frozen=True, slots=True)
class Record:
    """One exercise: how often it was tried, whether it was ever solved, when, and how many hints were shown."""

    attempts: int = 0
    solved: bool = False
    first: str = ""  # UTC, ISO 8601
    last: str = ""
    hints: int = 0


def progress_file() -> Path:
    """Where progress is kept: in the folder that IP2P_PROGRESS names, else beside the notebooks."""
    chosen = os.environ.get(VARIABLE)
    folder = Path(chosen).expanduser() if chosen else NOTEBOOKS if NOTEBOOKS.is_dir() else Path()
    return folder / ".ip2p" / "progress.json"


def read_progress(path: Path) -> dict[str, Record]:
    """Records by exercise id; none if there is no file yet.

    Raises:
        ValueError: the file does not hold progress.
    """
    if not path.exists():
        return {}
    found = storage.read_json(path)
    rows = found.get("exercises") if isinstance(found, dict) else None
    if not isinstance(rows, dict):
        raise ValueError(f"{path} must hold an object with `exercises`; move it away to begin anew")
    return {str(name): _record(path, name, row) for name, row in rows.items()}


def _record(path: Path, name: str, row: Any) -> Record:
    kinds = {f.name: f.type for f in fields(Record)}
    if not isinstance(row, Mapping) or any(type(row.get(n)) is not kind for n, kind in kinds.items()):
        raise ValueError(f"{path} must hold {', '.join(kinds)} for {name}, got {row!r:.80}; move it away")
    return Record(**{n: row[n] for n in kinds})


def write_progress(path: Path, records: Mapping[str, Record]) -> None:
    """Write all records, whole or not at all."""
    rows = {name: asdict(records[name]) for name in sorted(records)}
    storage.write_json(path, {"version": 1, "exercises": rows})


def remember(path: Path, exercise_id: str, *, solved: bool, most_hints: int) -> tuple[Record, str]:
    """Count one attempt; returns its exercise's record and, where something was amiss, one line about it.

    An attempt that does not solve it earns one hint more, up to `most_hints`. A damaged file is kept beside the new one, never lost. A file that cannot be read or put aside is left alone, and a
    folder that cannot be written loses no lesson: the line says so.
    """
    try:
        records, said = _read_or_put_aside(path)
    except OSError as error:
        said = f"Progress in {path} could not be read ({error.strerror}), so it was left as it is; make it yours, or"
        return _counted(Record(), solved, most_hints), f"{said} set {VARIABLE} to another folder."
    record = _counted(records.get(exercise_id, Record()), solved, most_hints)
    try:
        write_progress(path, {**records, exercise_id: record})
    except OSError as error:
        said = f"Progress could not be saved in {path.parent} ({error.strerror}); set {VARIABLE} to a folder of yours."
    return record, said


def _counted(before: Record, solved: bool, most_hints: int) -> Record:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(
        before,
        attempts=before.attempts + 1,
        solved=before.solved or solved,
        first=before.first or now,
        last=now,
        hints=before.hints if solved else max(before.hints, min(before.hints + 1, most_hints)),
    )


def _read_or_put_aside(path: Path) -> tuple[dict[str, Record], str]:
    try:
        return read_progress(path), ""
    except ValueError:
        number = 1
        while (aside := path.with_name(f"progress.damaged-{number}.json")).exists():
            number += 1
        path.replace(aside)
        return {}, f"The progress file was damaged; it is kept as {aside.name}, and a new one was begun."
