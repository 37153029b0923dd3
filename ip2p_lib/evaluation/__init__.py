"""Measure every stage against what the world knows, and editing systems against each other."""

from ip2p_lib.evaluation.intervals import Measure, bootstrap, bootstrap_ratio, share
from ip2p_lib.evaluation.measures import (
    ATTRIBUTE_OF_KIND,
    EditScore,
    all_attributes_right,
    by_kind,
    by_style,
    changed_exactly,
    changed_requested,
    different_captions,
    distance_ratio,
    evaluate_edits,
    pairs_exact,
    psnr,
    recall_at_1,
    reconstruct,
    sample_captions,
    scene_pixels,
)

__all__ = [
    "ATTRIBUTE_OF_KIND",
    "EditScore",
    "Measure",
    "all_attributes_right",
    "bootstrap",
    "bootstrap_ratio",
    "by_kind",
    "by_style",
    "changed_exactly",
    "changed_requested",
    "different_captions",
    "distance_ratio",
    "evaluate_edits",
    "pairs_exact",
    "psnr",
    "recall_at_1",
    "reconstruct",
    "sample_captions",
    "scene_pixels",
    "share",
]
