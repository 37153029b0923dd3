"""Word-level prompt-to-prompt inside a UNet: cross-attention by words, and self-attention for the first steps.

As in `sharing`, no map is copied. The edited map of a target times its values is
P_source (W V) + P_target (w V), W and w being the weights of `words.WordEdit`: two ordinary attentions with
changed values, the first with the source's queries and keys.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F

from ip2p_lib.attention.maps import AttentionMaps
from ip2p_lib.attention.sharing import self_attention_layers
from ip2p_lib.attention.words import WordEdit


@dataclass
class WordControl:
    """What the processors obey. Rows are [uncond A, uncond B, cond A, cond B], S pairs each.

    Unlike the sharing that made InstructPix2Pix's data, only the conditional half is edited, self-attention
    follows in layers of at most `max_self_queries` places, and while
    int(N * a) <= step < int(N * b) for `self_span` (a, b).
    """

    edit: WordEdit
    num_inference_steps: int
    self_span: tuple[float, float] = (0.0, 0.4)
    max_self_queries: int = 256
    maps: AttentionMaps | None = None
    step: int = 0

    @property
    def shares_self(self) -> bool:
        """Whether self-attention follows the source at this step."""
        low, high = (int(self.num_inference_steps * share) for share in self.self_span)
        return low <= self.step < high


def _attend(attn: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=attn.scale)


def _heads(attn: Attention, states: Tensor) -> Tensor:
    return states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (B, N, heads d) -> (B, heads, N, d)


def _out(attn: Attention, mixed: Tensor) -> Tensor:
    return attn.to_out[1](attn.to_out[0](mixed.transpose(1, 2).flatten(2)))


class _FollowingSelf:
    """Self-attention whose conditional target rows may use their source's maps."""

    def __init__(self, control: WordControl) -> None:
        self._control = control

    def __call__(self, attn: Attention, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        q, k, v = (_heads(attn, project(hidden_states)) for project in (attn.to_q, attn.to_k, attn.to_v))
        if self._control.shares_self and hidden_states.shape[1] <= self._control.max_self_queries:
            (*first, _), (*second, _) = q.chunk(4), k.chunk(4)
            q, k = torch.cat([*first, first[2]]), torch.cat([*second, second[2]])
        return _out(attn, _attend(attn, q, k, v))


class _FollowingCross:
    """Cross-attention whose conditional target rows follow their source's maps word by word."""

    def __init__(self, control: WordControl) -> None:
        self._control = control

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, *_args: Any, **_kw: Any
    ) -> Tensor:
        q = _heads(attn, attn.to_q(hidden_states))
        k, v = (_heads(attn, project(encoder_hidden_states)) for project in (attn.to_k, attn.to_v))
        taken, own = (
            w.to(v) for w in self._control.edit.weights(self._control.step, self._control.num_inference_steps)
        )
        parts = [_attend(attn, *rows) for rows in zip(q.chunk(4), k.chunk(4), v.chunk(4), strict=True)]
        values = v.chunk(4)[3]
        follow = _attend(attn, q.chunk(4)[2], k.chunk(4)[2], taken @ values)
        parts[3] = follow + _attend(attn, q.chunk(4)[3], k.chunk(4)[3], own[:, None] * values)
        if self._control.maps is not None:
            self._record(attn, q, k, taken, own)
        return _out(attn, torch.cat(parts))

    def _record(self, attn: Attention, q: Tensor, k: Tensor, taken: Tensor, own: Tensor) -> None:
        maps = self._control.maps
        if maps is None or q.shape[2] != maps.side**2:
            return
        source, target = (
            (attn.scale * a @ b.transpose(-1, -2)).softmax(-1)
            for a, b in zip(q.chunk(4)[2:], k.chunk(4)[2:], strict=True)
        )
        maps.add(torch.cat([source, source @ taken + target * own]))


@contextmanager
def word_attention(unet: UNet2DConditionModel, control: WordControl) -> Iterator[None]:
    """Let targets follow their sources inside the block; the UNet is restored afterwards.

    Raises:
        ValueError: the UNet lacks self- or cross-attention layers to hook.
    """
    before = dict(unet.attn_processors)
    own = set(self_attention_layers(unet))
    if not own or own == set(before):
        missing = "cross" if own else "self"
        raise ValueError(
            f"prompt-to-prompt must hook {missing}-attention layers, {type(unet).__name__} has none"
        )
    unet.set_attn_processor({n: (_FollowingSelf if n in own else _FollowingCross)(control) for n in before})
    try:
        yield
    finally:
        unet.set_attn_processor(before)
