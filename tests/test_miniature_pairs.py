"""The editor's triplets: of all that was written, a choice that asks for everything about equally often."""

import shutil
from collections import Counter
from dataclasses import replace

from ip2p_lib import filtering, storage
from ip2p_lib.miniature.build import build, located
from ip2p_lib.miniature.pairs import balanced
from ip2p_lib.miniature.recipes import EDITOR_FILTER, EDITOR_PAIRS
from ip2p_lib.presets import DATA, MINIATURE
from ip2p_lib.records import Triplet


def asked(edit, before, after):
    return Triplet(edit, before, edit, after)


NIGHT = asked("make it night", "a red cat by day", "a red cat by night")
BLUE = asked("paint it blue", "a red cat by day", "a blue cat by day")
BOAT = asked("make it a boat", "a red cat by day", "a red boat by day")
SNOW = asked("let it snow", "a red cat by day", "a red cat by day in the snow")
GONE = asked("take the kite away", "a red cat and a kite", "a red cat")


FIVE = [NIGHT, BLUE, BOAT, SNOW, GONE]


def choose(triplets, count):
    return balanced(triplets, count, plain_above=0.6)  # the words of most of so few captions


def test_what_was_taken_least_comes_next_in_the_given_order():
    twice = asked("it should be night", "a red cat by day", "a red cat by night")
    assert choose([NIGHT, twice, *FIVE[1:]], 5) == FIVE
    assert choose([NIGHT, twice, BLUE], 3) == [NIGHT, BLUE, twice]
    assert choose([NIGHT, twice, BLUE], 9) == [NIGHT, BLUE, twice]  # no more than there are


def test_a_slip_that_adds_an_odd_word_is_no_rarity():
    slip = asked("make it night", "a red cat by day", "a red cat by night hill")
    assert choose([NIGHT, slip, *FIVE[1:]], 5) == FIVE


def test_words_of_every_caption_do_not_tell_wishes_apart():
    """Each of these gains "with a", and yet asks for something of its own."""
    added = [
        asked(f"add {x}", "red cat", f"red cat with a {x}") for x in ("kite", "lamp", "kite", "lamp", "fence")
    ]
    assert choose(added, 3) == [added[0], added[1], added[4]]


def test_every_wish_is_taken_about_as_often():
    often = {"night": 40, "blue": 20, "boat": 10, "snowy": 5}
    many = [asked(w, "a red cat", f"a red cat {w} {i}") for w, n in often.items() for i in range(n)]
    taken = Counter(t.edit for t in choose(many, 32))
    assert taken == {"night": 9, "blue": 9, "boat": 9, "snowy": 5}


def test_the_editors_pairs_are_kept_by_the_shift_in_the_place_of_the_cosine():
    small = {"clip_sim_0": 0.9, "clip_sim_1": 0.9, "clip_sim_dir": 0.5, "clip_sim_image": 0.985}
    still = {**small, "clip_sim_image": 0.9999}
    assert not filtering.passes(small, MINIATURE.filter)
    assert filtering.passes(small, EDITOR_FILTER)
    assert not filtering.passes(still, EDITOR_FILTER)
    assert (
        replace(EDITOR_FILTER, min_direction=MINIATURE.filter.min_direction, min_shift=-2) == MINIATURE.filter
    )
    assert EDITOR_PAIRS.stop_after_hits <= EDITOR_PAIRS.candidates_per_triplet


def test_what_is_finished_is_not_made_again(tmp_path):
    """With the shipped models in `out` and nothing in `work`, as in a fresh clone."""
    out = shutil.copytree(DATA / "miniature", tmp_path / "models")
    before = storage.read_json(out / storage.MANIFEST)
    made = list(build(out, tmp_path / "work"))
    assert made == ["vae", "clip", "judge", "text_to_image", "writer", "editor"]
    assert storage.read_json(out / storage.MANIFEST) == before
    assert not list((tmp_path / "work").rglob("checkpoint-*"))


def test_models_made_elsewhere_make_their_own_pairs(tmp_path):
    preset = located(tmp_path)
    assert {preset.text_to_image, preset.clip, preset.writer, preset.editor} == {
        str(tmp_path / n) for n in ("text_to_image", "clip", "writer", "editor")
    }
    assert (preset.manifest, preset.edit) == (str(tmp_path), MINIATURE.edit)
