"""Measuring: intervals that cover, verdicts by hand, and scores that say what their pictures say."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from ip2p_lib import images
from ip2p_lib.evaluation import (
    EditScore,
    Measure,
    all_attributes_right,
    bootstrap,
    bootstrap_ratio,
    by_kind,
    by_style,
    changed_exactly,
    different_captions,
    evaluate_edits,
    pairs_exact,
    psnr,
    recall_at_1,
    reconstruct,
    sample_captions,
    scene_pixels,
    share,
)
from ip2p_lib.judge import Judge, Verdict
from ip2p_lib.scenes import Scene, edits, render, sample_scenes
from ip2p_lib.scenes.world import ATTRIBUTES, KINDS, SceneEdit
from ip2p_lib.triplets import edit_of, world_triplets

SCENE = Scene("house", "red", "meadow", "day", "clear", "plain", ("fence",))
CAT = SceneEdit("replace", SCENE, replace(SCENE, subject="cat"), "house", "cat")
LAMP = SceneEdit("add", SCENE, replace(SCENE, extras=("fence", "lamp")), "", "lamp")
NO_FENCE = SceneEdit("remove", SCENE, replace(SCENE, extras=()), "fence", "")


def verdict(*extras, **changes):
    read = {name: getattr(SCENE, name) for name in ATTRIBUTES}
    return Verdict({**read, **changes}, frozenset(extras))


def test_an_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        found = bootstrap((rng.random(60) < 0.7).astype(float), draws=400, seed=trial)
        covered += found.low <= 0.7 <= found.high
    assert 0.90 < covered / 300 < 0.985


def test_an_interval_holds_the_mean_and_narrows_with_more_values():
    rng = np.random.default_rng(1)
    few, many = (bootstrap(rng.normal(2, 1, n)) for n in (30, 3_000))
    assert few.low < few.value < few.high
    assert many.high - many.low < 0.3 * (few.high - few.low)
    assert (few.n, many.n) == (30, 3_000)
    assert bootstrap([1.0] * 5) == Measure(1.0, 1.0, 1.0, 5)


def test_an_interval_can_be_repeated():
    values = np.random.default_rng(2).random(50)
    assert bootstrap(values) == bootstrap(values)


def test_a_ratio_is_of_means_over_the_same_items():
    rng = np.random.default_rng(3)
    below = rng.uniform(1, 9, 200)
    exact = bootstrap_ratio(0.5 * below, below)
    assert (exact.value, exact.low, exact.high) == pytest.approx((0.5, 0.5, 0.5))
    noisy = bootstrap_ratio(0.5 * below + rng.normal(0, 1, 200), below)
    assert noisy.low < noisy.value < noisy.high


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="at least one value, got none"):
        bootstrap([])


def test_values_of_a_group_are_drawn_together():
    """Four attempts that always agree say no more than one: the interval still covers as often as it says."""
    rng = np.random.default_rng(4)
    triplets, covered, alone = np.repeat(np.arange(60), 4), 0, 0
    for trial in range(200):
        values = np.repeat((rng.random(60) < 0.7).astype(float), 4)
        found, naive = (bootstrap(values, groups=g, draws=400, seed=trial) for g in (triplets.tolist(), None))
        assert found.value == naive.value
        assert found.n == 240
        covered += found.low <= 0.7 <= found.high
        alone += naive.low <= 0.7 <= naive.high
    assert alone / 200 < 0.75 < 0.90 < covered / 200
    with pytest.raises(ValueError, match="one group for each of 3 values, got 2"):
        bootstrap([1, 0, 1], groups=["a", "b"])


def test_groups_of_one_are_no_groups():
    values = np.random.default_rng(5).random(40)
    assert bootstrap(values, groups=range(40)) == bootstrap(values)


def test_a_single_group_is_no_group():
    values = np.random.default_rng(5).random(40)
    assert bootstrap(values, groups=["one"] * 40) == bootstrap(values)


@pytest.mark.parametrize(("n", "edge"), [(6, 0.39), (48, 0.0741), (200, 0.0188)])
def test_a_share_without_exceptions_still_has_an_interval(n, edge):
    """Wilson's, against values worked by hand: z^2 / (n + z^2)."""
    none, all_of_them = share([0.0] * n), share([1.0] * n)
    assert (none.value, none.low, none.high) == pytest.approx((0, 0, edge), abs=1e-3)
    assert (all_of_them.value, all_of_them.low, all_of_them.high) == pytest.approx((1, 1 - edge, 1), abs=1e-3)
    assert share([0.0] * 2 * n, groups=[*range(n)] * 2).high == pytest.approx(edge, abs=1e-3)


