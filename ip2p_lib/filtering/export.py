"""Write the kept pairs as a dataset that `datasets.load_dataset` opens."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from ip2p_lib import records, storage
from ip2p_lib.filtering.scoring import read_scores
from ip2p_lib.pairs import PAIR_SCHEMA, candidate_shards, image_schema, shard_groups, writing_shard
from ip2p_lib.pairs.shards import needing_room
from ip2p_lib.presets import FilterConfig

KEPT_SCHEMA = image_schema(
    [*((f.name, f.type) for f in PAIR_SCHEMA), *((n, pa.float64()) for n in records.SIMILARITIES)]
)


def check_replaceable(out: Path) -> None:
    """Refuse to swap out a folder that an earlier export did not write.

    Raises:
        ValueError: it holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    run = out / "run.json"
    if not run.is_file() or storage.recorded(run).get("stage") != "filter":
        raise ValueError(f"{out} holds something else than kept pairs; choose an empty folder")
    for path in out.iterdir():
        if path.name not in (run.name, ".latents") and not path.match("pairs-*.parquet"):
            raise ValueError(f"{out} holds something else than kept pairs, {path.name}; move it elsewhere")


def _thresholds(config: FilterConfig) -> str:
    return ", ".join(
        f"{n} {v:g}" for n, v in asdict(config).items() if n.startswith("min_") and v is not None
    )


def export_kept(folder: Path, kept: Sequence[tuple[str, int]], out: Path, config: FilterConfig) -> int:
    """Write the kept pairs as Parquet shards that `datasets.load_dataset` opens; returns their number.

    The folder appears whole or not at all.

    Raises:
        ValueError: nothing is kept, a kept pair is not in the folder, `out` holds something else, or the disk
            is full.
    """
    if not kept:
        raise ValueError(
            f"the filter must keep at least one pair, kept none of {folder} by {_thresholds(config)}; lower them"
        )
    check_replaceable(out)
    wanted, count = set(kept), 0
    scores = {(r[records.TRIPLET_ID], r[records.CANDIDATE]): r for r in read_scores(folder)}
    with needing_room(out), storage.atomic_folder(out) as partial:
        for number, shard in enumerate(candidate_shards(folder)):
            path = partial / f"pairs-{number:05d}.parquet"
            with writing_shard(path, KEPT_SCHEMA) as writer:
                for group in shard_groups(shard):
                    keys = [(row[records.TRIPLET_ID], row[records.CANDIDATE]) for row in group]
                    writer.add(
                        {**row, **{n: scores[key][n] for n in records.SIMILARITIES}}
                        for row, key in zip(group, keys, strict=True)
                        if key in wanted
                    )
            count += writer.rows
            path.with_suffix(".json").unlink()  # the folder is whole or absent, its shards need no marks
            if not writer.rows:
                path.unlink()
        if count < len(wanted):
            raise ValueError(
                f"{folder} must hold every kept pair, holds {count} of {len(wanted)}; select from its own scores"
            )
        storage.record_run(partial, {"stage": "filter", **asdict(config), "kept": count, "of": len(scores)})
    return count
