"""Attention of one picture that follows another's: shared self-attention, and word-level prompt-to-prompt."""

from ip2p_lib.attention.sharing import (
    SelfAttentionSharing,
    SharedSelfAttention,
    is_shared,
    self_attention_layers,
    shared_self_attention,
    shared_steps,
)

__all__ = [
    "SelfAttentionSharing",
    "SharedSelfAttention",
    "is_shared",
    "self_attention_layers",
    "shared_self_attention",
    "shared_steps",
]
