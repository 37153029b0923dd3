"""What the steps of an edit share: the plain UNet's answers, fewer computations, nothing left behind."""

import copy
import threading

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from ip2p_lib.attention import shared_self_attention
from ip2p_lib.editing import Memory, edit, edit_latents
from ip2p_lib.editing.graphs import CapturedStep
from ip2p_lib.editing.packing import packed_convolutions
from ip2p_lib.editing.reuse import SharedWork, before_text, can_share, forwards
from ip2p_lib.presets import MINIATURE
from ip2p_lib.samplers import SAMPLERS, sample, timesteps_of
from ip2p_lib.scenes import render, sample_scenes


def inputs_of(unet, count, branches, seed=0, side=8, tokens=32):
    """Rows as an edit has them: the same noise and picture twice, then without the picture; texts differ."""
    generator = torch.Generator().manual_seed(seed)
    noise, pictures = (torch.randn(count, 4, side, side, generator=generator) for _ in range(2))
    rows = [torch.cat([noise, pictures * on], 1) for on in (1, 1, 0)[:branches]]
    width = unet.config.cross_attention_dim
    states = torch.randn(branches * count, tokens, width, generator=generator)
    return torch.cat(rows), states


@torch.no_grad()
def plain(unet, inputs, timestep, states):
    return unet(inputs, timestep, states).sample


def names_of(unet):
    """Everything that a call could leave behind."""
    replaced = [n for n, m in unet.named_modules() if "forward" in m.__dict__]
    hooks = [n for n, m in unet.named_modules() if m._forward_hooks or m._forward_pre_hooks]
    return replaced, hooks, {n: type(p) for n, p in unet.attn_processors.items()}, list(unet.state_dict())


@pytest.mark.parametrize("packed", [None, packed_convolutions])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("branches", "alike"), [(3, True), (2, True), (3, False), (1, False)])
@torch.no_grad()
def test_answers_are_the_plain_unets(editor, count, branches, alike, packed):
    unet, timesteps = editor.unet, torch.tensor([999.0, 500.5, 17.0])
    inputs, states = inputs_of(unet, count, branches)
    shared = SharedWork(unet, alike=count if alike else 0, timesteps=timesteps, packed=packed)
    for step, timestep in enumerate(timesteps):
        ours = shared(inputs + step * inputs.sign(), timestep, states, step)
        theirs = plain(unet, inputs + step * inputs.sign(), timestep, states)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("tokens", [1, 16, 77])
