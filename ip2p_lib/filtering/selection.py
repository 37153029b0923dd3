"""Which scored candidates to keep: pure selection, so that other thresholds need no new picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ip2p_lib import records
from ip2p_lib.presets import FilterConfig

SCORE_COLUMNS = (records.TRIPLET_ID, records.CANDIDATE, *records.SIMILARITIES)
Row = Mapping[str, Any]


def shift(row: Row) -> float:
    """How far a picture's features move along the direction of the texts': the direction's cosine times the length.

    CLIP's features have unit length, so the length of their difference follows from their cosine.
    """
    return row["clip_sim_dir"] * max(0.0, 2 - 2 * row["clip_sim_image"]) ** 0.5


def passes(row: Row, config: FilterConfig, slack: float = 0.0) -> bool:
    """Whether a candidate reaches every threshold, lowered by `slack`. A score equal to its threshold passes."""
    return (
        row["clip_sim_0"] >= config.min_text - slack
        and row["clip_sim_1"] >= config.min_text - slack
        and row["clip_sim_dir"] >= config.min_direction - slack
        and row["clip_sim_image"] >= config.min_image - slack
        and shift(row) >= config.min_shift - slack
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
