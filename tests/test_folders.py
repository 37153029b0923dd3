"""A folder belongs to one run and its scores to its pictures: claims, full disks, stale scores, what is kept."""

import resource
import shutil
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_pairs import HOUSE, NIGHT
from test_shards import SMALL, TWICE, contents, flip, numbered, refused, written

from ip2p_lib import filtering, images, records
from ip2p_lib.pairs import candidate_shards, claim_run, shard_path, synthesise
from ip2p_lib.pairs.shards import GROUP
from ip2p_lib.presets import FilterConfig, PairConfig

CONFIG = FilterConfig()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to write files beyond a size, as it does when the disk is full."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


def test_a_full_disk_is_one_line_and_costs_the_last_shard_alone(tmp_path, base):
    list(synthesise(TWICE, base, SMALL, tmp_path / "whole"))
    out = tmp_path / "cut"
    steps = synthesise(TWICE, base, SMALL, out)
    next(steps)
    with files_of_at_most(2_000):
        refused("cut must have room and be writable, but candidates-00000.parquet could not be", next, steps)
    assert [p.name for p in out.iterdir()] == ["run.json"]
    steps = synthesise(TWICE, base, SMALL, out)
    assert [next(steps).candidates for _ in TWICE] == [1, 2]  # the first shard lies there now
    with files_of_at_most(2_000):
        refused("cut must have room and be writable, but candidates-00001.parquet could not be", next, steps)
    assert candidate_shards(out) == [shard_path(out, 0)]
    assert len(list(out.iterdir())) == 3
    list(synthesise(TWICE, base, SMALL, out))
    assert pictures(out) == pictures(tmp_path / "whole")


def test_a_disk_without_room_for_the_record_is_refused_at_once(tmp_path):
    with files_of_at_most(20):
        refused("the output folder must be writable, but .*too large", claim_run, TWICE, "m", SMALL, tmp_path)
    assert list(tmp_path.iterdir()) == []


OTHERS = {
    "p2p_threshold_range": (0.2, 0.9), "cfg_scale_range": (7.5, 16.0), "preview_at": 0.5, "preview_slack": 0.2,
}  # fmt: skip


@pytest.mark.parametrize("name", [f.name for f in fields(PairConfig) if f.name != "batch_size"])
def test_a_folder_made_with_any_other_setting_is_refused(tmp_path, name):
    critic = SimpleNamespace(settings={})
    claim_run(TWICE, "m", SMALL, tmp_path, critic)
    other = replace(SMALL, **{name: OTHERS.get(name, 77)})
    refused("holds results of another configuration", claim_run, TWICE, "m", other, tmp_path, critic)
    assert len(claim_run(TWICE, "m", SMALL, tmp_path)) == 2


@pytest.mark.parametrize("record", ["[]", "3", "{}", '{"config": 3}', '{"config": {"fingerprint": 7}}'])
def test_a_folder_of_something_else_is_refused(tmp_path, record):
    (tmp_path / "run.json").write_text(record)
    refused("holds results of another configuration", claim_run, TWICE, "m", SMALL, tmp_path)
    assert (tmp_path / "run.json").read_text() == record


def test_another_model_and_other_triplets_are_refused_and_so_are_triplets_that_share_an_id(tmp_path):
    claim_run(TWICE, "m", SMALL, tmp_path)
    refused("another configuration", claim_run, TWICE, "n", SMALL, tmp_path)
    for other in (TWICE[:1], TWICE[::-1], [HOUSE, replace(NIGHT, edit="make it dark")]):
        refused("another configuration", claim_run, other, "m", SMALL, tmp_path)
    many = [replace(HOUSE, id=f"{i}") for i in range(50_000)]
    same = [*many, replace(NIGHT, id="49999")]
    refused(
        "must have an id of its own, but '49999' occurs more than once", claim_run, same, "m", SMALL, tmp_path
    )


def pictures(folder):
    return {p.name: p.read_bytes() for p in candidate_shards(folder)}


def keys_of(rows):
    return [(r[records.TRIPLET_ID], r[records.CANDIDATE]) for r in rows]


@pytest.fixture
def scored(pair_folder, clip):
    """The nine pairs with their scores."""
    list(filtering.score(pair_folder, clip))
    return pair_folder


def test_scores_of_another_clip_are_refused_with_a_remedy_that_works(scored, clip):
    before, other = contents(scored), replace(clip, mean=(0.5, 0.5, 0.5))
    remedy = r"another configuration .*; delete scores\.json and scores-\*\.parquet there, and nothing else"
    refused(remedy, list, filtering.score(scored, other))
    assert contents(scored) == before
    (scored / "scores.json").unlink()
    refused(r"must have scores\.json beside its scores, .*delete", list, filtering.score(scored, other))
    for path in scored.glob("scores-*.parquet"):
        path.unlink()
    assert list(filtering.score(scored, other)) == [(1, 2), (2, 2)]
    assert filtering.read_scores(scored)[0]["clip_sim_0"] != 0
    refused("another configuration", list, filtering.score(scored, clip))


