"""Word-level prompt-to-prompt while sampling, held against a plain one that writes attention maps down."""

import copy
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch.nn import functional as F

from ip2p_lib.attention import (
    AttentionMaps,
    LocalBlend,
    WordControl,
    positions_of,
    refinement,
    replacement,
    reweighted,
    word_attention,
)
from ip2p_lib.diffusion import euler_ancestral
from ip2p_lib.guidance import single_guidance
from ip2p_lib.pairs import word_pair_steps

HOUSE, CAT, DOG = "a red house at night", "a red cat at night", "a red dog at night"
RED = "a red house in a red meadow"
STEPS, SCALE, LENGTH = 5, 4.0, 32
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def sampled(model, edit, target=CAT, source=HOUSE, seeds=(5,), size=16, steps=STEPS, **options):
    """All steps of a pair, the last with the result."""
    return list(
        word_pair_steps(
            model, source, target, edit,
            seeds=seeds, guidance_scale=SCALE, num_inference_steps=steps, size=size, **options,
        )
    )  # fmt: skip


def sampled_alone(model, caption, seed=5):
    """Text-to-image with classifier-free guidance, no pair in sight."""
    states = model.encode_text(["", caption])

    def predict(scaled, timestep, step):
        with torch.no_grad():
            uncond, cond = model.unet(torch.cat([scaled, scaled]), timestep, states).sample.chunk(2)
        return single_guidance(cond, uncond, SCALE)

    *_, last = euler_ancestral(
        predict, model.scheduler, seeds=[seed], shape=(4, 8, 8), num_inference_steps=STEPS
    )
    return last.latents


class Original:
    """Rows [uncond A, uncond B, cond A, cond B]; maps are written down, and edited in the conditional half."""

    def __init__(self, edited=None, cross=(0.0, 0.0), own=(0.0, 0.0), steps=STEPS, largest=16**2):
        self.edited, self.step, self.largest = edited, 0, largest
        self.table = torch.zeros(steps + 1, LENGTH)
        self.table[int(cross[0] * (steps + 1)) : int(cross[1] * (steps + 1))] = 1
        self.own = range(int(steps * own[0]), int(steps * own[1]))

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, *_args, **_kwargs):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(part)
            for part in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        maps = attn.get_attention_scores(query, key).unflatten(0, (4, -1)).clone()  # (4, heads, N, T)
        base, target = maps[2].clone(), maps[3].clone()
        if encoder_hidden_states is not None:
            alpha = self.table[self.step]
            maps[3] = alpha * self.edited(base, target) + (1 - alpha) * target
        elif self.step in self.own and maps.shape[2] <= self.largest:
            maps[3] = base
        out = attn.batch_to_head_dim(maps.flatten(0, 1) @ value)
        return attn.to_out[1](attn.to_out[0](out))


def with_processor(unet, processor, *inputs):
    """What the UNet answers if all its attention is the processor's."""
    before = dict(unet.attn_processors)
    unet.set_attn_processor(processor)
    try:
        with torch.no_grad():
            return unet(*inputs).sample
    finally:
        unet.set_attn_processor(before)


def original_pair(model, original, source, target, side=8, steps=STEPS):
    """One pair by the released procedure, (2, C, side, side)."""
    states = model.encode_text(["", "", source, target])

    def predict(scaled, timestep, step):
        original.step = step
        inputs = torch.cat([scaled, scaled]), timestep, states
        uncond, cond = with_processor(model.unet, original, *inputs).chunk(2)
        return uncond + SCALE * (cond - uncond)

    *_, last = euler_ancestral(
        predict, model.scheduler, seeds=[5, 5], shape=(4, side, side), num_inference_steps=steps
    )
    return last.latents


def replaced(base, target):
    """Of the caption with a cat, that with a dog: its three tokens take a third each, the rest moves by two."""
    mapper = torch.zeros(LENGTH, LENGTH)
    mapper[range(3), range(3)] = 1
    mapper[3, [3, 4, 5]] = 1 / 3
    mapper[range(4, 30), range(6, 32)] = 1
    return torch.einsum("hpw,wn->hpn", base, mapper)


