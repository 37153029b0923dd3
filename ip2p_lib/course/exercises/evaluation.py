"""Exercises of notebook 06: sides of the mask, what exact means, intervals, pairs, curves at equal direction."""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ip2p_lib.backbone import ClipEncoder
from ip2p_lib.course.exercises.checks import need, one_of, same_value
from ip2p_lib.course.exercises.grading import Exercise
from ip2p_lib.diffusion import seeded_noise
from ip2p_lib.evaluation.curves import image_at
from ip2p_lib.evaluation.rows import distances, released_range

Array = NDArray[np.float64]
Picks = NDArray[np.int64]
Seen = Mapping[str, Any]
NAN = float("nan")


def colleague_prepares(clip: ClipEncoder, pixels: Tensor) -> Tensor:
    """What the colleague of exercise 06.1 feeds CLIP, from pictures in [0, 1]. Find out by the symptoms."""
    return released_range(clip, pixels)


CAUSES = {
    "a": "Then grey would be grey: equal channels do not care for their order.",
    "b": "Then white would become black, and black white.",
    "d": "That happens after the encoder. Here the features themselves are those of other pictures.",
    "e": "A picture of one colour is the same at every size.",
}


def check_cause(answer: Any, seed: int) -> None:
    """White stays, grey becomes black: x was taken for 2 x - 1."""
    one_of(answer, "c", CAUSES)


def sides(after: Tensor, truth: Tensor, mask: Tensor) -> tuple[float, float]:
    """L1 to the exact answer inside and outside the mask (H, W), of pictures (3, H, W); NaN for an empty side."""
    found = distances(truth, after, truth, mask.numpy())
    inside, outside = found["l1_inside"], found["l1_outside"]
    return NAN if inside is None else inside, NAN if outside is None else outside


def _numbers(got: Any, count: int) -> list[float]:
    good = isinstance(got, list | tuple) and len(got) == count
    need(good, f"Give {count} numbers.", f"got {got!r:.60}")
    return [NAN if v is None else round(float(v), 6) for v in got]


def _plain(values: tuple[float, ...]) -> list[float]:
    return [round(float(v), 6) for v in values]


def check_sides(answer: Callable[..., Any], seed: int) -> None:
    """A mask of a quarter, then one that is empty and one that is everything."""
    after, truth = (seeded_noise([seed], (3, 8, 8), draw=d)[0].clamp(-1, 1) for d in (0, 1))
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:6, 3:7] = True
    off, signed = (after - truth).abs().mean(0), (after - truth).mean(0)
    inside, outside = off[mask].mean().item(), off[~mask].mean().item()
    slips = [
        ((outside, inside), "The sides are exchanged: where the mask is True is inside."),
        ((off[mask].sum().item(), off[~mask].sum().item()), "Means, not sums: the sides differ in size."),
        (((off * mask).mean().item(), (off * ~mask).mean().item()), "Divide by the pixels of the side, not by all."),
        ((3 * inside, 3 * outside), "The mean goes over the three channels too."),
        ((signed[mask].mean().item(), signed[~mask].mean().item()), "Take the absolute value before you average."),
        (tuple(((after - truth) ** 2).mean(0)[m].mean().item() for m in (mask, ~mask)), "That is squared: L1 is the absolute difference."),
        (tuple((after - truth).abs().amax(0)[m].mean().item() for m in (mask, ~mask)), "The mean of the channels, not the largest."),
    ]  # fmt: skip
    got = [round(v, 4) for v in _numbers(answer(after, truth, mask), 2)]
    right = [round(v, 4) for v in (inside, outside)]
    known = [([round(v, 4) for v in w], h) for w, h in slips]
    _near_or_wrong(got, right, known)
    for flags, empty in ((torch.zeros_like(mask), 0), (torch.ones_like(mask), 1)):
        found = _numbers(answer(after, truth, flags), 2)
        need(
            np.isnan(found[empty]),
            "An empty side has no mean: give NaN, not a number.",
            f"got {found[empty]}",
        )


