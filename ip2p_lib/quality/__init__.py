"""Measure everything that ships and write `quality.json`: one object per number, with its interval."""

from ip2p_lib.quality.goals import GOALS, LABELS, Goal, quality_table, replace_block
from ip2p_lib.quality.measures import Quality, measure_all

__all__ = ["GOALS", "LABELS", "Goal", "Quality", "measure_all", "quality_table", "replace_block"]
