"""Numbers of the editor's training set that are the miniature's own."""

from dataclasses import replace

from ip2p_lib.presets import MINIATURE

EDITOR_TRIPLETS = 5_400
TRIPLET_SEED = 51  # held-out triplets use 900 and above
# A second candidate only where the first is turned away: for the same time, more different pairs. A lower guidance
# scale than the preset's, because the background drifts less with it.
EDITOR_PAIRS = replace(MINIATURE.pairs, stop_after_hits=1, cfg_scale_range=(1.2, 2.5))
# Not the cosine of the direction but how far the picture moves along it: a cosine asks small things, such as a lamp, to
# fill CLIP's view, and turned nearly all of them away. A fifth of the candidates lies below this shift.
EDITOR_FILTER = replace(MINIATURE.filter, min_direction=-1, min_shift=0.0743)
# Five times the examples of the preset's defaults: how many edits are exact follows how long it trains.
EDITOR_TRAINING = replace(MINIATURE.train, batch_size=64, steps=5_800, decay_steps=3_100, ema_decay=0.996)