def _near_or_wrong(got: list[float], right: list[float], slips: list[tuple[list[float], str]]) -> None:
    """Numbers within 2e-4 count as equal: sums run in other orders."""
    for wanted, hint in [(right, ""), *slips]:
        if np.allclose(got, wanted, atol=2e-4):
            need(wanted is right, hint, f"must be {right}, got {got}")
            return
    same_value(got, right, hint=1)


def judged(seen: Seen, before: Seen, wanted: Seen) -> tuple[bool, bool]:
    """(exact, requested): all is as wanted; what should change is as wanted, whatever else happened."""
    return seen == wanted, all(seen[n] == wanted[n] for n in wanted if before[n] != wanted[n])


SCENE = {"subject": "house", "colour": "red", "place": "meadow", "time": "day", "kite": False, "boat": True}
JUDGEMENTS: tuple[tuple[Callable[[Seen, Seen, Seen], tuple[bool, bool]], str], ...] = (
    (lambda s, b, w: (judged(s, b, w)[1],) * 2, "Exact is more than requested: all else must be as it was."),
    (lambda s, b, w: (judged(s, b, w)[0],) * 2, "Requested asks about the change alone, whatever else happened."),
    (lambda s, b, w: judged(s, b, w)[::-1], "The two are exchanged: exact comes first."),
    (lambda s, b, w: (s == b, judged(s, b, w)[1]), "Exact compares with the wanted scene, not with the input."),
    (lambda s, b, w: (judged(s, b, w)[0], s != b), "Some change is not the requested one."),
    (
        lambda s, b, w: (all(s[n] == w[n] for n in w if not isinstance(w[n], bool)), judged(s, b, w)[1]),
        "The extras belong to the picture: a kite that vanished is no exact edit.",
    ),
    (
        lambda s, b, w: (judged(s, b, w)[0], any(s[n] == w[n] for n in w if b[n] != w[n])),
        "If two things were to change, both must have.",
    ),
)  # fmt: skip


def check_judged(answer: Callable[..., Any], seed: int) -> None:
    """Exact, nothing done, done with losses, something else done, and half of what was asked."""
    night, kite = {**SCENE, "time": "night"}, {**SCENE, "kite": True}
    both = {**night, "colour": "blue"}
    cases = [
        (night, night), (SCENE, night), ({**night, "boat": False}, night), ({**night, "colour": "blue"}, night),
        ({**SCENE, "colour": "blue"}, night), ({**SCENE, "time": "dusk"}, night), (kite, kite), ({**kite, "boat": False}, kite),
        (both, both), (night, both), ({**both, "kite": True}, both),
    ]  # fmt: skip
    got = []
    for seen, wanted in cases:
        pair = answer(dict(seen), dict(SCENE), dict(wanted))
        need(isinstance(pair, list | tuple) and len(pair) == 2, "Give two truth values: (exact, requested).")
        got.append((bool(pair[0]), bool(pair[1])))
    right = [judged(seen, SCENE, wanted) for seen, wanted in cases]
    for rule, hint in JUDGEMENTS:
        need(got == right or got != [rule(seen, SCENE, wanted) for seen, wanted in cases], hint)
    for (seen, wanted), own, expected in zip(cases, got, right, strict=True):
        asked = {n: v for n, v in wanted.items() if SCENE[n] != v}
        found = {n: v for n, v in seen.items() if SCENE[n] != v}
        same_value(own, expected, hint=1, what=f"asked was {asked}, changed has {found}: (exact, requested)")


