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

from ip2p_lib.attention.maps import AttentionMaps
from ip2p_lib.attention.sharing import attend, heads, joined, self_attention_layers
from ip2p_lib.attention.words import Span, WordEdit, checked_span


@dataclass
class WordControl:
    """What the processors obey. Rows are [uncond A, uncond B, cond A, cond B], S pairs each.

    Unlike the sharing that made InstructPix2Pix's data, only the conditional half is edited, self-attention
    follows in layers of at most `max_self_queries` places, and while
    int(N * a) <= step < int(N * b) for `self_span` (a, b).

    Raises:
        ValueError: `self_span` does not lie in [0, 1].
    """

    edit: WordEdit
    num_inference_steps: int
    self_span: Span = (0.0, 0.4)
    max_self_queries: int = 256
    maps: AttentionMaps | None = None
    step: int = 0

    def __post_init__(self) -> None:
        checked_span(self.self_span)

    @property
    def shares_self(self) -> bool:
        """Whether self-attention follows the source at this step."""
        low, high = (int(self.num_inference_steps * share) for share in checked_span(self.self_span))
        return low <= self.step < high


class _FollowingSelf:
    """Self-attention whose conditional target rows may use their source's maps."""

    def __init__(self, control: WordControl) -> None:
        self._control = control

    def __call__(self, attn: Attention, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        q, k, v = (heads(attn, project(hidden_states)) for project in (attn.to_q, attn.to_k, attn.to_v))
        if self._control.shares_self and hidden_states.shape[1] <= self._control.max_self_queries:
            (*first, _), (*second, _) = q.chunk(4), k.chunk(4)
            q, k = torch.cat([*first, first[2]]), torch.cat([*second, second[2]])
        return joined(attn, attend(attn, q, k, v))


class _FollowingCross:
    """Cross-attention whose conditional target rows follow their source's maps word by word."""

    def __init__(self, control: WordControl) -> None:
        self._control = control

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, *_args: Any, **_kw: Any
    ) -> Tensor:
        q = heads(attn, attn.to_q(hidden_states))
        k, v = (heads(attn, project(encoder_hidden_states)) for project in (attn.to_k, attn.to_v))
        taken, own = (
            w.to(v) for w in self._control.edit.weights(self._control.step, self._control.num_inference_steps)
        )
        count = len(v) // 4
        rest, source, target = slice(3 * count), slice(2 * count, 3 * count), slice(3 * count, None)
        followed = attend(attn, q[source], k[source], taken @ v[target])
        followed = followed + attend(attn, q[target], k[target], own[:, None] * v[target])
        mixed = torch.cat([attend(attn, q[rest], k[rest], v[rest]), followed])
        maps = self._control.maps
        if maps is not None and q.shape[2] == maps.side**2:
            maps.add(_edited_maps(attn, q, k, taken, own))
        return joined(attn, mixed)


def _edited_maps(attn: Attention, q: Tensor, k: Tensor, taken: Tensor, own: Tensor) -> Tensor:
    """Maps of the sources and, as edited, of the targets, (2 S, heads, N, T), in float32."""
    queries, keys = (t.float().chunk(4)[2:] for t in (q, k))
    source, target = (
        (attn.scale * a @ b.transpose(-1, -2)).softmax(-1) for a, b in zip(queries, keys, strict=True)
    )
    return torch.cat([source, source @ taken.float() + target * own.float()])


@contextmanager
def word_attention(unet: UNet2DConditionModel, control: WordControl) -> Iterator[None]:
    """Let targets follow their sources inside the block; the UNet is restored afterwards.

    Raises:
        ValueError: the UNet lacks self- or cross-attention layers to hook.
    """
    before = dict(unet.attn_processors)
    own = {name: _FollowingSelf(control) for name in self_attention_layers(unet)}
    cross = {name: _FollowingCross(control) for name in before if ".attn2." in name}
    for kind, hooked in (("self", own), ("cross", cross)):
        if not hooked:
            raise ValueError(
                f"prompt-to-prompt must hook {kind}-attention layers, {type(unet).__name__} has none"
            )
    unet.set_attn_processor({**before, **own, **cross})
    try:
        yield
    finally:
        unet.set_attn_processor(before)
