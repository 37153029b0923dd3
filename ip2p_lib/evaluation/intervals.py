"""Means, shares and ratios of means with bootstrap intervals."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ip2p_lib.scenes.world import KINDS

WILSON = 1.959964**2  # squared normal quantile of a 95 % interval
FEW = 5  # of ones or of zeros, below which a bootstrap's interval is too narrow


@dataclass(frozen=True, slots=True)
class Measure:
    """A mean with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    n: int


def bootstrap(
    values: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    draws: int = 2_000,
    seed: int = 0,
) -> Measure:
    """Mean of values and its 95 % percentile interval.

    Args:
        values: independent of each other, unless `groups` says otherwise.
        groups: one for each value; values of one group, such as attempts at one triplet, are drawn together. A
            single group would have no width, and counts as none.

    Raises:
        ValueError: there are no values, or not one group for each.
    """
    if not len(values):
        raise ValueError("a mean needs at least one value, got none")
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"there must be one group for each of {len(values)} values, got {len(groups)}")
    alone = groups is None or len(set(groups)) < 2
    sums, counts = _by_group(values, range(len(values)) if alone else groups)  # type: ignore[arg-type]
    picks = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    low, high = np.quantile(sums[picks].sum(axis=1) / counts[picks].sum(axis=1), (0.025, 0.975))
    return Measure(float(sums.sum() / counts.sum()), float(low), float(high), len(values))


def _by_group(
    values: Sequence[float], groups: Sequence[Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and number of the values of each group, in order of appearance."""
    number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    places = np.array([number[g] for g in groups])
    weights = np.asarray(values, dtype=np.float64)
    return np.bincount(places, weights).astype(np.float64), np.bincount(places).astype(np.float64)


def share(values: Sequence[float], *, groups: Sequence[Hashable] | None = None) -> Measure:
    """Share of ones among zeros and ones, with its interval.

    Where all or nearly all are alike a bootstrap has hardly any width; then the interval is Wilson's, for as many
    values as there are groups.

    Raises:
        ValueError: as `bootstrap`, or a value is neither 0 nor 1.
    """
    if any(v not in (0, 1) for v in values):
        raise ValueError("a share is of zeros and ones, got another value")
    found, ones = bootstrap(values, groups=groups), sum(values)
    if min(ones, len(values) - ones) >= FEW and found.low < found.high:
        return found
    low, high = _wilson(found.value, len(values if groups is None else set(groups)))
    return replace(found, low=low, high=high)


def _wilson(value: float, n: int) -> tuple[float, float]:
    """Ends of Wilson's score interval of a share of n."""
    middle, half = value + WILSON / (2 * n), (WILSON * (value * (1 - value) + WILSON / (4 * n)) / n) ** 0.5
    ends = [(middle + sign * half) / (1 + WILSON / n) for sign in (-1, 1)]
    return max(0.0, ends[0]), min(1.0, ends[1])


def bootstrap_ratio(
    above: Sequence[float], below: Sequence[float], *, draws: int = 2_000, seed: int = 0
) -> Measure:
    """Ratio of two means over the same items, with its interval."""
    a, b = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(a), (draws, len(a)))
    low, high = np.quantile(a[picks].mean(axis=1) / b[picks].mean(axis=1), (0.025, 0.975))
    return Measure(float(a.mean() / b.mean()), float(low), float(high), len(a))


def shares_by_kind(kinds: Sequence[str], values: Sequence[float]) -> dict[str, Measure]:
    """Shares of ones by kind of edit, for the kinds that occur."""
    return shares_by(KINDS, kinds, values)


def shares_by(order: Sequence[str], names: Sequence[str], values: Sequence[float]) -> dict[str, Measure]:
    """Shares of ones by name, in this order, for the names that occur."""
    found = {k: [v for v, name in zip(values, names, strict=True) if name == k] for k in order}
    return {k: share(v) for k, v in found.items() if v}