def refined(base, target):
    """Of "a red house at night", "a red house in a red meadow": as token indices and alphas."""
    mapper = torch.tensor([0, 1, 2, 3, -1, -1, -1, -1, 6, *range(9, LENGTH)])
    alphas = mapper.ne(-1).float()
    return base[..., mapper] * alphas + target * (1 - alphas)


def stressed(base, target):
    """`refined`, with the attention to red times three."""
    equalizer = torch.ones(LENGTH)
    equalizer[[2, 6]] = 3
    equalizer[7] = -1
    return refined(base, target) * equalizer


def edit_of(tokenizer, kind, until):
    """Source, target and the library's edit that ought to be `kind`."""
    if kind is replaced:
        return CAT, DOG, replacement(tokenizer, CAT, DOG, until=until)
    edit = refinement(tokenizer, HOUSE, RED, until=until)
    if kind is stressed:
        edit = reweighted(edit, tokenizer, RED, {"red": 3.0, "meadow": -1.0})
    return HOUSE, RED, edit


@pytest.mark.parametrize("kind", [replaced, refined, stressed])
@pytest.mark.parametrize(
    ("cross", "own"), [((0.0, 0.8), (0.0, 0.4)), ((0.0, 1.0), (0.0, 1.0)), ((0.4, 0.7), (0.3, 0.9))]
)
def test_pairs_equal_those_of_edited_attention_maps(backbone, kind, cross, own):
    source, target, edit = edit_of(backbone.tokenizer, kind, cross)
    last = sampled(backbone, edit, target, source, self_span=own)[-1]
    expected = original_pair(backbone, Original(kind, cross, own), source, target)
    assert (last.after - last.before).abs().max() > 1e-2
    torch.testing.assert_close(torch.cat([last.before, last.after]), expected, **CLOSE)


def test_words_with_spans_of_their_own_equal_a_table_with_a_column_per_word(base):
    until = {"dog": (0.5, 1.0), "default_": 0.5}
    original = Original(replaced, (0.0, 0.5))
    original.table[:, 3:6] = torch.tensor([0.0, 0, 0, 1, 1, 1])[:, None]
    last = sampled(base, replacement(base.tokenizer, CAT, DOG, until=until), DOG, CAT, self_span=0.0)[-1]
    torch.testing.assert_close(
        torch.cat([last.before, last.after]), original_pair(base, original, CAT, DOG), **CLOSE
    )


def test_self_attention_follows_at_no_more_than_16_by_16_places(base):
    """At 64 pixels the tiny UNet attends at 32 x 32 and 16 x 16 places."""
    source, target, edit = edit_of(base.tokenizer, refined, 1.0)
    last = sampled(base, edit, target, source, size=64, steps=1, self_span=1.0)[-1]
    for largest, is_equal in ((16**2, True), (32**2, False)):
        original = Original(refined, (0.0, 1.0), (0.0, 1.0), steps=1, largest=largest)
        expected = original_pair(base, original, source, target, side=32, steps=1)
        assert torch.allclose(torch.cat([last.before, last.after]), expected, **CLOSE) == is_equal


@pytest.mark.parametrize("largest", [15, 16, 63, 64])
def test_the_bound_on_self_attention_counts_places(base, largest):
    """The tiny UNet attends at 64 and 16 places."""
    generator = torch.Generator().manual_seed(1)
    batch = torch.randn(4, 4, 8, 8, generator=generator), 500, torch.randn(4, LENGTH, 32, generator=generator)
    edit = edit_of(base.tokenizer, refined, 1.0)[2]
    control = WordControl(edit, STEPS, (0.0, 1.0), max_self_queries=largest)
    with torch.no_grad(), word_attention(base.unet, control):
        ours = base.unet(*batch).sample
    original = Original(refined, (0.0, 1.0), (0.0, 1.0), largest=largest)
    torch.testing.assert_close(ours, with_processor(base.unet, original, *batch), **CLOSE)
    more = Original(refined, (0.0, 1.0), (0.0, 1.0), largest={15: 16, 16: 64, 63: 64, 64: 16}[largest])
    assert (ours - with_processor(base.unet, more, *batch)).abs().max() > 1e-3


