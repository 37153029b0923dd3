"""What controls choose among, without the controls: each against the stage of the library that it shows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ip2p_lib import records
from ip2p_lib.attention import AttentionMaps
from ip2p_lib.course import explorables
from ip2p_lib.course.explorables import (
    bars,
    forward_process,
    given_at,
    likeliest,
    maps_by_step,
    outlined,
    select_by_bounds,
)
from ip2p_lib.diffusion import Schedule
from ip2p_lib.filtering import passes
from ip2p_lib.presets import FilterConfig
from ip2p_lib.training import conditioning_dropout

SCHEDULE = Schedule(torch.linspace(0.999, 0.001, 100), "epsilon")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_forward_process_mixes_one_picture_with_one_noise():
    latents, noise = normal(2, 4, 8, 8), normal(2, 4, 8, 8, seed=1)
    found = forward_process(SCHEDULE, latents, noise, [0, 50, 99])
    for step in found:
        expected = step.kept**0.5 * latents + (1 - step.kept) ** 0.5 * noise
        torch.testing.assert_close(step.latents, expected)
    ratios = [s.signal_to_noise for s in found]
    assert ratios == sorted(ratios, reverse=True)
    assert found[0].signal_to_noise == pytest.approx(999, rel=1e-3)
    assert found[0].decibels == pytest.approx(30, abs=0.1)
    with pytest.raises(ValueError, match=r"a timestep must lie in 0\.\.99, got 100"):
        forward_process(SCHEDULE, latents, noise, [100])


def filled(maps, steps):
    for probabilities in steps:
        for layer in probabilities:
            maps.add(layer)
        yield None


def test_maps_by_step_take_the_sums_apart():
    side, tokens = 4, 5
    steps = [[normal(2, 3, 16, tokens, seed=10 * s + i).softmax(-1) for i in range(2)] for s in range(3)]
    maps = AttentionMaps(side)
    found = maps_by_step(filled(maps, steps), maps, {"cat": [1, 2], "sky": [4]})
    for word, positions in (("cat", [1, 2]), ("sky", [4])):
        for step, layers in enumerate(steps):
            expected = torch.stack(layers).mean((0, 2))[1][:, positions].sum(-1).view(side, side)
            torch.testing.assert_close(found[word][step], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="at least one step, got none"):
        maps_by_step([], AttentionMaps(side), {"cat": [1]})


def scores(count=40):
    rows = np.random.default_rng(0).uniform(0, 1, (count, 4))
    return [dict(zip(records.SIMILARITIES, map(float, row), strict=True)) for row in rows]


CONFIG = FilterConfig(min_text=0.2, min_direction=0.3, min_image=0.1)


def test_a_selection_keeps_what_passes_and_orders_by_the_distance_to_the_bounds():
    rows = scores()
    found = select_by_bounds(rows, CONFIG)
    assert set(found.kept) == {i for i, r in enumerate(rows) if passes(r, CONFIG)}
    assert sorted(found.kept + found.rejected) == list(range(len(rows)))
    nearer = replace(CONFIG, min_direction=rows[found.kept[0]]["clip_sim_dir"] + 0.01)
    alone = select_by_bounds(
        [{**r, "clip_sim_0": 1.0, "clip_sim_1": 1.0, "clip_sim_image": 1.0} for r in rows], nearer
    )
    directions = [rows[i]["clip_sim_dir"] for i in alone.kept]
    assert directions == sorted(directions)
    assert [rows[i]["clip_sim_dir"] for i in alone.rejected] == sorted(
        (rows[i]["clip_sim_dir"] for i in alone.rejected), reverse=True
    )


def test_what_a_selection_bought():
    found = explorables.Selection(kept=(0, 1), rejected=(2, 3))
    assert found.bought([True, False, True, True]) == (0.5, 1 / 3)
    assert explorables.Selection((), (0,)).bought([False]) == (0, 0)


def test_the_likeliest_tokens_are_those_of_the_softmax():
    logits = torch.tensor([0.0, 2.0, 1.0])
    found = likeliest(logits, 0.5, ("a", "b", "c"), most=2)
    expected = (logits.double() / 0.5).softmax(-1)
    assert [w for w, _ in found] == ["b", "c"]
    assert [p for _, p in found] == pytest.approx([expected[1].item(), expected[2].item()])
    assert len(likeliest(logits, 1.0, ("a", "b", "c"))) == 3
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        likeliest(logits, 0, ("a", "b", "c"))


def test_bars_are_as_long_as_their_shares():
    sheet = np.asarray(bars([("half", 0.5), ("all", 1.0), ("none", 0.0)], marked="half"))
    marked, plain = ((sheet == colour).all(-1) for colour in (explorables.ORANGE, explorables.BLUE))
    assert marked.any(1).sum() > 10
    lengths = [marked.sum(1).max(), plain[:56].sum(1).max(), plain[56:].sum(1).max()]
    assert lengths[1] == pytest.approx(2 * lengths[0], abs=2)
    assert lengths[2] <= 2


@pytest.mark.parametrize("prob", [0.0, 0.05, 1 / 3])
def test_what_a_draw_leaves_is_what_training_drops(prob):
    for draw in np.linspace(0, 0.999, 60):
        text, picture = conditioning_dropout(torch.tensor([draw]), prob)
        left = given_at(float(draw), prob)
        assert (left.text, left.picture) == (not text.item(), not picture.item())


def test_a_draw_says_what_it_teaches():
    taught = [given_at(r, 0.05).teaches for r in (0.02, 0.07, 0.12, 0.5)]
    assert [t.split(",")[0] for t in taught] == [
        "with the picture alone",
        "with nothing at all",
        "with the text alone",
        "with picture and text",
    ]
    with pytest.raises(ValueError, match=r"a draw must lie in \[0, 1\), got 1"):
        given_at(1, 0.05)
    with pytest.raises(ValueError, match=r"0\.5"):
        given_at(0.1, 0.5)


def test_an_outline_runs_around_the_mask_and_nowhere_else():
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    out = np.asarray(outlined(Image.new("RGB", (8, 8), "white"), mask))
    red = (out == explorables.ORANGE).all(-1)
    assert out.shape == (16, 16, 3)
    assert red[4, 4:12].all()
    assert not red[6:10, 6:10].any()
    assert not red[:4].any()
    with pytest.raises(ValueError, match=r"must be \(H, W\) = \(8, 8\)"):
        outlined(Image.new("RGB", (8, 8)), mask[:4])
