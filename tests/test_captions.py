"""Captions in: every kind of source, what cleaning takes away and what it leaves, and what is refused."""

import json
import random
import time
from dataclasses import replace
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ip2p_lib.scenes.reading import read_caption
from ip2p_lib.scenes.world import Scene
from ip2p_lib.triplets.captions import caption_fault, clean_caption, read_captions, world_captions

LAION = {"URL": ["http://a/1.jpg", None], "TEXT": ["Fish &amp; Chips", None], "similarity": [0.3, 0.4]}
FAMILY, PERSIAN = "a family 👩\u200d👩\u200d👧 outdoors", "نمی\u200cخواهم"
TWO = [("0000000", "a red house", "http://h"), ("0000001", "a blue “cat” at sea", "")]


def put(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def texts(source):
    return [c.text for c in read_captions(source)]


def listed(source):
    return [(c.id, c.text, c.url) for c in read_captions(source)]


def parquet(path, **columns):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path)


@pytest.mark.parametrize("text_column", ["TEXT", "text", "caption", "input"])
@pytest.mark.parametrize("url_column", ["URL", "url"])
def test_every_kind_of_file_gives_the_same_captions(tmp_path, text_column, url_column):
    names, rows = (text_column, url_column), [("a red house", "http://h"), ("a blue “cat” at sea", "")]
    table = [",".join(names), *(",".join(row) for row in rows)]
    lines = "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows)
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    assert listed(put(tmp_path / "a.jsonl", lines)) == TWO
    assert listed(put(tmp_path / "a.csv", "\n".join(table))) == TWO
    assert listed(put(tmp_path / "a.TSV", "\r\n".join(table).replace(",", "\t"))) == TWO
    assert listed(parquet(tmp_path / "a.parquet", other=[1, 2], **columns)) == TWO


def test_a_text_file_holds_a_caption_per_line(tmp_path):
    source = put(tmp_path / "a.txt", "a cat, \tasleep\r\n\n  \na &quot;dog&quot; runs\u2028away, fast")
    assert listed(source) == [("0000000", "a cat, asleep", ""), ("0000001", 'a "dog" runs away, fast', "")]


@pytest.mark.parametrize("folder", ["laion", "part.parquet"])
def test_a_folder_of_parquet_is_streamed_as_the_hub_is(tmp_path, folder):
    parquet(tmp_path / folder / "train-00000.parquet", **LAION)
    expected = [("0000000", "Fish & Chips", "http://a/1.jpg"), ("0000001", "", "")]
    assert listed(str(tmp_path / folder)) == expected


def test_a_world_caption_depends_on_seed_and_index_alone():
    first = list(islice(world_captions(4), 30))
    assert list(islice(world_captions(4), 30)) == first == list(islice(read_captions("world", seed=4), 30))
    assert len({c.id for c in first}) == 30
    assert len({c.text for c in first}) > 25
    assert first[0].text != next(world_captions(5)).text
    assert first[7].id == "4-0000007"


def test_a_world_caption_says_its_scene():
    for caption in islice(world_captions(9), 200):
        scene = Scene(**caption.source["scene"])
        reading = read_caption(caption.text)
        assert reading is not None
        assert reading.scene == replace(scene, layout=0)
        assert clean_caption(caption.text) == caption.text


CLEANED = {
    "Rock &amp; Roll &#39;n&#39; &eacute;t&eacute;": "Rock & Roll 'n' été",
    "Rock &amp;amp;amp;amp; Roll": "Rock & Roll",
    "&lt;b&gt;bold&lt;/b&gt; &amp;lt;br/&amp;gt;cat": "bold cat",
    "schÃ¶ne HÃ¤user, dâ€™or": "schöne Häuser, d’or",
    "a cat <img src='x.jpg' alt=\"\"/>asleep<!-- no -->": "a cat asleep",
    "I <3 you, 5 > 4 and 3 < 4 > 2": "I <3 you, 5 > 4 and 3 < 4 > 2",
    " a\tcat \r\n on\v\fa\u2028mat\u2029\xa0\u3000!\x1f": "a cat on a mat !",
    "\ufeffa c\u202eat\u2066 on\u200e a\x00 m\x07a\x1b[31mt": "a cat on a mat",
    "a water\xadmelon, a sun\u200bflower": "a watermelon, a sunflower", FAMILY: FAMILY, PERSIAN: PERSIAN,
    '"a cat': "a cat", 'a cat "': "a cat", '""a cat""': "a cat", "“a cat”": "a cat", "„a cat“": "a cat",
    "'a cat'": "a cat", "&quot;a cat": "a cat", '"Joe\'s diner': "Joe's diner",
    '"Joe\'s diner"': "Joe's diner",
    "“It’s a dogs’ life”": "It’s a dogs’ life", "\"rock 'n' roll\"": "rock 'n' roll", "'90s car": "'90s car",
    "the dogs' bowl": "the dogs' bowl", '"a" and "b"': '"a" and "b"', "'Rose' pink": "'Rose' pink",
    'The "best" cat': 'The "best" cat', '""': "", "“": "", "a \ud83d\ude00 cat \ud800": "a 😀 cat \ufffd",
    "&#" + "1" * 5000 + ";a cat": "\ufffda cat",
}  # fmt: skip


