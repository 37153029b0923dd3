"""The world as judge of triplets: it understands its own grammar and people's wording, and nothing else."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ip2p_lib.miniature.wishes import wish
from ip2p_lib.miniature.writer import story
from ip2p_lib.scenes import caption, edits, held_out_instruction, instruction, sample_scenes
from ip2p_lib.scenes.language import is_held_out
from ip2p_lib.scenes.reading import read_caption, read_change, read_instruction, triplet_fault
from ip2p_lib.scenes.world import Scene
from ip2p_lib.triplets.world import edit_of, understood, world_triplets

HOUSE = Scene("house", "red", "meadow", "day", "rain", "plain", ("kite",))
TEXT = "a red house in a meadow in the rain with a kite"


@pytest.mark.parametrize("seed", range(3))
def test_every_caption_reads_back_as_its_scene(seed):
    for index, scene in enumerate(sample_scenes(400, 20 + seed)):
        reading = read_caption(caption(scene, index))
        assert reading is not None
        assert reading.scene == replace(scene, layout=0)


def test_every_instruction_reads_back_as_its_edit_and_as_no_other():
    for index, scene in enumerate(sample_scenes(40, 25)):
        bare = replace(scene, layout=0)
        for edit in edits(bare):
            for say in (instruction, held_out_instruction):
                assert read_instruction(say(edit, index), bare) == edit, say(edit, index)


@pytest.mark.parametrize(
    ("words", "change"),
    [
        ("let the rain stop", {"weather": "clear"}),
        ("snow instead of rain, please", {"weather": "snow"}),
        ("swap the red house for a castle", {"subject": "castle"}),
        ("what if it were night?", {"time": "night"}),
        ("not a red house, a blue one", {"colour": "blue"}),
        ("Take the kite away.", {"extras": ()}),
        ("there was a kite, now it is gone", {"extras": ()}),
        ("hang a rainbow above the house with the kite", {"extras": ("rainbow", "kite")}),
        ("keep the house but make it a pencil sketch", {"style": "pencil"}),
        ("send the house off to the desert", {"place": "desert"}),
    ],
)
def test_people_are_understood(words, change):
    found = read_instruction(words, HOUSE)
    assert found is not None
    assert found.after == replace(HOUSE, **change)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "do something nice",
        "turn the castle into a house",  # the wrong way round
        "replace the cat with a castle",  # there is no cat
        "make it red",  # it is
        "make it a blue castle",  # two changes
        "make it night and let it snow",
        "add a kite",  # it is there
        "remove the rainbow",  # it is not
        "remove the house",
        "add a dragon",  # no such thing
        "swap the kite for a rainbow",  # one goes, one comes
        "no night",  # and there is none
        "change the weather",  # to what?
        "make it bluish",
        "make the sky red",  # the world's colour is the subject's
        "paint the kite red",
        "add a red kite",
        "add a cat",  # beside the house, which no scene has
        "put a balloon in the sky",
        "move the kite to the city",
        "do not remove the kite",
        "do not add a kite",
        "the kite should not go",
    ],
)
def test_what_is_not_certain_is_not_understood(words):
    assert read_instruction(words, HOUSE) is None


@pytest.mark.parametrize(
    "text",
    [
        "a orange house in a meadow",
        "an red house in a meadow",
        "a red house",
        "a red dog in a meadow",
        f"{TEXT} and a rainbow",  # extras in another order than the grammar's
        f"{TEXT}, pencil sketch, poster",
        "a house in a meadow",
        TEXT.upper(),
        "",
    ],
)
def test_a_text_outside_the_grammar_is_no_caption(text):
    assert read_caption(text) is None


@pytest.mark.parametrize(
    ("edit", "output", "fault"),
    [
        ("make it blue", TEXT.replace("red", "blue"), ""),
        ("make it blue", TEXT.replace("red", "green"), "mismatch"),
        ("make it blue", TEXT.replace("red", "blue").replace("rain", "snow"), "change"),
        ("make it blue", TEXT.replace("red", "blue").replace("in a meadow", "on a grassy meadow"), "change"),
        ("make it blue", TEXT, "change"),
        ("make it blue", "a blue house", "output"),
        ("make it bluish", TEXT.replace("red", "blue"), "instruction"),
    ],
)
def test_faults_are_told_apart(edit, output, fault):
    assert triplet_fault(TEXT, edit, output) == fault
    assert triplet_fault("a dog", edit, output) == "input"


def test_a_style_that_moves_within_the_caption_counts_as_another_wording():
    front, back = (
        read_caption(t) for t in ("pixel art of a red car in the city", "a red car in the city, pixel art")
    )
    assert front.scene == back.scene
    blue = read_caption("a blue car in the city, pixel art")
    assert read_change(front, blue) is None
    assert read_change(back, blue).kind == "recolour"


def test_a_neighbours_instruction_fits_only_where_it_asks_for_the_same():
    for one, other in pairwise(world_triplets(300, 31)):
        if triplet_fault(one.input, other.edit, one.output) == "":
            assert edit_of(one).new == edit_of(other).new
            assert edit_of(one).kind == edit_of(other).kind


def test_the_hand_written_triplets_are_all_understood_and_none_is_in_a_form_kept_for_tests(seed_triplets):
    kinds = [understood(t).kind for t in seed_triplets]
    assert kinds == [t.source["kind"] for t in seed_triplets]
    assert not any(is_held_out(t.edit) for t in seed_triplets)


def test_held_out_forms_are_recognised_and_training_forms_are_not():
    held_out = [t.edit for t in world_triplets(300, 32, held_out=True)]
    assert all(is_held_out(e) and is_held_out(f"{e.capitalize()}!") for e in held_out)
    assert not any(is_held_out(t.edit) for t in world_triplets(300, 32))


def test_ordinary_wishes_are_understood_too_and_none_is_in_a_form_kept_for_tests():
    for index, scene in enumerate(sample_scenes(30, 26)):
        bare = replace(scene, layout=0)
        for edit in edits(bare):
            said = wish(edit, index)
            assert read_instruction(said, bare) == edit, said
            assert not is_held_out(said)


def test_pretraining_shows_captions_alone_between_separators():
    sheets = [text for text in (story(i) for i in range(3_000)) if "\n##\n" in text or "\n%%\n" in text]
    assert len(sheets) > 100
    for sheet in sheets:
        notes = [note for note in re.split(r"\n##\n|\n%%\n|\nEND", sheet) if note]
        assert len(notes) == 2
        assert all(read_caption(note) for note in notes)


def test_articles_fit_in_instructions():
    said = " ".join(t.edit for t in world_triplets(2_000, 33))
    assert re.search(r"\ba (umbrella|orange)|umbrellan", said) is None
    assert np.mean(["an umbrella" in t.edit for t in world_triplets(2_000, 33)]) > 0
