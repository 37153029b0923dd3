"""Exercises of notebook 07: what more channels cost, names in a file, steps that get lost, bytes, micro-batches."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ip2p_lib.course.exercises.checks import need, one_of, same_value
from ip2p_lib.course.exercises.grading import Exercise

Rules = Sequence[tuple[Callable[..., Any], int | str]]  # what people compute instead, and the hint for it


def _against(
    answer: Callable[..., Any], right: Callable[..., Any], cases: Sequence[Any], slips: Rules
) -> None:
    """Compare over all cases at once, so that a slip is known by all of its values, not by one that is right too."""
    got = [answer(*case) for case in cases]
    wanted = [right(*case) for case in cases]
    known = [([rule(*case) for case in cases], hint) for rule, hint in slips]
    off = next((i for i, pair in enumerate(zip(got, wanted, strict=True)) if not _same(*pair)), None)
    if off is None:
        return
    said = next((h for values, h in known if all(map(_same, got, values))), 1)
    same_value(got[off], wanted[off], hint=said, what=f"the result for {cases[off]}")


def _same(a: Any, b: Any) -> bool:
    try:
        same_value(a, b)
    except Exception:  # noqa: BLE001 - an answer may be anything
        return False
    return True


def added_parameters(convolution: nn.Conv2d, more: int) -> int:
    """Parameters that `more` input channels add to a convolution; its bias belongs to the outputs."""
    high, wide = convolution.kernel_size
    return convolution.out_channels * more * high * wide


ADDED: Rules = (
    (lambda c, k: added_parameters(c, k) + c.out_channels, "The bias has one number for each output channel: it does not grow."),
    (lambda c, k: added_parameters(c, c.in_channels + k), "That is the whole wider layer. Count the new ones alone."),
    (lambda c, k: c.out_channels * k, "Each pair of channels has a whole kernel of numbers, not one."),
    (lambda c, k: k * c.kernel_size[0] * c.kernel_size[1], "Every output channel looks at the new input: multiply by the outputs."),
    (lambda c, k: c.out_channels * k * c.kernel_size[0] ** 2, "A kernel need not be square: use both sides of it."),
    (lambda c, k: c.out_channels * k * c.kernel_size[0], "A kernel has height times width numbers."),
    (lambda c, k: c.in_channels * added_parameters(c, k), "The new channels stand beside the old ones; nothing multiplies with these."),
)  # fmt: skip


def check_added(answer: Callable[..., Any], seed: int) -> None:
    """Stable Diffusion's first layer, and one with a kernel that is not square."""
    layers = [
        nn.Conv2d(4, 320, 3, padding=1, device="meta"),
        nn.Conv2d(3 + seed, 7, (3, 5), device="meta"),
        nn.Conv2d(5, 6, 1, bias=False, device="meta"),
    ]
    _against(answer, added_parameters, [(layer, more) for layer in layers for more in (4, 1)], ADDED)


def input_block(level: int, layer: int, layers_per_level: int = 2) -> int:
    """Number of a layer on the way down in the original names; the change of resolution ends its level."""
    return 1 + level * (layers_per_level + 1) + layer


BLOCKS: Rules = (
    (lambda v, n, k: v * (k + 1) + n, "Number 0 is the first convolution: all others come after it."),
    (lambda v, n, k: 1 + v * k + n, "The change of resolution at the end of a level takes a number too."),
    (lambda v, n, k: v * k + n, "Two things lack: the first convolution, and the change of resolution of each level."),
    (lambda v, n, k: 2 + v * (k + 1) + n, "Layers of a level are counted from 0: the first one is number 1 of the file."),
    (lambda v, n, k: 1 + v * 3 + n, "Not every network has two layers on a level: use layers_per_level."),
    (lambda v, n, k: 1 + v * (k + 1), "That is where the level begins. Go on to the layer."),
)  # fmt: skip


def check_block(answer: Callable[..., Any], seed: int) -> None:
    """All layers of four levels, with two layers on each, and with one and three."""
    cases = [(v, n, k) for k in (2, 1, 3 + seed) for v in range(4) for n in range(k + (v < 3))]
    _against(answer, input_block, cases, BLOCKS)


