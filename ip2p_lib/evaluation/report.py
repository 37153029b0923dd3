"""Sweeps summed up: every point with its intervals, curves held against each other, CLIP against the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ip2p_lib.evaluation.agreement import Points, correlations, wrong_preferences
from ip2p_lib.evaluation.curves import (
    DIRECTION,
    IMAGE,
    RELEASED,
    TRUTH,
    AtDirection,
    Curve,
    compare,
    on_common_edits,
)
from ip2p_lib.evaluation.intervals import Measure, bootstrap, share
from ip2p_lib.evaluation.rows import MEASURES, EditRow

OURS = "ours"
SHARES = ("exact", "requested")
SHOWN = 20  # wrong preferences told one by one


def plain(measure: Measure) -> dict[str, float | int]:
    """A measure as it stands in result files."""
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(measure).items()}


def mean_of(name: str, values: Sequence[float]) -> Measure:
    """Mean of a measure of edits; those that are 0 or 1 are shares."""
    return share(values) if name in SHARES else bootstrap(values)


def point(system: str, dial: float, rows: Sequence[EditRow]) -> dict[str, Any]:
    """One point of a curve: each measure that some of its edits have, and exactness by kind of edit."""
    found: dict[str, Any] = {"system": system, "dial": dial, "edits": len(rows)}
    found["faults"] = [f"{r.id}: {r.fault}" for r in rows if r.fault]
    for name in MEASURES:
        values = [v for r in rows if (v := getattr(r, name)) is not None]
        if values:
            found[name] = plain(mean_of(name, values))
    kinds = {r.kind: [q.exact for q in rows if q.kind == r.kind and q.exact is not None] for r in rows}
    found["exact_by_kind"] = {k: plain(share(v)) for k, v in kinds.items() if v}
    return found


def _told(at: AtDirection, across: str) -> dict[str, Any]:
    return {
        across: round(at.direction, 4),
        **{name: plain(getattr(at, name)) for name in ("ours", "theirs", "difference")},
        "above": at.above,
    }


def comparison(ours: Curve, theirs: Curve, across: str = "direction") -> dict[str, Any]:
    """Our curve against another: at common directions, or how far each reaches if there is none.

    Args:
        across: name of the first axis.
    """
    ours, theirs = on_common_edits(ours, theirs)
    points = compare(ours, theirs)
    return {
        "against": theirs.name,
        "edits": len(ours.ids),
        "our_reach": [round(v, 4) for v in ours.reach],
        "their_reach": [round(v, 4) for v in theirs.reach],
        "points": [_told(p, across) for p in points],
        "above_everywhere": bool(points) and all(p.above for p in points),
    }


def compared(
    systems: Mapping[str, Points], axes: tuple[str, str] = (DIRECTION, IMAGE)
) -> list[dict[str, Any]]:
    """Our curve against that of every other system with more than one point; `fault` says why one is missing."""
    if OURS not in systems:
        return []
    others = (name for name, points in systems.items() if name != OURS and len(points) > 1)
    return [_compared(systems, name, axes) for name in others]


def _compared(systems: Mapping[str, Points], name: str, axes: tuple[str, str]) -> dict[str, Any]:
    """Our curve against one other; where one of the two cannot be drawn, why not, so that the rest is still told."""
    try:
        ours, theirs = (Curve.of(one, systems[one], axes) for one in (OURS, name))
        return comparison(ours, theirs, axes[0] if axes == TRUTH else "direction")
    except ValueError as error:
        return {"against": name, "edits": 0, "fault": str(error), "points": [], "above_everywhere": False}


def report(systems: Mapping[str, Points], own_sources: Sequence[str] = ()) -> dict[str, Any]:
    """Everything that is written to the result file.

    Args:
        systems: rows by name and by the dial's value.
        own_sources: systems that painted their inputs, whose results are not edits of the same pictures.
    """
    same = {name: points for name, points in systems.items() if name not in own_sources}
    editing = {name: points for name, points in same.items() if len(points) > 1}  # anchors would flatter CLIP
    rows = [r for points in editing.values() for group in points.values() for r in group]
    shares, worst = wrong_preferences(editing)
    return {
        "points": [point(n, dial, group) for n, points in systems.items() for dial, group in points.items()],
        "compared": compared(same),
        "compared_in_the_released_range": compared(same, RELEASED),
        "compared_by_truth": compared(same, TRUTH),
        "correlations": [
            {"kind": kind, "measure": measure, "truth": truth, **plain(found)}
            for kind, measure, truth, found in correlations(rows)
        ],
        "clip_prefers_the_wrong_one": {kind: plain(m) for kind, m in shares.items()},
        "worst_preferences": [asdict(p) for p in worst[:SHOWN]],
    }