def test_scores_of_other_pictures_under_the_same_names_are_made_again(scored, clip, rows):
    """A folder was emptied and filled again, but for its scores."""
    old = filtering.read_scores(scored)
    swapped = [{**r, records.ORIGINAL_IMAGE: r[records.EDITED_IMAGE]} for r in rows[:5]]
    written(scored, [swapped])
    with pytest.raises(FileNotFoundError, match="must be scored first; run `ip2p filter`"):
        filtering.read_scores(scored)
    list(filtering.score(scored, clip))
    new = filtering.read_scores(scored)
    assert keys_of(new) == keys_of(old)
    assert new[5:] == old[5:]
    assert all(r["clip_sim_image"] == pytest.approx(1, abs=1e-5) for r in new[:5])


@pytest.mark.parametrize("kept", [0, 7, -1])
def test_scores_that_were_cut_off_are_made_again(scored, clip, kept):
    path = scored / "scores-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:kept])
    with pytest.raises(FileNotFoundError, match="must be scored first"):
        filtering.read_features(scored)
    list(filtering.score(scored, clip))
    assert path.read_bytes() == whole


def test_a_damaged_shard_is_neither_scored_nor_exported(scored, clip, rows, tmp_path):
    filtering.export_kept(scored, keys_of(rows), tmp_path / "kept", CONFIG)
    before = contents(tmp_path / "kept")
    shard = shard_path(scored, 1)
    flip(shard, shard.read_bytes().index(b"IDAT") + 20)
    refused(
        "00001.parquet must be whole", filtering.export_kept, scored, keys_of(rows), tmp_path / "kept", CONFIG
    )
    assert contents(tmp_path / "kept") == before
    (scored / "scores-00001.parquet").unlink()
    refused("00001.parquet must have the checksum in its mark", list, filtering.score(scored, clip))
    assert not (scored / "scores-00001.parquet").exists()


def test_a_full_disk_costs_neither_scores_nor_what_was_kept(scored, clip, rows, tmp_path):
    keys, kept = keys_of(rows), tmp_path / "kept"
    filtering.export_kept(scored, keys[:2], kept, CONFIG)
    before, whole = contents(kept), contents(scored)
    (scored / "scores-00001.parquet").unlink()
    with files_of_at_most(1_000):
        refused("scores-00001.parquet could not be written", list, filtering.score(scored, clip))
    list(filtering.score(scored, clip))
    assert contents(scored) == whole
    with files_of_at_most(1_000):
        refused("must have room and be writable", filtering.export_kept, scored, keys, kept, CONFIG)
    assert contents(kept) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept", "pairs"]


def test_nothing_is_kept_twice_or_from_nowhere(scored, clip, rows, tmp_path):
    keys = keys_of(rows)
    assert filtering.export_kept(scored, keys * 2, tmp_path / "kept", CONFIG) == len(keys)
    unknown = [*keys[:2], ("elsewhere", 0)]
    refused(
        "must hold every kept pair, holds 2 of 3",
        filtering.export_kept,
        scored,
        unknown,
        tmp_path / "new",
        CONFIG,
    )
    for kind in ("candidates", "scores"):
        shutil.copy(scored / f"{kind}-00000.parquet", scored / f"{kind}-00002.parquet")
    shutil.copy(scored / "candidates-00000.json", scored / "candidates-00002.json")
    for action in (filtering.read_scores, filtering.read_features, lambda f: list(filtering.score(f, clip))):
        refused("00002.parquet is a copy of candidates-00000.parquet", action, scored)
    refused("is a copy of", filtering.export_kept, scored, keys, tmp_path / "new", CONFIG)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["notes.md", "pairs/candidates-00000.parquet", ".git/config"])
def test_what_lies_among_kept_pairs_is_never_deleted(scored, rows, tmp_path, name):
    kept, keys = tmp_path / "kept", keys_of(rows)
    filtering.export_kept(scored, keys, kept, CONFIG)
    (kept / ".latents").mkdir()  # a cache of training
    assert filtering.export_kept(scored, keys, kept, CONFIG) == len(keys)
    (kept / name).parent.mkdir(exist_ok=True)
    (kept / name).touch()
    first = name.partition("/")[0]
    refused(
        f"kept holds something else than kept pairs, {first}; move",
        filtering.export_kept,
        scored,
        keys,
        kept,
        CONFIG,
    )
    assert (kept / name).exists()


@pytest.mark.parametrize("record", ["[]", '{"config": []}', '{"config": {"stage": "pairs"}}', "{"])
def test_a_folder_with_another_record_is_never_replaced(scored, rows, tmp_path, record):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "run.json").write_text(record)
    told = "must hold JSON" if record == "{" else "holds something else than kept pairs"
    refused(told, filtering.export_kept, scored, keys_of(rows), tmp_path / "kept", CONFIG)
    assert (tmp_path / "kept" / "run.json").read_text() == record


def test_scoring_holds_no_more_than_a_group(tmp_path, rows, clip):
    noise = np.random.default_rng(3)

    def big(count):
        for row in numbered(rows, count):
            data = images.png_bytes(Image.fromarray(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)))
            yield row | {
                c: {"bytes": data, "path": "x"} for c in (records.ORIGINAL_IMAGE, records.EDITED_IMAGE)
            }

    def peak(count):
        shard = written(tmp_path, [big(count)])
        tracemalloc.start()
        filtering.score_shard(shard, clip)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1)
    assert peak(5 * GROUP) < 1.3 * peak(2 * GROUP)
    scores = list(filtering.scoring.shard_groups(filtering.scores_path(shard_path(tmp_path, 0))))
    assert [r[records.CANDIDATE] for group in scores for r in group] == list(range(2 * GROUP))
