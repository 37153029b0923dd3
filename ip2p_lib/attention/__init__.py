"""Attention of one picture that follows another's: shared self-attention, and word-level prompt-to-prompt."""

from ip2p_lib.attention.crossed import WordControl, word_attention
from ip2p_lib.attention.maps import AttentionMaps, LocalBlend
from ip2p_lib.attention.sharing import (
    SelfAttentionSharing,
    SharedSelfAttention,
    is_shared,
    self_attention_layers,
    shared_self_attention,
    shared_steps,
)
from ip2p_lib.attention.words import (
    WordEdit,
    align,
    positions_of,
    refinement,
    replacement,
    reweighted,
    scheduled,
    word_tokens,
)

__all__ = [
    "AttentionMaps",
    "LocalBlend",
    "SelfAttentionSharing",
    "SharedSelfAttention",
    "WordControl",
    "WordEdit",
    "align",
    "is_shared",
    "positions_of",
    "refinement",
    "replacement",
    "reweighted",
    "scheduled",
    "self_attention_layers",
    "shared_self_attention",
    "shared_steps",
    "word_attention",
    "word_tokens",
]
