"""Pairs in: Parquet shards or folders of pictures, whatever their columns are called."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from pathlib import Path

import pyarrow.parquet as pq

from ip2p_lib import storage
from ip2p_lib.dataset.rows import (
    PICTURES,
    Pair,
    Row,
    as_pair,
    content_of,
    known_columns,
    picture_file,
    prompt_of,
    reading,
)
from ip2p_lib.records import EDITED_PROMPT

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE_NAME = "_file_name"  # `datasets` opens x_file_name as the picture x
Digests = dict[str, list[int | str]]  # of files by name: size, time of change, digest
GROUP = 64  # rows held in memory together
PIECE = 1024  # pairs of a picture folder that are encoded and kept together


@dataclass(frozen=True, slots=True)
class Shard:
    """Pairs that are encoded and kept together: a Parquet file, or a piece of a picture folder."""

    path: Path
    first: int  # number of its first row in that file
    count: int
    digest: str  # of its texts and pictures
    rows: Callable[[], Iterator[Row]]  # columns under our names

    def pairs(self) -> Iterator[Pair]:
        """Read, one after the other.

        Raises:
            ValueError: the file has vanished or is damaged; or a row has no text, no readable picture, or
                pictures of two shapes, and is named.
        """
        for number, row in enumerate(self.rows(), self.first):
            yield as_pair(row, f"{self.path} row {number}", self.path.parent)


@contextmanager
def remembered(path: Path, *, keep: bool = True) -> Iterator[Digests]:
    """What is known of files between runs, in a JSON file; if that is damaged or cannot be written, nothing is.

    Args:
        keep: write what is new; of several processes only one may.
    """
    known = _whole_digests(path)
    before = dict(known)
    try:
        yield known
    finally:
        if keep and known != before:
            with suppress(OSError):  # a cache that may only be read is still a cache
                storage.write_json(path, known)


def _whole_digests(path: Path) -> Digests:
    try:
        found = storage.read_json(path)
    except (OSError, ValueError, RecursionError):
        return {}
    rows = found.items() if isinstance(found, dict) else ()
    return {name: row for name, row in rows if isinstance(row, list) and len(row) == 3}


def _sha256(path: Path, known: Digests) -> str:
    """A file's digest, looked up while size and time of the file are what they were: large ones take minutes."""
    now, name = path.stat(), str(path.resolve())
    state = [now.st_size, now.st_mtime_ns]
    if name not in known or known[name][:2] != state:
        known[name] = [*state, storage.sha256(path)]
    return str(known[name][2])


def find_shards(
    folder: Path, known: Digests | None = None, columns: Mapping[str, str] | None = None
) -> list[Shard]:
    """Everything of a folder that training reads, in order; files without a row are passed over.

    Args:
        known: digests of files seen before, to which those of new ones are added.
        columns: as `known_columns` is told them.

    Raises:
        FileNotFoundError: the folder holds no pairs.
        ValueError: a column or a picture's file is missing, a file is damaged, or no file has a row.
    """
    found: list[Shard] = []
    for path in pair_files(folder):
        found += (
            _pieces(path, columns)
            if path.name in METADATA
            else _parquet_shard(path, {} if known is None else known, columns)
        )
    if not found:
        raise ValueError(f"{folder} must hold at least one pair, but its files have no rows")
    return found


def read_pairs(folder: Path, wanted: Callable[[str], bool], faults: list[str]) -> Iterator[Pair]:
    """Pairs of a folder in order, each read when it is asked for: the first few of a large dataset cost no more.

    Args:
        wanted: says by a pair's prompt whether to open its pictures.
        faults: what is wrong with rows that cannot be used is added here, and the next one is read.

    Raises:
        FileNotFoundError, ValueError: as `find_shards`, when a faulty file is met.
    """
    for path in pair_files(folder):
        rows = _renamed_rows(path) if path.name in METADATA else _parquet_rows(path, _columns_of(path))
        for number, row in enumerate(rows):
            where = f"{path} row {number}"
            try:
                if wanted(prompt_of(row, where, path.parent)):
                    yield as_pair(row, where, path.parent)
            except ValueError as error:
                faults.append(str(error))


def pair_files(folder: Path) -> list[Path]:
    """Parquet files of a folder or its data/; where there are none, the metadata of its picture folders.

    Where names of files or folders say so, as on the hub, those of the training split alone.

    Raises:
        FileNotFoundError: the folder holds neither, or the original layout.
        ValueError: metadata files are of several kinds, which `datasets` refuses too.
    """
    for home in (folder, folder / "data"):
        shards = sorted(
            p for p in home.glob("*.parquet") if not p.name.startswith(("scores-", ".")) and p.name not in METADATA
        )  # fmt: skip
        if shards:
            return _of_training(shards, folder)
    if (folder / "seeds.json").is_file():  # its metadata.jsonl is of another kind
        raise FileNotFoundError(
            f"{folder} holds pairs in the original layout; make them Parquet with `ip2p import-original`"
        )
    if not folder.exists():
        raise FileNotFoundError(
            f"pairs must lie in a folder, but there is none at {folder}; a dataset of the hub is fetched first:"
            f" hf download {folder.as_posix()} --repo-type dataset --local-dir FOLDER"
        )
    tables = sorted(p for name in METADATA for p in folder.rglob(name) if not _is_hidden(p, folder))
    if not tables:
        raise FileNotFoundError(
            f"{folder} must hold Parquet files with pairs, or pictures with a metadata.jsonl, found none;"
            " make them with `ip2p filter`"
        )
    tables = _of_training(tables, folder)
    if len({p.name for p in tables}) > 1:
        raise ValueError(
            f"{folder} must have metadata of one kind, has {', '.join(sorted({p.name for p in tables}))}"
        )
    return tables


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(name.startswith(".") for name in path.relative_to(folder).parts)


