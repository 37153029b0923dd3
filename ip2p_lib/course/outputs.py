"""Outputs as they are committed: small, the same on each run, and readable where no kernel is. Nothing is executed here."""

import base64
import re
import sys
import tempfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from ip2p_lib import images
from ip2p_lib.course.explorer import FOLD
from ip2p_lib.presets import DATA

MOST_BYTES = 500_000  # of a notebook
WIDGET = "application/vnd.jupyter.widget-view+json"
KEPT = ("text/html", "text/markdown", "text/plain")
CONTROLS = "Controls stand here once the cell has run; GitHub shows what lies below them."
PROGRESS = re.compile(r"\d+%\||\?it/s")  # what a bar of tqdm says of itself
STILL = re.compile(rf"{re.escape(FOLD)}(.*?)</details>", re.DOTALL)
PICTURE = re.compile(r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=]+)")
ADDRESS = re.compile(r"<(?:[\w.]+\.)?(\w+)(?: object)? at 0x[0-9a-f]+>|\b0x[0-9a-f]{8,}\b")
COLOURS, QUALITY = 96, 80


def clean(notebook: Any) -> None:
    """Make an executed notebook's outputs and metadata fit to be committed, in place.

    What goes to the error stream and progress bars goes away, and so do widgets' views: the still picture below them stays.
    Cells are counted from 1.

    Raises:
        ValueError: a cell failed, or has not been executed.
    """
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        if cell.execution_count is None and cell.source.strip():
            raise ValueError(f"every cell must have been executed, but {cell.id} has not")
        if any(o.output_type == "error" for o in cell.outputs):
            raise ValueError(f"an output to commit must not be an error, but cell {cell.id} failed")
        cell.execution_count = number
        cell.outputs = _cleaned(cell.outputs, number)
        cell.metadata.pop("execution", None)
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}  # no version of somebody's Python


def _cleaned(outputs: Iterable[Any], number: int) -> list[Any]:
    import nbformat

    found: list[Any] = []
    had_controls = False
    for output in outputs:
        if output.output_type == "stream":
            _say(found, output)
            continue
        if WIDGET in output.data:
            had_controls |= not PROGRESS.search(output.data.get("text/plain", ""))
            continue
        data = {kind: _text(value) for kind, value in output.data.items() if kind in KEPT}
        result = output.output_type == "execute_result"
        more = {"execution_count": number} if result else {}
        found.append(nbformat.v4.new_output(output.output_type, data, **more))
    if had_controls and not found:
        found.append(nbformat.v4.new_output("display_data", {"text/plain": CONTROLS}))
    return found


def _say(found: list[Any], output: Any) -> None:
    """Add to the printed text, joined to what was printed just before: how it is cut up differs from run to run."""
    import nbformat

    if output.name != "stdout":
        return
    text = _text(output.text)
    if found and found[-1].output_type == "stream":
        found[-1].text += text
    else:
        found.append(nbformat.v4.new_output("stream", name="stdout", text=text))


def _text(value: str) -> str:
    """Text without folders, addresses in memory and folds, with smaller pictures."""
    parts = PICTURE.split(STILL.sub(r"\1", value))  # text and pictures in turn
    return "".join(_smaller(part) if i % 2 else _anywhere(part) for i, part in enumerate(parts))


def _anywhere(text: str) -> str:
    """Text as it would be on any machine: no folders of this one, longest first, and no addresses."""
    known = {
        str(DATA.parent): ".",
        sys.prefix: "python",
        tempfile.gettempdir(): "tmp",
        str(Path.home()): "~",
    }
    for folder in sorted(known, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.]){re.escape(folder)}(?=/|\b)", known[folder], text)
    text = re.sub(r"\btmp/tmp\w{8}\b", "tmp", text)
    return ADDRESS.sub(lambda m: f"<{m[1]}>" if m[1] else "0x…", text)


def _smaller(data: str) -> str:
    """A picture's address with the smaller of two encodings: few colours, or JPEG where these do not suffice."""
    with Image.open(BytesIO(base64.b64decode(data))) as opened:
        if opened.format == "JPEG" or opened.mode == "P":  # has been here before
            return f"data:image/{(opened.format or 'png').lower()};base64,{data}"
        picture = images.to_rgb(opened)
    few, smooth = BytesIO(), BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(few, "PNG", optimize=True)
    picture.save(smooth, "JPEG", quality=QUALITY, optimize=True)
    kind, best = min((("png", few), ("jpeg", smooth)), key=lambda pair: len(pair[1].getvalue()))
    return f"data:image/{kind};base64,{base64.b64encode(best.getvalue()).decode()}"


def faults(notebook: Any) -> list[str]:
    """What speaks against committing a notebook, a line each.

    Either no cell has an output or a count, or all have been executed in order and their outputs are clean.
    """
    code = [c for c in notebook.cells if c.cell_type == "code"]
    found = ["metadata.widgets makes GitHub refuse the page"] if "widgets" in notebook.metadata else []
    if all(c.execution_count is None and not c.outputs for c in code):
        return found
    counts = [c.execution_count for c in code]
    if counts != list(range(1, len(code) + 1)):
        found.append(f"cells must be counted 1 to {len(code)}, or have no outputs at all; got {counts}")
    for cell in code:
        found += [f"{cell.id}: {fault}" for output in cell.outputs for fault in _output_faults(output)]
    return found


def _output_faults(output: Any) -> list[str]:
    if output.output_type == "error":
        return ["an error"]
    if output.output_type == "stream":
        text, found = output.text, [] if output.name == "stdout" else ["the error stream"]
    else:
        text = "\n".join(map(str, output.data.values()))
        found = [f"data of the kind {kind}" for kind in output.data if kind not in KEPT]
    found += ["an address in memory"] if ADDRESS.search(PICTURE.sub("", text)) else []
    found += ["a progress bar"] if PROGRESS.search(PICTURE.sub("", text)) else []
    found += ["a picture without alt text"] if re.search(r"<img(?![^>]*\balt=\"[^\"]+\")", text) else []
    return found
