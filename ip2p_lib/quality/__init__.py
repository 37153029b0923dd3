"""The shipped models measured against their goals."""

from ip2p_lib.quality.filter import study_filter
from ip2p_lib.quality.filter_tables import filter_tables
from ip2p_lib.quality.goals import GOALS, LABELS, Goal, edits_table, quality_table, replace_block
from ip2p_lib.quality.measures import Quality, measure_all
from ip2p_lib.quality.scales import scales_table, study_scales

__all__ = [
    "GOALS",
    "LABELS",
    "Goal",
    "Quality",
    "edits_table",
    "filter_tables",
    "measure_all",
    "quality_table",
    "replace_block",
    "scales_table",
    "study_filter",
    "study_scales",
]
