"""Captions in: the picture world, a file, or a dataset on the hub; cleaned of what web captions carry."""

import csv
import html
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import chain, count, islice, zip_longest
from pathlib import Path
from typing import Any

import ftfy
import numpy as np

from ip2p_lib.records import Caption
from ip2p_lib.scenes.language import caption as say
from ip2p_lib.scenes.world import sample_scene
from ip2p_lib.storage import first_line

WORLD = "world"
TEXT_COLUMNS, URL_COLUMNS = ("TEXT", "text", "caption", "input"), ("URL", "url", "image_url")
SUFFIXES = (".jsonl", ".parquet", ".csv", ".tsv", ".txt")
MAX_CHARACTERS = 600
RAW_CHARACTERS = 20 * MAX_CHARACTERS  # of a text, before cleaning; no caption needs more
PASSES = 20  # nothing met so far needs more than a few
JOINERS = "\u200c\u200d"  # invisible, but part of how some scripts and emoji are spelt
QUOTES = ('"“”«»„', "'‘’")  # a pair is of one row
APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)|['‘’](?=\d0s\b)")
LAST_LINE = "\0"  # put after a table's own lines, which hold none


def clean_caption(text: str) -> str:
    """One line of plain text: entities and mojibake undone, control characters and lone outer quotes gone.

    May be empty. Case, punctuation, apostrophes and words stay: a model that is to write such captions must
    see them. A cleaned text is left as it is; what lies beyond 12,000 characters is cut off.
    """
    for _ in range(PASSES):  # one repair can uncover the next
        before, text = text, _cleaned_once(text[:RAW_CHARACTERS])
        if text == before:
            break
    return text


def _cleaned_once(text: str) -> str:
    text = html.unescape(re.sub(r"&#[0-9]{20,};?", "\ufffd", text))  # Python refuses numbers of such length
    text = ftfy.fix_text(text, unescape_html=True, uncurl_quotes=False)
    text = "".join(_visible(c) for c in text)
    text = re.sub(r"</?[a-zA-Z!?][^<>]{0,200}>", " ", text)
    return _without_lone_quotes(re.sub(r"\s+", " ", text).strip())


def _visible(character: str) -> str:
    """The character; a space for a control character, nothing for an invisible mark inside a word."""
    category = unicodedata.category(character)
    if category[0] != "C" or character in JOINERS:
        return character
    return "" if category == "Cf" else " "


def _without_lone_quotes(text: str) -> str:
    """Drop quotes at either end that have no partner, and those that enclose the whole text."""
    for marks in QUOTES:
        plain = APOSTROPHE.sub("x", text)
        starts, ends = plain.startswith(tuple(marks)), plain.endswith(tuple(marks))
        if 0 < len(re.findall(f"[{marks}]+", plain)) <= starts + ends:
            text = text.lstrip(marks) if starts else text
            text = (text.rstrip(marks) if ends else text).strip()
    return text


def caption_fault(text: str) -> str:
    """Why a cleaned caption is not worth writing an edit for: "empty", "long" (over 600 characters) or ""."""
    if not any(c.isalpha() for c in text):
        return "empty"
    return "long" if len(text) > MAX_CHARACTERS else ""


def world_captions(seed: int) -> Iterator[Caption]:
    """Endless captions of the picture world; the i-th depends on seed and i alone."""
    for index in count():
        scene = sample_scene(np.random.default_rng((seed, index)))
        phrasing = int(np.random.default_rng((seed, index, 3)).integers(2**31))
        yield Caption(f"{seed}-{index:07d}", say(scene, phrasing), source={"scene": asdict(scene)})


def read_captions(source: str, *, seed: int = 0) -> Iterator[Caption]:
    """Captions of a source in its own order, cleaned; ids number its rows.

    Args:
        source: "world" for the picture world; a .jsonl, .parquet, .csv, .tsv or .txt file; a folder or
            hub id that `datasets` opens (streamed, split "train").
        seed: which captions, for the picture world.

    Raises:
        FileNotFoundError: the source is neither here nor reachable.
        ValueError: no known text column, a caption that is no text, an unknown kind of file, or contents
            that are not of this kind; names the row or line.
    """
    if source == WORLD:
        return world_captions(seed)
    path, suffix = Path(source), Path(source).suffix.lower()
    if path.is_file():
        if suffix not in SUFFIXES:
            raise ValueError(f"captions must be one of {', '.join(SUFFIXES)}; got {path}")
        return _captions(_READERS[suffix](path), source)
    if suffix in SUFFIXES and not path.is_dir():
        raise FileNotFoundError(
            f"captions must be a file, a folder or a dataset's hub id; found none at {path}"
        )
    return _captions(_streamed(source), source)


def _captions(rows: Iterable[Mapping[str, Any]], source: str) -> Iterator[Caption]:
    for index, row in enumerate(rows):
        column = next((c for c in TEXT_COLUMNS if c in row), None)
        if column is None:
            names = ", ".join(repr(name)[:40] for name in islice(row, 20))
            raise ValueError(
                f"{source} row {index + 1} must have a column named {', '.join(TEXT_COLUMNS)};"
                f" got {names or 'none'}"
            )
        text = row[column]
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{source} row {index + 1} must have a text in {column!r}, got {text!r:.80}")
        url = next((row[c] for c in URL_COLUMNS if row.get(c) and isinstance(row[c], str)), "")
        yield Caption(f"{index:07d}", clean_caption(text or ""), url)


def _decoded(path: Path) -> Iterator[str]:
    """Lines of a text file as UTF-8, each line that is not as Windows-1252; UTF-16 is refused."""
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if number == 0 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise ValueError(f"{path} must be text in UTF-8, got UTF-16; save it again as UTF-8")
            raw = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
            try:
                yield raw.decode("utf-8")
            except UnicodeDecodeError:
                yield raw.decode("cp1252", errors="replace")


def _jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(_decoded(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} line {number} must be a JSON object: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path} line {number} must be a JSON object, got {type(row).__name__}")
        yield row


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = [c for c in (*TEXT_COLUMNS, *URL_COLUMNS) if c in file.schema_arrow.names]
            for batch in file.iter_batches(1024, columns=names or None):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} must be a whole Parquet file: {first_line(error)}") from error


