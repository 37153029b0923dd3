"""Ablations: smaller shares lie within larger ones, drawn answers are the world's, each run is on file."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ip2p_lib import images, records
from ip2p_lib.dataset import open_dataset
from ip2p_lib.miniature.ablations import ABLATIONS, Study, drawn_row, run_ablations, subset
from ip2p_lib.presets import MINIATURE
from ip2p_lib.records import Triplet, write_triplets
from ip2p_lib.scenes import render
from ip2p_lib.scenes.reading import read_caption
from ip2p_lib.triplets import world_triplets

SHORT = replace(MINIATURE.train, steps=2, batch_size=2, warmup_steps=0, decay_steps=0, checkpoint_every=2)


def test_smaller_shares_lie_within_larger_ones_and_are_never_empty(pair_folder, base):
    data = open_dataset(pair_folder, base, resolution=16)
    found = [subset(data, share, 0).groups for share in (1.0, 0.5, 0.01)]
    assert [len(g) for g in found] == [6, 3, 1]
    assert found[0] == data.groups
    for large, small in pairwise(found):
        assert all(group in large for group in small)
    assert subset(data, 0.5, 0).groups != subset(data, 0.5, 1).groups


def test_a_drawn_pair_is_the_exact_answer():
    triplet = next(world_triplets(1, 7))
    row = drawn_row(triplet, 5, 64)
    for text, column in ((triplet.input, records.ORIGINAL_IMAGE), (triplet.output, records.EDITED_IMAGE)):
        scene = replace(read_caption(text).scene, layout=5)
        assert np.array_equal(
            np.asarray(images.from_bytes(row[column]["bytes"])), np.asarray(render(scene, 64))
        )
    assert row[records.EDIT_PROMPT] == triplet.edit


def test_a_triplet_with_a_fault_is_not_drawn():
    good = next(world_triplets(1, 7))
    assert drawn_row(Triplet("x", good.input, "make it purple rain", good.output), 0, 64) is None


def test_a_run_is_trained_measured_and_put_on_file(tmp_path, pair_folder):
    (tmp_path / "kept").symlink_to(pair_folder)
    study = Study(tmp_path, SHORT, edits=4)
    row = study.run(next(a for a in ABLATIONS if a.name == "random_start"))
    assert (row["prompts"], row["steps"]) == (6, 2)
    assert 0 <= row["exact"]["low"] <= row["exact"]["value"] <= row["exact"]["high"] <= 1
    assert row["exact"]["n"] == 4
    assert (tmp_path / "ablations" / "random_start" / "checkpoint-00000002").is_dir()
    json.dumps(row)


def test_drawn_pairs_are_those_of_the_kept_triplets(tmp_path, pair_folder):
    (tmp_path / "kept").mkdir()
    triplets = list(world_triplets(4, 7))
    rows = pq.read_table(next(pair_folder.glob("*.parquet"))).to_pylist()[:3]
    kept = [{**row, records.TRIPLET_ID: t.id} for row, t in zip(rows, triplets, strict=False)]
    pq.write_table(pa.Table.from_pylist(kept), tmp_path / "kept" / "pairs-00000.parquet")
    write_triplets(tmp_path / "triplets.jsonl", triplets)
    data = Study(tmp_path, SHORT)._data("drawn")
    assert data.instructions == [t.edit for t in triplets[:3]]


def test_an_unknown_ablation_and_a_folder_without_pairs_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must be one of all, tenth, .*; got 'half'"):
        next(run_ablations(tmp_path, tmp_path / "a.json", "half"))
    with pytest.raises(FileNotFoundError, match=r"must hold kept pairs.*ip2p miniature --only pairs"):
        next(run_ablations(tmp_path, tmp_path / "a.json"))
