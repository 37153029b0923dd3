"""The middle part of notebook 03's exercises: what passes, and the best few of each triplet."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from ip2p_lib import filtering
from ip2p_lib.course.exercises.checks import need, same_value
from ip2p_lib.presets import FilterConfig
from ip2p_lib.records import SIMILARITIES

Row = Mapping[str, Any]


PASSES: tuple[tuple[Callable[[Row, FilterConfig], bool], int | str], ...] = (
    (
        lambda s, c: all(s[n] > b for n, b in _bounds(c)),
        "Thresholds are inclusive: a score equal to its threshold passes.",
    ),
    (
        lambda s, c: any(s[n] >= b for n, b in _bounds(c)),
        "One good score is not enough: all must be reached.",
    ),
    *(
        (
            lambda s, c, left_out=left_out: all(s[n] >= b for n, b in _bounds(c) if n != left_out),
            f"{left_out} has no say yet.",
        )
        for left_out in SIMILARITIES
    ),
    (
        lambda s, c: (
            (s["clip_sim_0"] + s["clip_sim_1"]) / 2 >= c.min_text
            and s["clip_sim_dir"] >= c.min_direction
            and s["clip_sim_image"] >= c.min_image
        ),
        "Each caption for itself: a good one must not make up for a bad one.",
    ),
    (
        lambda s, c: (
            all(s[n] >= b for n, b in _bounds(c) if n != "clip_sim_image")
            and s["clip_sim_image"] <= c.min_image
        ),
        "min_image is a lower bound like the others: too unlike its original is out.",
    ),
)


def _bounds(config: FilterConfig) -> list[tuple[str, float]]:
    text, move, image = config.min_text, config.min_direction, config.min_image
    return [("clip_sim_0", text), ("clip_sim_1", text), ("clip_sim_dir", move), ("clip_sim_image", image)]


def check_passes(answer: Callable[..., Any], seed: int) -> None:
    """Below, at and above each threshold, in all combinations."""
    config = FilterConfig(min_text=0.2 + seed / 100, min_direction=0.25, min_image=0.7)
    names, bounds = zip(*_bounds(config), strict=True)
    offsets = product((0.0, 0.1, -0.03), repeat=4)
    rows = [
        dict(zip(names, (b + o for b, o in zip(bounds, off, strict=True)), strict=True)) for off in offsets
    ]
    got = [bool(answer(dict(row), config)) for row in rows]
    expected = [filtering.passes(row, config) for row in rows]
    for rule, hint in PASSES:
        need(got == expected or got != [bool(rule(row, config)) for row in rows], hint)
    wrong = [row for row, own, right in zip(rows, got, expected, strict=True) if own != right]
    need(not wrong, 1, f"wrong for {wrong[0]} at {config}" if wrong else "")


def some_candidates(seed: int, triplets: int = 3, count: int = 6) -> list[dict[str, Any]]:
    """Candidates of some triplets with similarities of three digits, keyed by the seed."""
    values = np.random.default_rng(seed).uniform(0.1, 0.9, (triplets, count, 4)).round(3)
    return [
        {"triplet_id": f"t{t}", "candidate": c, **dict(zip(SIMILARITIES, values[t, c].tolist(), strict=True))}
        for t in range(triplets)
        for c in range(count)
    ]


def _chosen(rows: Sequence[Row], config: FilterConfig, key: Callable[[Row], float]) -> list[tuple[str, int]]:
    """The first few of each triplet in the order of `key`."""
    groups = {r["triplet_id"]: [x for x in rows if x["triplet_id"] == r["triplet_id"]] for r in rows}
    best = [sorted(group, key=key)[: config.max_per_triplet] for group in groups.values()]
    return [(r["triplet_id"], r["candidate"]) for group in best for r in group]


def check_best(answer: Callable[..., Any], seed: int) -> None:
    """Two limits, on candidates of which a part is too bad."""
    rows = some_candidates(seed + 100)
    for few in (1, 2):
        config = FilterConfig(min_text=0.15, min_direction=0.15, min_image=0.3, max_per_triplet=few)
        passing = [r for r in rows if filtering.passes(r, config)]
        expected = filtering.select(rows, config)
        everywhere = sorted(passing, key=lambda r: -r["clip_sim_dir"])[:few]
        unlimited = FilterConfig(min_text=0.15, min_direction=0.15, min_image=0.3, max_per_triplet=99)
        early = set(_chosen(rows, config, lambda r: -r["clip_sim_dir"])) & {
            (r["triplet_id"], r["candidate"]) for r in passing
        }
        slips: list[tuple[list[tuple[str, int]], int | str]] = [
            (
                [(r["triplet_id"], r["candidate"]) for r in everywhere],
                "The best few of each triplet, not of all.",
            ),
            (_chosen(passing, config, lambda r: -r["clip_sim_image"]), "Order by the direction similarity."),
            (
                _chosen(passing, config, lambda r: r["clip_sim_dir"]),
                "These are the worst few: largest first.",
            ),
            (_chosen(passing, config, lambda r: r["candidate"]), "Sort by direction before you cut."),
            (
                _chosen(rows, config, lambda r: -r["clip_sim_dir"]),
                "Some of these do not pass the thresholds.",
            ),
            (filtering.select(rows, unlimited), "Keep at most max_per_triplet of each triplet."),
            (sorted(early), "First the thresholds, then the best few: what fails must take nobody's place."),
        ]
        got = answer([dict(r) for r in rows], config)
        need(
            isinstance(got, list | tuple),
            "Give a list of (triplet_id, candidate).",
            f"got {type(got).__name__}",
        )
        pairs = [tuple(pair) if isinstance(pair, list | tuple) else pair for pair in got]
        for wrong, hint in slips:
            need(sorted(pairs) != sorted(wrong) or sorted(wrong) == sorted(expected), hint)
        same_value(pairs, expected, hint=1, what="the kept")
