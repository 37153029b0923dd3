"""Triplets and their files: what is read, what is refused, and that writing is all or nothing."""

import json

import pytest

from ip2p_lib.records import ClipScores, Recipe, Triplet, read_triplets, write_triplets

TEXTS = {"input": "a red house", "edit": "make it blue", "output": "a blue house"}


def written(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


@pytest.mark.parametrize("name", ["input", "edit", "output"])
@pytest.mark.parametrize("value", ["", "  \n", None, 7])
def test_a_triplet_without_one_of_its_texts_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"'t1'.*non-empty text '{name}'"):
        Triplet(id="t1", **{**TEXTS, name: value})


def test_a_triplet_survives_its_file(tmp_path):
    triplets = [
        Triplet("a", **TEXTS),
        Triplet(
            "b", "une maison à Zürich", "绘成水彩", "ünïcode\nin two lines", url="https://example.org/1.jpg"
        ),
        Triplet("c", **TEXTS, source={"kind": "recolour", "before": {"extras": ["kite"]}}),
    ]
    assert write_triplets(tmp_path / "t.jsonl", iter(triplets)) == 3
    assert list(read_triplets(tmp_path / "t.jsonl")) == triplets


def test_empty_provenance_is_not_written():
    assert Triplet("a", **TEXTS).as_row() == {"id": "a", **TEXTS}


def test_caption_is_read_as_input(tmp_path):
    row = {"caption": TEXTS["input"], "edit": TEXTS["edit"], "output": TEXTS["output"], "url": None}
    (triplet,) = read_triplets(written(tmp_path / "t.jsonl", row))
    assert (triplet.input, triplet.url) == (TEXTS["input"], "")


def test_a_missing_id_is_the_line_index_and_blank_lines_are_skipped(tmp_path):
    path = written(tmp_path / "t.jsonl", TEXTS, "", TEXTS, {**TEXTS, "id": 12})
    assert [t.id for t in read_triplets(path)] == ["0000000", "0000002", "12"]


def test_a_missing_file_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found none at .*t\.jsonl; make some with `ip2p triplets`"):
        next(read_triplets(tmp_path / "t.jsonl"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken", "Expecting property name"),
        ("[1, 2]", "must be an object, got list"),
        ('"text"', "must be an object, got str"),
        ('{"input": "a", "edit": "b"}', "non-empty text 'output'"),
        ('{"input": "a", "edit": "b", "output": ["c"]}', "non-empty text 'output'"),
    ],
)
def test_a_broken_line_is_refused_by_number(tmp_path, line, reason):
    path = written(tmp_path / "t.jsonl", TEXTS, line)
    with pytest.raises(ValueError, match=rf"t\.jsonl line 2: .*{reason}"):
        list(read_triplets(path))


def test_a_line_that_is_not_utf_8_is_refused_by_number(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(json.dumps(TEXTS).encode() + b'\n{"input": "caf\xe9"}\n')
    with pytest.raises(ValueError, match=r"t\.jsonl line 2: .*utf-8"):
        list(read_triplets(path))


def test_a_source_that_is_no_object_is_refused_by_number(tmp_path):
    path = written(tmp_path / "t.jsonl", {**TEXTS, "source": "somebody"})
    with pytest.raises(ValueError, match=r"line 1: .*source"):
        list(read_triplets(path))


def test_writing_that_fails_midway_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "t.jsonl"
    write_triplets(path, [Triplet("old", **TEXTS)])

    def interrupted():
        yield Triplet("new", **TEXTS)
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_triplets(path, interrupted())
    assert [t.id for t in read_triplets(path)] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_records_cannot_be_changed_after_the_fact():
    for record in (
        Triplet("a", **TEXTS),
        ClipScores(0, 0, 0, 0),
        Recipe("make it night", 7.5, 1.5, 20, 0, "m"),
    ):
        name = next(iter(record.__slots__))
        with pytest.raises(AttributeError, match=name):
            setattr(record, name, "other")
