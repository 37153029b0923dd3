"""What one attempt at a pair depends on, drawn so that it can be made again anywhere."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ip2p_lib.attention import shared_steps
from ip2p_lib.presets import PairConfig
from ip2p_lib.records import Triplet

T = TypeVar("T")
TRIES = 100  # at a threshold that shares another number of steps


@dataclass(frozen=True, slots=True)
class Candidate:
    """One attempt at a triplet's pair: all that its two pictures depend on beside the captions."""

    triplet: Triplet
    index: int
    seed: int
    p2p_threshold: float
    cfg_scale: float


def draw_candidates(triplet: Triplet, config: PairConfig) -> list[Candidate]:
    """Seed, threshold and scale of each candidate, keyed by (run seed, triplet id, candidate index).

    Neither shard, batch nor worker enters, so any candidate can be made again anywhere. With
    `thresholds_per_seed` k, runs of k candidates have seed and scale in common, and each its own threshold:
    one that shares another number of steps, as far as there are so many, or two pairs would be the same.
    """
    drawn: list[Candidate] = []
    for group in range(-(-config.candidates_per_triplet // config.thresholds_per_seed)):
        key = hashlib.sha256(f"{config.seed}/{triplet.id}/{group}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(key[:16], "little"))
        seed, threshold = int(rng.integers(2**32)), float(rng.uniform(*config.p2p_threshold_range))
        scale = float(rng.uniform(*config.cfg_scale_range))
        thresholds = [threshold]
        while len(thresholds) < config.thresholds_per_seed:
            thresholds.append(_another(thresholds, rng, config))
        drawn += [Candidate(triplet, len(drawn) + i, seed, t, scale) for i, t in enumerate(thresholds)]
    return drawn[: config.candidates_per_triplet]


def _another(taken: Sequence[float], rng: np.random.Generator, config: PairConfig) -> float:
    steps = {shared_steps(t, config.num_inference_steps) for t in taken}
    for _ in range(TRIES):
        threshold = float(rng.uniform(*config.p2p_threshold_range))
        if shared_steps(threshold, config.num_inference_steps) not in steps:
            break
    return threshold


def blocks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive runs of up to `size` items."""
    return (items[i : i + size] for i in range(0, len(items), size))
