"""Means and ratios of means with bootstrap intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ip2p_lib.scenes.world import KINDS


@dataclass(frozen=True, slots=True)
class Measure:
    """A mean with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    n: int


def bootstrap(values: Sequence[float], *, draws: int = 2_000, seed: int = 0) -> Measure:
    """Mean of independent values and its 95 % percentile interval.

    Raises:
        ValueError: there are no values.
    """
    if not len(values):
        raise ValueError("a mean needs at least one value, got none")
    array = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(array), (draws, len(array)))
    low, high = np.quantile(array[picks].mean(axis=1), (0.025, 0.975))
    return Measure(float(array.mean()), float(low), float(high), len(array))


def bootstrap_ratio(
    above: Sequence[float], below: Sequence[float], *, draws: int = 2_000, seed: int = 0
) -> Measure:
    """Ratio of two means over the same items, with its interval."""
    a, b = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(a), (draws, len(a)))
    low, high = np.quantile(a[picks].mean(axis=1) / b[picks].mean(axis=1), (0.025, 0.975))
    return Measure(float(a.mean() / b.mean()), float(low), float(high), len(a))


def values_by_kind(kinds: Sequence[str], values: Sequence[float]) -> dict[str, Measure]:
    """Means of values by kind of edit, for the kinds that occur."""
    found = {k: [v for v, kind in zip(values, kinds, strict=True) if kind == k] for k in KINDS}
    return {k: bootstrap(v) for k, v in found.items() if v}