def _csv(path: Path) -> Iterator[Mapping[str, Any]]:
    lines = chain((line.replace("\0", "") for line in _decoded(path)), [LAST_LINE])
    table = csv.reader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    header: list[str] = []
    first = 1  # line of the row
    try:
        for cells in table:
            if cells == [LAST_LINE]:
                return
            if any(LAST_LINE in cell for cell in cells):
                raise csv.Error("a quote is opened and never closed")
            if header and cells:
                yield {name: cell for name, cell in zip_longest(header, cells) if name is not None}
            header, first = header or cells, table.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path} line {first} must begin a row of a table: {error}") from error


def _txt(path: Path) -> Iterator[Mapping[str, Any]]:
    return ({"text": line} for line in _decoded(path) if line.strip())


_READERS: dict[str, Callable[[Path], Iterator[Mapping[str, Any]]]] = {
    ".jsonl": _jsonl, ".parquet": _parquet, ".csv": _csv, ".tsv": _csv, ".txt": _txt,
}  # fmt: skip


def _streamed(source: str) -> Iterator[Mapping[str, Any]]:
    from datasets import load_dataset

    try:
        rows = load_dataset(source, split="train", streaming=True)
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        raise FileNotFoundError(
            f"captions must be a file, a folder or hub id that `datasets` opens, or world; got {source!r}:"
            f" {first_line(error)}"
        ) from error
    return _to_the_end(rows, source)


def _to_the_end(rows: Iterable[Mapping[str, Any]], source: str) -> Iterator[Mapping[str, Any]]:
    try:
        yield from rows
    except (OSError, ValueError) as error:
        raise ValueError(f"captions of {source} must be readable to the end: {first_line(error)}") from error
