"""Join the shards of a run into the file that one worker would have written."""

import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path

from ip2p_lib.records import Triplet, read_triplets, write_triplets
from ip2p_lib.triplets.journal import digest


def merge(files: Sequence[Path], out: Path) -> int:
    """Merge triplet files, each in caption order, into one; returns how many triplets it holds.

    Of triplets with the same caption or address the first in caption order is kept. Memory stays small:
    rows are streamed, and a digest of each caption and address is remembered.

    Raises:
        FileNotFoundError, ValueError: a file is missing or no JSONL of triplets.
    """
    streams = [read_triplets(path) for path in files]
    return write_triplets(out, _first_of_each(heapq.merge(*streams, key=_order)))


def _order(triplet: Triplet) -> tuple[str, int, str]:
    run, _, number = triplet.id.rpartition("-")
    return (run, int(number), "") if number.isdecimal() else ("", 0, triplet.id)


def _first_of_each(triplets: Iterator[Triplet]) -> Iterator[Triplet]:
    seen: set[str] = set()
    for triplet in triplets:
        marks = {m for m in (digest(triplet.input), digest(triplet.url)) if m}
        if not marks & seen:
            yield triplet
        seen |= marks