def test_cleaning_takes_away_what_web_captions_carry_and_no_more():
    assert {raw: clean_caption(raw) for raw in CLEANED} == CLEANED


ATOMS = [
    "&amp;", "&lt;", "&gt;", "&quot;", "amp;", "lt;", "&", "#39;", "&#10;", "&#xd800;", "&NotEqualTilde;",
    "<", "b", ">", '"', "'", "“", "”", "’", "«", "Ã", "©", "â€™", "â", "€", "œ", "É", "ï»¿", "ﬁ", "＂",
    "\x80", "\x92", "\xa0", "\xad", "\u202e", "\u200d", "\u2028", "\u0301", "\ud83d", "\ude00", "\x1b[0m",
    "\x00", "\n", " ", "a", "s", "90s", "##", "%%", "END",
]  # fmt: skip


def test_a_cleaned_caption_is_left_as_it_is():
    draw = random.Random(5)
    for _ in range(4000):
        raw = "".join(draw.choices(ATOMS, k=draw.randint(1, 14)))
        once = clean_caption(raw)
        assert clean_caption(once) == once, ascii(raw)
        assert len(once.splitlines()) <= 1, ascii(raw)
        assert once == once.strip()


@pytest.mark.parametrize("part", ["a ", "amp;", "<a ", "\u0301\u0316", "ﬁ", "\n"])
def test_a_hundred_thousand_characters_cost_little_and_are_no_caption(part):
    raw = "&" + part * (100_000 // len(part))
    start = time.process_time()
    once = clean_caption(raw)
    assert time.process_time() - start < 5
    assert clean_caption(once) == once
    assert caption_fault(once) in ("long", "empty")


def test_what_is_no_caption_has_a_fault():
    for text in ("", "123 / 45", "👩\u200d👧", "...", '""', "## %%"):
        assert caption_fault(clean_caption(text)) == "empty", text
    assert [caption_fault("é" * n) for n in (1, 600, 601)] == ["", "", "long"]
    assert caption_fault("猫") == caption_fault(PERSIAN) == ""


def test_text_of_other_encodings_is_read_line_by_line_or_refused(tmp_path):
    table = put(tmp_path / "bom.csv", b"\xef\xbb\xbfTEXT,URL\na caf\xc3\xa9,u\nd\x92or caf\xe9,\n")
    lines = put(tmp_path / "bom.jsonl", b'\xef\xbb\xbf{"text": "a"}\n{"text": "caf\xe9"}')
    assert texts(table) == ["a café", "d’or café"]
    assert texts(lines) == ["a", "café"]
    for name in ("a.txt", "a.csv", "a.jsonl"):
        with pytest.raises(ValueError, match=rf"{name} must be text in UTF-8, got UTF-16"):
            texts(put(tmp_path / name, "TEXT\na cat\n".encode("utf-16")))


def test_binary_junk_and_nul_bytes_do_no_harm(tmp_path):
    junk = random.Random(1).randbytes(20_000)
    for text in texts(put(tmp_path / "junk.txt", junk)):
        assert clean_caption(text) == text
    assert listed(put(tmp_path / "nul.csv", b"TE\0XT,URL\na\0 cat,u\0\n\0\n")) == [("0000000", "a cat", "u")]
    for name in ("junk.csv", "junk.tsv", "junk.jsonl", "junk.parquet"):
        with pytest.raises(ValueError, match=rf"{name} (row|line|must be)") as refused:
            texts(put(tmp_path / name, junk))
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 1200


def test_table_rows_may_be_short_long_blank_and_run_over_lines(tmp_path):
    table = 'URL,TEXT\nu\n\nv,"a\n""big""\ncat",w,x\n,12" vinyl, on a shelf\n'
    assert listed(put(tmp_path / "a.csv", table)) == [
        ("0000000", "", "u"), ("0000001", 'a "big" cat', "v"), ("0000002", '12" vinyl', ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('TEXT,URL\na,1\n"b,2\nc,3\n', "line 3 .*a quote is opened and never closed"),
        ('TEXT,"URL\na,1\n', "line 1 .*a quote is opened and never closed"),
        ('TEXT,URL\na,1\n"LONG",2\nc,3\n', r"line 3 .*field larger than field limit \(131072\)"),
        ("TEXT,URL\na\rb,1\n", "line 2 .*new-line character"),
        ("house,place\na,b\n", "row 1 must have a column named TEXT, .*got 'house', 'place'"),
    ],
)
def test_a_table_that_would_lose_captions_is_refused_by_line(tmp_path, content, reason):
    with pytest.raises(ValueError, match=rf"a\.csv {reason}"):
        texts(put(tmp_path / "a.csv", content.replace("LONG", "x" * 131_073)))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken", "line 3 must be a JSON object: Expecting property name"),
        ('["a"]', "line 3 must be a JSON object, got list"),
        ("DEEP", "line 3 must be a JSON object: maximum recursion"),
        ('{"text": LONG}', "line 3 must be a JSON object: Exceeds the limit"),
        ("{}", "row 2 must have a column named TEXT, text, caption, input; got none"),
        ('{"text": ["a", "b"]}', r"row 2 must have a text in 'text', got \['a', 'b'\]"),
        ('{"text": NaN}', "row 2 must have a text in 'text', got nan"),
    ],
)
def test_a_broken_line_is_refused_by_file_and_number(tmp_path, line, reason):
    line = line.replace("DEEP", "[" * 100_000).replace("LONG", "1" * 5000)
    with pytest.raises(ValueError, match=rf"a\.jsonl {reason}"):
        texts(put(tmp_path / "a.jsonl", f'{{"text": "a"}}\n\n{line}\n'))


