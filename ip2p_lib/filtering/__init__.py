"""Stage three, candidates to a dataset: CLIP scores, selection over stored scores, and what is kept."""

from ip2p_lib.filtering.export import KEPT_SCHEMA, export_kept
from ip2p_lib.filtering.original import read_original, write_original
from ip2p_lib.filtering.scoring import (
    ClipCritic,
    claim_scores,
    other_bounds,
    read_features,
    read_scores,
    score,
    score_shard,
    scores_path,
    shard_pictures,
)
from ip2p_lib.filtering.selection import SCORE_COLUMNS, passes, select, shift, thresholds_at_quantiles
from ip2p_lib.pairs import candidate_shards

__all__ = [
    "KEPT_SCHEMA",
    "SCORE_COLUMNS",
    "ClipCritic",
    "candidate_shards",
    "claim_scores",
    "export_kept",
    "other_bounds",
    "passes",
    "read_features",
    "read_original",
    "read_scores",
    "score",
    "score_shard",
    "scores_path",
    "select",
    "shard_pictures",
    "shift",
    "thresholds_at_quantiles",
    "write_original",
]
