"""Triplets of the world: each found by its number, each with the exact edit it came from."""

from dataclasses import asdict

import numpy as np
import pytest

from ip2p_lib.records import Triplet, read_triplets, write_triplets
from ip2p_lib.scenes.language import caption
from ip2p_lib.scenes.world import KINDS, edits, sample_edit, sample_scene
from ip2p_lib.triplets import edit_of, world_triplet, world_triplets


def test_a_triplet_is_found_without_the_ones_before_it():
    listed = list(world_triplets(20, 61))
    assert [world_triplet(i, 61) for i in range(20)] == listed
    assert list(world_triplets(5, 61)) == listed[:5]
    assert world_triplet(3, 62) != listed[3]


def test_ids_are_unique_and_name_seed_and_number():
    ids = [t.id for s in (1, 2) for t in world_triplets(30, s)]
    assert len(set(ids)) == 60
    assert ids[3] == "1-0000003"


def test_the_recorded_edit_is_one_step_and_of_the_recorded_kind():
    found = set()
    for triplet in world_triplets(80, 63):
        edit = edit_of(triplet)
        assert (edit.kind, edit.after) in [(e.kind, e.after) for e in edits(edit.before)]
        assert asdict(edit.before) == triplet.source["before"]
        found.add(edit.kind)
    assert found == set(KINDS)


def test_both_captions_say_their_scene_in_the_same_phrasing():
    for triplet in world_triplets(40, 64):
        edit = edit_of(triplet)
        phrasing = phrasing_of(triplet)
        assert triplet.input == caption(edit.before, phrasing)
        assert triplet.output == caption(edit.after, phrasing)
        assert triplet.input != triplet.output


def phrasing_of(triplet):
    """The triplet's own phrasing number, drawn again as its making draws it."""
    seed, index = (int(part) for part in triplet.id.split("-"))
    rng = np.random.default_rng((seed, index, 3))
    sample_edit(sample_scene(np.random.default_rng((seed, index))), rng)
    return int(rng.integers(2**31))


def test_held_out_triplets_ask_for_the_same_edit_in_other_words():
    for plain, held_out in zip(world_triplets(40, 65), world_triplets(40, 65, held_out=True), strict=True):
        assert edit_of(plain) == edit_of(held_out)
        assert (plain.input, plain.output) == (held_out.input, held_out.output)
        assert plain.edit != held_out.edit


def test_the_edit_survives_the_file(tmp_path):
    triplets = list(world_triplets(40, 66))
    write_triplets(tmp_path / "t.jsonl", triplets)
    assert [edit_of(t) for t in read_triplets(tmp_path / "t.jsonl")] == [edit_of(t) for t in triplets]


def test_a_triplet_from_elsewhere_cannot_be_judged():
    with pytest.raises(ValueError, match="triplet t9 must come from the picture world"):
        edit_of(Triplet("t9", "a", "b", "c", source={"author": "somebody"}))
