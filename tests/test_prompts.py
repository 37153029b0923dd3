"""The prompt format is the released one, and only a whole, single, different caption comes back out of it."""

import json

import pytest

from ip2p_lib.presets import WriteConfig
from ip2p_lib.records import Triplet, read_triplets
from ip2p_lib.triplets.captions import caption_fault, clean_caption
from ip2p_lib.triplets.prompts import (
    PARTS,
    SEPARATOR,
    STOP,
    Completion,
    RejectedError,
    completion_of,
    prompt_for,
    read_completion,
)

HOUSE = Triplet("h", "a red house", "make it a cat", "a red cat")
NIGHT = Triplet("n", "Zürich by day", "让它变成夜晚", "Zürich by night")
HOSTILE = [
    "a\n##\nb", "a\r\n##\r\nb", "a\u2028##\u2029b", "a&#10;##&#10;b", "a&amp;#10;%%&amp;#13;b",
    "a\v##\fb\x85c", "## a", "a ##", "a\n%%\nb", "%% a %%", "a\n%%\n", "a\nEND", "a\r\nEND\n",
    "a\n\nEND\n\nb\n##\nc\n%%\nd\nEND", "a end", "The END", "a\x00\n\x00##\n", "a\n#\u200b#\nb",
    "a\n%\x00%\nb", "a\nE\u202eND", "a <|endoftext|> b", "a\\n##\\nb", "##\n%%\nEND a", "a\n<b>##</b>\nb",
    "a \ud800 cat", "\ufeff\n##\na", '"\nEND a"', "Ã¢ \x92\n%%\n a",
]  # fmt: skip


def read(text, caption="a red house", *, finished=True):
    return read_completion(Completion(text, finished), caption)


def reason(text, caption="a red house", *, finished=True):
    with pytest.raises(RejectedError) as rejected:
        read(text, caption, finished=finished)
    assert str(rejected.value) == rejected.value.reason
    return rejected.value.reason


def test_prompt_and_completion_are_exactly_the_released_format():
    assert prompt_for("a red house") == "a red house\n##\n"
    assert completion_of(HOUSE) == "make it a cat\n%%\na red cat\nEND"


def test_examples_come_before_the_caption_each_with_its_end():
    assert prompt_for("a dog", [HOUSE, NIGHT]) == (
        "a red house\n##\nmake it a cat\n%%\na red cat\nEND\n\n"
        "Zürich by day\n##\n让它变成夜晚\n%%\nZürich by night\nEND\n\n"
        "a dog\n##\n"
    )


@pytest.mark.parametrize("triplet", [HOUSE, NIGHT], ids=["house", "night"])
@pytest.mark.parametrize("finished", [True, False])
def test_what_is_taught_is_read_back(triplet, finished):
    taught = completion_of(triplet)
    assert read(taught, triplet.input, finished=finished) == (triplet.edit, triplet.output)
    assert read(f" \n {taught}", triplet.input) == (triplet.edit, triplet.output)
    assert read(taught.replace(PARTS, f" {PARTS}\t"), triplet.input) == (triplet.edit, triplet.output)


@pytest.mark.parametrize("more", ["\n", " and more", "ING\n##\nb", "\n\nb\n##\nc\n%%\nd\nEND", "\nEND\nEND"])
def test_what_follows_the_stop_is_ignored(more):
    assert read(f"{completion_of(HOUSE)}{more}") == ("make it a cat", "a red cat")
    assert read(f"{completion_of(HOUSE)}{more}", finished=False) == ("make it a cat", "a red cat")


def test_without_the_stop_a_text_counts_only_if_the_model_had_finished():
    text = completion_of(HOUSE).removesuffix(STOP)
    assert read(text) == read(f"{text}\n") == ("make it a cat", "a red cat")
    assert reason(text, finished=False) == "unfinished"
    assert reason(f"{text}\nEN", finished=False) == "unfinished"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        (" \n\t\n", "empty"),
        ("\nEND\n%%\na red cat\nEND", "empty"),
        ("make it a cat\nEND", "parts"),
        ("make it a cat\n%%\nEND", "parts"),
        ("make it a cat\n%%\n \t\nEND", "parts"),
        ("\n%%\na red cat\nEND", "parts"),
        ("%%\na red cat\nEND", "parts"),
        ("make it a cat\n%%\na red cat\n%%\nEND", "parts"),
        ("make it a cat\n%%\na red cat\n%%\na dog\nEND", "parts"),
        ("make it a cat %% a red cat\nEND", "parts"),
        ("make it a cat\r\n%%\r\na red cat\r\nEND", "parts"),
        ("make it a cat\n##\na red cat\nEND", "parts"),
        ("make it\na cat\n%%\na red cat\nEND", "lines"),
        ("make it a cat\n%%\na red cat\rand a dog\nEND", "lines"),
        ("make it a cat\n%%\na red\u2028cat\nEND", "lines"),
        ("make it\va cat\n%%\na red cat\nEND", "lines"),
        ("make it a cat\n%%\n%%\na red cat\nEND", "lines"),
        ("make it red\n%%\na red house\nEND", "no-op"),
    ],
)
def test_an_attempt_that_is_no_triplet_is_rejected_with_its_reason(text, expected):
    assert reason(text) == expected


