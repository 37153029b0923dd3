"""Prompt-to-prompt as the released data were made: self-attention of the source, in every layer."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F


def heads(attn: Attention, states: Tensor) -> Tensor:
    """Cut projected states (B, N, heads d) into heads, (B, heads, N, d)."""
    return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def attend(attn: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax(q k^T) v for each head, by the fused kernel."""
    return F.scaled_dot_product_attention(q, k, v, scale=attn.scale)


def joined(attn: Attention, mixed: Tensor) -> Tensor:
    """Put heads (B, heads, N, d) together again and project them, (B, N, D)."""
    return attn.to_out[1](attn.to_out[0](mixed.transpose(1, 2).flatten(2)))


class SelfAttentionSharing:
    """Which row of the batch lends its queries and keys to which; read by all processors.

    `source` is None (every row attends for itself) or an index (B,): row b attends with the queries
    and keys of row source[b], and its own values. Softmax(Q_s K_s^T) V_t is exactly the result of
    copying the source's scores, without ever writing them down.
    """

    def __init__(self) -> None:
        self._lenders: Tensor | None = None
        self._of: Tensor | None = None

    def set(self, source: Tensor | None) -> None:
        """Choose the lending rows, or None to switch sharing off."""
        if source is None or torch.equal(source, torch.arange(len(source), device=source.device)):
            self._lenders = self._of = None
        else:
            self._lenders, self._of = torch.unique(source, return_inverse=True)

    def project(self, attn: Attention, states: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys for every row, computed once per lending row."""
        if self._lenders is None:
            return attn.to_q(states), attn.to_k(states)
        lent = states[self._lenders]
        return attn.to_q(lent)[self._of], attn.to_k(lent)[self._of]


class SharedSelfAttention:
    """diffusers attention processor for self-attention whose maps may come from another row."""

    def __init__(self, sharing: SelfAttentionSharing) -> None:
        self._sharing = sharing

    def __call__(self, attn: Attention, hidden_states: Tensor, *_args: object, **_kwargs: object) -> Tensor:
        """Attend as diffusers' own processor does, (B, N, D) to (B, N, D)."""
        queries, keys = self._sharing.project(attn, hidden_states)
        q, k, v = (heads(attn, t) for t in (queries, keys, attn.to_v(hidden_states)))
        return joined(attn, attend(attn, q, k, v))


def self_attention_layers(unet: UNet2DConditionModel) -> list[str]:
    """Names of the UNet's self-attention processors."""
    return [name for name in unet.attn_processors if ".attn1." in name]


@contextmanager
def shared_self_attention(unet: UNet2DConditionModel) -> Iterator[SelfAttentionSharing]:
    """Let rows of the batch share self-attention inside the block; the UNet is restored afterwards.

    Hooks every self-attention layer at every resolution; cross-attention stays as it is.

    Raises:
        ValueError: the UNet has no self-attention layer to hook.

    Source: timothybrooks/instruct-pix2pix@0dffd1e, ldm/modules/attention.py (`prompt_to_prompt`).
    """
    names = self_attention_layers(unet)
    if not names:
        raise ValueError(f"prompt-to-prompt must hook self-attention layers, {type(unet).__name__} has none")
    before = dict(unet.attn_processors)
    sharing = SelfAttentionSharing()
    unet.set_attn_processor({n: SharedSelfAttention(sharing) if n in names else p for n, p in before.items()})
    try:
        yield sharing
    finally:
        unet.set_attn_processor(before)


def is_shared(threshold: float, step: int, num_inference_steps: int) -> bool:
    """Whether a candidate still shares self-attention at `step` (0-based): threshold > i / (N - 1).

    A single step counts as the last one, where sharing is off for thresholds up to 1.
    """
    return threshold > (step / (num_inference_steps - 1) if num_inference_steps > 1 else 1.0)


def shared_steps(threshold: float, num_inference_steps: int) -> int:
    """Number of steps, always the first ones, during which a candidate shares self-attention."""
    return sum(is_shared(threshold, i, num_inference_steps) for i in range(num_inference_steps))
