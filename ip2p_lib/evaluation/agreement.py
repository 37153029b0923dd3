"""Does CLIP know? Its similarities held against the truth, which only the picture world can tell."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ip2p_lib.evaluation.intervals import Measure, bootstrap
from ip2p_lib.evaluation.rows import EditRow

Array = NDArray[np.float64]
Points = Mapping[float, Sequence[EditRow]]
# CLIP's measure, the truth, and the sign that a good measure's correlation with it has
HELD_AGAINST = (
    ("clip_sim_dir", "exact", 1),
    ("clip_sim_dir", "requested", 1),
    ("clip_sim_dir", "l1", -1),
    ("clip_sim_image", "l1_outside", -1),
    ("clip_sim_image", "exact", 1),
)


def ranks(values: Array) -> Array:
    """Ranks from 0, ties at their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's correlation in [-1, 1]; NaN where one side does not vary."""
    x, y = (r - r.mean() for r in (ranks(a), ranks(b)))
    norm = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / norm if norm else float("nan")


def correlation(
    rows: Sequence[EditRow], measure: str, truth: str, *, draws: int = 400, seed: int = 0
) -> Measure | None:
    """Rank correlation of two fields over rows, with its interval; None where it is not defined.

    Rows of one edit stand and fall together when edits are resampled: they share picture, caption and noise.
    """
    table = [(r.id, getattr(r, measure), getattr(r, truth)) for r in rows]
    kept = [(i, a, b) for i, a, b in table if a is not None and b is not None]
    if not kept:
        return None
    a, b = (np.array([k[n] for k in kept], dtype=np.float64) for n in (1, 2))
    value = rank_correlation(a, b)
    if np.isnan(value):
        return None
    places: dict[str, list[int]] = {}
    for place, (one, _, _) in enumerate(kept):
        places.setdefault(one, []).append(place)
    groups, rng = list(places.values()), np.random.default_rng(seed)
    drawn = []
    for picks in rng.integers(0, len(groups), (draws, len(groups))):
        chosen = np.concatenate([groups[p] for p in picks])
        drawn.append(rank_correlation(a[chosen], b[chosen]))
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return Measure(value, float(low), float(high), len(groups))


def correlations(rows: Sequence[EditRow]) -> Iterator[tuple[str, str, str, Measure]]:
    """(kind of edit or "all", CLIP's measure, the truth, correlation) wherever it is defined."""
    kinds = list(dict.fromkeys(r.kind for r in rows))
    for kind in ("all", *kinds):
        chosen = [r for r in rows if kind in ("all", r.kind)]
        for measure, truth, _ in HELD_AGAINST:
            found = correlation(chosen, measure, truth)
            if found is not None:
                yield kind, measure, truth, found


@dataclass(frozen=True, slots=True)
class Preference:
    """Two results of one edit, of which CLIP's direction prefers the wrong one."""

    id: str
    kind: str
    right: tuple[str, float]  # system and dial of the exact result
    wrong: tuple[str, float]  # of the other
    margin: float  # how much higher the direction of the wrong one is


def wrong_preferences(systems: Mapping[str, Points]) -> tuple[dict[str, Measure], list[Preference]]:
    """How often CLIP's direction prefers a wrong result of an edit to an exact one, and where.

    Over all pairs of an exact and an inexact result of the same edit, from any systems and points. Each edit
    counts once, with its share of wrong preferences; a tie counts half.

    Returns:
        The share by kind of edit and for "all", with intervals over edits; and the worst case of every edit
        that has one, the largest margin first.
    """
    results: dict[str, list[tuple[str, EditRow]]] = {}
    for name, points in systems.items():
        for row in (r for rows in points.values() for r in rows):
            if row.exact is not None and row.clip_sim_dir is not None:
                results.setdefault(row.id, []).append((name, row))
    shares: dict[str, list[float]] = {"all": []}
    worst: list[Preference] = []
    for found in results.values():
        share, case = _of_one_edit(found)
        if share is not None:
            shares["all"].append(share)
            shares.setdefault(found[0][1].kind, []).append(share)
        if case is not None:
            worst.append(case)
    measured = {kind: bootstrap(values) for kind, values in shares.items() if values}
    return measured, sorted(worst, key=lambda p: -p.margin)


def _of_one_edit(found: Sequence[tuple[str, EditRow]]) -> tuple[float | None, Preference | None]:
    """Share of wrong preferences among an edit's results, and the worst."""
    right, wrong = ([f for f in found if f[1].exact == e] for e in (1.0, 0.0))
    if not right or not wrong:
        return None, None
    high, low = (np.array([r.clip_sim_dir for _, r in side]) for side in (right, wrong))
    margins = low[None, :] - high[:, None]  # (right, wrong)
    share = float((margins > 0).mean() + 0.5 * (margins == 0).mean())
    i, j = (int(p) for p in np.unravel_index(margins.argmax(), margins.shape))
    if margins[i, j] <= 0:
        return share, None
    (a, first), (b, second) = right[i], wrong[j]
    return share, Preference(
        first.id, first.kind, (a, first.dial), (b, second.dial), round(float(margins[i, j]), 6)
    )
