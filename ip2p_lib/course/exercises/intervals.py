"""The second part of notebook 06's exercises: how sure a mean is, heights of curves, how many edits."""

from collections.abc import Callable
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ip2p_lib.course.exercises.checks import need, numbers, plain, same_value
from ip2p_lib.evaluation.curves import image_at

Array = NDArray[np.float64]
Picks = NDArray[np.int64]


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
    got = numbers(answer(values.copy(), picks.copy()), 2)
    beside = [quantile(means, (0.025, 0.975), method=m) for m in ("lower", "higher")]
    if all(a - 1e-6 <= g <= b + 1e-6 for g, a, b in zip(got, *beside, strict=True)):
        return  # between the two means where the quantile lies, which may be found without np.quantile
    same_value(got, plain(interval(values, picks)), slips=[(plain(tuple(w)), h) for w, h in slips], hint=1)


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
    got = numbers(answer(one.copy(), other.copy(), picks.copy()), 3)
    same_value(got, plain((value, low, high)), slips=[(plain(w), h) for w, h in slips], hint=1)


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
        got = numbers([answer(x.copy(), y.copy(), at)], 1)
        same_value(got, plain((right,)), slips=[(plain((w,)), h) for w, h in slips], hint=1, what=f"the height at {at}")  # fmt: skip


def edits_for(width: float, edits: int, wanted: float) -> int:
    """About how many edits make the interval of a mean `wanted` wide, if so many make it `width` wide."""
    return ceil(edits * (width / wanted) ** 2 - 1e-9)


def check_edits(answer: Callable[..., Any], seed: int) -> None:
    """Narrower, much narrower, and wider than what was seen. One edit more or less does not matter."""
    for width, edits, wanted in ((0.4, 24, 0.1), (0.3, 100 + seed, 0.07), (0.1, 400, 0.2)):
        right, ratio = edits_for(width, edits, wanted), width / wanted
        got = numbers([answer(width, edits, wanted)], 1)[0]
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