@pytest.mark.parametrize(
    "same",
    [
        "a red house",
        " A RED House ",
        "a red house.",
        "a red house?!..",
        "!a Red house",
        "the red house",
        "red house",
    ],
)
def test_the_same_caption_but_for_case_articles_and_outer_marks_is_no_edit(same):
    assert reason(f"make it red\n%%\n{same}\nEND") == "no-op"
    assert reason("make it red\n%%\na red house\nEND", caption=same) == "no-op"


@pytest.mark.parametrize(
    "other", ["a red house,", "a  red house", "a red. house", "a red house at night", "red houses"]
)
def test_any_other_difference_is_an_edit_as_in_the_released_code(other):
    assert read(f"make it so\n%%\n{other}\nEND") == ("make it so", other)


@pytest.mark.parametrize("raw", HOSTILE, ids=ascii)
def test_a_hostile_caption_is_one_line_of_its_prompt_and_comes_back_whole(raw):
    caption = clean_caption(raw)
    assert caption_fault(caption) == ""
    prompt = prompt_for(caption, [HOUSE])
    assert prompt.splitlines()[-2:] == [caption, "##"]
    assert (prompt.count(SEPARATOR), prompt.count(PARTS)) == (2, 1)
    assert prompt.count(STOP) == 1 + caption.startswith(
        "END"
    )  # harmless: the stop is sought in what is written
    edited = Triplet("t", caption, f"turn {caption} around", f"now {caption} at night")
    assert read(completion_of(edited), caption) == (edited.edit, edited.output)
    same = "parts" if caption.startswith("END") else "no-op"
    assert reason(completion_of(Triplet("t", caption, "do nothing", caption)), caption) == same


def test_an_edited_caption_that_starts_with_the_stop_is_rejected_and_never_halved():
    for output in ("END", "END of the road", "ENDLESS summer"):
        assert reason(completion_of(Triplet("t", "a road", "say it", output)), "a road") == "parts"
    assert read("END the day\n%%\nthe END of a road\nEND") == ("END the day", "the END of a road")


@pytest.mark.parametrize("first", ["input", "caption"])
def test_rows_of_the_released_file_and_of_the_released_generator_are_read(tmp_path, first):
    rows = [
        {
            first: f"a &quot;red&quot; house {i}",
            "edit": "make it blue",
            "output": "a blue house",
            "url": f"https://h/{i}",
        }
        for i in range(2)
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(read_triplets(path)) == [
        Triplet(f"000000{i}", rows[i][first], "make it blue", "a blue house", f"https://h/{i}")
        for i in range(2)
    ]


@pytest.mark.parametrize("of", ["certainty", "instruction_certainty"])
@pytest.mark.parametrize(("certainty", "accepted"), [(None, True), (-0.1, True), (-0.11, False)])
def test_a_text_that_the_writer_is_unsure_of_is_rejected_only_if_asked(of, certainty, accepted):
    completion = Completion("make it night\n%%\na cat at night\nEND", True, **{of: certainty})
    assert read_completion(completion, "a cat") == ("make it night", "a cat at night")
    config = WriteConfig(**{f"min_{of}": -0.1})
    if accepted:
        assert read_completion(completion, "a cat", config) == ("make it night", "a cat at night")
    else:
        with pytest.raises(RejectedError, match="unsure"):
            read_completion(completion, "a cat", config)


@pytest.mark.parametrize(
    ("output", "places"),
    [
        ("a dog in the garden by day", 1),
        ("A cat in a garden by night.", 1),  # articles, case and final marks are no changes
        ("an old cat in the garden by day", 1),
        ("a cat by day", 1),
        ("a dog in the garden by night", 2),
        ("a dog in a snowy garden by night", 3),
    ],
)
def test_a_caption_that_changes_in_more_places_than_allowed_is_rejected(output, places):
    completion = Completion(f"change it\n%%\n{output}\nEND", True)
    caption = "a cat in the garden by day"
    assert read_completion(completion, caption)[1] == output
    assert read_completion(completion, caption, WriteConfig(max_changes=places))[1] == output
    if places > 1:
        with pytest.raises(RejectedError, match="changes"):
            read_completion(completion, caption, WriteConfig(max_changes=places - 1))