def test_more_exceptions_never_lower_an_interval():
    found = [share([1.0] * ones + [0.0] * (48 - ones)) for ones in range(49)]
    assert all(a.high <= b.high + 0.02 and a.low <= b.low + 0.02 for a, b in itertools.pairwise(found))
    assert all(m.low < m.high for m in found)
    assert (found[1].low, found[1].high) == pytest.approx(
        (0.0037, 0.1090), abs=1e-3
    )  # tables of Wilson's interval
    assert share([0.0, 1.0] * 24) == bootstrap([0.0, 1.0] * 24)
    assert share([0.0, 1.0] * 24, groups=sorted([*range(24)] * 2)).low < 0.45, (
        "every triplet half right is no proof"
    )
    with pytest.raises(ValueError, match="zeros and ones"):
        share([0.5])


@pytest.mark.parametrize(
    ("before", "after", "edit", "right"),
    [
        (verdict("fence"), verdict("fence", subject="cat"), CAT, True),
        (verdict("fence"), verdict("fence"), CAT, False),  # nothing happened
        (verdict("fence"), verdict("fence", subject="robot"), CAT, False),  # the wrong thing
        (verdict("fence"), verdict("fence", subject="cat", colour="blue"), CAT, False),  # and something else
        (verdict("fence"), verdict(subject="cat"), CAT, False),  # lost the fence
        (verdict("fence", colour="blue"), verdict("fence", colour="blue", subject="cat"), CAT, True),
        (verdict("fence", subject="cat"), verdict("fence", subject="cat"), CAT, False),  # was one before
        (verdict("fence"), verdict("fence", "lamp"), LAMP, True),
        (verdict("fence"), verdict("lamp"), LAMP, False),
        (verdict("fence"), verdict("fence"), LAMP, False),
        (verdict("fence", "lamp"), verdict("fence", "lamp"), LAMP, False),
        (verdict("fence"), verdict("fence", "lamp", time="night"), LAMP, False),
        (verdict("fence"), verdict(), NO_FENCE, True),
        (verdict("fence", "kite"), verdict("kite"), NO_FENCE, True),
        (verdict("fence"), verdict("fence"), NO_FENCE, False),
        (verdict(), verdict(), NO_FENCE, False),  # there was none to remove
    ],
)
def test_a_pair_is_exact_when_it_shows_the_change_and_no_other(before, after, edit, right):
    assert changed_exactly(before, after, edit) is right


def test_psnr_is_that_of_the_textbook():
    a = torch.zeros(2, 3, 4, 4)
    b = torch.stack([torch.full((3, 4, 4), 0.2), torch.full((3, 4, 4), 2.0)])
    assert psnr(a, b).tolist() == pytest.approx([20.0, 0.0], abs=1e-4)
    assert psnr(a, a).min() > 90


def test_retrieval_needs_different_captions(clip):
    with pytest.raises(ValueError, match="different captions, but some are equal"):
        recall_at_1(clip, torch.zeros(2, 3, 64, 64), ["a cat", "a cat"])


def test_retrieval_finds_one_of_one_and_gives_one_answer_a_picture(clip):
    assert recall_at_1(clip, torch.zeros(1, 3, 64, 64), ["a cat"]) == [1.0]
    scenes, captions = different_captions(sample_scenes(20, 7), 12)
    found = recall_at_1(clip, scene_pixels(scenes), captions)
    assert len(found) == 12
    assert set(found) <= {0.0, 1.0}


def test_different_captions_are_different():
    scenes = sample_scenes(100, 8)
    chosen, captions = different_captions([*scenes, *(replace(s, layout=1) for s in scenes)], 80)
    assert len(chosen) == len(set(captions)) == 80


def test_true_pictures_are_reconstructed_in_range_and_in_any_batch(base):
    pixels = scene_pixels(sample_scenes(5, 9), 32)
    rebuilt = reconstruct(base, pixels)
    assert rebuilt.shape == pixels.shape
    assert rebuilt.abs().max() <= 1
    torch.testing.assert_close(rebuilt, reconstruct(base, pixels, batch_size=2), rtol=1e-4, atol=1e-4)


