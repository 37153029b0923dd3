"""The records that cross stages, and their files. The only place where field names are spelled."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ip2p_lib import storage

# Columns of the released dataset (timbrooks/instructpix2pix-clip-filtered), then ours.
ORIGINAL_PROMPT, ORIGINAL_IMAGE = "original_prompt", "original_image"
EDIT_PROMPT = "edit_prompt"
EDITED_PROMPT, EDITED_IMAGE = "edited_prompt", "edited_image"
TRIPLET_ID, CANDIDATE, SOURCE = "triplet_id", "candidate", "source"
SEED, P2P_THRESHOLD, CFG_SCALE = "seed", "p2p_threshold", "cfg_scale"
SIMILARITIES = ("clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image")
PAIR_COLUMNS = (
    TRIPLET_ID, CANDIDATE, ORIGINAL_PROMPT, ORIGINAL_IMAGE, EDIT_PROMPT, EDITED_PROMPT, EDITED_IMAGE,
    SEED, P2P_THRESHOLD, CFG_SCALE, SOURCE,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Triplet:
    """A caption, an instruction, and the caption after the edit.

    `source` is free provenance (who wrote it, from which scene); stages carry it along unread.

    Raises:
        ValueError: one of the three texts is empty, or the provenance is no mapping.
    """

    id: str
    input: str
    edit: str
    output: str
    url: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("input", "edit", "output"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"triplet {self.id!r} must have a non-empty text {name!r}, got {value!r}")
        if not isinstance(self.source, Mapping):
            raise ValueError(f"triplet {self.id!r} must have an object as its source, got {self.source!r}")

    def as_row(self) -> dict[str, Any]:
        """The JSON object of one line."""
        row = {"id": self.id, "input": self.input, "edit": self.edit, "output": self.output}
        return (
            row
            | ({"url": self.url} if self.url else {})
            | ({"source": dict(self.source)} if self.source else {})
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any], default_id: str) -> "Triplet":
        """Read one JSON object; `caption` is accepted for `input`, as the released code writes it."""
        return cls(
            id=str(row.get("id", default_id)),
            input=row.get("input", row.get("caption", "")),
            edit=row.get("edit", ""),
            output=row.get("output", ""),
            url=row.get("url", "") or "",
            source=row.get("source") or {},
        )


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption to write an edit for. `source` is free provenance, carried into its triplet."""

    id: str
    text: str
    url: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)


def read_triplets(path: Path) -> Iterator[Triplet]:
    """Read triplets from JSON lines. Ids default to the line's index, seven digits long.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a JSON object with the three texts; names the line.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"triplets must be a JSONL file, found none at {path}; make some with `ip2p triplets`"
        )
    with path.open("rb") as file:  # as bytes, so that a wrong encoding is met inside the try
        for index, line in enumerate(file):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"must be an object, got {type(row).__name__}")
                yield Triplet.from_row(row, f"{index:07d}")
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path} line {index + 1}: {error}") from error


def write_triplets(path: Path, triplets: Iterable[Triplet]) -> int:
    """Write triplets as JSON lines, all or nothing; returns how many."""
    count = 0
    with storage.atomic_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        for triplet in triplets:
            file.write(json.dumps(triplet.as_row(), ensure_ascii=False) + "\n")
            count += 1
    return count


@dataclass(frozen=True, slots=True)
class ClipScores:
    """The four cosines that describe one candidate pair, each in [-1, 1], named as released."""

    clip_sim_0: float  # input picture with input caption
    clip_sim_1: float  # edited picture with output caption
    clip_sim_dir: float  # change of picture with change of caption
    clip_sim_image: float  # input picture with edited picture


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines an edit, as it is written into the edited picture."""

    instruction: str
    guidance_scale: float
    image_guidance_scale: float
    num_inference_steps: int
    seed: int
    model: str
    resolution: int = 0  # that the picture was brought to; 0 if not told
    source: str = ""  # digest of the input picture
    sampler: str = "euler_ancestral"
    restore_detail: bool = False  # whether what the autoencoder loses was put back
    weights: str = ""  # digest of the model's files; "" if not known


def checked_recipe(row: Any) -> dict[str, Any]:
    """A recipe, or part of one, as it was read from a file.

    Raises:
        ValueError: it is no object, or a field is of another kind than `Recipe`'s.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a recipe must be an object, got {type(row).__name__}")
    for known in fields(Recipe):
        value, kind = row.get(known.name), known.type
        fits = isinstance(value, (int, float) if kind is float else kind)  # type: ignore[arg-type]
        if known.name in row and (not fits or (kind is not bool and isinstance(value, bool))):
            raise ValueError(f"{known.name} must be of kind {kind.__name__}, got {value!r:.60}")  # type: ignore[union-attr]
    return row