def test_a_missing_text_is_empty_and_a_url_that_is_no_text_is_left_out(tmp_path):
    lines = '{"TEXT": null, "url": NaN}\n{"text": "a", "URL": "", "url": "u"}\n{"text": "b", "url": ["u"]}\n'
    assert [c[1:] for c in listed(put(tmp_path / "a.jsonl", lines))] == [("", ""), ("a", "u"), ("b", "")]


def test_a_parquet_file_that_is_none_or_damaged_is_refused(tmp_path):
    parquet(tmp_path / "a.parquet", TEXT=["a cat", "a dog"] * 3000)
    content = (tmp_path / "a.parquet").read_bytes()
    for damaged in (b"", b"PAR1", content[:-9], content[:20] + b"\xff" * 40 + content[60:]):
        with pytest.raises(ValueError, match=r"b\.parquet must be a whole Parquet file: ."):
            texts(put(tmp_path / "b.parquet", damaged))
    with pytest.raises(ValueError, match=r"row 1 must have a column named TEXT.*got 'prompt'"):
        texts(parquet(tmp_path / "c.parquet", prompt=["a"]))
    with pytest.raises(ValueError, match="row 1 must have a text in 'text', got b'a'"):
        texts(parquet(tmp_path / "d.parquet", text=[b"a"]))


def test_a_folder_that_cannot_be_read_to_its_end_is_named(tmp_path):
    parquet(tmp_path / "half" / "a.parquet", **LAION)
    put(tmp_path / "half" / "b.parquet", b"no parquet")
    with pytest.raises(ValueError, match=r"captions of .*half must be readable to the end: .*Parquet"):
        texts(str(tmp_path / "half"))
    parquet(tmp_path / "other" / "a.parquet", prompt=["a"])
    with pytest.raises(ValueError, match=r"other row 1 must have a column named TEXT.*got 'prompt'"):
        texts(str(tmp_path / "other"))


@pytest.mark.parametrize("name", ["captions.csv", "no/such/folder", ""])
def test_a_missing_file_or_folder_is_not_found(tmp_path, name):
    source = str(tmp_path / name)  # the last: a folder that is there, and empty
    with pytest.raises(FileNotFoundError, match=r"captions must be a file, a folder or .*hub id"):
        texts(source)


@pytest.mark.parametrize("source", ["nobody/no-such-captions", "no-such-captions", "a b:c/d/e", ""])
def test_a_hub_id_out_of_reach_is_refused_in_one_line(source):
    with pytest.raises(FileNotFoundError, match="captions must be a file, a folder or hub id") as refused:
        texts(source)
    assert repr(source) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_another_kind_of_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"must be one of \.jsonl, .*got .*a\.json$"):
        texts(put(tmp_path / "a.json", "[]"))