def test_without_any_span_the_target_is_sampled_as_ever(backbone):
    for kind in (replaced, refined, stressed):
        source, target, edit = edit_of(backbone.tokenizer, kind, 0.0)
        last = sampled(backbone, edit, target, source, self_span=(0.0, 0.0))[-1]
        torch.testing.assert_close(last.after, sampled_alone(backbone, target), **CLOSE)
        assert (last.after - last.before).abs().max() > 1e-2


@pytest.mark.parametrize("kind", [replaced, refined, stressed])
def test_the_source_does_not_notice(backbone, kind):
    source, target, edit = edit_of(backbone.tokenizer, kind, 1.0)
    last = sampled(backbone, edit, target, source, self_span=1.0)[-1]
    torch.testing.assert_close(last.before, sampled_alone(backbone, source), **CLOSE)


@pytest.mark.parametrize("make", [replacement, refinement])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_equal_captions_give_equal_pictures(base, make, share):
    edit = make(base.tokenizer, DOG, DOG, until=share)
    last = sampled(base, edit, DOG, DOG, self_span=share)[-1]
    torch.testing.assert_close(last.before, last.after, rtol=0, atol=1e-5)


def test_a_pair_does_not_depend_on_its_batch_mates(base):
    source, target, edit = edit_of(base.tokenizer, stressed, 0.6)
    blend = LocalBlend([3], [6, 7], side=8, threshold=0.95)
    together = sampled(base, edit, target, source, seeds=(5, 6, 7), blend=blend)
    for row, seed in enumerate((5, 6, 7)):
        alone = sampled(base, edit, target, source, seeds=(seed,), blend=blend)
        for one, all_ in zip(alone, together, strict=True):
            for name in ("before", "after", "mask"):
                torch.testing.assert_close(getattr(all_, name)[row : row + 1], getattr(one, name), **CLOSE)


def test_earlier_steps_stay_as_they_were(base):
    steps = word_pair_steps(
        base, HOUSE, CAT, replacement(base.tokenizer, HOUSE, CAT), seeds=[5], guidance_scale=SCALE,
        num_inference_steps=STEPS, size=16, blend=LocalBlend([3], [3], side=8, threshold=0.9),
    )  # fmt: skip
    kept = [(step, step.after.clone()) for step in steps]
    assert [step.index for step, _ in kept] == list(range(STEPS))
    assert all(torch.equal(step.after, copied) for step, copied in kept)


@pytest.mark.parametrize(("side", "layers"), [(8, 3), (4, 4)])
def test_recorded_maps_share_out_all_attention(base, side, layers):
    """Down, up and up at 8 x 8 places, and at 4 x 4 also the middle."""
    maps = AttentionMaps(side)
    sampled(base, replacement(base.tokenizer, HOUSE, CAT, until=0.5), seeds=(5, 6), maps=maps)
    assert maps.count == layers * STEPS
    assert maps.total.shape == (4, side**2, LENGTH)
    sums = maps.total.sum(-1) / maps.count
    torch.testing.assert_close(sums, torch.ones(4, side**2))
    whole = maps.of_tokens(range(LENGTH))
    assert whole.shape == (4, side, side)
    for word in (range(3), [3], [0, 5], []):
        chosen = maps.of_tokens(word)
        assert chosen.min() >= 0
        assert chosen.max() <= 1
    torch.testing.assert_close(maps.of_tokens([3, 4]), maps.of_tokens([3]) + maps.of_tokens([4]))


