"""The picture world: the same picture everywhere, one edit changes one thing, and words that say it."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from dataclasses import astuple, fields, replace
from pathlib import Path

import numpy as np
import pytest

from ip2p_lib.miniature.texts import ordinary_text
from ip2p_lib.scenes import (
    Scene,
    caption,
    edit_mask,
    edits,
    held_out_instruction,
    instruction,
    render,
    render_many,
    sample_edit,
    sample_scene,
    sample_scenes,
)
from ip2p_lib.scenes.places import Layout
from ip2p_lib.scenes.world import ATTRIBUTES, EXTRAS, KINDS

PLAIN = Scene("house", "red", "meadow", "day", "clear", "plain")
DIGEST = (
    "import hashlib; from ip2p_lib.scenes import render, sample_scenes;"
    "print(hashlib.sha256(b''.join(render(s, n).tobytes() for s in sample_scenes(6, 3) for n in (64, 128)))"
    ".hexdigest())"
)


def sampled_edits(count, seed):
    """One edit of each of `count` scenes."""
    return [
        sample_edit(s, np.random.default_rng((seed, i))) for i, s in enumerate(sample_scenes(count, seed))
    ]


def test_a_picture_is_the_same_in_every_process():
    drawn = b"".join(render(s, n).tobytes() for s in sample_scenes(6, 3) for n in (64, 128))
    told = subprocess.run(
        [sys.executable, "-c", DIGEST],
        cwd=Path(__file__).parent.parent, env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.strip() == hashlib.sha256(drawn).hexdigest()


def test_many_pictures_are_drawn_in_order_by_any_number_of_workers():
    scenes = sample_scenes(260, 4)
    one, two = (np.concatenate(list(render_many(scenes, 32, workers=n))) for n in (1, 2))
    assert one.shape == (260, 32, 32, 3)
    assert np.array_equal(one, two)
    assert np.array_equal(one[259], render(scenes[259], 32))


@pytest.mark.parametrize("size", [64, 128])
def test_a_picture_has_the_asked_size_and_shows_the_same_scene(size):
    picture = render(PLAIN, size)
    assert (picture.size, picture.mode) == ((size, size), "RGB")
    small = np.asarray(picture.resize((32, 32)), dtype=float)
    assert np.abs(small - np.asarray(render(PLAIN, 32), dtype=float)).mean() < 12


@pytest.mark.parametrize("size", [0, -64, 48, 65, 2048])
def test_an_unusual_size_is_refused(size):
    with pytest.raises(ValueError, match=f"multiple of 32 from 32 to 1024, got {size}"):
        render(PLAIN, size)


@pytest.mark.parametrize("name", list(ATTRIBUTES))
def test_a_wrong_attribute_is_refused_by_name(name):
    with pytest.raises(
        ValueError, match=rf"Scene\.{name} must be one of {ATTRIBUTES[name][0]}, .*got 'lilac'"
    ):
        replace(PLAIN, **{name: "lilac"})


@pytest.mark.parametrize(
    "extras", [("boat",), ("kite", "lamp"), ("lamp", "lamp"), ("rainbow", "fence", "kite")]
)
def test_wrong_extras_are_refused(extras):
    with pytest.raises(ValueError, match=r"Scene\.extras must be at most two"):
        replace(PLAIN, extras=extras)


def test_a_sampled_scene_depends_on_seed_and_index_alone():
    assert sample_scenes(3, 9) == sample_scenes(50, 9)[:3]
    assert sample_scenes(3, 9) != sample_scenes(3, 10)


def test_sampling_reaches_every_value():
    scenes = sample_scenes(1_000, 11)
    for name, values in ATTRIBUTES.items():
        assert {getattr(s, name) for s in scenes} == set(values)
    assert {e for s in scenes for e in s.extras} == set(EXTRAS)
    assert {len(s.extras) for s in scenes} == {0, 1, 2}


@pytest.mark.parametrize("extras", [(), ("fence",), ("rainbow", "kite")])
def test_edits_are_all_scenes_one_change_away(extras):
    scene = replace(PLAIN, extras=extras)
    found = list(edits(scene))
    kinds = Counter(e.kind for e in found)
    expected = {"replace": 9, "recolour": 7, "place": 5, "time": 2, "weather": 2, "restyle": 4}
    assert kinds == Counter(expected | {"add": (4, 3, 0)[len(extras)], "remove": len(extras)})
    assert len({e.after for e in found}) == len(found)
    for edit in found:
        pairs = zip(fields(Scene), astuple(edit.before), astuple(edit.after), strict=True)
        changed = [f.name for f, a, b in pairs if a != b]
        assert edit.before == scene
        assert len(changed) == 1
        if changed == ["extras"]:
            assert len(set(edit.before.extras) ^ set(edit.after.extras)) == 1


def test_every_possible_kind_is_drawn_equally_often():
    scene = replace(PLAIN, extras=("fence",))
    rng = np.random.default_rng(0)
    counts = Counter(sample_edit(scene, rng).kind for _ in range(4_000))
    assert set(counts) == set(KINDS)
    assert max(counts.values()) < 1.25 * min(counts.values())


def test_an_edit_changes_the_picture_inside_its_mask_and_nowhere_else():
    seen = Counter()
    for edit in sampled_edits(120, 12):
        before, after = (np.asarray(render(s), dtype=int) for s in (edit.before, edit.after))
        mask = edit_mask(edit.before, edit.after)
        assert np.abs(before - after)[~mask].max(initial=0) <= 8
        assert (np.abs(before - after)[mask].max(axis=1) > 8).all()
        assert mask.mean() > 0.01, edit
        seen[edit.kind] += 1
    assert set(seen) == set(KINDS)


def test_an_edit_that_changes_nothing_has_an_empty_mask():
    assert not edit_mask(PLAIN, PLAIN).any()


def test_a_colour_changes_near_the_subject_alone():
    row, column = np.mgrid[:64, :64] / 64
    for i, scene in enumerate(sample_scenes(60, 13)):
        recolours = [e for e in edits(scene) if e.kind == "recolour"]
        edit = recolours[i % len(recolours)]
        mask, layout = edit_mask(edit.before, edit.after), Layout.from_seed(scene.layout)
        reach, margin = layout.subject_scale, 0.05
        near = (np.abs(column - layout.subject_x) < 1.35 * reach + margin) & (
            (row > layout.subject_y - 2.4 * reach - margin) & (row < layout.subject_y + 0.2 * reach + margin)
        )
        assert mask.any()
        assert not (mask & ~near).any(), edit
        assert mask.mean() < 0.3


def test_the_layout_seed_moves_things_and_keeps_the_meaning():
    moved = replace(PLAIN, layout=5)
    assert caption(moved, 3) == caption(PLAIN, 3)
    assert edit_mask(PLAIN, moved).mean() > 0.05


def test_different_attributes_have_different_captions():
    meaning = {}
    for i, scene in enumerate(sample_scenes(3_000, 14)):
        text = caption(scene, i)
        assert meaning.setdefault(text, replace(scene, layout=0)) == replace(scene, layout=0), text


def test_an_edit_changes_the_caption_whatever_the_phrasing():
    for i, scene in enumerate(sample_scenes(40, 15)):
        captions = [caption(s, i) for s in (scene, *(e.after for e in edits(scene)))]
        assert len(set(captions)) == len(captions)


def test_captions_before_and_after_differ_by_what_the_edit_changed():
    before = replace(PLAIN, place="beach", time="night")
    for seed in range(30):
        old, new = caption(before, seed), caption(replace(before, colour="blue"), seed)
        assert new == old.replace("red", "blue")


def test_captions_and_instructions_vary_in_phrasing():
    (edit,) = [e for e in edits(PLAIN) if e.after.colour == "orange"]
    assert len({caption(PLAIN, i) for i in range(60)}) > 12
    assert len({instruction(edit, i) for i in range(60)}) == 6
    assert len({held_out_instruction(edit, i) for i in range(60)}) == 3
    said = " ".join(say(edit, i) for i in range(60) for say in (instruction, held_out_instruction))
    assert "an orange colour" in said
    assert "a orange" not in said


def test_instructions_name_what_is_wanted():
    for i, edit in enumerate(sampled_edits(400, 16)):
        word = {
            "balloon": "balloon",
            "sailboat": "sail",
            "rain": "rainy",
            "snow": "snowy",
            "pixel": "pixel art",
        }
        wanted = edit.new or edit.old
        wanted = {"day": "day", "sunset": ("sunset", "dusk"), "plain": ("flat", "plain")}.get(
            wanted, word.get(wanted, wanted)
        )
        for text in (instruction(edit, i), held_out_instruction(edit, i)):
            assert any(w in text for w in ((wanted,) if isinstance(wanted, str) else wanted)), (text, edit)


def test_held_out_instructions_are_in_no_training_text():
    read, asked = set(), set()
    rng = np.random.default_rng(17)
    for i in range(6_000):
        scene = sample_scene(rng)
        edit = sample_edit(scene, rng)
        read |= {instruction(edit, i), ordinary_text(scene, i)}
        asked.add(held_out_instruction(edit, i))
    assert len(asked) > 300
    assert asked & read == set()
