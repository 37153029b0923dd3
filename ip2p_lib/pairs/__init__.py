"""Stage two, triplets to candidate picture pairs: prompt-to-prompt with shared noise and self-attention."""

from ip2p_lib.pairs.candidates import Candidate, blocks, draw_candidates
from ip2p_lib.pairs.sampling import pair_latents, rows_computed
from ip2p_lib.pairs.shards import (
    PAIR_SCHEMA,
    candidate_shards,
    image_schema,
    is_whole,
    missing_shards,
    read_shard,
    shard_groups,
    shard_path,
    writing_shard,
)
from ip2p_lib.pairs.synthesis import Critic, Progress, Unit, claim_run, make_unit, synthesise, units_of
from ip2p_lib.pairs.words import WordStep, word_pair_steps

__all__ = [
    "PAIR_SCHEMA",
    "Candidate",
    "Critic",
    "Progress",
    "Unit",
    "WordStep",
    "blocks",
    "candidate_shards",
    "claim_run",
    "draw_candidates",
    "image_schema",
    "is_whole",
    "make_unit",
    "missing_shards",
    "pair_latents",
    "read_shard",
    "rows_computed",
    "shard_groups",
    "shard_path",
    "synthesise",
    "units_of",
    "word_pair_steps",
    "writing_shard",
]
