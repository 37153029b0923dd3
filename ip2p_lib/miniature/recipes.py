"""Numbers of the editor's training set that are the miniature's own."""

from typing import Any

EDITOR_TRIPLETS = 1_100  # two candidates each
TRIPLET_SEED = 50  # held-out triplets use 900 and above
FILTER_QUANTILES: dict[str, Any] = {
    "text": 0.10,
    "direction": 0.35,
    "image": 0.10,
}  # share of candidates below each threshold
