"""Attention never writes its scores down: the fused kernel runs in every layer, whoever's queries and keys it takes."""

import copy
from contextlib import contextmanager

import pytest
import torch
from diffusers import UNet2DConditionModel
from test_attention import CopiedProbabilities
from torch.nn.attention import SDPBackend, sdpa_kernel

from ip2p_lib.attention import (
    WordControl,
    refinement,
    self_attention_layers,
    shared_self_attention,
    word_attention,
)
from ip2p_lib.editing.reuse import SharedWork
from ip2p_lib.memory_plan.dry_run import Allocations

ROWS, SIDE, LENGTH, HEADS = 4, 32, 32, 4
SCORES = ROWS * HEADS * SIDE**4 * 4  # bytes of the largest layer's
LAYERS = 14  # self- and cross-attention in seven blocks of the tiny UNet
FUSED = "_scaled_dot_product_flash_attention"
KINDS = ("plain", "sharing", "words", "shared work")


class Watched(Allocations):
    """Memory, and the names of all operations."""

    def __init__(self, known):
        super().__init__(known)
        self.names = []

    def __torch_dispatch__(self, function, kinds, args=(), kwargs=None):
        self.names.append(function.__name__)
        return super().__torch_dispatch__(function, kinds, args, kwargs)


def inputs(unet, side=SIDE, width=32):
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randn(s, generator=generator) for s in ((ROWS, 4, side, side), (ROWS, LENGTH, width))]
    noisy, states = (t.to(unet.device, unet.dtype) for t in drawn)
    return noisy, torch.tensor(500.0, device=unet.device), states


@contextmanager
def attention(kind, unet, tokenizer):
    """A call of the UNet with attention of one kind."""
    call = lambda *given: unet(*given).sample  # noqa: E731 - one of several
    if kind == "sharing":
        with shared_self_attention(unet) as sharing:
            sharing.set(torch.tensor([0, 0, 2, 2], device=unet.device))
            yield call
    elif kind == "words":
        edit = refinement(tokenizer, "a red house at night", "a red cat at night")
        with word_attention(unet, WordControl(edit, 2, (0.0, 1.0), max_self_queries=SIDE**2)):
            yield call
    elif kind == "shared work":
        work = SharedWork(unet, alike=2)
        yield lambda *given: work(*given, 0)
    else:
        yield call


@contextmanager
def copying(unet):
    """The plain way, which this file must be able to tell from ours."""
    before, names = dict(unet.attn_processors), self_attention_layers(unet)
    copied = CopiedProbabilities(torch.tensor([0, 0, 2, 2]))
    unet.set_attn_processor({n: copied if n in names else p for n, p in before.items()})
    yield lambda *given: unet(*given).sample
    unet.set_attn_processor(before)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_no_scores_are_written_down(base, kind):
    with attention(kind, base.unet, base.tokenizer) as call:
        given = inputs(base.unet)
        with Watched([*base.unet.parameters(), *given[::2]]) as seen:
            call(*given)
    fused = [n for n in seen.names if n.startswith(FUSED)]
    # An edited row takes two more in each of the seven cross-attention layers.
    assert len(fused) == LAYERS * (2 if kind == "words" else 1)
    assert not any("softmax" in n or "attention_math" in n for n in seen.names)
    assert seen.peak < SCORES / 4


@torch.no_grad()
def test_written_down_they_would_be_noticed(base):
    with copying(base.unet) as call:
        given = inputs(base.unet)
        with Watched([*base.unet.parameters(), *given[::2]]) as seen:
            call(*given)
    assert any("softmax" in n for n in seen.names)
    assert seen.peak > SCORES


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [320, 32])
@torch.no_grad()
def test_on_a_gpu_the_flash_kernel_alone_is_enough(base, kind, width):
    """Outside of the block PyTorch may choose among fused kernels; here any other would raise."""
    unet, wide = copy.deepcopy(base.unet), {"block_out_channels": (width, 2 * width, 4 * width, 4 * width)}
    if width == 320:  # Stable Diffusion's heads, of 40, 80 and 160
        unet = UNet2DConditionModel(attention_head_dim=8, cross_attention_dim=32, layers_per_block=1, **wide)
    unet = unet.to("cuda", torch.bfloat16).eval()
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]), attention(kind, unet, base.tokenizer) as call:
        assert call(*inputs(unet)).isfinite().all()
