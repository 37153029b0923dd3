"""How much memory a stage takes at full size, before anything is loaded; and what to switch on if it is too much."""

from ip2p_lib.memory_plan.counts import GIB, STAGES, needs
from ip2p_lib.memory_plan.planning import Plan, plan

__all__ = ["GIB", "STAGES", "Plan", "needs", "plan"]
