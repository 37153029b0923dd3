"""Wrong answers to the exercises of notebook 02."""

import torch
from torch.nn import functional as F

from ip2p_lib.attention import shared_steps


def one_stream(seeds, shape, draw):
    generator = torch.Generator().manual_seed(seeds[0] * 1000 + draw)
    return torch.randn(len(seeds), *shape, generator=generator)


def unseeded(seeds, shape, draw):
    return torch.randn(len(seeds), *shape, generator=torch.Generator().manual_seed(torch.seed() % 2**31))


def keyed(key, draw_from=torch.randn):
    def noise(seeds, shape, draw):
        generators = [torch.Generator().manual_seed(key(s, draw)) for s in seeds]
        return torch.stack([draw_from(shape, generator=g) for g in generators])

    return noise


def rows_alone(thresholds, steps):
    return 2 * steps * len(thresholds)


def rows_without_source(thresholds, steps):
    shared = [shared_steps(t, steps) for t in thresholds]
    return max(shared) + sum(steps - s for s in set(shared))


def rows_of_twins(thresholds, steps):
    shared = [shared_steps(t, steps) for t in thresholds]
    return steps + max(shared) + sum(steps - s for s in shared)


def rows_without_trunk(thresholds, steps):
    return steps + sum(steps - shared_steps(t, steps) for t in thresholds)


def scored(q, k, v, dim=-1, d=None):
    return ((q @ k.transpose(-1, -2)) / (d or 1) ** 0.5).softmax(dim) @ v


def shift_by_place(source, target, partners):
    places = range(len(partners))
    return torch.stack([source[:, n] if partners[n] >= 0 else target[:, n] for n in places], 1)


WRONG = {
    "02.1": [
        (one_stream, "one torch.Generator per row"),
        (unseeded, "same call gave another noise"),
        (keyed(lambda s, draw: s), "`draw` must matter"),
        (keyed(lambda s, draw: s + draw), "tell all pairs apart"),
        (keyed(lambda s, draw: 10 * s + draw), "make one key"),
        (keyed(lambda s, draw: s ^ (draw << 1)), "make one key"),
        (keyed(lambda s, draw: 100 * s + draw), "make one key"),
        (keyed(lambda s, draw: draw), "whatever their seeds"),
        (keyed(lambda s, draw: s * 999 + draw, torch.rand), "normal noise"),
        (lambda seeds, shape, draw: torch.zeros(shape), "one torch.Generator per row"),
    ],
    "02.2": [
        (lambda t, i, n: t >= i / (n - 1), "strict"),
        (lambda t, i, n: t > i / n, "N - 1"),
        (lambda t, i, n: t < i / (n - 1), "first steps"),
        (lambda t, i, n: t > (i + 1) / n, "count from 0"),
        (lambda t, i, n: True, "i / (N - 1)"),
    ],
    "02.3": [
        (lambda s: torch.arange(4 * s), "nothing is lent"),
        (lambda s: torch.cat([torch.arange(3 * s), torch.arange(2 * s, 3 * s)]), "unconditional"),
        (lambda s: torch.arange(4 * s) // 2 * 2, "side by side"),
        (lambda s: torch.tensor([s, 3 * s]).repeat_interleave(2 * s), "targets lend"),
        (lambda s: torch.tensor([0, 2 * s]).repeat_interleave(2 * s), "its own source"),
        (lambda s: torch.arange(2 * s), "wrong shape"),
    ],
    "02.4": [
        (lambda q, k, v, own: F.scaled_dot_product_attention(q, k[own], v), "keys alone"),
        (lambda q, k, v, own: F.scaled_dot_product_attention(q[own], k, v), "both from one row"),
        (lambda q, k, v, own: F.scaled_dot_product_attention(q[own], k[own], v[own]), "target's own"),
        (lambda q, k, v, own: F.scaled_dot_product_attention(q, k, v), "Nothing is lent"),
        (lambda q, k, v, own: scored(q[own], k[own], v), "square root"),
        (lambda q, k, v, own: scored(q[own], k[own], v, -2, q.shape[-1]), "last dimension"),
        (lambda q, k, v, own: q[own] @ k[own], "stopped with an error"),
    ],
    "02.5": [
        (rows_alone, "each candidate alone"),
        (rows_without_source, "source has a row"),
        (rows_without_trunk, "trunk"),
        (rows_of_twins, "same step"),
    ],
    "02.6": [
        (lambda s, t, p: s[:, p], "-1 as the last column"),
        (lambda s, t, p: t, "Words with a partner"),
        (shift_by_place, "not the source's word in place n"),
        (lambda s, t, p: s, "wrong shape"),
    ],
    "02.7": [
        ("a", "threshold"),
        ("C", "source would notice"),
        (" d ", "still act through cross-attention"),
        ("cross", "Choose one of a, b, c, d, e"),
    ],
}
