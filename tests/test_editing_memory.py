"""Remembered latents and text states: the same edits to the bit, computed once, bounded, never another model's."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ip2p_lib.editing import Memory, edit, film
from ip2p_lib.editing.memory import Kept
from ip2p_lib.scenes import render, sample_scenes

TEXTS = ["make it night", "add a rainbow", "make it night", "turn the house into a cat"]


@pytest.fixture
def counted(editor, monkeypatch):
    """How many pictures and texts were encoded, by call."""
    calls = {"encoder": [], "texts": []}
    hooks = [
        editor.vae.encoder.register_forward_pre_hook(lambda _, x: calls["encoder"].append(len(x[0]))),
        editor.text_encoder.register_forward_pre_hook(lambda _, x: calls["texts"].append(len(x[0]))),
    ]
    yield calls
    for hook in hooks:
        hook.remove()


def test_edits_are_the_same_with_and_without_memory(editor, edit_config):
    pictures, memory = [render(s, 32) for s in sample_scenes(4, 5)], Memory()
    edit(editor, pictures[2:], TEXTS[:2], config=edit_config, memory=memory)  # some are known, some are not
    remembered = edit(editor, pictures, TEXTS, config=edit_config, memory=memory)
    for a, b in zip(remembered, edit(editor, pictures, TEXTS, config=edit_config), strict=True):
        assert np.array_equal(a.picture, b.picture)
        assert a.recipe == b.recipe


def test_a_film_ends_at_the_edit_and_shares_its_memory(editor, picture, edit_config, counted):
    memory = Memory()
    result = edit(editor, picture, TEXTS[0], config=edit_config, seed=3, memory=memory)[0]
    before = copy.deepcopy(counted)
    *_, (step, last) = film(editor, picture, TEXTS[0], config=edit_config, seed=3, memory=memory)
    assert counted == before
    assert step.index == edit_config.num_inference_steps - 1
    assert np.array_equal(last, result.picture)


def test_pictures_and_texts_are_encoded_once(editor, picture, edit_config, counted):
    memory = Memory()
    edit(editor, picture, TEXTS, config=edit_config, memory=memory)
    assert counted == {"encoder": [1], "texts": [1] * 4}  # three instructions and the empty one
    edit(editor, picture, TEXTS, config=edit_config, guidance_scale=2.0, memory=memory)
    edit(editor, picture.copy(), TEXTS[1], config=edit_config, memory=memory)
    assert counted == {"encoder": [1], "texts": [1] * 4}
    edit(
        editor, picture, TEXTS, config=edit_config
    )  # without memory nothing is kept, but nothing is done twice
    assert counted == {"encoder": [1, 1], "texts": [1] * 8}


def test_another_size_picture_model_or_dtype_is_not_mistaken(editor, picture):
    memory, small = Memory(), Image.new("RGB", (16, 16), "teal")
    first = memory.latents(editor, small)
    changed = small.copy()
    changed.putpixel((3, 3), (0, 129, 128))
    assert not torch.equal(memory.latents(editor, changed), first)
    assert memory.latents(editor, small.resize((32, 8))).shape != first.shape
    other = copy.deepcopy(editor.vae)
    other.quant_conv.bias.add_(1)
    assert torch.allclose(memory.latents(replace(editor, vae=other), small), first + 1, atol=1e-5)
    assert memory.latents(editor, small) is first
    half = replace(editor, vae=copy.deepcopy(editor.vae).to(torch.bfloat16))
    assert memory.latents(half, small).dtype == torch.bfloat16
    states = memory.states(editor, "make it night")
    assert torch.equal(states, editor.encode_text(["make it night"]))
    wide = editor.with_unet(copy.deepcopy(editor.unet).double(), "wide")
    assert memory.states(wide, "make it night").dtype == torch.float64


def test_what_was_unused_for_longest_is_forgotten():
    kept, owner, made = Kept(2), torch.nn.Identity(), []

    def ask(key):
        return kept.get(owner, key, lambda: made.append(key) or key)

    for key in "abac":  # c pushes b out, for a was asked for again
        assert ask(key) == key
    assert made == list("abc")
    ask("a")
    ask("b")
    assert made == list("abcb")
    assert len(kept) == 2


def test_a_failed_answer_is_not_kept():
    kept, owner = Kept(2), torch.nn.Identity()
    with pytest.raises(ZeroDivisionError):
        kept.get(owner, "a", lambda: 1 / 0)
    assert kept.get(owner, "a", lambda: 5) == 5


def test_a_memory_without_room_is_refused():
    with pytest.raises(ValueError, match="room for at least 1 entry, got 0"):
        Memory(pictures=0)
