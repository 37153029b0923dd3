"""The same edits by several systems, each at its best measured point; and where one system does well and badly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from ip2p_lib import images
from ip2p_lib.baselines import Edited, System
from ip2p_lib.evaluation.cases import Case, Opened, open_case
from ip2p_lib.evaluation.rows import EditRow, measure
from ip2p_lib.evaluation.sweep import Instruments
from ip2p_lib.presets import EditConfig
from ip2p_lib.scenes.world import KINDS

RANKED_BY = ("exact", "requested", "clip_sim_dir")  # what makes a point of a dial the best, the first first


@dataclass(frozen=True, slots=True)
class Made:
    """One edit by one system, and what was measured of it."""

    system: str
    opened: Opened
    edited: Edited
    row: EditRow

    @property
    def source(self) -> Image.Image:
        """What was edited: the picture given, or the one that the system painted itself."""
        return self.edited.source or self.opened.picture

    @property
    def said(self) -> str:
        """In words what the judge reads."""
        return said(self.row)


def said(row: EditRow) -> str:
    """In words what the judge reads; "" where there is none, or nothing to ask it about."""
    if row.fault or row.requested is None:
        return row.fault
    if row.exact:
        return "exact"
    return "done, and more" if row.requested else "not done"


def best_dial(points: Mapping[float, Sequence[EditRow]]) -> float:
    """The value of a dial with the most exact edits; ties go to more requested changes, then to CLIP's direction.

    Raises:
        ValueError: there are no points.
    """
    if not points:
        raise ValueError("a best value needs measured points, got none")

    def worth(value: float) -> tuple[float, ...]:
        found = ([v for r in points[value] if (v := getattr(r, n)) is not None] for n in RANKED_BY)
        return tuple(sum(f) / len(f) if f else -1.0 for f in found)

    return max(points, key=worth)


def one_of_each_kind(cases: Sequence[Case]) -> list[int]:
    """Index of the first edit of each kind that occurs, in the world's order of kinds."""
    kinds = [c.kind for c in cases]
    order = [*KINDS, *(k for k in dict.fromkeys(kinds) if k not in KINDS)]
    return [kinds.index(k) for k in order if k in kinds]


def make(
    system: System,
    dial: float,
    cases: Sequence[Case],
    chosen: Sequence[int],
    instruments: Instruments,
    *,
    seed: int = 0,
) -> list[Made]:
    """Make some edits of a sweep again, pictures this time; case i has the seed `seed + i`, as in the sweep.

    Raises:
        ValueError: a picture cannot be opened, or the system refuses an edit.
        FileNotFoundError: a picture is not there.
    """
    opened = [open_case(cases[i], instruments.config) for i in chosen]
    triplets = [o.case.triplet for o in opened]
    edited = system.run([o.picture for o in opened], triplets, dial, [seed + i for i in chosen])
    rows = measure(opened, edited, dial, instruments.clip, instruments.judge)
    return [Made(system.name, *each) for each in zip(opened, edited, rows, strict=True)]


def good_and_bad(rows: Sequence[EditRow], count: int = 2) -> tuple[list[str], list[str]]:
    """Ids of the first `count` exact edits and of as many that lack the requested change or did more.

    Kinds of edit differ within each as far as possible. What was not measured counts as neither.
    """
    judged = [r for r in rows if r.exact is not None and not r.fault]
    return _varied([r for r in judged if r.exact], count), _varied([r for r in judged if not r.exact], count)


def examples(points: Mapping[float, Sequence[EditRow]], instructions: Mapping[str, str]) -> dict[str, Any]:
    """What a sheet of `good_and_bad` at the best value of a dial shows, as a result file has it; texts by id."""
    best = best_dial(points)
    rows, (good, bad) = {r.id: r for r in points[best]}, good_and_bad(points[best])
    edits = [{"id": i, "instruction": instructions[i], "judge": said(rows[i])} for i in (*good, *bad)]
    return {"dial": best, "edits": edits}


def _varied(rows: Sequence[EditRow], count: int) -> list[str]:
    """Ids of the first of each kind, then of the rest."""
    first = list({r.kind: r for r in reversed(rows)}.values())[::-1]
    rest = [r for r in rows if r not in first]
    return [r.id for r in (*first, *rest)][:count]


def enlarged(system: System, inner: EditConfig) -> System:
    """The same system at another size: pictures are reduced to it, and what comes back is enlarged again."""

    def run(pictures: Sequence[Image.Image], *rest: object) -> list[Edited]:
        small = [images.fit(p, images.edit_size(*p.size, inner.resolution, inner.multiple)) for p in pictures]
        edited = system.run(small, *rest)  # type: ignore[arg-type]
        back = (
            e.picture.resize(p.size, Image.Resampling.LANCZOS) for e, p in zip(edited, pictures, strict=True)
        )
        return [Edited(p) for p in back]

    name = f"{system.name} at {inner.resolution}"
    return replace(system, name=name, run=run, mark=f"{system.mark}-at-{inner.resolution}")
