"""Means, shares and ratios of means with bootstrap intervals."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ip2p_lib.scenes.world import KINDS

WILSON = 1.959964**2  # squared normal quantile of a 95 % interval


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
        groups: one for each value; values of one group, such as attempts at one triplet, are drawn together.

    Raises:
        ValueError: there are no values, or not one group for each.
    """
    if not len(values):
        raise ValueError("a mean needs at least one value, got none")
    sums = counts = np.asarray(values, dtype=np.float64)
    if groups is None:
        counts = np.ones(len(sums))
    else:
        sums, counts = _by_group(sums, groups)
    picks = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    low, high = np.quantile(sums[picks].sum(axis=1) / counts[picks].sum(axis=1), (0.025, 0.975))
    return Measure(float(sums.sum() / counts.sum()), float(low), float(high), len(values))


def _by_group(
    values: NDArray[np.float64], groups: Sequence[Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and number of the values of each group, in order of appearance."""
    if len(groups) != len(values):
        raise ValueError(f"there must be one group for each of {len(values)} values, got {len(groups)}")
    number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    places = np.array([number[g] for g in groups])
    return np.bincount(places, values).astype(np.float64), np.bincount(places).astype(np.float64)


def share(values: Sequence[float], *, groups: Sequence[Hashable] | None = None) -> Measure:
    """Share of ones among zeros and ones, with its interval.

    Where all are alike a bootstrap has no width; then the interval is Wilson's, which tells how little few say.

    Raises:
        ValueError: as `bootstrap`, or a value is neither 0 nor 1.
    """
    if any(v not in (0, 1) for v in values):
        raise ValueError("a share is of zeros and ones, got another value")
    found = bootstrap(values, groups=groups)
    if 0 < found.value < 1:
        return found
    n = len(values if groups is None else set(groups))
    margin = WILSON / (n + WILSON)
    return replace(found, low=found.value * (1 - margin), high=found.value + (1 - found.value) * margin)


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
    found = {k: [v for v, kind in zip(values, kinds, strict=True) if kind == k] for k in KINDS}
    return {k: share(v) for k, v in found.items() if v}
