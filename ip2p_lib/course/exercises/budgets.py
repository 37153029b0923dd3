"""The middle part of notebook 07's exercises: bytes for each weight, and micro-batches that fit."""

from collections.abc import Callable
from typing import Any

from ip2p_lib.course.exercises.checks import Rules, against, need


def bytes_per_weight(precision: str, trained: float = 1.0, averaged: bool = True) -> float:
    """Bytes that a training holds for each weight, whatever the batch.

    Args:
        precision: bf16 or fp16 (mixed), or no for float32.
        trained: share of the weights that is trained, 1 for all.
        averaged: whether an average of the trained weights is kept.
    """
    copy = 0 if precision == "no" else 2
    return trained * (4 + copy + 4 + 8 + 4 * averaged) + (1 - trained) * (copy or 4)


def _kept(
    weight: float = 4, copy: float = 2, rest: float = 12, mixed: float = 2, plain: float = 4
) -> Callable[..., float]:
    """A sum with other bytes: of a trained weight, its copy, what else it has but the average; of a frozen one."""

    def total(precision: str, trained: float, averaged: bool) -> float:
        is_mixed = precision != "no"
        own = weight + copy * is_mixed + rest + 4 * averaged
        return trained * own + (1 - trained) * (mixed if is_mixed else plain)

    return total


BYTES: Rules = (
    (_kept(rest=8), "AdamW keeps two averages of each trained weight: of its gradient and of the gradient's square."),
    (_kept(rest=4), "That lacks gradients or averages: AdamW keeps two of them beside the gradient, four bytes each."),
    (_kept(rest=6), "Gradients and the optimiser's averages belong to the weights in float32: four bytes each."),
    (_kept(copy=0), "Mixed precision computes on copies of two bytes: they come on top."),
    (lambda p, t, a: _kept()("bf16", t, a), "In float32 the weights themselves are computed with: precision no needs no copies."),
    (lambda p, t, a: bytes_per_weight(p, t, a) + 2 * t * (p == "no"), "In float32 the weights themselves are computed with: precision no needs no copies."),
    (_kept(weight=2, copy=0), "A trained weight stays in four bytes, and the two bytes are a copy beside it."),
    (lambda p, t, a: _kept(weight=2, copy=0)(p, t, a) + 2 * t * (p == "no"), "A trained weight stays in four bytes, and the two bytes are a copy beside it."),
    (_kept(mixed=6), "A frozen weight is not moved by small steps: in mixed precision its two bytes are all that is needed."),
    (_kept(mixed=4), "A frozen weight is not moved by small steps: in mixed precision its two bytes are all that is needed."),
    (_kept(plain=2), "Precision no computes in float32, with frozen weights too: four bytes."),
    (_kept(mixed=18, plain=16), "What is not trained has no gradient and no state of the optimiser: that is what an adapter spares."),
    (lambda p, t, a: bytes_per_weight(p, 1.0, a), "What is not trained has no gradient and no state of the optimiser: that is what an adapter spares."),
    (_kept(mixed=0, plain=0), "Frozen weights are held as well, and computed with: only gradients, optimiser and average shrink."),
    (lambda p, t, a: bytes_per_weight(p, t, True), "Without an average there is none to keep: mind `averaged`."),
    (lambda p, t, a: bytes_per_weight(p, t, False), "The average of the weights is kept too, if `averaged`."),
    (lambda p, t, a: bytes_per_weight(p, t, False) + 4 * a, "Frozen weights are their own average: only the trained ones need one."),
)  # fmt: skip


def check_bytes(answer: Callable[..., Any], seed: int) -> None:
    """All weights, an adapter, no average; each in mixed precision and in float32."""
    share = 1 / (16 + seed)
    cases = [(p, t, a) for t in (1.0, share) for a in (True, False) for p in ("bf16", "no", "fp16")]
    against(lambda *case: float(answer(*case)), bytes_per_weight, cases, BYTES)


def micro_batch(free: int, per_pair: int, batch: int) -> tuple[int, int]:
    """(pairs in a micro-step, micro-steps) whose product is the batch, the first as large as fits; else (0, 0)."""
    fitting = [n for n in range(1, batch + 1) if batch % n == 0 and n * per_pair <= free]
    return (fitting[-1], batch // fitting[-1]) if fitting else (0, 0)


def _halved(free: int, per_pair: int, batch: int) -> tuple[int, int]:
    n = batch
    while n * per_pair > free and n > 0:
        n //= 2
    return (n, batch // n) if n else (0, 0)


def _filled(free: int, per_pair: int, batch: int, up: bool, most: bool = True) -> tuple[int, int]:
    n = free // per_pair
    n = min(n, batch) if most else n
    return (n, -(-batch // n) if up else batch // n) if n else (0, 0)


def _power(free: int, per_pair: int, batch: int) -> tuple[int, int]:
    n = min(free // per_pair, batch)
    n = 2 ** (n.bit_length() - 1) if n else 0
    return (n, batch // n) if n else (0, 0)


MICRO: Rules = (
    (lambda f, p, b: _filled(f, p, b, up=True), "The last micro-step would be smaller, or the batch larger: take the largest size that divides the batch."),
    (lambda f, p, b: _filled(f, p, b, up=False), "Some pairs of the batch would be dropped: the product must be the batch exactly."),
    (lambda f, p, b: _filled(f, p, b, True, False), "A micro-step larger than the batch is no part of it; and the size must divide the batch."),
    (lambda f, p, b: _filled(f, p, b, False, False), "A micro-step larger than the batch is no part of it; and the size must divide the batch."),
    (_halved, "Halving misses sizes: 96 pairs can go in steps of 32."),
    (_power, "A power of two need not divide the batch, and need not be the largest that does."),
    (lambda f, p, b: micro_batch(f, p, b)[::-1], "The order is (pairs in a micro-step, micro-steps)."),
    (lambda f, p, b: micro_batch(f - 1, p, b), "What fills the memory to the last byte still fits."),
    (lambda f, p, b: (1, b) if f >= p else (0, 0), "That fits, but takes the most micro-steps: find the largest that fits."),
    (lambda f, p, b: micro_batch(f, p, b) if f >= p else (1, b), "If not even one pair fits, say so: (0, 0)."),
)  # fmt: skip


def check_micro(answer: Callable[..., Any], seed: int) -> None:
    """Batches that are no powers of two, a prime, memory that is just enough, too much, and too little."""
    per = 337 + seed
    cases = [
        (13 * per + 5, per, 1024), (40 * per + 1, per, 96), (32 * per, per, 96), (7 * per + 2, per, 100),
        (50 * per, per, 6), (6 * per + 9, per, 7), (per - 1, per, 64), (1000 * per, per, 1024),
    ]  # fmt: skip
    first = answer(*cases[0])
    need(
        isinstance(first, list | tuple) and len(first) == 2,
        "Give two whole numbers: (pairs in a micro-step, micro-steps).",
        f"got {first!r:.60}",
    )
    against(answer, micro_batch, cases, MICRO)
