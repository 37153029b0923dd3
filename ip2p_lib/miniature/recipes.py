"""Numbers of the editor's training set that are the miniature's own."""

from dataclasses import replace

from ip2p_lib.presets import MINIATURE

EDITOR_TRIPLETS = 2_400
TRIPLET_SEED = 50  # held-out triplets use 900 and above
# A second candidate only where the first is turned away: for the same time, more different pairs.
EDITOR_PAIRS = replace(MINIATURE.pairs, stop_after_hits=1)
