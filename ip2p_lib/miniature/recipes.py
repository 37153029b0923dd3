"""Numbers of the editor's training set that are the miniature's own."""

from dataclasses import replace

from ip2p_lib.presets import MINIATURE

# At its low temperature the writer seldom asks for some subjects and styles, and what nobody asks for nobody learns: so
# a bolder one writes as well, and of all that both wrote those are taken that ask for everything about equally often.
CAUTIOUS_TRIPLETS, BOLD_TRIPLETS, EDITOR_TRIPLETS = 13_000, 31_000, 24_000
TRIPLET_SEED = 51  # held-out triplets use 900 and above
# Boldness brings instructions that say nothing, or one thing while the caption changes two. The filter, which compares
# pictures with captions, sees neither; the writer's own doubts and the number of changes do.
BOLD_WRITING = replace(
    MINIATURE.write, seed=TRIPLET_SEED + 1, temperature=0.9, min_instruction_certainty=-6, max_changes=1
)
# Two pairs of a triplet, and no more than four attempts. A lower guidance scale than the preset's, because the
# background drifts less with it.
EDITOR_PAIRS = replace(
    MINIATURE.pairs, candidates_per_triplet=4, stop_after_hits=2, cfg_scale_range=(1.2, 2.5)
)
# Not the cosine of the direction but how far the picture moves along it: a cosine asks small things, such as a lamp, to
# fill CLIP's view, and turned nearly all of them away. A fifth of the candidates lies below this shift.
EDITOR_FILTER = replace(MINIATURE.filter, min_direction=-1, min_shift=0.0743)
# More than twenty times the examples of the preset's defaults: how many edits are exact follows how long it trains.
EDITOR_TRAINING = replace(MINIATURE.train, batch_size=64, steps=23_700, decay_steps=3_800, ema_decay=0.996)
