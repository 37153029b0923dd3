"""Wrong answers to the exercises of notebook 07."""

import torch

from ip2p_lib.course.exercises.full_size import bytes_per_weight, input_block, micro_batch, moves


def frozen(precision, trained):
    return (1 - trained) * (4 if precision == "no" else 2)


def eps(dtype):
    return torch.finfo(dtype).eps


def as_stored(value, step, dtype):
    return (torch.tensor(value, dtype=dtype) + torch.tensor(step, dtype=dtype)).item() != value


def filled(free, per_pair, batch):
    n = min(batch, free // per_pair)
    return (n, -(-batch // n)) if n else (0, 0)


def filled_and_dropped(free, per_pair, batch):
    n = min(batch, free // per_pair)
    return (n, batch // n) if n else (0, 0)


def halved(free, per_pair, batch):
    n = batch
    while n and n * per_pair > free:
        n //= 2
    return (n, batch // n) if n else (0, 0)


def never_zero(free, per_pair, batch):
    return micro_batch(max(free, per_pair), per_pair, batch)


WRONG = {
    "07.1": [
        (lambda c, k: c.out_channels * (k * c.kernel_size[0] * c.kernel_size[1] + 1), "bias"),
        (lambda c, k: c.out_channels * (c.in_channels + k) * c.kernel_size[0] * c.kernel_size[1], "new ones alone"),
        (lambda c, k: c.out_channels * k, "whole kernel"),
        (lambda c, k: k * c.kernel_size[0] * c.kernel_size[1], "multiply by the outputs"),
        (lambda c, k: c.out_channels * k * c.kernel_size[0] ** 2, "need not be square"),
        (lambda c, k: c.out_channels * k * 9, "both sides of kernel_size"),
    ],
    "07.2": [
        (lambda v, n, k=2: v * (k + 1) + n, "first convolution"),
        (lambda v, n, k=2: 1 + v * k + n, "change of resolution"),
        (lambda v, n, k=2: v * k + n, "Two things lack"),
        (lambda v, n, k=2: 1 + 3 * v + n, "use layers_per_level"),
        (lambda v, n, k=2: input_block(v, n, k) + 1, "counted from 0"),
        (lambda v, n, k=2: input_block(v, 0, k), "Go on to the layer"),
    ],
    "07.3": [
        (lambda v, s, d: v + s != v, "Each number alone"),
        (lambda v, s, d: bool(torch.tensor(v) + torch.tensor(s) != torch.tensor(v)), "before you add"),
        (lambda v, s, d: abs(s) > eps(d), "gap between numbers above 1"),
        (lambda v, s, d: s >= eps(d), "gap between numbers above 1"),
        (lambda v, s, d: abs(s) > eps(d) * abs(v), "half the gap"),
        (as_stored, "what was stored"),
        (lambda v, s, d: not moves(v, s, d), "other way round"),
        (lambda v, s, d: moves(v, s, d) and s > 0, "step down"),
        (lambda v, s, d: torch.zeros(3), "one truth value"),
    ],
    "07.4": [
        (lambda p, t=1.0, a=True: t * (12 + 2 * (p != "no") + 4 * a) + frozen(p, t), "two averages"),
        (lambda p, t=1.0, a=True: t * (16 + 4 * a) + frozen(p, t), "on top"),
        (lambda p, t=1.0, a=True: t * (18 + 4 * a) + frozen(p, t), "needs no copies"),
        (lambda p, t=1.0, a=True: t * ((4 if p == "no" else 2) + 12 + 4 * a) + frozen(p, t), "a copy beside it"),
        (lambda p, t=1.0, a=True: t * (16 + 2 * (p != "no") + 4 * a) + (1 - t) * (4 + 2 * (p != "no")), "two bytes are all"),
        (lambda p, t=1.0, a=True: t * (16 + 2 * (p != "no") + 4 * a) + (1 - t) * 4, "two bytes are all"),
        (lambda p, t=1.0, a=True: bytes_per_weight(p, 1.0, a), "adapter spares"),
        (lambda p, t=1.0, a=True: t * bytes_per_weight(p, 1.0, a), "Frozen weights are held"),
        (lambda p, t=1.0, a=True: bytes_per_weight(p, t), "mind `averaged`"),
        (lambda p, t=1.0, a=True: bytes_per_weight(p, t, False), "kept too"),
        (lambda p, t=1.0, a=True: bytes_per_weight(p, t, False) + 4 * a, "their own average"),
    ],
    "07.5": [
        (filled, "divides the batch"),
        (filled_and_dropped, "would be dropped"),
        (halved, "Halving misses"),
        (lambda f, p, b: micro_batch(f, p, b)[::-1], "The order is"),
        (lambda f, p, b: micro_batch(f - 1, p, b), "last byte"),
        (lambda f, p, b: (1, b) if f >= p else (0, 0), "most micro-steps"),
        (never_zero, "say so: (0, 0)"),
        (lambda f, p, b: f // p, "two whole numbers"),
    ],
    "07.6": [
        ("a", "same decay"),
        ("B", "stand as well"),
        (" d ", "the small ones neither"),
        ("e", "small and large alike"),
        ("bfloat16", "Choose one of a, b, c, d, e"),
    ],
}  # fmt: skip