@torch.no_grad()
def test_a_text_of_any_length_answers_as_it_is(shipped_editor, tokens):
    unet, timestep = shipped_editor.unet, torch.tensor(431.0)
    inputs, states = inputs_of(unet, 1, 3, side=16, tokens=tokens)
    shared = SharedWork(unet, alike=1)
    seen = []
    hook = unet.register_forward_pre_hook(lambda _, args: seen.append(args[2].shape[1]))
    first, again = (shared(inputs, timestep, states, step) for step in range(2))
    states.mul_(-1)
    shared.reread()
    other = shared(inputs, timestep, states, 2)
    hook.remove()
    assert seen == [-(-tokens // 16) * 16] * 3
    assert torch.equal(first, again)
    torch.testing.assert_close(first, plain(unet, inputs, timestep, -states), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other, plain(unet, inputs, timestep, states), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(first, other, rtol=1e-2)


@torch.no_grad()
def test_text_and_common_rows_alone_answer_as_the_plain_unet(shipped_editor):
    """Common rows are a smaller batch, and which kernel a batch gets is the processor's affair: not to the bit."""
    unet, timestep = shipped_editor.unet, torch.tensor(431.0)
    inputs, states = inputs_of(unet, 2, 3, side=16)
    shared = SharedWork(unet, alike=2)
    for step, t in enumerate((timestep, timestep / 2)):
        torch.testing.assert_close(
            shared(inputs, t, states, step), plain(unet, inputs, t, states), rtol=1e-5, atol=1e-5
        )


@torch.no_grad()
def test_keys_and_values_of_the_text_are_computed_once_and_common_rows_not_twice(editor):
    unet, rows = editor.unet, {}
    watched = {
        n: m for n, m in unet.named_modules() if n.endswith(("attn2.to_k", "attn2.to_v", "time_emb_proj"))
    }
    assert len(watched) > 10
    alone = {n: m for m in before_text(unet) for n, o in unet.named_modules() if o is m}
    watched |= alone

    def counting(name, forward):
        def counted(first, *args, **kwargs):
            rows.setdefault(name, []).append(len(first))
            return forward(first, *args, **kwargs)

        return counted

    inputs, states = inputs_of(unet, 2, 3)
    with forwards({m: counting(n, m.forward) for n, m in watched.items()}):
        timesteps = torch.tensor([900.0, 400.0, 30.0])
        shared = SharedWork(unet, alike=2, timesteps=timesteps)
        for step, timestep in enumerate(timesteps):
            shared(inputs, timestep, states, step)
    for name, seen in rows.items():
        expected = [4] * 3 if name in alone else [3] if "time_emb_proj" in name else [6]
        assert seen == expected, name
    assert set(rows) == set(watched)


@torch.no_grad()
def test_another_text_is_read_anew(editor):
    unet, timestep = editor.unet, torch.tensor(300.0)
    inputs, states = inputs_of(unet, 1, 3)
    shared = SharedWork(unet, alike=1)
    first = shared(inputs, timestep, states, 0)
    other = states.flip(0)
    torch.testing.assert_close(shared(inputs, timestep, other, 0), plain(unet, inputs, timestep, other))
    assert not torch.allclose(first, plain(unet, inputs, timestep, other))


@torch.no_grad()
def test_attention_of_another_kind_goes_together_with_it(editor):
    unet, timestep = copy.deepcopy(editor.unet), torch.tensor(300.0)
    inputs, states = inputs_of(unet, 1, 3)
    unet.set_attn_processor(AttnProcessor())  # scores written down instead of the fused kernel
    shared = SharedWork(unet, alike=1)
    torch.testing.assert_close(
        shared(inputs, timestep, states, 0), plain(unet, inputs, timestep, states), rtol=1e-5, atol=2e-6
    )
    with shared_self_attention(unet) as state:
        state.set(None)
        torch.testing.assert_close(
            shared(inputs, timestep, states, 0), plain(unet, inputs, timestep, states), rtol=1e-5, atol=2e-6
        )
    assert {type(p) for p in unet.attn_processors.values()} == {AttnProcessor}


def started(editor, seed=0):
    """An edit under way."""
    pixels = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    return edit_latents(
        editor, editor.image_latents(pixels), editor.encode_text(["make it night"]), editor.encode_text([""]),
        guidance_scales=[3.0], image_guidance_scales=[1.5], seeds=[seed], num_inference_steps=5,
    )  # fmt: skip


def test_nothing_stays_on_the_unet_between_steps_after_leaving_and_after_an_error(editor, monkeypatch):
    before = names_of(editor.unet)
    steps = started(editor)
    for _ in range(2):
        next(steps)
        assert names_of(editor.unet) == before
    steps.close()
    assert names_of(editor.unet) == before
    steps = started(editor)
    next(steps)
    seen = []

    def breaks(*_):
        seen.append([n for n, m in editor.unet.named_modules() if "forward" in m.__dict__])
        raise RuntimeError("out of memory")

    handle = editor.unet.conv_out.register_forward_pre_hook(breaks)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            next(steps)
    finally:
        handle.remove()
    assert len(seen[0]) > 10  # it was in the midst of it
    assert names_of(editor.unet) == before


def test_a_forward_that_was_there_before_is_used_and_put_back(editor):
    unet = copy.deepcopy(editor.unet)
    original, calls = unet.conv_in.forward, []
    mine = unet.conv_in.forward = lambda x: (calls.append(len(x)), original(x))[1]
    inputs, states = inputs_of(unet, 1, 3)
    with torch.no_grad():
        SharedWork(unet, alike=1)(inputs, torch.tensor(5.0), states, 0)
    assert calls == [2]
    assert unet.conv_in.forward is mine


def test_edits_may_take_turns_on_one_unet(editor):
    alone = [[s.latents for s in started(editor, seed)] for seed in (1, 2)]
    in_turns = list(zip(started(editor, 1), started(editor, 2), strict=True))
    for row, latents in enumerate(alone):
        assert all(torch.equal(pair[row].latents, one) for pair, one in zip(in_turns, latents, strict=True))


def test_edits_in_two_threads_do_not_disturb_each_other(editor):
    expected = [list(started(editor, seed))[-1].latents for seed in (1, 2)]
    found = {}
    threads = [
        threading.Thread(target=lambda s=seed: found.update({s: list(started(editor, s))[-1].latents}))
        for seed in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[seed], latents) for seed, latents in zip((1, 2), expected, strict=True))


@torch.no_grad()
def test_a_unet_with_compiled_parts_is_called_as_it_is(editor):
    unet = copy.deepcopy(editor.unet)
    assert can_share(unet)
    unet.conv_in.compile(backend="eager")
    assert not can_share(unet)
    inputs, states = inputs_of(unet, 1, 3)
    ours = SharedWork(unet, alike=1, timesteps=torch.tensor([7.0]))(inputs, torch.tensor(7.0), states, 0)
    assert torch.equal(ours, plain(editor.unet, inputs, torch.tensor(7.0), states))


@pytest.mark.parametrize("name", SAMPLERS)
def test_timesteps_are_those_that_the_sampler_visits(base, name):
    visited = []

    def predict(scaled, timestep, step):
        visited.append(float(timestep))
        return torch.zeros_like(scaled)

    for _ in sample(name, predict, base.scheduler, seeds=[0], shape=(4, 2, 2), num_inference_steps=7):
        pass
    assert visited == timesteps_of(name, base.scheduler, 7).tolist()


@torch.no_grad()
def test_a_captured_step_serves_edit_after_edit(editor):
    unet, step = editor.unet, CapturedStep(editor.unet, 2)
    for seed in range(3):
        inputs, states = inputs_of(unet, 2, 3, seed)
        for timestep in (torch.tensor(800), torch.tensor(31.5)):
            answer = step(inputs, timestep, states, 0)
            torch.testing.assert_close(answer, plain(unet, inputs, timestep, states), rtol=1e-5, atol=2e-6)


def test_with_graph_an_edit_is_the_same(editor, picture, edit_config):
    memory = Memory()
    for seed, text in enumerate(("make it night", "add a rainbow")):
        arguments = {"config": edit_config, "seed": seed}
        expected = edit(editor, picture, text, **arguments)[0]
        for options in ({"graph": True}, {"graph": True, "memory": memory}):
            result = edit(editor, picture, text, **arguments, **options)[0]
            assert result.recipe == expected.recipe
            assert (
                max(
                    abs(a - b)
                    for a, b in zip(result.picture.tobytes(), expected.picture.tobytes(), strict=True)
                )
                <= 1
            )
    assert len(memory.steps) == 1


@pytest.mark.gpu
@torch.no_grad()
def test_a_graph_replays_what_the_unet_answers(editor):
    unet = copy.deepcopy(editor.unet).cuda()
    step = CapturedStep(unet, 2)
    for seed in range(3):
        inputs, states = (t.cuda() for t in inputs_of(unet, 2, 3, seed))
        for timestep in (torch.tensor(800.0).cuda(), torch.tensor(31.5).cuda()):
            expected = plain(unet, inputs, timestep, states)
            torch.testing.assert_close(step(inputs, timestep, states, 0), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_shipped_editor_makes_the_same_pictures_with_a_plain_unet(shipped_editor, monkeypatch):
    inputs = [render(s, 64) for s in sample_scenes(4, 911)]
    ours = edit(shipped_editor, inputs, "make it night", config=MINIATURE.edit)
    monkeypatch.setattr("ip2p_lib.editing.reuse.can_share", lambda _: False)
    theirs = edit(shipped_editor, inputs, "make it night", config=MINIATURE.edit)
    for a, b in zip(ours, theirs, strict=True):
        assert max(abs(x - y) for x, y in zip(a.picture.tobytes(), b.picture.tobytes(), strict=True)) <= 1
