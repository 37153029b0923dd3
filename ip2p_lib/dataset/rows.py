"""A row of any dataset as a pair: which column is which, and pictures as bytes or beside the file."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from csv import Error as CsvError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from ip2p_lib import images, records

Row = dict[str, Any]
ALIASES = {  # our name -> names in other datasets
    records.ORIGINAL_IMAGE: ("input_image", "source_img", "source_image"),
    records.EDIT_PROMPT: ("instruction",),
    records.EDITED_IMAGE: ("edited_images", "target_img", "target_image"),
}
OPTIONAL = (records.TRIPLET_ID, records.ORIGINAL_PROMPT, records.EDITED_PROMPT)
PICTURES = (records.ORIGINAL_IMAGE, records.EDITED_IMAGE)


@dataclass(frozen=True, slots=True)
class Pair:
    """A row read: the instruction, the prompt that it counts for, two RGB pictures, and captions where it has them."""

    instruction: str
    prompt: str
    before: Image.Image
    after: Image.Image
    caption: str = ""
    edited_caption: str = ""


def known_columns(names: Sequence[str], path: Path, told: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our names of the columns that are read, with the names they have here.

    Args:
        told: names of the user's, by ours; the others are found by themselves.
    """
    found = {name: name for name in OPTIONAL if name in names}
    for wanted, others in ALIASES.items():
        tried = (told[wanted],) if told and wanted in told else (wanted, *others)
        here = next((n for n in tried if n in names), None)
        if here is None:
            more = f" (or {', '.join(tried[1:])})" if tried[1:] else ""
            raise ValueError(
                f"{path} must have a column {tried[0]}{more}, got {', '.join(names)};"
                f" `ip2p train --{wanted.replace('_', '-')}-column` names another"
            )
        found[wanted] = here
    return found


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say in one line why a file could not be read."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} vanished while pairs were read; put it back, or run again without it: what is encoded is kept"
        ) from error
    except (pa.ArrowException, OSError, UnicodeDecodeError, CsvError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path} must be whole, but reading it failed ({reason}); fetch or make it again"
        ) from error


def prompt_of(row: Row, where: str, folder: Path) -> str:
    """What a row counts for, without opening its pictures.

    Raises:
        ValueError: it has no text or no picture.
    """
    return _prompt(row, _text(row, where), _bytes(row[records.ORIGINAL_IMAGE], f"{where}: picture", folder))


def _text(row: Row, where: str) -> str:
    text = row[records.EDIT_PROMPT]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: {records.EDIT_PROMPT} must be a text, got {text!r:.60}")
    return text


def as_pair(row: Row, where: str, folder: Path) -> Pair:
    """Check and decode a row whose columns have our names.

    Args:
        where: file and number of the row, for messages.
        folder: where pictures lie that the row only names.

    Raises:
        ValueError: no text, no readable picture, or pictures of two shapes, of which crops would not agree.
    """
    text = _text(row, where)
    data = [_bytes(row[c], f"{where}: {c}", folder) for c in PICTURES]
    before, after = (images.from_bytes(d, f"{where}: {c}") for d, c in zip(data, PICTURES, strict=True))
    (w, h), (v, g) = before.size, after.size
    if abs(w * g - v * h) > max(w, h, v, g):  # more than a pixel of the smaller one
        raise ValueError(
            f"{where}: both pictures must have one shape, got {w} x {h} and {v} x {g}; crop them alike"
        )
    captions = (str(row.get(c) or "") for c in (records.ORIGINAL_PROMPT, records.EDITED_PROMPT))
    return Pair(text, _prompt(row, text, data[0]), before, after, *captions)


def _prompt(row: Row, text: str, picture: bytes) -> str:
    """What a pair counts for: caption, or picture where there is none, and instruction; and its triplet, if told.

    An id alone would not do: files without ids number their lines, so that ids of two such files are the same.
    """
    told = row.get(records.ORIGINAL_PROMPT) or hashlib.sha256(picture).hexdigest()[:16]
    return "|".join([*filter(None, [str(row.get(records.TRIPLET_ID) or "")]), told, text])


def content_of(cell: Any) -> Any:
    """Of a picture's cell, its bytes or else the name of its file."""
    if not isinstance(cell, dict):
        return cell
    return cell.get("path") if cell.get("bytes") is None else cell["bytes"]


def _bytes(cell: Any, where: str, folder: Path) -> bytes:
    content = content_of(cell)
    if isinstance(content, str):
        with reading(folder / content):
            return picture_file(content, where, folder).read_bytes()
    if not isinstance(content, bytes):
        found = "nothing" if content is None else type(content).__name__
        raise ValueError(f"{where} must hold a picture's bytes or the name of its file, got {found}")
    return content


def picture_file(name: str, where: str, folder: Path) -> Path:
    """Where a named picture lies: inside the folder, so that a dataset cannot ask for other files."""
    path = Path(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "://" in name:
        raise ValueError(f"{where} must name a file inside {folder}, got {name}")
    if not (folder / path).is_file():
        raise ValueError(f"{where} must hold a picture, but there is no file {folder / path}")
    return folder / path
