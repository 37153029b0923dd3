"""What became of every caption, one line each, appended block by block: a run can be killed at any moment."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ip2p_lib import storage
from ip2p_lib.records import Triplet

UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # what foreign JSON may raise


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one caption: a triplet, or why not. Every failed attempt leaves its reason."""

    digest: str  # of the caption
    url_digest: str = ""
    triplet: Triplet | None = None
    skipped: str = ""  # why no attempt was made
    rejected: tuple[str, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def as_row(self) -> dict[str, Any]:
        """The JSON object of one line; what is empty is left out."""
        tokens = [self.prompt_tokens, self.completion_tokens]
        row = {
            "url": self.url_digest,
            "skipped": self.skipped,
            "rejected": list(self.rejected),
            "tokens": tokens if any(tokens) else [],
            "triplet": self.triplet.as_row() if self.triplet else None,
        }
        return {"caption": self.digest} | {name: value for name, value in row.items() if value}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Outcome":
        """Read one line's object."""
        return cls(
            row["caption"],
            row.get("url", ""),
            Triplet.from_row(row["triplet"], "") if "triplet" in row else None,
            row.get("skipped", ""),
            tuple(row.get("rejected", ())),
            *row.get("tokens", (0, 0)),
        )


@dataclass(slots=True)
class Tally:
    """Counts over a run: captions read, triplets accepted, captions skipped and attempts rejected by reason."""

    captions: int = 0
    accepted: int = 0
    given_up: int = 0  # captions all of whose attempts were rejected
    skipped: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.captions += 1
        self.accepted += outcome.triplet is not None
        self.given_up += outcome.triplet is None and not outcome.skipped
        self.skipped.update([outcome.skipped] if outcome.skipped else [])
        self.rejected.update(outcome.rejected)
        self.prompt_tokens += outcome.prompt_tokens
        self.completion_tokens += outcome.completion_tokens


def digest(text: str) -> str:
    """Short fingerprint of a caption or an address, 16 hex digits; "" for an empty text."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest() if text else ""


def trail(before: str, caption: str, url: str) -> str:
    """Fingerprint of captions and addresses up to one, from their digests and the trail up to the one before."""
    return digest(f"{before} {caption} {url}")


class Journal:
    """The outcomes of a run in caption order, in one JSONL file that only grows.

    The first line holds the configuration. The last line of every block is marked; what follows the last
    mark is the torn end of a killed run, and is cut off when the journal is opened again.

    Raises:
        ValueError: the file belongs to another configuration, is no journal, or has a damaged line.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path, self.tally = path, Tally()
        self.trail = ""  # of all captions dealt with
        self.size = 0  # bytes
        if path.exists():
            self._recover(config)
            return
        with storage.atomic_file(path) as partial:
            self.size = partial.write_bytes(_line({"config": dict(config)}))

    def _recover(self, config: Mapping[str, Any]) -> None:
        """Check the configuration, note every whole block, cut off a torn end."""
        block: list[Outcome] = []
        with self.path.open("r+b") as file:
            head = file.readline()
            self._check(head, config)
            self.size = position = len(head)
            for number, line in enumerate(file, 2):
                position += len(line)
                if not line.endswith(b"\n"):
                    break
                if self._read(line, number, block):
                    block, self.size = [], position
            file.truncate(self.size)

    def _read(self, line: bytes, number: int, block: list[Outcome]) -> bool:
        """Add a line's outcome to its block; True if the block ends, and is noted, with it."""
        try:
            row = json.loads(line)
            block.append(Outcome.from_row(row))
            if row.get("end"):
                self._note(block)
        except UNREADABLE as error:
            raise ValueError(
                f"{self.path} must be a journal of `ip2p triplets`, but its line {number} is damaged; remove it"
                " and all lines after it to go on from there, or delete the file to start over"
            ) from error
        return bool(row.get("end"))

    def _check(self, head: bytes, config: Mapping[str, Any]) -> None:
        try:
            found = {**json.loads(head if head.endswith(b"\n") else b"")["config"]}
        except UNREADABLE as error:
            raise ValueError(
                f"{self.path} must be a journal of `ip2p triplets`, and is not; delete it to start over"
            ) from error
        wanted = json.loads(_line(config))
        changed = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
        if changed:
            raise ValueError(
                f"{self.path} belongs to a run with another {', '.join(changed)}; go on with the same settings,"
                " or choose another output file"
            )

    def _note(self, block: Sequence[Outcome]) -> None:
        for outcome in block:
            self.tally.add(outcome)
            self.trail = trail(self.trail, outcome.digest, outcome.url_digest)

    def append(self, block: Sequence[Outcome]) -> None:
        """Add the outcomes of a block; on disk when this returns.

        Raises:
            ValueError: another run has written to the file.
        """
        rows = [outcome.as_row() for outcome in block]
        rows[-1]["end"] = True
        with self.path.open("ab") as file:
            if file.tell() != self.size:
                raise ValueError(
                    f"{self.path} must belong to one run at a time, but another has written to it; wait for"
                    " that run, or choose another output file"
                )
            self.size += file.write(b"".join(_line(row) for row in rows))
            file.flush()
            os.fsync(file.fileno())
        self._note(block)

    def triplets(self) -> Iterator[Triplet]:
        """The accepted triplets, in caption order."""
        with self.path.open("rb") as file:
            next(file)
            for line in file:
                triplet = Outcome.from_row(json.loads(line)).triplet
                if triplet is not None:
                    yield triplet


def _line(row: Mapping[str, Any]) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "replace")