def test_a_sampled_picture_depends_on_its_caption_and_seed_alone(base):
    options = {"guidance_scale": 4.0, "num_inference_steps": 3, "resolution": 16}
    texts = ["a red house", "a blue cat", "a green car"]
    together = sample_captions(base, texts, **options, seed=5)
    torch.testing.assert_close(
        together, sample_captions(base, texts, **options, seed=5, batch_size=2), rtol=1e-4, atol=1e-4
    )
    alone = sample_captions(base, texts[1:2], **options, seed=6)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.fixture(scope="module")
def untrained():
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return Judge((8, 16, 16, 16)).eval()


def test_an_edit_is_scored_against_its_exact_answer(editor, clip, untrained, edit_config):
    triplets = list(world_triplets(5, 78))
    found = list(evaluate_edits(editor, untrained, clip, triplets, edit_config, seed=3, batch_size=2))
    assert len(found) == 5
    for triplet, (score, before, after, truth) in zip(triplets, found, strict=True):
        wanted = edit_of(triplet)
        assert np.array_equal(before, render(wanted.before, 32))
        assert np.array_equal(truth, render(wanted.after, 32))
        a, b, c = (images.to_tensor([p]) for p in (before, after, truth))
        assert score.l1 == pytest.approx((b - c).abs().mean().item(), abs=1e-5)
        assert score.unedited_l1 == pytest.approx((a - c).abs().mean().item(), abs=1e-5)
        assert score.kind == wanted.kind
        assert score.exact <= score.requested
    again = [s for s, *_ in evaluate_edits(editor, untrained, clip, triplets, edit_config, seed=3)]
    assert [s.l1 for s in again] == pytest.approx([s.l1 for s, *_ in found], abs=2e-2)


def test_scores_are_gathered_by_kind_and_by_style():
    made = (("add", 1, "poster"), ("add", 0, "plain"), ("time", 1, "poster"))
    scores = [EditScore(kind, exact, 1, 0.1, 0.2, 0, 0, style) for kind, exact, style in made]
    kinds, styles = by_kind(scores), by_style(scores)
    assert {k: (m.value, m.n) for k, m in kinds.items()} == {"time": (1.0, 1), "add": (0.5, 2)}
    assert list(kinds) == [k for k in KINDS if k in kinds]
    assert {s: (m.value, m.n) for s, m in styles.items()} == {"plain": (0.0, 1), "poster": (1.0, 2)}


@pytest.fixture(scope="module")
def world_edits():
    found = []
    for i, scene in enumerate(sample_scenes(96, 912)):
        options = [e for e in edits(scene) if e.kind == KINDS[i % len(KINDS)]]
        found += options[:1]
    return found


def test_the_exact_answer_counts_as_exact(shipped_judge, world_edits):
    before, after = (scene_pixels([getattr(e, n) for e in world_edits]) for n in ("before", "after"))
    assert np.mean(pairs_exact(shipped_judge, before, after, world_edits)) > 0.93
    assert np.mean(all_attributes_right(shipped_judge, after, [e.after for e in world_edits])) > 0.95


def test_a_wrong_answer_does_not_count_as_exact(shipped_judge, world_edits):
    """Unedited, edited otherwise, another picture, noise: each must fail the measure."""
    before, after = (scene_pixels([getattr(e, n) for e in world_edits]) for n in ("before", "after"))
    noise = torch.rand(after.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for wrong in (before, after.roll(1, 0), noise):
        assert np.mean(pairs_exact(shipped_judge, before, wrong, world_edits)) < 0.05
        assert np.mean(all_attributes_right(shipped_judge, wrong, [e.after for e in world_edits])) < 0.05


def test_the_shipped_autoencoder_keeps_what_the_judge_reads(shipped_base, shipped_judge):
    scenes = sample_scenes(64, 913)
    pixels = scene_pixels(scenes)
    rebuilt = reconstruct(shipped_base, pixels)
    assert psnr(rebuilt, pixels).mean() > 25
    assert np.mean(all_attributes_right(shipped_judge, rebuilt, scenes)) > 0.9
