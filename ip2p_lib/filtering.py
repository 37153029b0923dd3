"""Score candidate pairs with CLIP, choose the best, and write the kept ones as a dataset."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ip2p_lib import images, records, storage
from ip2p_lib.backbone import ClipEncoder
from ip2p_lib.pairs import PAIR_SCHEMA, candidate_shards
from ip2p_lib.presets import FilterConfig
from ip2p_lib.similarity import score_edits

SCORE_COLUMNS = (records.TRIPLET_ID, records.CANDIDATE, *records.SIMILARITIES)
Row = Mapping[str, Any]


def shard_pictures(rows: Sequence[Row], column: str) -> Any:
    """Pictures of one image column as (N, 3, H, W) in [-1, 1]."""
    return images.to_tensor([images.from_bytes(r[column]["bytes"], r[column]["path"]) for r in rows])


def score(folder: Path, clip: ClipEncoder) -> Iterator[tuple[int, int]]:
    """Write `scores-XXXXX.parquet` beside each candidate shard; yields (shards done, shards).

    All candidates are scored and all scores kept, so that other thresholds need no new picture.
    """
    shards = candidate_shards(folder)
    for number, shard in enumerate(shards):
        path = shard.with_name(shard.name.replace("candidates", "scores"))
        if not path.exists():
            rows = pq.read_table(shard).to_pylist()
            before, after = (
                images.to_unit(shard_pictures(rows, c))
                for c in (records.ORIGINAL_IMAGE, records.EDITED_IMAGE)
            )
            captions, edited = (
                [r[c] for r in rows] for c in (records.ORIGINAL_PROMPT, records.EDITED_PROMPT)
            )
            scores = score_edits(clip, before, after, captions, edited)
            out = [
                {**{c: r[c] for c in (records.TRIPLET_ID, records.CANDIDATE)}, **asdict(s)}
                for r, s in zip(rows, scores, strict=True)
            ]
            with storage.atomic_file(path) as partial:
                pq.write_table(pa.Table.from_pylist(out), partial)
        yield number + 1, len(shards)


def read_scores(folder: Path) -> list[dict[str, Any]]:
    """Scores of all candidates of a folder, in order.

    Raises:
        FileNotFoundError: the folder is not scored yet.
    """
    shards = sorted(folder.glob("scores-*.parquet"))
    if len(shards) != len(candidate_shards(folder)):
        raise FileNotFoundError(f"{folder} must be scored first; run `ip2p filter`")
    return [row for s in shards for row in pq.read_table(s).to_pylist()]


def passes(row: Row, config: FilterConfig) -> bool:
    """Whether a candidate reaches every threshold. A score equal to its threshold passes."""
    return (
        row["clip_sim_0"] >= config.min_text
        and row["clip_sim_1"] >= config.min_text
        and row["clip_sim_dir"] >= config.min_direction
        and row["clip_sim_image"] >= config.min_image
    )


def select(scores: Sequence[Row], config: FilterConfig) -> list[tuple[str, int]]:
    """Keys (triplet id, candidate) of the kept: of each triplet the best by direction that pass.

    Pure selection over stored scores. Ties go to the earlier candidate.
    """
    by_triplet: dict[str, list[Row]] = {}
    for row in scores:
        if passes(row, config):
            by_triplet.setdefault(row[records.TRIPLET_ID], []).append(row)
    kept = []
    for triplet_id, rows in by_triplet.items():
        best = sorted(rows, key=lambda r: (-r["clip_sim_dir"], r[records.CANDIDATE]))
        kept += [(triplet_id, r[records.CANDIDATE]) for r in best[: config.max_per_triplet]]
    return kept


def thresholds_at_quantiles(
    scores: Sequence[Row], *, text: float, direction: float, image: float, max_per_triplet: int = 4
) -> FilterConfig:
    """Thresholds for a CLIP whose scores have their own range: given shares of the candidates pass.

    Args:
        text, direction, image: share of candidates below each threshold, in [0, 1]. The text one is
            taken over both text similarities.
    """
    columns = {n: np.asarray([r[n] for r in scores]) for n in records.SIMILARITIES}
    both = np.concatenate([columns["clip_sim_0"], columns["clip_sim_1"]])
    return FilterConfig(
        min_text=round(float(np.quantile(both, text)), 4),
        min_direction=round(float(np.quantile(columns["clip_sim_dir"], direction)), 4),
        min_image=round(float(np.quantile(columns["clip_sim_image"], image)), 4),
        max_per_triplet=max_per_triplet,
    )


def kept_schema() -> pa.Schema:
    """The candidates' schema with the four similarities; `datasets` still reads the images as images."""
    features = json.loads(PAIR_SCHEMA.metadata[b"huggingface"])["info"]["features"]
    schema = PAIR_SCHEMA
    for name in records.SIMILARITIES:
        schema = schema.append(pa.field(name, pa.float64()))
        features[name] = {"dtype": "float64", "_type": "Value"}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _check_replaceable(out: Path) -> None:
    """Refuse to swap out a folder that an earlier export did not write."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    run = out / "run.json"
    if not run.is_file() or storage.read_json(run).get("config", {}).get("stage") != "filter":
        raise ValueError(f"{out} holds something else than kept pairs; choose an empty folder")


def export_kept(folder: Path, kept: Sequence[tuple[str, int]], out: Path, config: FilterConfig) -> int:
    """Write the kept pairs as Parquet shards that `datasets.load_dataset` opens; returns their number.

    The folder appears whole or not at all.

    Raises:
        ValueError: nothing is kept, or `out` holds something else.
    """
    if not kept:
        raise ValueError(
            f"the filter must keep at least one pair, kept none of {folder}; lower its thresholds"
        )
    _check_replaceable(out)
    wanted = set(kept)
    scores = {(r[records.TRIPLET_ID], r[records.CANDIDATE]): r for r in read_scores(folder)}
    schema, count = kept_schema(), 0
    with storage.atomic_folder(out) as partial:
        for number, shard in enumerate(candidate_shards(folder)):
            rows = []
            for row in pq.read_table(shard).to_pylist():
                key = (row[records.TRIPLET_ID], row[records.CANDIDATE])
                if key in wanted:
                    rows.append({**row, **{n: scores[key][n] for n in records.SIMILARITIES}})
            if rows:
                pq.write_table(
                    pa.Table.from_pylist(rows, schema=schema), partial / f"pairs-{number:05d}.parquet"
                )
            count += len(rows)
        storage.record_run(partial, {"stage": "filter", **asdict(config), "kept": count, "of": len(scores)})
    return count