def moves(value: float, step: float, dtype: torch.dtype) -> bool:
    """Whether a number that is kept in a format changes when a step is added to it."""
    before = torch.tensor(value, dtype=dtype)
    return bool(before + torch.tensor(step, dtype=dtype) != before)


HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
EPS = {d: torch.finfo(d).eps for d in (HALF, BRAIN, FULL)}
MOVED: Rules = (
    (lambda v, s, d: True, "Each number alone can be held. Ask whether the sum, in this format, is another than before."),
    (lambda v, s, d: moves(v, s, FULL), "The sum must be kept in `dtype`: make tensors of that type before you add."),
    (lambda v, s, d: not moves(v, s, d), "The other way round: True if it still moves."),
    (lambda v, s, d: s > EPS[d], "finfo(dtype).eps is the gap between numbers above 1. At 100 it is wider, at 0.01 narrower."),
    (lambda v, s, d: abs(s) > EPS[d], "finfo(dtype).eps is the gap between numbers above 1. At 100 it is wider, at 0.01 narrower."),
    (lambda v, s, d: abs(s) > EPS[d] / 2, "finfo(dtype).eps is the gap between numbers above 1. At 100 it is wider, at 0.01 narrower."),
    (lambda v, s, d: abs(s) > EPS[d] * abs(v), "A sum is rounded to the nearest number: more than half the gap is enough. Let the format decide."),
    (lambda v, s, d: (torch.tensor(v, dtype=d) + torch.tensor(s, dtype=d)).item() != v, "The value is rounded too when it is stored: compare with what was stored, not with what was meant."),
    (lambda v, s, d: moves(v, s, d) and s > 0, "A step down is a step as well."),
)  # fmt: skip


def check_moves(answer: Callable[..., Any], seed: int) -> None:
    """Large and small values, steps up and down, three formats; no case lies on the edge."""
    pairs = [
        (1.0, 1e-4), (0.01, 1e-4), (100.0, 0.1), (1.5, -1e-2), (1.5, -1e-4), (1.0, 5e-3),
        (0.01, 1e-6), (1000.0, 1e-5), (100.0, 1e-4), (0.9 + seed / 1000, 1e-5),
    ]  # fmt: skip
    first = answer(1.0, 1e-4, FULL)
    need(
        not isinstance(first, Tensor) or first.numel() == 1,
        "Give one truth value.",
        f"got {first!r:.60}",
    )
    _against(
        lambda *case: bool(answer(*case)), moves, [(*p, d) for d in (HALF, BRAIN, FULL) for p in pairs], MOVED
    )


def bytes_per_weight(precision: str, trained: float = 1.0, averaged: bool = True) -> float:
    """Bytes that a training holds for each weight, whatever the batch.

    Args:
        precision: bf16 or fp16 (mixed), or no for float32.
        trained: share of the weights that is trained, 1 for all.
        averaged: whether an average of the trained weights is kept.
    """
    copy = 0 if precision == "no" else 2
    return 4 + copy + trained * (4 + 8 + 4 * averaged)


def _kept(weights: float, copy: float, trained: float, frozen: float = 0.0) -> Callable[..., float]:
    """A sum with other bytes: for weights, copies, what is trained but for the average, and what is not trained."""
    return lambda p, t, a: weights + copy * (p != "no") + t * (trained + 4 * a) + (1 - t) * frozen