def _of_training(files: list[Path], folder: Path) -> list[Path]:
    named = [f for f in files if any(re.match(r"train([-_.]|$)", n) for n in f.relative_to(folder).parts)]
    return named or files


def _parquet_shard(path: Path, known: Digests, told: Mapping[str, str] | None) -> list[Shard]:
    """The file as one shard; none where it has no rows."""
    columns = _columns_of(path, told)
    if not columns:
        return []
    with reading(path):
        metadata, digest = pq.read_metadata(path), _sha256(path, known)
    if told:
        digest = storage.fingerprint([digest, columns])
    read = partial(_parquet_rows, path, columns)
    if not all(_is_embedded(metadata, columns[c]) for c in PICTURES):
        digest = storage.fingerprint([digest, _outside_pictures(read(), path)])
    return [Shard(path, 0, metadata.num_rows, digest, read)]


def _columns_of(path: Path, told: Mapping[str, str] | None = None) -> dict[str, str]:
    """Columns that are read, with the names they have here; none of a file without rows."""
    with reading(path), pq.ParquetFile(path) as file:
        return known_columns(file.schema_arrow.names, path, told) if file.metadata.num_rows else {}


def _parquet_rows(path: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    options = {"page_checksum_verification": True, "pre_buffer": False}  # pre-buffered, all stays in memory
    with reading(path), pq.ParquetFile(path, **options) as file:
        for batch in file.iter_batches(GROUP, columns=list(columns.values())):
            for row in batch.to_pylist():
                yield {ours: row[here] for ours, here in columns.items()}


def _is_embedded(metadata: pq.FileMetaData, column: str) -> bool:
    """Whether by the file's own statistics every picture's bytes lie in it."""
    leaves = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path == f"{column}.bytes"]
    cells = [
        metadata.row_group(g).column(i).statistics for g in range(metadata.num_row_groups) for i in leaves
    ]
    return bool(cells) and all(c is not None and c.has_null_count and not c.null_count for c in cells)


def _outside_pictures(rows: Iterator[Row], path: Path, first: int = 0) -> list[str]:
    """Checksums of pictures that are named and lie beside the file."""
    return [
        storage.sha256(picture_file(name, f"{path} row {number}: {column}", path.parent))
        for number, row in enumerate(rows, first)
        for column in PICTURES
        if isinstance(name := content_of(row[column]), str)
    ]


def _pieces(table: Path, told: Mapping[str, str] | None) -> Iterator[Shard]:
    """A picture folder's pairs, cut into pieces, so that a stopped encoding has something to keep."""
    rows = _renamed_rows(table, told)
    for first in count(0, PIECE):
        piece = list(islice(rows, PIECE))
        if not piece:
            return
        learned = [
            {n: v for n, v in row.items() if n != EDITED_PROMPT} for row in piece
        ]  # which no latent knows
        digest = storage.fingerprint([learned, _outside_pictures(iter(piece), table, first)])
        yield Shard(table, first, len(piece), digest, partial(iter, piece))


def _renamed_rows(table: Path, told: Mapping[str, str] | None = None) -> Iterator[Row]:
    """Rows of a metadata file, the columns that are read under our names."""
    columns: dict[str, str] | None = None
    with reading(table):
        for found in _table_rows(table):
            row = {name.removesuffix(FILE_NAME): value for name, value in found.items()}
            columns = columns or known_columns(list(row), table, told)
            yield {ours: row.get(name) for ours, name in columns.items()}


def _table_rows(table: Path) -> Iterator[Row]:
    """Rows of a metadata file; `datasets` reads the same three kinds."""
    if table.suffix == ".parquet":
        with pq.ParquetFile(table) as file:
            yield from (row for batch in file.iter_batches() for row in batch.to_pylist())
        return
    with table.open(encoding="utf-8-sig", newline="") as lines:
        if table.suffix == ".csv":
            yield from ({n: v for n, v in row.items() if n} for row in csv.DictReader(lines))
            return
        for number, line in enumerate(line for line in lines if line.strip()):
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise ValueError(f"{table} row {number} must be a JSON object, but: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{table} row {number} must be a JSON object, got {type(row).__name__}")
            yield row
