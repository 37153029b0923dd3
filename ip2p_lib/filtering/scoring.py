"""Score candidate pairs with CLIP: beside each shard of pictures one of scores and features."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ip2p_lib import images, records, storage
from ip2p_lib.backbone import ClipEncoder
from ip2p_lib.filtering.selection import SCORE_COLUMNS, passes
from ip2p_lib.fitting import Room
from ip2p_lib.pairs import Candidate, candidate_shards, shard_groups
from ip2p_lib.pairs.shards import check_shard, needing_room, read_mark
from ip2p_lib.presets import FilterConfig
from ip2p_lib.similarity import encode_edits, score_edits, similarities

FEATURES = ("clip_image_0", "clip_image_1")  # unit-length, float16
CANDIDATES = "candidates"  # metadata of scores: checksum of the shard they belong to


def shard_pictures(rows: Sequence[Mapping[str, Any]], column: str) -> Tensor:
    """Pictures of one image column as (N, 3, H, W) in [-1, 1]."""
    return images.to_tensor([images.from_bytes(r[column]["bytes"], r[column]["path"]) for r in rows])


def scores_path(shard: Path) -> Path:
    """Where a candidate shard's scores lie."""
    return shard.with_name(shard.name.replace("candidates", "scores"))


def _score_group(rows: Sequence[Mapping[str, Any]], clip: ClipEncoder, room: Room) -> list[dict[str, Any]]:
    before, after = (
        images.to_unit(shard_pictures(rows, c)) for c in (records.ORIGINAL_IMAGE, records.EDITED_IMAGE)
    )
    texts = ([r[c] for r in rows] for c in (records.ORIGINAL_PROMPT, records.EDITED_PROMPT))
    encoded = encode_edits(clip, before, after, *texts, room=room)
    cosines = {n: v.tolist() for n, v in similarities(*encoded).items()}
    features = dict(zip(FEATURES, (e.half().cpu().numpy() for e in encoded[:2]), strict=True))
    return [
        {
            **{c: row[c] for c in (records.TRIPLET_ID, records.CANDIDATE)},
            **{n: v[i] for n, v in cosines.items()},
            **{n: v[i] for n, v in features.items()},
        }
        for i, row in enumerate(rows)
    ]


def score_shard(shard: Path, clip: ClipEncoder) -> Path:
    """Score one shard, whole or not at all, a group of rows at a time; returns where the scores lie.

    The scores carry the shard's checksum, so that those of other pictures are never taken for its own.

    Raises:
        ValueError: the shard is damaged; or the disk is full.
    """
    mark, room = check_shard(shard, every_byte=True), Room("pictures for CLIP")
    schema = pa.schema(
        [
            (records.TRIPLET_ID, pa.string()),
            (records.CANDIDATE, pa.int32()),
            *((n, pa.float64()) for n in records.SIMILARITIES),
            *((n, pa.list_(pa.float16())) for n in FEATURES),
        ],
        metadata={CANDIDATES: mark["sha256"]},
    )
    with (
        needing_room(scores_path(shard)),
        storage.atomic_file(scores_path(shard)) as partial,
        pq.ParquetWriter(partial, schema, write_page_checksum=True) as file,
    ):
        for rows in shard_groups(shard):
            file.write_table(pa.Table.from_pylist(_score_group(rows, clip, room), schema=schema))
    return scores_path(shard)


def is_scored(shard: Path) -> bool:
    """Whether a shard's scores are there, readable, and of its present pictures."""
    try:
        metadata = pq.read_schema(scores_path(shard)).metadata or {}
    except (pa.ArrowException, ValueError, OSError):
        return False
    return metadata.get(CANDIDATES.encode()) == str(read_mark(shard)["sha256"]).encode()


def claim_scores(folder: Path, mark: str) -> None:
    """Claim a folder for the scores of the CLIP with this `mark`.

    Raises:
        ValueError: the folder's scores are another CLIP's, or nobody says whose they are.
    """
    remedy = "delete scores.json and scores-*.parquet there, and nothing else, to score anew"
    if not (folder / "scores.json").exists() and any(folder.glob("scores-*.parquet")):
        raise ValueError(f"{folder} must have scores.json beside its scores, to say whose they are; {remedy}")
    storage.claim_folder(folder, {"stage": "scores", "clip": mark}, "scores.json", remedy)


def score(folder: Path, clip: ClipEncoder) -> Iterator[tuple[int, int]]:
    """Write `scores-XXXXX.parquet` beside each candidate shard; yields (shards done, shards).

    All candidates are scored, and all scores and picture features kept, so that other thresholds need no
    new picture and other captions no new encoding.
    """
    shards = candidate_shards(folder)
    claim_scores(folder, clip.mark)
    for number, shard in enumerate(shards):
        if not is_scored(shard):
            score_shard(shard, clip)
        yield number + 1, len(shards)


def _score_files(folder: Path) -> list[Path]:
    shards = candidate_shards(folder)
    if not all(map(is_scored, shards)):
        raise FileNotFoundError(f"{folder} must be scored first; run `ip2p filter`")
    return [scores_path(s) for s in shards]


def read_scores(folder: Path) -> list[dict[str, Any]]:
    """Scores of all candidates of a folder, in order.

    Raises:
        FileNotFoundError: the folder is not scored yet.
    """
    return [
        row for path in _score_files(folder) for rows in shard_groups(path, SCORE_COLUMNS) for row in rows
    ]


def read_features(folder: Path) -> tuple[Tensor, Tensor]:
    """CLIP features (N, D) of all candidates' first and second pictures, in order.

    Raises:
        FileNotFoundError: the folder is not scored yet.
    """
    rows = [row for path in _score_files(folder) for rows in shard_groups(path, FEATURES) for row in rows]
    shape = (len(rows), -1 if rows else 0)
    first, second = (np.array([r[n] for r in rows], dtype=np.float32).reshape(shape) for n in FEATURES)
    return torch.from_numpy(first), torch.from_numpy(second)


@dataclass(frozen=True)
class ClipCritic:
    """The filter as a judge of pairs in the making, for the options that stop early."""

    clip: ClipEncoder
    config: FilterConfig

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What its verdicts depend on."""
        return {"clip": self.clip.mark, **asdict(self.config)}

    def __call__(
        self, candidates: Sequence[Candidate], before: Tensor, after: Tensor, slack: float = 0.0
    ) -> list[bool]:
        """Whether pairs, pictures (K, 3, H, W) in [-1, 1], pass thresholds lowered by `slack`."""
        captions, edited = zip(*((c.triplet.input, c.triplet.output) for c in candidates), strict=True)
        first, second = (images.to_unit(p.float()).clamp(0, 1) for p in (before, after))
        scores = score_edits(self.clip, first, second, captions, edited)
        return [passes(asdict(s), self.config, slack) for s in scores]


def other_bounds(folder: Path, config: FilterConfig) -> str:
    """The bounds by which a folder's pairs were ended early, where they are not `config`'s; "" if there are none."""
    path = folder / "run.json"
    critic = storage.recorded(path).get("critic") if path.is_file() else None
    if not isinstance(critic, dict):
        return ""
    told = {n: (critic.get(n), v) for n, v in asdict(config).items() if n.startswith("min_")}
    return ", ".join(f"{n} {then} there, {now} here" for n, (then, now) in told.items() if then != now)
