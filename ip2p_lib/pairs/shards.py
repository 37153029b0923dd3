"""The candidates' folder: shards that `datasets` opens, each with a mark that says it is whole."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ip2p_lib import records, storage

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # what `datasets` reads as Image
Row = dict[str, Any]
GROUP = 64  # rows held in memory, and written, together
SHARDS = "shards"  # in a run's record: how many there will be
NAME = re.compile(r"candidates-([0-9]{5}|[1-9][0-9]{5,})\.parquet")


def image_schema(fields: Sequence[tuple[str, pa.DataType]]) -> pa.Schema:
    """A schema whose pictures `datasets` shows as pictures."""

    def feature(kind: pa.DataType) -> dict[str, Any]:
        if kind == IMAGE_TYPE:
            return {"_type": "Image"}
        return {"dtype": {"double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}

    features = {name: feature(kind) for name, kind in fields}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


PAIR_SCHEMA = image_schema(
    [
        (records.TRIPLET_ID, pa.string()),
        (records.CANDIDATE, pa.int32()),
        (records.ORIGINAL_PROMPT, pa.string()),
        (records.ORIGINAL_IMAGE, IMAGE_TYPE),
        (records.EDIT_PROMPT, pa.string()),
        (records.EDITED_PROMPT, pa.string()),
        (records.EDITED_IMAGE, IMAGE_TYPE),
        (records.SEED, pa.int64()),
        (records.P2P_THRESHOLD, pa.float64()),
        (records.CFG_SCALE, pa.float64()),
        (records.SOURCE, pa.string()),
    ]
)


def shard_path(folder: Path, number: int) -> Path:
    """Where a unit's candidates lie."""
    return folder / f"candidates-{number:05d}.parquet"


class ShardWriter:
    """Takes a shard's rows as they come and keeps no more than one group of them."""

    def __init__(self, file: pq.ParquetWriter) -> None:
        self._file, self.rows = file, 0
        self._waiting: list[Row] = []
        self.note: Row = {}  # goes into the mark

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows; groups are of one size, so that bytes do not depend on how rows arrive."""
        for row in rows:
            self._waiting.append(row)
            self.rows += 1
            if len(self._waiting) == GROUP:
                self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        if self._waiting:
            self._file.write_table(pa.Table.from_pylist(self._waiting, schema=self._file.schema))
        self._waiting = []


@contextmanager
def needing_room(path: Path) -> Iterator[None]:
    """Say in one line why `path` could not be written.

    Raises:
        ValueError: the disk is full, or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{path.parent} must have room and be writable, but {path.name} could not be written"
            f" ({error.strerror or error}); what was finished is safe: mend that and run again"
        ) from error


@contextmanager
def writing_shard(path: Path, schema: pa.Schema = PAIR_SCHEMA) -> Iterator[ShardWriter]:
    """Write a shard and then, as the last thing, its mark: name, rows, bytes, checksum, and the writer's note.

    Raises:
        ValueError: the disk is full, or the folder cannot be written.
    """
    with needing_room(path):
        with storage.atomic_file(path) as partial:
            with pq.ParquetWriter(partial, schema, write_page_checksum=True) as file:
                writer = ShardWriter(file)
                yield writer
                writer.flush()
            size, digest = partial.stat().st_size, storage.sha256(partial)
        mark = {"shard": path.name, "rows": writer.rows, "bytes": size, "sha256": digest, **writer.note}
        storage.write_json(path.with_suffix(".json"), mark)


def read_mark(shard: Path) -> dict[str, Any]:
    """What a shard's mark says of it.

    Raises:
        ValueError: the mark is missing or damaged, or the shard is a copy.
    """
    path = shard.with_suffix(".json")
    if not shard.is_file() or not path.is_file():
        raise ValueError(
            f"{shard} has no mark that it is whole; run `ip2p pairs` again to finish it, or delete it if it was"
            " put there by hand"
        )
    try:
        mark = storage.read_json(path)
        name, _, _ = mark["shard"], mark["bytes"], mark["sha256"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"{path} must be the mark of a shard, but is damaged; delete it and run `ip2p pairs` again"
        ) from error
    if name != shard.name:
        raise ValueError(f"{shard} is a copy of {name}; delete it, or its pairs would count twice")
    return mark


def check_shard(path: Path, *, every_byte: bool = False) -> dict[str, Any]:
    """Hold a shard against its mark, and return that.

    Args:
        every_byte: compare checksums too, which reads the whole file.

    Raises:
        ValueError: it was cut off, copied, or its size or bytes are not what was written.
    """
    if not NAME.fullmatch(path.name):
        raise ValueError(f"{path} is no shard of this folder's run; move it elsewhere")
    mark = read_mark(path)
    if (size := path.stat().st_size) != mark["bytes"]:
        reason = f"must have {mark['bytes']} bytes, has {size}"
    elif every_byte and storage.sha256(path) != mark["sha256"]:
        reason = "must have the checksum in its mark, but its bytes differ"
    else:
        return mark
    raise ValueError(f"{path} {reason}: it is damaged; delete it with its mark and run `ip2p pairs` again")


def is_whole(path: Path) -> bool:
    """Whether a shard was finished and still has its size; one that was cut off is made again."""
    try:
        check_shard(path)
    except ValueError:
        return False
    return True


def missing_shards(folder: Path) -> list[Path]:
    """Shards that a folder's run is to make and that are not there: it goes on elsewhere, was stopped, or lost them."""
    run = folder / "run.json"
    count = storage.recorded(run).get(SHARDS, 0) if run.is_file() else 0
    return [p for n in range(count) if not (p := shard_path(folder, n)).is_file()]


def candidate_shards(folder: Path) -> list[Path]:
    """Whole candidate shards of a folder, in order.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a shard is cut off, damaged, a copy, or not of this run.
    """
    found = sorted(folder.glob("candidates-*.parquet"), key=lambda p: (len(p.name), p.name))
    if not found:
        raise FileNotFoundError(
            f"{folder} must hold candidates-*.parquet, found none; make them with `ip2p pairs`"
        )
    for path in found:
        check_shard(path)
    return found


def shard_groups(path: Path, columns: Sequence[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """Rows of a Parquet file of ours, a group at a time, pages held against their checksums.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        # pre-buffered, as is the default, the whole file would stay in memory
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            for batch in file.iter_batches(GROUP, columns=columns and list(columns)):
                yield batch.to_pylist()
    except (pa.ArrowException, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} must be whole, but reading it failed ({reason}); delete it and run again"
        ) from error


def read_shard(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """All rows of a Parquet file of ours.

    Raises:
        ValueError: the file is damaged.
    """
    return [row for group in shard_groups(path, columns) for row in group]