def interval(values: Array, picks: Picks) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of values (N,); picks (draws, N) says which values each draw takes."""
    low, high = np.quantile(values[picks].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def check_interval(answer: Callable[..., Any], seed: int) -> None:
    """Against intervals of the values, of other levels and over the other axis."""
    rng = np.random.default_rng(seed)
    values, picks = rng.normal(size=30) ** 2, rng.integers(0, 30, (500, 30))
    means, mean = values[picks].mean(axis=1), values.mean()
    error = 1.96 * values.std(ddof=1) / 30**0.5
    quantile = np.quantile
    slips: list[tuple[Any, int | str]] = [
        (quantile(values, (0.025, 0.975)), "That is where the values lie. Ask where the mean may lie."),
        (quantile(means, (0.05, 0.95)), "Ninety-five per cent lie between the quantiles 0.025 and 0.975."),
        (quantile(means, (0.025, 0.975))[::-1], "Low first, then high."),
        ((means.min(), means.max()), "The extremes grow with the number of draws: take quantiles."),
        ((mean - error, mean + error), "That is the normal approximation. Take the quantiles of the drawn means."),
        (quantile(values[picks].mean(axis=0), (0.025, 0.975)), "Each row of picks is one draw: average along it."),
        (quantile(np.median(values[picks], axis=1), (0.025, 0.975)), "The interval is that of the mean, not of the median."),
        ((mean - means.std(), mean + means.std()), "One deviation to each side holds two thirds, not 95 %."),
    ]  # fmt: skip
    got = _numbers(answer(values.copy(), picks.copy()), 2)
    same_value(got, _plain(interval(values, picks)), slips=[(_plain(tuple(w)), h) for w, h in slips], hint=1)


def change(one: Array, other: Array, picks: Picks) -> tuple[float, float, float]:
    """Mean change from one to other of the same edits (N,), and its 95 % bootstrap interval: (value, low, high)."""
    return float((other - one).mean()), *interval(other - one, picks)


def check_change(answer: Callable[..., Any], seed: int) -> None:
    """Two measurements that rise and fall together, so that the pairing shows."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=24)
    one, other, picks = base, base + 0.2 + 0.1 * rng.normal(size=24), rng.integers(0, 24, (400, 24))
    value, low, high = change(one, other, picks)
    (l1, h1), (l2, h2) = interval(one, picks), interval(other, picks)
    slips = [
        ((-value, -high, -low), "Other minus one: how much it changed from the first to the second."),
        ((value, l2 - l1, h2 - h1), "The ends of two intervals say nothing about the difference: subtract before you resample."),
        ((value, l2 - h1, h2 - l1), "That treats both as independent. They are the same edits: subtract edit by edit."),
        ((low, value, high), "The order is value, low, high."),
        ((abs(one - other).mean(), *interval(abs(one - other), picks)), "The sign counts: a change may be up or down."),
        ((other.mean(), l2, h2), "That is the second measurement. Ask for its difference from the first."),
        ((value, *interval(other - one.mean(), picks)), "Each edit has its own value before: subtract edit by edit, not the mean."),
    ]  # fmt: skip
    got = _numbers(answer(one.copy(), other.copy(), picks.copy()), 3)
    same_value(got, _plain((value, low, high)), slips=[(_plain(w), h) for w, h in slips], hint=1)


def height(directions: Array, kept: Array, at: float) -> float:
    """Image similarity of a curve at one direction, straight between its points, whose directions ascend."""
    return float(image_at(directions, kept, np.array([at]))[0])


