"""Kept pairs in the folder layout of the released code, and back: one folder a triplet, one JPEG a picture.

Source: timothybrooks/instruct-pix2pix@0dffd1e, generate_img_dataset.py, prepare_dataset.py, edit_dataset.py.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ip2p_lib import images, records, storage
from ip2p_lib.filtering.export import KEPT_SCHEMA, check_replaceable
from ip2p_lib.pairs import blocks, shard_groups, writing_shard
from ip2p_lib.pairs.shards import needing_room
from ip2p_lib.records import Triplet

TRIPLETS_PER_SHARD = 64
MEASURES = (records.P2P_THRESHOLD, records.CFG_SCALE, *records.SIMILARITIES)  # as metadata.jsonl has them
SIDES = ((records.ORIGINAL_IMAGE, 0), (records.EDITED_IMAGE, 1))
NAME = re.compile(r"([0-9]{1,18})(-[0-9]+)?")  # a pair's seed, and a number where several have that seed
FIRST = "_0.jpg"  # what the released code looks for
Row = dict[str, Any]
Watch = Callable[[Sequence[Any]], Iterable[Any]]  # sees the work pass by in pieces, as `tqdm` does


def write_original(kept: Path, out: Path, watch: Watch = iter) -> int:
    """Write kept pairs as the released code would have left them; returns their number.

    Folders are numbered in order of the triplets' appearance. The folder appears whole or not at all.

    Raises:
        FileNotFoundError: no kept pairs in the folder.
        ValueError: they are not kept pairs, or damaged; `out` holds something else or cannot be written.
    """
    shards = sorted(kept.glob("pairs-*.parquet"), key=lambda p: (len(p.name), p.name))
    if not shards:
        raise FileNotFoundError(f"{kept} must hold pairs-*.parquet, found none; make them with `ip2p filter`")
    _check_apart(kept, out)
    _check_original(out)
    folders: dict[str, tuple[str, list[str]]] = {}  # triplet's id -> its folder and the names of its pairs
    with needing_room(out), storage.atomic_folder(out) as partial:
        for row in (r for shard in watch(shards) for group in shard_groups(shard) for r in group):
            if missing := [name for name in KEPT_SCHEMA.names if name not in row]:
                raise ValueError(f"{kept} must hold pairs of `ip2p filter`, but lacks {', '.join(missing)}")
            home, names = folders.setdefault(row[records.TRIPLET_ID], (f"{len(folders):07d}", []))
            names.append(_name(row[records.SEED], names))
            _write_pair(partial / home, names[-1], row)
        seeds = [(home, sorted(names, key=lambda n: n + FIRST)) for home, names in folders.values()]
        (partial / "seeds.json").write_text(json.dumps(seeds))
        pairs = sum(len(names) for _, names in seeds)
        storage.record_run(partial, {"stage": "original", "pairs": pairs, "triplets": len(seeds)})
    return pairs


def _check_apart(source: Path, out: Path) -> None:
    """Swapping `out` into place must not delete what was read."""
    if out.resolve() in (source.resolve(), *source.resolve().parents):
        raise ValueError(f"{out} must lie apart from {source}, which it would replace; choose another folder")


def _check_original(out: Path) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    run = out / "run.json"  # the released code neither writes nor reads it
    is_ours = run.is_file() and storage.recorded(run).get("stage") == "original"
    if not is_ours or not all(re.fullmatch(r"[0-9]{7,}|(run|seeds)\.json", p.name) for p in out.iterdir()):
        raise ValueError(f"{out} holds something else than an export of `ip2p`; choose an empty folder")


def _name(seed: int, taken: Sequence[str]) -> str:
    """The seed, with a number behind it where thresholds were forked off one seed.

    The released loader takes names from seeds.json as they are, so a number costs nothing, a refusal pairs.
    """
    forks = sum(name.split("-")[0] == str(seed) for name in taken)
    return f"{seed}-{forks}" if forks else str(seed)


def _write_pair(home: Path, name: str, row: Row) -> None:
    home.mkdir(exist_ok=True)
    prompt, path = json.dumps(_prompt(row)), home / "prompt.json"  # ASCII, as released: any locale reads it
    if path.exists() and path.read_text() != prompt:
        named = f"triplet {row[records.TRIPLET_ID]!r}"
        raise ValueError(f"pairs of {named} must share texts and source, but differ; export data sets singly")
    path.write_text(prompt)
    for column, side in SIDES:
        _write_jpeg(home / f"{name}_{side}.jpg", row[column] or {})
    seed = int(name) if name.isdecimal() else name
    with (home / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({records.SEED: seed, **{n: row[n] for n in MEASURES}}) + "\n")


def _prompt(row: Row) -> Row:
    source = json.loads(row[records.SOURCE] or "{}")
    url = source.pop("url", "")
    before, edit, after = (
        row[c] for c in (records.ORIGINAL_PROMPT, records.EDIT_PROMPT, records.EDITED_PROMPT)
    )
    return Triplet(row[records.TRIPLET_ID], before, edit, after, url, source).as_row()


def _is_jpeg(data: bytes) -> bool:
    """Whether both ends are a JPEG's: finds what was cut off or zero-filled without decoding anything."""
    return data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")


def _write_jpeg(path: Path, cell: Row) -> None:
    """Quality 100, as released, but all of the colour: halving it, as Pillow would, blurs small pictures.

    What is a JPEG already stays as it is.
    """
    data, name = cell.get("bytes") or b"", cell.get("path") or path.name
    if _is_jpeg(data):
        path.write_bytes(data)
    else:
        images.from_bytes(data, name).save(path, "JPEG", quality=100, subsampling=0)