def test_recorded_maps_are_the_edited_ones(base):
    """While the edit lasts to the end, a replaced word's map is the source's; reweighting shows."""
    plain, strong = AttentionMaps(8), AttentionMaps(8)
    edit = replacement(base.tokenizer, HOUSE, CAT, until=1.0)
    sampled(base, edit, maps=plain)
    sampled(base, reweighted(edit, base.tokenizer, CAT, {"cat": 2.0}), maps=strong)
    source, target = plain.of_tokens([3])
    torch.testing.assert_close(source, target)
    torch.testing.assert_close(strong.of_tokens([3])[1], 2 * strong.of_tokens([3])[0])
    assert (plain.of_tokens([3]) - plain.of_tokens([2])).abs().max() > 1e-5


def test_recording_changes_nothing(base):
    edit = refinement(base.tokenizer, HOUSE, CAT)
    with_maps, without = sampled(base, edit, maps=AttentionMaps(8))[-1], sampled(base, edit)[-1]
    assert torch.equal(with_maps.after, without.after)
    assert without.mask is None


def test_maps_of_a_resolution_that_never_occurs_are_refused(base):
    maps = AttentionMaps(7)
    edit = refinement(base.tokenizer, HOUSE, CAT)
    sampled(base, edit, maps=maps)
    with pytest.raises(ValueError, match="maps of 7 x 7 must be met while sampling, but no cross-attention"):
        maps.of_tokens([3])
    before = dict(base.unet.attn_processors)
    with pytest.raises(ValueError, match="maps of 7 x 7 must be met"):
        sampled(base, edit, blend=LocalBlend([3], [3], side=7))
    assert dict(base.unet.attn_processors) == before


def test_maps_that_do_not_suit_the_run_are_refused(base):
    edit, maps = refinement(base.tokenizer, HOUSE, CAT), AttentionMaps(8)
    with pytest.raises(ValueError, match="maps must have the side of the blend, 4, got 8"):
        sampled(base, edit, maps=maps, blend=LocalBlend([3], [3], side=4))
    sampled(base, edit, maps=maps)
    with pytest.raises(ValueError, match="maps must be empty when sampling begins"):
        sampled(base, edit, maps=maps)


def hand_made(*pictures):
    """Maps with one head, one layer and one token per row, from (side, side) tables."""
    maps = AttentionMaps(len(pictures[0]))
    maps.add(torch.stack([p.flatten() for p in pictures])[:, None, :, None])
    return maps


def test_a_mask_is_where_either_word_is_looked_for_grown_and_enlarged():
    """A place on a 6 x 6 map grows to 3 x 3, in the corner to 2 x 2, and each place becomes 2 x 2 latents."""
    source, target = torch.full((6, 6), 0.1), torch.full((6, 6), 0.1)
    source[3, 3], target[0, 5], target[5, 0] = 0.8, 0.5, 0.1
    blend = LocalBlend([0], [0], side=6)
    expected = torch.zeros(12, 12)
    expected[4:10, 4:10] = expected[0:4, 8:12] = 1
    mask = blend.mask(hand_made(source, target), (12, 12))
    assert mask.shape == (1, 1, 12, 12)
    assert torch.equal(mask[0, 0], expected)


def test_masks_compare_with_the_maximum_of_their_own_map():
    faint, strong, flat = torch.full((5, 5), 0.001), torch.full((5, 5), 0.2), torch.full((5, 5), 0.1)
    faint[0, 0], strong[4, 4] = 0.01, 1.0
    mask = LocalBlend([0], [0], side=5).mask(hand_made(faint, flat, strong, flat), (5, 5))
    assert mask.sum((1, 2, 3)).tolist() == [8, 25]  # either corner; and a flat map holds everywhere
    mask = LocalBlend([0], [0], side=5).mask(hand_made(faint, strong, faint, strong), (5, 5))
    assert mask.sum((1, 2, 3)).tolist() == [4, 4]
    assert mask[0, 0, 0, 0] == mask[1, 0, 4, 4] == 1


@pytest.mark.parametrize("factor", [0.0, -2.0])
def test_a_word_weighted_to_nothing_is_nowhere(factor):
    source = torch.full((5, 5), 0.1)
    source[0, 0] = 0.9
    mask = LocalBlend([0], [0], side=5).mask(hand_made(source, factor * source.T.flip(1)), (5, 5))
    assert mask.sum() == 4