def check_height(answer: Callable[..., Any], seed: int) -> None:
    """Between points, near one of them, at a point, and at the ends."""
    x, y = np.array([0.1, 0.2, 0.6, 0.9]), np.array([0.98, 0.95, 0.8, 0.5]) - seed / 1000
    line = np.polyfit(x, y, 1)
    for at in (0.52, 0.13, 0.75, 0.6, 0.1, 0.9):
        right = height(x, y, at)
        slips: list[tuple[float, str]] = [
            (y[np.abs(x - at).argmin()], "That is the nearest point. Between two points the curve is a line."),
            (y[x <= at][-1], "That is the point before. Go on along the line to the next."),
            (y[x >= at][0], "That is the point behind. The curve is a line between both."),
            (y.mean(), "The mean of the curve depends on where its points happen to lie."),
            ((y[x <= at][-1] + y[x >= at][0]) / 2, "Weigh both neighbours by how near they are."),
            (float(np.interp(at, y[::-1], x[::-1])), "The axes are exchanged: a direction is given, the similarity wanted."),
            (float(np.polyval(line, at)), "One line for all points is another curve: take the segment of both neighbours."),
            (y[len(y) // 2], "The middle of the dial is another direction for each system."),
        ]  # fmt: skip
        got = _numbers([answer(x.copy(), y.copy(), at)], 1)
        same_value(got, _plain((right,)), slips=[(_plain((w,)), h) for w, h in slips], hint=1, what=f"the height at {at}")  # fmt: skip


def edits_for(width: float, edits: int, wanted: float) -> int:
    """About how many edits make the interval of a mean `wanted` wide, if so many make it `width` wide."""
    return ceil(edits * (width / wanted) ** 2 - 1e-9)


def check_edits(answer: Callable[..., Any], seed: int) -> None:
    """Narrower, much narrower, and wider than what was seen. One edit more or less does not matter."""
    for width, edits, wanted in ((0.4, 24, 0.1), (0.3, 100 + seed, 0.07), (0.1, 400, 0.2)):
        right, ratio = edits_for(width, edits, wanted), width / wanted
        got = _numbers([answer(width, edits, wanted)], 1)[0]
        slips = [
            (edits * ratio, "Twice as many edits do not halve an interval: it shrinks with the root."),
            (
                edits * ratio**0.5,
                "The other way round: the width goes with the root, so the number with the square.",
            ),
            (edits / ratio**2, "A narrower interval needs more edits, not fewer."),
            (ratio**2, "That is how many times as many."),
            (edits * (ratio**2 - 1), "Count all edits, those that are there already too."),
        ]
        for wrong, hint in slips:
            need(abs(got - right) <= 1 or abs(got - wrong) > 1, hint, f"must be about {right}, got {got:g}")
        need(abs(got - right) <= 1, 1, f"must be about {right}, got {got:g}")


EXERCISES = (
    Exercise(
        "06.1", "Break it: a colleague's CLIP", 3, 4, 6, "c", check_cause,
        (
            "Look at the greys first: which picture does theirs take for which?",
            "White stays white, mid-grey becomes black. Which of the causes maps 1 to 1 and 0.5 to 0?",
        ),
    ),
    Exercise(
        "06.2", "Inside and outside the mask", 1, 4, 5, sides, check_sides,
        (
            "One picture of differences, averaged over two sets of pixels.",
            "off = (after - truth).abs().mean(0), then off[mask].mean() and off[~mask].mean(); the mean of nothing is NaN.",
        ),
    ),
    Exercise(
        "06.3", "Exactly, and as requested", 2, 5, 8, judged, check_judged,
        (
            "One asks whether all is as wanted, the other about that alone which was to change.",
            "exact: seen == wanted. requested: for all names whose value differs between before and wanted, seen has the wanted value.",
        ),
    ),
    Exercise(
        "06.4", "How sure is a mean?", 2, 5, 6, interval, check_interval,
        (
            "Draw the same number of edits with repetition, again and again: how far do their means scatter?",
            "values[picks] is (draws, N): its means along axis 1, and of those np.quantile at 0.025 and 0.975.",
        ),
    ),
    Exercise(
        "06.5", "The same edits twice", 2, 5, 5, change, check_change,
        (
            "Subtract first: each edit against itself. Then there is only one list of numbers.",
            "difference = other - one; its mean, and the quantiles 0.025 and 0.975 of difference[picks].mean(axis=1).",
        ),
    ),
    Exercise(
        "06.6", "At equal direction", 2, 4, 5, height, check_height,
        (
            "Find both neighbours, and go along the line between them as far as the direction lies between theirs.",
            "np.interp(at, directions, kept), for the directions ascend.",
        ),
    ),
    Exercise(
        "06.7", "How many edits?", 2, 3, 4, edits_for, check_edits,
        (
            "The interval of a mean shrinks with the root of the number of edits.",
            "edits times (width / wanted) squared, rounded up.",
        ),
    ),
)  # fmt: skip
