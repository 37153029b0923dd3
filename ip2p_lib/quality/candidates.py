"""Scored candidates beside the truth about them: what a filter keeps, and what of it is right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ip2p_lib import filtering, records
from ip2p_lib.evaluation import pairs_exact, share
from ip2p_lib.filtering import shard_pictures
from ip2p_lib.judge import Judge
from ip2p_lib.pairs import candidate_shards, shard_groups
from ip2p_lib.presets import FilterConfig
from ip2p_lib.records import Triplet
from ip2p_lib.scenes.world import KINDS, SceneEdit
from ip2p_lib.triplets import understood

QUANTILES = tuple(round(0.1 * i, 1) for i in range(10))


@dataclass(frozen=True, slots=True)
class Judged:
    """A scored candidate and the truth about it."""

    score: dict[str, Any]
    kind: str  # of edit
    threshold: float  # of prompt-to-prompt
    exact: float  # 1 if the pair does exactly what its instruction says

    @property
    def triplet(self) -> str:
        """Which triplet it is an attempt at."""
        return self.score[records.TRIPLET_ID]


def judged_candidates(
    folder: Path,
    triplets: Sequence[Triplet],
    judge: Judge,
    edit: Callable[[Triplet], SceneEdit | None] = understood,
) -> list[Judged]:
    """What is true of each scored candidate of a folder, in order; `edit` says what a triplet asks for."""
    edits = {t.id: edit(t) for t in triplets}
    found = []
    scores = iter(filtering.read_scores(folder))
    for shard in candidate_shards(folder):
        for rows in shard_groups(shard):
            wanted = [edits[r[records.TRIPLET_ID]] for r in rows]
            before, after = (shard_pictures(rows, c) for c in (records.ORIGINAL_IMAGE, records.EDITED_IMAGE))
            right = pairs_exact(judge, before, after, wanted)
            for row, asked, exact in zip(rows, wanted, right, strict=True):
                kind = asked.kind if asked else ""
                found.append(Judged(next(scores), kind, row[records.P2P_THRESHOLD], exact))
    return found


def precision_recall(rows: Sequence[Judged], kept: Sequence[bool]) -> dict[str, Any]:
    """Share of exact pairs among all and among the kept, with its interval, and share of exact ones kept."""
    chosen = [r for r, k in zip(rows, kept, strict=True) if k]
    right, exact = sum(r.exact for r in chosen), sum(r.exact for r in rows)
    precision = share([r.exact for r in chosen], groups=[r.triplet for r in chosen]) if chosen else None
    return {
        "candidates": len(rows),
        "exact": round(exact / len(rows), 4),
        "kept": len(chosen),
        "precision": precision and round(precision.value, 4),
        "low": precision and round(precision.low, 4),
        "high": precision and round(precision.high, 4),
        "recall": round(right / exact, 4) if exact else None,
    }


def area_under_curve(values: Sequence[float], truth: Sequence[float]) -> float:
    """Chance that a true one scores above a false one, ties counting half; 0.5 knows nothing."""
    scores, is_true = np.asarray(values), np.asarray(truth) > 0.5
    true, false = scores[is_true], scores[~is_true]
    if not len(true) or not len(false):
        return 0.5
    above = (true[:, None] > false).mean() + 0.5 * (true[:, None] == false).mean()
    return float(above)


def passing(rows: Sequence[Judged], config: FilterConfig) -> list[bool]:
    """Which candidates reach the thresholds."""
    return [filtering.passes(r.score, config) for r in rows]


def by_kind(rows: Sequence[Judged], config: FilterConfig) -> dict[str, dict[str, Any]]:
    """Precision and recall of the whole filter for each kind of edit."""
    kept = passing(rows, config)
    table = {}
    for kind in KINDS:
        chosen = [i for i, r in enumerate(rows) if r.kind == kind]
        if chosen:
            table[kind] = precision_recall([rows[i] for i in chosen], [kept[i] for i in chosen])
    return table


def by_quantile(rows: Sequence[Judged], name: str) -> list[dict[str, Any]]:
    """How the kept set moves with the threshold of one similarity alone, set at quantiles of its scores."""
    values: NDArray[np.float64] = np.asarray([r.score[name] for r in rows])
    return [
        {
            "below": q,
            "threshold": round(float(limit), 4),
            **precision_recall(rows, (values >= limit).tolist()),
        }
        for q, limit in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)
    ]


def stopped(
    rows: Sequence[Judged], config: FilterConfig, hits: int | None, misses: int | None
) -> dict[str, Any]:
    """What `stop_after_hits` and `give_up_after` spare and lose; a matter of counting, no new picture."""
    sampled, kept = 0, []  # for each candidate, whether it is made and passes
    for _, group in groupby(rows, key=lambda r: r.triplet):
        passed = in_a_row = 0
        for row in group:
            if (hits is not None and passed >= hits) or (misses is not None and in_a_row >= misses):
                kept.append(False)
                continue
            sampled += 1
            is_hit = filtering.passes(row.score, config)
            passed, in_a_row = passed + is_hit, 0 if is_hit else in_a_row + 1
            kept.append(is_hit)
    return {"sampled": round(sampled / len(rows), 4), **precision_recall(rows, kept)}
