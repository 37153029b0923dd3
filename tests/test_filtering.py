"""Filtering: inclusive thresholds, the best by direction, scores kept, and a dataset others can open."""

import shutil
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from ip2p_lib import filtering, records
from ip2p_lib.presets import FilterConfig

CONFIG = FilterConfig()


def row(triplet="t", candidate=0, sim_0=0.3, sim_1=0.3, direction=0.3, image=0.8):
    return {
        records.TRIPLET_ID: triplet,
        records.CANDIDATE: candidate,
        "clip_sim_0": sim_0,
        "clip_sim_1": sim_1,
        "clip_sim_dir": direction,
        "clip_sim_image": image,
    }


@pytest.fixture
def scored(pair_folder, clip):
    """The nine pairs with their scores."""
    assert list(filtering.score(pair_folder, clip)) == [(1, 2), (2, 2)]
    return pair_folder


def test_thresholds_are_inclusive():
    assert filtering.passes(row(sim_0=0.2, sim_1=0.2, direction=0.2, image=0.75), CONFIG)


@pytest.mark.parametrize("name", ["sim_0", "sim_1", "direction", "image"])
def test_every_threshold_must_hold(name):
    limit = 0.75 if name == "image" else 0.2
    assert not filtering.passes(row(**{name: limit - 1e-6}), CONFIG)
    assert not filtering.passes(row(**{name: float("nan")}), CONFIG)


def test_the_best_by_direction_are_kept_and_no_more_than_asked():
    scores = [row("a", i, direction=d) for i, d in enumerate((0.5, 0.9, 0.1, 0.7, 0.6, 0.8))]
    scores += [row("b", 0), row("c", 0, image=0.1)]
    assert filtering.select(scores, CONFIG) == [("a", 1), ("a", 5), ("a", 3), ("a", 4), ("b", 0)]
    assert filtering.select(scores, replace(CONFIG, max_per_triplet=1)) == [("a", 1), ("b", 0)]


def test_ties_go_to_the_earlier_candidate():
    scores = [row("a", i, direction=0.5) for i in (3, 1, 2, 0)]
    assert filtering.select(scores, replace(CONFIG, max_per_triplet=2)) == [("a", 0), ("a", 1)]


def test_nothing_passes_an_impossible_filter():
    assert filtering.select([row()], replace(CONFIG, min_direction=1.0)) == []


def test_a_shift_is_the_projection_of_the_pictures_change_on_the_texts():
    """Of unit vectors themselves, not of their cosines."""
    draw = torch.Generator().manual_seed(0)
    first, second = F.normalize(torch.randn(2, 50, 16, generator=draw), dim=-1)
    texts = F.normalize(torch.randn(50, 16, generator=draw), dim=-1)
    moved = second - first
    cosines = F.cosine_similarity(moved, texts), F.cosine_similarity(first, second)
    found = [filtering.shift(row(direction=float(d), image=float(i))) for d, i in zip(*cosines, strict=True)]
    assert found == pytest.approx((moved * texts).sum(-1).tolist(), abs=1e-5)
    assert filtering.shift(row(direction=0.5, image=1.0 + 1e-7)) == 0


def test_the_bound_on_the_shift_is_inclusive_and_asks_nothing_by_default():
    one = row(direction=0.25, image=0.875)  # moves by half, a quarter of it along
    config = replace(CONFIG, min_direction=-1, min_image=-1)
    assert filtering.passes(one, replace(config, min_shift=0.125))
    assert not filtering.passes(one, replace(config, min_shift=0.1251))
    assert not filtering.passes(row(image=float("nan")), replace(config, min_shift=0.1))
    assert filtering.passes(row(direction=-1, image=-1), config)


def test_thresholds_at_quantiles_let_the_asked_share_pass():
    scores = [
        row(candidate=i, sim_0=i / 200, sim_1=0.5 + i / 200, direction=i / 100, image=1 - i / 100)
        for i in range(100)
    ]
    config = filtering.thresholds_at_quantiles(scores, text=0.1, direction=0.35, image=0.2, max_per_triplet=3)
    assert sum(r["clip_sim_dir"] >= config.min_direction for r in scores) == 65
    assert sum(r["clip_sim_image"] >= config.min_image for r in scores) == 80
    texts = [r[n] for r in scores for n in ("clip_sim_0", "clip_sim_1")]
    assert sum(t >= config.min_text for t in texts) == 180
    assert config.max_per_triplet == 3