BYTES: Rules = (
    (_kept(4, 2, 8), "AdamW keeps two averages of each trained weight: of its gradient and of the gradient's square."),
    (_kept(4, 2, 4), "That lacks gradients or averages: AdamW keeps two of them beside the gradient, four bytes each."),
    (_kept(4, 2, 6), "Gradients and the optimiser's averages belong to the weights in float32: four bytes each."),
    (_kept(4, 0, 12), "Mixed precision computes on copies of two bytes: they come on top."),
    (lambda p, t, a: 4 + 2 + t * (12 + 4 * a), "In float32 the weights themselves are computed with: precision no needs no copies."),
    (_kept(2, 0, 12), "The weights stay in four bytes, and the two bytes are copies beside them."),
    (lambda p, t, a: (4 if p == "no" else 2) + t * (12 + 4 * a), "The weights stay in four bytes, and the two bytes are copies beside them."),
    (_kept(4, 2, 12, 12), "What is not trained has no gradient and no state of the optimiser: that is what an adapter spares."),
    (lambda p, t, a: bytes_per_weight(p, 1.0, a), "What is not trained has no gradient and no state of the optimiser: that is what an adapter spares."),
    (lambda p, t, a: t * bytes_per_weight(p, 1.0, a), "Frozen weights are held as well, and computed with: only gradients, optimiser and average shrink."),
    (lambda p, t, a: bytes_per_weight(p, t, True), "Without an average there is none to keep: mind `averaged`."),
    (lambda p, t, a: bytes_per_weight(p, t, False), "The average of the weights is kept too, if `averaged`."),
    (lambda p, t, a: bytes_per_weight(p, t, False) + 4 * a, "Frozen weights are their own average: only the trained ones need one."),
)  # fmt: skip


def check_bytes(answer: Callable[..., Any], seed: int) -> None:
    """All weights, an adapter, no average; each in mixed precision and in float32."""
    share = 1 / (16 + seed)
    cases = [(p, t, a) for t in (1.0, share) for a in (True, False) for p in ("bf16", "no", "fp16")]
    _against(lambda *case: float(answer(*case)), bytes_per_weight, cases, BYTES)


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
    _against(answer, micro_batch, cases, MICRO)


def colleagues_average(average: Tensor, weight: Tensor, decay: float) -> Tensor:
    """The average of weights after one more step, as the colleague of exercise 07.6 has it. Find out by the symptoms."""
    kept = average.half()
    return (kept + (1 - decay) * (weight - kept)).half().float()


CAUSES = {
    "a": "Ours has the same decay, after the same steps, and follows. And a lag would not ask how large a weight is.",
    "b": "Then the weights would stand as well, and the loss would not fall so far.",
    "d": "Then no weight of the average would move, the small ones neither.",
    "e": "Then all weights would come less far, small and large alike.",
}


def check_cause(answer: Any, seed: int) -> None:
    """Small weights follow, large ones stand: the step is rounded away where numbers lie far apart."""
    one_of(answer, "c", CAUSES)


EXERCISES = (
    Exercise(
        "07.1", "What more channels cost", 1, 3, 4, added_parameters, check_added,
        (
            "A convolution has one kernel for each pair of an input and an output channel.",
            "out_channels times the new inputs times both sides of kernel_size; the bias stays.",
        ),
    ),
    Exercise(
        "07.2", "Count through", 2, 2, 5, input_block, check_block,
        (
            "How many numbers does one whole level use up, and which number is gone before the first level?",
            "Number 0 is the first convolution; each level before this one took layers_per_level + 1 numbers.",
        ),
    ),
    Exercise(
        "07.3", "Does it still move?", 2, 5, 6, moves, check_moves,
        (
            "Numbers of a format have gaps, wider for larger numbers. A sum is rounded to the nearest one.",
            "Make both numbers tensors of `dtype`, add them, and compare with the stored value before.",
        ),
    ),
    Exercise(
        "07.4", "Bytes for each weight", 2, 4, 6, bytes_per_weight, check_bytes,
        (
            "Which of the five things exist for every weight, and which only for a trained one?",
            "Every weight: 4, and 2 more in mixed precision. A trained one: 4 and 8, and 4 more if averaged.",
        ),
    ),
    Exercise(
        "07.5", "The largest micro-step", 3, 4, 7, micro_batch, check_micro,
        (
            "Gradients of micro-steps are added up. They make the same step only if no pair is lost or added.",
            "Of the sizes n that divide the batch and for which n * per_pair <= free, the largest; then batch // n.",
        ),
    ),
    Exercise(
        "07.6", "Break it: the average that stood still", 3, 4, 6, "c", check_cause,
        (
            "Read the table by rows: what do the weights that follow have in common?",
            "Ask of each cause whether it could tell a small weight from a large one.",
        ),
    ),
)  # fmt: skip
