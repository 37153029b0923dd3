"""Sheets of pictures for the pages in docs: systems side by side, sizes, wishes that are not granted."""

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from ip2p_lib.backbone import Backbone
from ip2p_lib.course.figures import BLUE, ORANGE, Cell, contact_sheet, save_picture
from ip2p_lib.evaluation.beyond import SHOWN, WISHES, Granted
from ip2p_lib.evaluation.cases import Case
from ip2p_lib.evaluation.side_by_side import Made, make
from ip2p_lib.evaluation.sizes import shown, system_of, ways
from ip2p_lib.evaluation.sweep import Instruments
from ip2p_lib.presets import EditConfig

__all__ = ["examples_sheet", "failures_sheet", "save_picture", "sizes_sheet", "systems_sheet"]

SHORT = {"sdedit": "SDEdit, caption", "sdedit-instruction": "SDEdit, instr.", "text2live": "Text2LIVE", "truth": "exact answer"}  # fmt: skip


def _judged(made: Made) -> Cell:
    """A result with the judge's words; the frame says the same in colour, and is nothing without them."""
    exact = made.row.exact
    return Cell(made.edited.picture, made.said, None if exact is None else BLUE if exact else ORANGE)


def systems_sheet(columns: Sequence[Sequence[Made]]) -> Image.Image:
    """Edits by rows, systems by columns after the input, whose instruction stands under it.

    Raises:
        ValueError: there is nothing to show.
    """
    if not columns or not columns[0]:
        raise ValueError("systems side by side need at least one edit by one of them, got none")
    rows = [
        [Cell(row[0].opened.picture, row[0].opened.case.triplet.edit), *(_judged(m) for m in row)]
        for row in zip(*columns, strict=True)
    ]
    heads = ["input", *(headline(c[0]) for c in columns)]
    return contact_sheet(rows, heads=heads, side=120, lines=3)


def headline(made: Made) -> str:
    """A system's short name and the value of its dial, if it has one."""
    name = SHORT.get(made.system, made.system)
    return f"{name} {made.row.dial:g}" if made.row.dial else name


def examples_sheet(good: Sequence[Made], bad: Sequence[Made]) -> Image.Image:
    """One system: where it does well, then where it does not; input and result in pairs, with the exact answer."""
    rows = [[Cell(m.source, m.opened.case.triplet.edit), _judged(m), *_answer(m)] for m in (*good, *bad)]
    paired = [[cell for row in rows[i : i + 2] for cell in row] for i in range(0, len(rows), 2)]
    heads = ["input", "result", "exact answer"] if len(rows[0]) == 3 else ["its source", "its target"]
    return contact_sheet(paired, heads=heads * max(1, len(paired[0]) // len(heads)), side=104, lines=3)


def _answer(made: Made) -> list[Cell]:
    """The exact answer, for results that have one."""
    truth = made.opened.truth
    return [] if made.edited.source is not None or truth is None else [Cell(truth)]


def sizes_sheet(
    editor: Backbone, config: EditConfig, instruments: Instruments, cases: Sequence[Case], seed: int
) -> Image.Image:
    """The first edits, one of a kind, each way to edit a column, shown at one size; the exact answer last."""
    chosen = shown(cases)
    columns = []
    for way in ways(config):
        measured_at = replace(instruments, config=replace(config, resolution=way.size))
        one = system_of(editor, way, config)
        columns.append(make(one, config.image_guidance_scale, cases, chosen, measured_at, seed=seed))
    rows = [
        [Cell(row[-1].opened.picture, row[0].opened.case.triplet.edit), *(_judged(m) for m in row), *_answer(row[-1])]
        for row in zip(*columns, strict=True)
    ]  # fmt: skip
    heads = ["input", *(w.name for w in ways(config)), "exact answer"]
    return contact_sheet(rows, heads=heads, side=max(w.size for w in ways(config)), lines=3)


def failures_sheet(found: Sequence[Granted], pictures: int = SHOWN) -> Image.Image:
    """Each kind of wish a row: picture and result in turn, with what the judge reads to have changed."""
    rows = []
    for kind in WISHES:
        row = []
        for one in [g for g in found if g.wish.kind == kind][:pictures]:
            row += [
                Cell(one.before, one.wish.instruction),
                Cell(one.after, f"judge: {one.said}"),
            ]
        rows.append(row)
    return contact_sheet(rows, heads=["input", "result"] * pictures, side=112, lines=3)