def read_original(folder: Path, out: Path, watch: Watch = iter) -> int:
    """Read the released dataset, or a folder of the released script, into kept pairs; returns their number.

    Pictures keep their bytes and are not decoded: only their ends are looked at. seeds.json says which pairs
    there are; without it every folder is searched. Folders without a pair, and pictures without an edited
    one, are skipped. Unknown scores become null. The folder appears whole or not at all.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a file is missing, cut off or not what it must be, named in the message; no pair at all;
            `out` holds something else or cannot be written.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the original layout must be a folder, found none at {folder}")
    _check_apart(folder, out)
    check_replaceable(out)
    parts = list(blocks(_listing(folder), TRIPLETS_PER_SHARD))
    total, ids = 0, set[str]()
    with needing_room(out), storage.atomic_folder(out) as partial:
        for number, part in enumerate(watch(parts)):
            path = partial / f"pairs-{number:05d}.parquet"
            with writing_shard(path, KEPT_SCHEMA) as writer:
                for name, seeds in part:
                    writer.add(_pairs(folder / name, seeds, ids))
            total += writer.rows
            path.with_suffix(".json").unlink()
            if not writer.rows:
                path.unlink()
        if not total:
            raise ValueError(f"{folder} must hold folders with SEED_0.jpg and SEED_1.jpg, found no such pair")
        storage.record_run(partial, {"stage": "filter", "layout": "original", "kept": total})
    return total


def _listing(folder: Path) -> list[tuple[str, list[str] | None]]:
    """Folders with the names of their pairs; None where these have to be searched for."""
    path = folder / "seeds.json"
    if not path.is_file():
        with os.scandir(folder) as entries:
            found = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
        return [(name, None) for name in found]
    listed: dict[str, dict[str, None]] = {}  # ordered; what is listed twice counts once
    try:
        for name, seeds in storage.read_json(path):
            if not re.fullmatch(r"(?!\.)[^/\\]+", name) or not isinstance(seeds, list):
                raise ValueError(f"got {name!r}")
            listed.setdefault(name, {}).update(dict.fromkeys(map(str, seeds)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} must be a list of [folder, [seeds]] ({error}); delete it, and folders are searched"
        ) from error
    return [(name, list(seeds)) for name, seeds in listed.items()]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Errors in reading are no OSError inside a shard being written: there, those concern the shard."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{path} must be readable ({error.strerror or error}); restore it, delete its pair, or delete a"
            " seeds.json that lists what was never here"
        ) from error


def _names(home: Path, listed: list[str] | None) -> list[str]:
    """Names of the folder's pairs. A first picture without second is what a killed run left, and no pair."""
    with _reading(home):
        if listed is None:
            with os.scandir(home) as entries:
                found = sorted(e.name.removesuffix(FIRST) for e in entries if e.name.endswith(FIRST))
            listed = [name for name in found if NAME.fullmatch(name)]
        return [n for n in listed if (home / f"{n}_1.jpg").exists() or not (home / f"{n}{FIRST}").exists()]


def _pairs(home: Path, listed: list[str] | None, ids: set[str]) -> Iterator[Row]:
    """Rows of one folder, candidates numbered in their order."""
    if not (names := _names(home, listed)):
        return
    triplet, measures = _triplet(home / "prompt.json"), _measures(home / "metadata.jsonl")
    if triplet.id in ids:
        raise ValueError(f"{home} must have an id of its own in prompt.json, but {triplet.id!r} occurs twice")
    ids.add(triplet.id)
    source = {**triplet.source, **({"url": triplet.url} if triplet.url else {})}
    for candidate, name in enumerate(names):
        if not (match := NAME.fullmatch(name)):
            raise ValueError(f"{home} must have whole numbers as seeds, but seeds.json lists {name!r}")
        yield {
            records.TRIPLET_ID: triplet.id,
            records.CANDIDATE: candidate,
            records.ORIGINAL_PROMPT: triplet.input,
            records.EDIT_PROMPT: triplet.edit,
            records.EDITED_PROMPT: triplet.output,
            **{column: _picture(home / f"{name}_{side}.jpg") for column, side in SIDES},
            records.SEED: int(match[1]),
            **measures.get(name, dict.fromkeys(MEASURES)),
            records.SOURCE: json.dumps(source),
        }


def _read(path: Path) -> bytes:
    with _reading(path):
        return path.read_bytes()


def _picture(path: Path) -> Row:
    data = _read(path)
    if not _is_jpeg(data):
        raise ValueError(f"{path} must be a whole JPEG, but is cut off or something else; delete its pair")
    return {"bytes": data, "path": f"{path.parent.name}/{path.name}"}


def _triplet(path: Path) -> Triplet:
    data = _read(path)
    try:
        row = json.loads(data)
        if not isinstance(row, dict):
            raise ValueError(f"must be an object, got {type(row).__name__}")
        triplet = Triplet.from_row({k: v for k, v in row.items() if v is not None}, path.parent.name)
        f"{triplet.id}{triplet.input}{triplet.edit}{triplet.output}".encode()  # half a surrogate is no text
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}; mend it or delete its folder") from error
    return triplet


def _measures(path: Path) -> dict[str, Row]:
    """What metadata.jsonl says of each name; where a second run appended, its row, as its pictures stayed."""
    found: dict[str, Row] = {}
    for number, line in enumerate(_read(path).splitlines() if path.exists() else (), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            values = {n: row.get(n) for n in MEASURES}
            found[str(row[records.SEED])] = {n: None if v is None else float(v) for n, v in values.items()}
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            raise ValueError(
                f"{path} line {number} must be an object with a seed and numbers, but: {error!r}; delete the"
                " line, and its pair has no scores"
            ) from error
    return found
