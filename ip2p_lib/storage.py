"""Files that are whole or absent: atomic writes, safetensors state, checksums, run records."""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

MANIFEST = "manifest.json"
BLOCK = 2**20  # bytes that are summed up together


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; swap it into place only if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.replace(old)
            partial.replace(path)
            shutil.rmtree(old)
        else:
            partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given, with a final newline."""
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file does not hold JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} must hold JSON, but reading it failed: {error}") from error


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def quick_digest(path: Path) -> str:
    """Short digest of a file at the speed of reading it: tells weights apart, not what is made to deceive."""
    words = np.fromfile(path, np.uint8)
    whole = words.size // BLOCK * BLOCK
    sums = words[:whole].view(np.uint64).reshape(-1, BLOCK // 8).sum(1)
    return hashlib.sha256(sums.tobytes() + words[whole:].tobytes()).hexdigest()[:16]


def fingerprint(value: Any) -> str:
    """Short digest of a JSON-able value, the same for equal values in any key order."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_manifest(folder: Path) -> None:
    """Record the checksum of every file below `folder` in its manifest.json."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    sums = {p.relative_to(folder).as_posix(): sha256(p) for p in files if not p.name.startswith(".")}
    write_json(folder / MANIFEST, sums)


def check_manifest(folder: Path, below: str = "") -> None:
    """Compare the files below `folder/below` with the checksums that `folder` was shipped with.

    Raises:
        FileNotFoundError: the manifest or a file it names is missing.
        ValueError: a file's bytes are not those it was shipped with.
    """
    if not (folder / MANIFEST).is_file():
        raise FileNotFoundError(
            f"weights must lie in {folder} with their {MANIFEST}, found none; restore them with"
            " `git checkout -- data`, or make them with `ip2p miniature`"
        )
    guarded = {n: s for n, s in read_json(folder / MANIFEST).items() if n.startswith(below)}
    if not guarded:
        raise FileNotFoundError(
            f"{folder / MANIFEST} names no file below {below}; restore it with `git checkout -- data`, or make it with"
            " `ip2p miniature`"
        )
    for name, expected in guarded.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; restore it with `git checkout -- data`")
        if sha256(folder / name) != expected:
            raise ValueError(
                f"{folder / name} must have the checksum in {MANIFEST} ({expected[:12]}…), but its bytes"
                " differ; restore it with `git checkout -- data`"
            )


def commit() -> str:
    """Short hash of the checkout's commit, with + when files differ from it; "unknown" outside git."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"],
            cwd=here, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head.stdout.strip()


def environment() -> dict[str, Any]:
    """Versions and machine, as every run folder records them."""
    versions = {}
    for name in ("torch", "diffusers", "transformers", "open_clip_torch", "accelerate", "numpy", "pillow"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "python": platform.python_version(),
        "machine": f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores",
        "versions": versions,
        "commit": commit(),
        "command": without_passwords(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
    }


def without_passwords(text: str) -> str:
    """A text whose addresses have lost their `user:password@`."""
    return re.sub(r"(?<=://)[^/\s@]*(?:@[^/\s@]*)*@", "", text)


def record_run(folder: Path, config: Mapping[str, Any], name: str = "run.json") -> None:
    """Write a folder's record: the configuration with its seeds, versions, commit and command."""
    write_json(folder / name, {"config": dict(config), **environment()})


def recorded(path: Path) -> dict[str, Any]:
    """The configuration in a run record; empty where the file is none.

    Raises:
        ValueError: it does not hold JSON.
    """
    record = read_json(path)
    config = record.get("config") if isinstance(record, dict) else None
    return config if isinstance(config, dict) else {}


def _differences(there: dict[str, Any], here: dict[str, Any]) -> str:
    """The first few settings that two configurations do not share."""
    now = json.loads(json.dumps(here, default=str))  # as it would be read back
    names = [n for n in now if there.get(n) != now[n]]
    told = "; ".join(f"{n}: {there.get(n)!s:.60} there, {now[n]!s:.60} now" for n in names[:3])
    return told or "made by another version of this library"


def claim_folder(
    folder: Path,
    configuration: dict[str, Any],
    record: str = "run.json",
    remedy: str = "choose an empty folder, or delete it to start over",
    note: Mapping[str, Any] | None = None,
    is_empty: bool = False,
) -> None:
    """Write the folder's run record, or check that it was made by this very configuration.

    Args:
        note: goes on record as well, and is not compared.
        is_empty: there are no results yet, so that a run that ended before its first may be begun anew otherwise.

    Raises:
        ValueError: the folder holds results of another configuration, or cannot be written.
    """
    mark = fingerprint(configuration)
    path = folder / record
    if path.exists():
        found = recorded(path)
        if found.get("fingerprint") == mark:
            return
        if not is_empty:
            raise ValueError(
                f"{folder} holds results of another configuration ({_differences(found, configuration)}); {remedy}"
            )
    try:
        record_run(folder, {**configuration, **(note or {}), "fingerprint": mark}, record)
    except OSError as error:
        raise ValueError(f"the output folder must be writable, but {folder} is not: {error}") from error


def first_line(error: Exception) -> str:
    """The beginning of what an error says, or its name if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
