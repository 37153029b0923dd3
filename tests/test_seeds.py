"""The hand-written triplets and their checker; the world's verdicts on a writer."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ip2p_lib.presets import FULL
from ip2p_lib.records import Caption, Triplet, read_triplets
from ip2p_lib.scenes.world import KINDS
from ip2p_lib.triplets.journal import Tally
from ip2p_lib.triplets.seeds import (
    faults,
    near_duplicates,
    overlap,
    portrait,
    repeated_instructions,
    summary,
    word_set,
)
from ip2p_lib.triplets.verdicts import mix, target_mix, verdicts
from ip2p_lib.triplets.world import world_triplets

PHOTOGRAPHS = list(read_triplets(Path(FULL.seed_triplets)))


def made(**changes):
    """A faultless triplet, changed."""
    fields = {"id": "t", "input": "A cat on a mat", "edit": "make it a dog", "output": "A dog on a mat"}
    return Triplet(**{**fields, "source": {"kind": "replace"}, **changes})


def test_the_shipped_sets_have_no_faults(seed_triplets):
    assert faults(PHOTOGRAPHS) == []
    assert faults(seed_triplets) == []


def test_there_are_as_many_as_the_paper_had_in_even_kinds():
    kinds = Counter(t.source["kind"] for t in PHOTOGRAPHS)
    assert len(PHOTOGRAPHS) >= 700
    assert set(kinds) == {
        "replace", "add", "remove", "recolour", "restyle", "season", "weather", "time", "material", "mood", "place",
    }  # fmt: skip
    assert max(kinds.values()) < 1.3 * min(kinds.values())


def test_the_picture_worlds_set_has_every_kind_evenly_and_weather_more_often(seed_triplets):
    kinds = Counter(t.source["kind"] for t in seed_triplets)
    assert kinds == {**{kind: 30 for kind in KINDS}, "weather": 54}


def test_captions_are_as_varied_as_captions_from_the_web():
    lengths = [len(t.input.split()) for t in PHOTOGRAPHS]
    assert min(lengths) <= 3
    assert max(lengths) >= 30
    noisy = [
        t for t in PHOTOGRAPHS if any(mark in t.input for mark in ("&amp;", "&quot;", " | ", ".jpg", "Stock"))
    ]
    assert len(noisy) > 40
    assert all(".jpg" in t.output for t in noisy if ".jpg" in t.input)


def test_what_an_instruction_does_not_touch_stays():
    shared = [overlap(word_set(t.input), word_set(t.output)) for t in PHOTOGRAPHS]
    assert sorted(shared)[len(shared) // 2] > 0.6


@pytest.mark.parametrize(
    ("triplet", "fault"),
    [
        (made(source={}), "source.kind must name the kind of edit"),
        (made(input="x" * 500), "input must have at most 450 characters, got 500"),
        (made(edit=" make it a dog"), "edit must be one line without outer or double spaces"),
        (made(output="A dog\non a mat"), "output must be one line"),
        (made(input="A cat ## on a mat"), "must not contain a separator"),
        (made(edit="zoom in on the cat"), "prompt-to-prompt cannot do this"),
        (made(edit="add two more cats"), "prompt-to-prompt cannot do this"),
        (made(output="a cat on a mat."), "the filters would reject it: no-op"),
    ],
)
def test_each_fault_is_named(triplet, fault):
    assert any(fault in line for line in faults([triplet]))


def test_near_duplicates_monotony_and_missing_kinds_are_found():
    twin = made(id="u", input="a cat on the mat!", edit="Make it a dog.")
    found = "\n".join(faults([made(), twin]))
    assert "u: input nearly repeats t" in found
    assert "u: edit nearly repeats t" in found
    many = [made(id=str(i), input=f"thing {i}", output=f"other {i}", edit=f"make it {i}") for i in range(10)]
    assert "10 instructions start with 'make it'" in faults(many)
    rare = [*many, replace(many[0], id="r", input="z", edit="why not", source={"kind": "add"})]
    assert any(line.startswith("kind 'add' has 1 triplets") for line in faults(rare))


def test_near_duplicates_ignore_articles_case_and_order_but_not_words():
    texts = ["The red house", "a house, red", "a red horse", ""]
    assert list(near_duplicates(texts, 0.85)) == [(0, 1)]


def test_a_portrait_and_a_summary_say_the_numbers():
    assert portrait([made()])[0] == "kinds: replace 1"
    tally = Tally(captions=5, accepted=2, given_up=1, prompt_tokens=70, completion_tokens=30)
    tally.skipped.update(["duplicate", "long"])
    tally.rejected.update(["parts", "parts", "no-op"])
    assert summary(tally) == (
        "captions 5, triplets 2, given up 1; skipped: duplicate 1, long 1; attempts rejected: parts 2, no-op 1;"
        " tokens 70 + 30"
    )


def test_repeated_instructions_are_counted_whatever_their_order_and_articles():
    triplets = [made(edit=e) for e in ("make it night", "Make it a night!", "night it make", "add a kite")]
    assert repeated_instructions(triplets) == (4, 2, [("it make night", 3), ("add kite", 1)])


def test_verdicts_tell_valid_new_and_kind(seed_triplets):
    known = seed_triplets[0]
    fresh = next(t for t in world_triplets(50, 71) if t.edit not in {s.edit for s in seed_triplets})
    broken = replace(fresh, output=fresh.input)
    found = verdicts([known, fresh, broken], seed_triplets)
    assert [(v.fault, v.new) for v in found] == [("", False), ("", True), ("change", False)]
    assert [v.kind for v in found] == [known.source["kind"], fresh.source["kind"], ""]


def test_the_target_mix_gives_each_possible_kind_an_equal_share():
    none, both = "a red house in a meadow", "a red house in a meadow with a rainbow and a kite"
    mixed = target_mix([Caption("1", none), Caption("2", both)])
    assert sum(mixed.values()) == pytest.approx(1)
    assert mixed["add"] == mixed["remove"] == pytest.approx(1 / 14)
    assert mixed["replace"] == pytest.approx(1 / 7)
    with pytest.raises(ValueError, match="only captions of the picture world have a target mix, got 'a dog'"):
        target_mix([Caption("3", "a dog")])


def test_the_grammars_own_triplets_are_valid_and_hit_the_target_mix():
    triplets = list(world_triplets(800, 72))
    found = verdicts(triplets, [])
    assert all(not v.fault and v.new for v in found)
    shares, target = mix(found), target_mix(triplets)
    assert all(abs(shares[k] - target[k]) < 0.04 for k in KINDS)