def test_the_mask_of_a_step_comes_from_the_maps_so_far(base):
    """The blend's own formula, written out over the recorded maps."""
    maps, edit = AttentionMaps(4), replacement(base.tokenizer, CAT, DOG)
    blend = LocalBlend(
        positions_of(base.tokenizer, CAT, "cat"), positions_of(base.tokenizer, DOG, "dog"), 4, 0.97
    )
    last = sampled(base, edit, DOG, CAT, maps=maps, blend=blend)[-1]
    both = torch.stack([maps.total[0, :, [3]].sum(-1), maps.total[1, :, [3, 4, 5]].sum(-1)])
    grown = F.max_pool2d(both.view(2, 1, 4, 4), 3, 1, 1)
    wide = grown.repeat_interleave(2, 2).repeat_interleave(2, 3)
    relative = wide / wide.amax((2, 3), keepdim=True)
    expected = ((relative[:1] > 0.97) | (relative[1:] > 0.97)).float()
    assert torch.equal(last.mask, expected)


def test_outside_the_mask_the_target_is_the_source(base):
    source, target, edit = edit_of(base.tokenizer, refined, 0.6)
    blend = LocalBlend([3], [7, 8], side=8, threshold=0.995)
    for step in sampled(base, edit, target, source, seeds=(5, 6), blend=blend):
        assert step.mask.shape == (2, 1, 8, 8)
        assert 0 < step.mask.mean() < 1
        inside = step.mask.expand_as(step.after) > 0
        assert torch.equal(step.after[~inside], step.before[~inside])
        assert (step.after[inside] != step.before[inside]).any()


def test_a_blend_that_holds_everywhere_or_nowhere(base):
    """Threshold 0 is exceeded by all attention, threshold 1 by none."""
    source, target, edit = edit_of(base.tokenizer, refined, 0.6)
    free = sampled(base, edit, target, source)
    blend = LocalBlend([3], [7], side=8, threshold=0.0)
    for step, without in zip(sampled(base, edit, target, source, blend=blend), free, strict=True):
        assert step.mask.min() == 1
        assert torch.equal(step.after, without.after)
        assert torch.equal(step.before, without.before)
    for step in sampled(base, edit, target, source, blend=replace(blend, threshold=1.0)):
        assert step.mask.max() == 0
        assert torch.equal(step.after, step.before)


@pytest.mark.parametrize(("start", "first"), [(0.0, 0), (0.2, 1), (0.39, 1), (0.6, 3), (1.0, 5)])
def test_a_blend_begins_after_its_share_of_the_steps(base, start, first):
    edit = refinement(base.tokenizer, HOUSE, CAT)
    blend = LocalBlend([3], [3], side=8, threshold=1.0, start=start)
    steps = sampled(base, edit, blend=blend)
    assert [step.mask is not None for step in steps] == [i >= first for i in range(STEPS)]
    assert [torch.equal(s.before, s.after) for s in steps] == [i >= first for i in range(STEPS)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 1.5}, r"LocalBlend\.threshold is a share and must lie in \[0, 1\], got 1\.5"),
        ({"start": -0.1}, r"LocalBlend\.start is a share and must lie in \[0, 1\], got -0\.1"),
        ({"threshold": float("nan")}, r"LocalBlend\.threshold is a share"),
        ({"source_tokens": []}, r"LocalBlend\.source_tokens must name at least one token"),
        ({"target_tokens": ()}, r"LocalBlend\.target_tokens must name at least one token"),
    ],
)
def test_a_blend_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        LocalBlend(**{"source_tokens": [1], "target_tokens": [1], "side": 8} | change)


@pytest.mark.parametrize("span", [(0.0, 40), (0.5, 0.2), -0.1])
def test_a_span_of_self_attention_outside_its_range_is_refused(base, span):
    with pytest.raises(ValueError, match=r"a span of steps must lie in \[0, 1\]"):
        sampled(base, refinement(base.tokenizer, HOUSE, CAT), self_span=span)


