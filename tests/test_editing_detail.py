"""Detail put back: the input itself where nothing changed, nothing where all did, and closer to the exact answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ip2p_lib import images
from ip2p_lib.editing import Memory, edit, film, recipe_of, shown
from ip2p_lib.editing.detail import FADE, with_detail
from ip2p_lib.presets import MINIATURE
from ip2p_lib.scenes import render, sample_scenes
from ip2p_lib.triplets import edit_of, world_triplets


def random_pixels(seed, count=2):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_input_comes_back_where_the_edit_is_its_reconstruction():
    original, rebuilt = random_pixels(0), random_pixels(1)
    torch.testing.assert_close(with_detail(rebuilt, rebuilt, original), original)


def test_nothing_is_added_far_from_the_input_nor_where_nothing_was_lost():
    original, edited = random_pixels(0), random_pixels(1) / 2
    assert torch.equal(with_detail(edited, edited - 8 * FADE, original), edited)
    assert torch.equal(with_detail(edited, original, original), edited)


def test_the_further_from_the_input_the_less_comes_back():
    rebuilt, lost = torch.zeros(1, 3, 1, 6), 0.3
    apart = torch.linspace(0, 0.4, 6).expand(1, 3, 1, 6)
    added = (with_detail(rebuilt + apart, rebuilt, rebuilt + lost) - apart)[0, 0, 0]
    assert (added.diff() < 0).all()
    torch.testing.assert_close(added, lost * torch.exp(-((apart[0, 0, 0] / FADE) ** 2)))


def test_the_result_stays_in_range():
    out = with_detail(torch.full((1, 3, 2, 2), 0.95), torch.full((1, 3, 2, 2), 0.93), torch.ones(1, 3, 2, 2))
    assert out.max() <= 1


def test_latents_of_the_input_show_the_input_to_the_bit(editor, edit_config):
    memory, pictures = Memory(), [render(s, 32) for s in sample_scenes(2, 4)]
    latents = torch.cat([memory.latents(editor, p) for p in pictures]) * editor.vae.config.scaling_factor
    for restore in (False, True):
        recipes = [recipe_of(editor, "", "make it night", edit_config, restore_detail=restore)] * 2
        found = shown(editor, latents, pictures, recipes, memory)
        assert all(np.array_equal(a, b) == restore for a, b in zip(found, pictures, strict=True))


def test_a_film_ends_at_the_edit_and_no_row_depends_on_another(editor, edit_config):
    config = replace(edit_config, restore_detail=True)
    pictures = [render(s, 32) for s in sample_scenes(3, 4)]
    together = edit(editor, pictures, "make it night", config=config, seed=[1, 2, 3])
    alone = edit(editor, pictures[1], "make it night", config=config, seed=2)[0]
    *_, (_, last) = film(editor, pictures[1], "make it night", config=config, seed=2)
    plain = edit(editor, pictures[1], "make it night", config=config, seed=2, restore_detail=False)[0]
    assert np.array_equal(alone.picture, last)
    assert np.abs(np.asarray(together[1].picture, int) - np.asarray(alone.picture, int)).max() <= 1
    assert alone.recipe == together[1].recipe == replace(plain.recipe, restore_detail=True)
    assert not np.array_equal(alone.picture, plain.picture)


@pytest.mark.slow
def test_edits_come_closer_to_the_exact_answer(shipped_editor):
    triplets = list(world_triplets(32, 907, held_out=True))
    before, after = (
        [render(getattr(edit_of(t), name), 64) for t in triplets] for name in ("before", "after")
    )
    truth, distance = images.to_tensor(after), {}
    for restore in (False, True):
        results = edit(
            shipped_editor, before, [t.edit for t in triplets], config=MINIATURE.edit, restore_detail=restore
        )
        distance[restore] = (images.to_tensor([r.picture for r in results]) - truth).abs().mean().item()
    assert distance[True] < 0.97 * distance[False]
