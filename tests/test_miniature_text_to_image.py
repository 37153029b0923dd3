"""Which scenes a step of the text-to-image model's training sees."""

from dataclasses import replace

import numpy as np

from ip2p_lib.miniature.text_to_image import UNetRecipe, picked_scenes

RECIPE = UNetRecipe(batch_size=40, kite_share=0.25)
KITES = np.arange(0, 200, 20)


def test_kites_get_their_share_at_no_fixed_places_of_the_batch():
    steps = [picked_scenes(200, KITES, RECIPE, step) for step in range(50)]
    shown = np.isin(steps, KITES)
    assert all(len(picked) == 40 for picked in steps)
    assert (shown.sum(1) >= 10).all()  # and some more among the others
    assert (shown.mean(0) > 0).all()  # a place in the batch decides how noisy a picture becomes


def test_a_step_is_the_same_whenever_it_is_asked_for_and_all_scenes_come():
    again = picked_scenes(200, KITES, RECIPE, 7)
    np.testing.assert_array_equal(again, picked_scenes(200, KITES, RECIPE, 7))
    seen = np.concatenate([picked_scenes(200, KITES, RECIPE, step) for step in range(7)])
    assert set(seen) == set(range(200))  # 30 of any scene in each step


def test_without_a_share_no_scene_is_favoured():
    seen = np.concatenate([picked_scenes(200, KITES, replace(RECIPE, kite_share=0.0), s) for s in range(5)])
    assert (np.bincount(seen, minlength=200) == 1).all()