def test_a_pair_without_a_seed_is_refused(base):
    with pytest.raises(ValueError, match="at least one seed"):
        sampled(base, refinement(base.tokenizer, HOUSE, CAT), seeds=())


def test_between_steps_the_unet_is_the_callers_own(base):
    """Two pairs taken in turns, and ordinary sampling in between, do not disturb each other."""
    before = dict(base.unet.attn_processors)
    kinds = [edit_of(base.tokenizer, kind, 1.0) for kind in (replaced, stressed)]
    apart = [sampled(base, edit, target, source)[-1] for source, target, edit in kinds]
    running = [
        word_pair_steps(
            base, source, target, edit, seeds=[5], guidance_scale=SCALE, num_inference_steps=STEPS, size=16
        )
        for source, target, edit in kinds
    ]
    plain = sampled_alone(base, HOUSE)
    taken = ()
    for taken in zip(*running, strict=True):
        assert taken[0].index == taken[1].index
        assert dict(base.unet.attn_processors) == before
        assert torch.equal(sampled_alone(base, HOUSE), plain)
    for step, alone in zip(taken, apart, strict=True):
        torch.testing.assert_close(step.after, alone.after)


def test_the_unet_is_restored_afterwards_also_when_the_block_fails(base):
    before = dict(base.unet.attn_processors)
    control = WordControl(refinement(base.tokenizer, HOUSE, CAT), STEPS)
    with word_attention(base.unet, control):
        assert not set(base.unet.attn_processors.values()) & set(before.values())
    assert dict(base.unet.attn_processors) == before
    with pytest.raises(RuntimeError, match="stopped"), word_attention(base.unet, control):
        raise RuntimeError("stopped")
    assert dict(base.unet.attn_processors) == before
    with pytest.raises(ValueError, match="num_inference_steps"):
        sampled(base, control.edit, steps=0)
    assert dict(base.unet.attn_processors) == before


@pytest.mark.parametrize("kind", ["self", "cross"])
def test_a_unet_that_lacks_a_kind_of_attention_is_refused(base, kind):
    unet = copy.deepcopy(base.unet)
    for block in unet.modules():
        if isinstance(block, BasicTransformerBlock):
            setattr(block, {"self": "attn1", "cross": "attn2"}[kind], None)
    control = WordControl(refinement(base.tokenizer, HOUSE, CAT), STEPS)
    message = f"must hook {kind}-attention layers, UNet2DConditionModel has none"
    with pytest.raises(ValueError, match=message), word_attention(unet, control):
        pass


def test_attention_of_other_blocks_is_left_alone(base):
    """Blocks of plain self-attention over pixels, which no caption reaches."""
    with torch.random.fork_rng():
        unet = UNet2DConditionModel(
            block_out_channels=(32, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=32,
            down_block_types=("CrossAttnDownBlock2D", "AttnDownBlock2D"), attention_head_dim=4,
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), mid_block_type=None,
        )  # fmt: skip
    plain = {n: p for n, p in unet.attn_processors.items() if ".attn1." not in n and ".attn2." not in n}
    assert plain
    with word_attention(unet, WordControl(refinement(base.tokenizer, HOUSE, CAT), STEPS)), torch.no_grad():
        assert all(unet.attn_processors[name] is processor for name, processor in plain.items())
        unet(torch.zeros(4, 4, 8, 8), 500, torch.zeros(4, LENGTH, 32))


def test_a_unet_in_half_precision_works(base):
    model = base.with_unet(copy.deepcopy(base.unet).to(torch.bfloat16), "half")
    source, target, edit = edit_of(base.tokenizer, stressed, 0.6)
    maps, blend = AttentionMaps(8), LocalBlend([3], [6], side=8, threshold=0.0)
    half = sampled(model, edit, target, source, maps=maps, blend=blend)[-1]
    full = sampled(base, edit, target, source)[-1]
    assert half.after.dtype == maps.total.dtype == torch.float32
    torch.testing.assert_close(maps.total[0].sum(-1) / maps.count, torch.ones(64))
    assert (half.after - full.after).abs().mean() < 0.05 * full.after.abs().mean()