def test_all_candidates_are_scored_in_their_order(scored, rows):
    scores = filtering.read_scores(scored)
    keys = [(r[records.TRIPLET_ID], r[records.CANDIDATE]) for r in rows]
    assert [(s[records.TRIPLET_ID], s[records.CANDIDATE]) for s in scores] == keys
    assert tuple(scores[0]) == filtering.SCORE_COLUMNS
    assert all(-1 <= s[n] <= 1 for s in scores for n in records.SIMILARITIES)


def test_scoring_again_remakes_nothing_and_continues_a_cut_run(scored, clip, tmp_path):
    shards = sorted(scored.glob("scores-*"))
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in shards}
    shards[1].unlink()
    list(filtering.score(scored, clip))
    assert {p: p.read_bytes() for p in shards} == {p: b for p, (b, _) in before.items()}
    assert shards[0].stat().st_mtime_ns == before[shards[0]][1]


def test_a_folder_that_is_not_wholly_scored_is_refused(scored):
    next(scored.glob("scores-00001*")).unlink()
    with pytest.raises(FileNotFoundError, match="must be scored first; run `ip2p filter`"):
        filtering.read_scores(scored)


def test_kept_pairs_are_written_with_their_scores(scored, rows, tmp_path):
    kept = [(r[records.TRIPLET_ID], r[records.CANDIDATE]) for r in (rows[1], rows[6])]
    assert filtering.export_kept(scored, kept, tmp_path / "kept", CONFIG) == 2
    written = [r for s in sorted((tmp_path / "kept").glob("*.parquet")) for r in pq.read_table(s).to_pylist()]
    scores = {(s[records.TRIPLET_ID], s[records.CANDIDATE]): s for s in filtering.read_scores(scored)}
    for found, key, source in zip(written, kept, (rows[1], rows[6]), strict=True):
        expected = {**source, **{n: scores[key][n] for n in records.SIMILARITIES}}
        assert found == expected


def test_kept_pairs_open_with_datasets_as_pictures(scored, rows, tmp_path):
    from datasets import load_dataset

    kept = [(r[records.TRIPLET_ID], r[records.CANDIDATE]) for r in rows[:3]]
    filtering.export_kept(scored, kept, tmp_path / "kept", CONFIG)
    files = [str(p) for p in (tmp_path / "kept").glob("*.parquet")]
    opened = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(opened) == 3
    assert isinstance(opened[0][records.EDITED_IMAGE], Image.Image)
    assert isinstance(opened[0]["clip_sim_dir"], float)


def test_keeping_nothing_is_refused_and_leaves_nothing(scored, tmp_path):
    with pytest.raises(
        ValueError, match=r"must keep at least one pair, kept none of .* by min_text .*; lower them"
    ):
        filtering.export_kept(scored, [], tmp_path / "kept", CONFIG)
    assert not (tmp_path / "kept").exists()


def test_a_folder_of_something_else_is_never_replaced(scored, rows, tmp_path):
    kept = [(rows[0][records.TRIPLET_ID], 0)]
    filtering.export_kept(scored, kept, tmp_path / "kept", CONFIG)
    assert filtering.export_kept(scored, kept, tmp_path / "kept", CONFIG) == 1  # its own work may be renewed
    precious = tmp_path / "holidays"
    precious.mkdir()
    (precious / "photo.jpg").touch()
    for folder in (precious, scored):
        with pytest.raises(ValueError, match="holds something else"):
            filtering.export_kept(scored, kept, folder, CONFIG)
    assert (precious / "photo.jpg").exists()
    assert len(list(scored.glob("candidates-*.parquet"))) == 2


def test_pictures_of_a_shard_have_the_declared_range(rows):
    pixels = filtering.shard_pictures(rows, records.ORIGINAL_IMAGE)
    assert pixels.shape == (9, 3, 32, 32)
    assert -1 <= pixels.min() < -0.2
    assert 0.2 < pixels.max() <= 1


def test_a_damaged_picture_is_refused_by_name(rows):
    broken = [{**rows[0], records.ORIGINAL_IMAGE: {"bytes": b"no", "path": "x/7_0.png"}}]
    with pytest.raises(ValueError, match=r"x/7_0\.png must hold a picture"):
        filtering.shard_pictures(broken, records.ORIGINAL_IMAGE)


def test_an_empty_folder_cannot_be_scored(tmp_path, clip):
    with pytest.raises(FileNotFoundError, match="found none; make them with `ip2p pairs`"):
        next(filtering.score(tmp_path, clip))


def test_scores_do_not_depend_on_the_folder(scored, clip, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for shard in scored.glob("candidates-*"):
        shutil.copy(shard, other)
    list(filtering.score(other, clip))
    assert filtering.read_scores(other) == filtering.read_scores(scored)
