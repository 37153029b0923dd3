"""Shared self-attention: when it is on, which rows borrow, and that the UNet is left as it was found."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from ip2p_lib.attention import (
    SharedSelfAttention,
    is_shared,
    self_attention_layers,
    shared_self_attention,
    shared_steps,
)


@pytest.fixture
def batch():
    """Inputs of four rows for the tiny UNet."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 4, 8, 8, generator=generator), 500, torch.randn(4, 32, 32, generator=generator)


class CopiedProbabilities:
    """Plain reference: write the attention maps down, copy those of the source rows, apply them."""

    def __init__(self, source):
        self.source = source

    def __call__(self, attn, hidden_states, *_args, **_kwargs):
        count = len(hidden_states)
        query, key, value = (
            attn.head_to_batch_dim(project(hidden_states)) for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        maps = attn.get_attention_scores(query, key).unflatten(0, (count, -1))  # (B, heads, N, N)
        out = attn.batch_to_head_dim(maps[self.source].flatten(0, 1) @ value)
        return attn.to_out[1](attn.to_out[0](out))


@pytest.mark.parametrize(
    ("threshold", "count"), [(0.0, 0), (0.1, 10), (0.5, 50), (0.9, 90), (1.0, 99), (1.1, 100)]
)
def test_a_threshold_shares_its_part_of_a_hundred_steps(threshold, count):
    shared = [is_shared(threshold, step, 100) for step in range(100)]
    assert sum(shared) == count
    assert shared == sorted(shared, reverse=True)
    assert shared_steps(threshold, 100) == count


def test_the_comparison_is_strict():
    assert [is_shared(0.5, step, 5) for step in range(5)] == [True, True, False, False, False]


def test_a_single_step_counts_as_the_last():
    assert not is_shared(1.0, 0, 1)
    assert is_shared(1.1, 0, 1)


def test_every_self_attention_layer_is_hooked_and_no_other(base):
    names = self_attention_layers(base.unet)
    assert len(names) == 7  # two down blocks of one, the middle, two up blocks of two
    with shared_self_attention(base.unet):
        hooked = [n for n, p in base.unet.attn_processors.items() if isinstance(p, SharedSelfAttention)]
    assert hooked == names


def test_without_sharing_nothing_changes(base, batch):
    plain = base.unet(*batch).sample
    with shared_self_attention(base.unet) as sharing:
        torch.testing.assert_close(base.unet(*batch).sample, plain)
        sharing.set(torch.arange(4))
        torch.testing.assert_close(base.unet(*batch).sample, plain)
        sharing.set(torch.tensor([0, 0, 2, 2]))
        assert (base.unet(*batch).sample - plain)[1].abs().max() > 1e-4
        sharing.set(None)
        torch.testing.assert_close(base.unet(*batch).sample, plain)


@pytest.mark.parametrize("source", [[0, 0, 2, 2], [3, 3, 3, 3], [0, 2, 2, 1]])
def test_borrowing_queries_and_keys_is_copying_attention_maps(base, batch, source):
    source = torch.tensor(source)
    with shared_self_attention(base.unet) as sharing:
        sharing.set(source)
        ours = base.unet(*batch).sample
    before = dict(base.unet.attn_processors)
    names = self_attention_layers(base.unet)
    base.unet.set_attn_processor(
        {n: CopiedProbabilities(source) if n in names else p for n, p in before.items()}
    )
    try:
        reference = base.unet(*batch).sample
    finally:
        base.unet.set_attn_processor(before)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


def test_a_lending_row_does_not_notice(base, batch):
    plain = base.unet(*batch).sample
    with shared_self_attention(base.unet) as sharing:
        sharing.set(torch.tensor([0, 0, 2, 2]))
        shared = base.unet(*batch).sample
    torch.testing.assert_close(shared[[0, 2]], plain[[0, 2]])


def test_the_unet_is_restored_afterwards_also_when_the_block_fails(base):
    before = dict(base.unet.attn_processors)
    with shared_self_attention(base.unet):
        assert dict(base.unet.attn_processors) != before
    assert dict(base.unet.attn_processors) == before
    with pytest.raises(RuntimeError, match="stopped"), shared_self_attention(base.unet):
        raise RuntimeError("stopped")
    assert dict(base.unet.attn_processors) == before


def test_a_unet_without_self_attention_is_refused():
    plain = UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=8, cross_attention_dim=8,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, mid_block_type=None,
    )  # fmt: skip
    with pytest.raises(ValueError, match="UNet2DConditionModel has none"), shared_self_attention(plain):
        pass
