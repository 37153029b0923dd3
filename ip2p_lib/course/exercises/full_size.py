"""Exercises of notebook 07: what more channels cost, names in a file, steps that get lost, bytes, micro-batches."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ip2p_lib.course.exercises.budgets import bytes_per_weight, check_bytes, check_micro, micro_batch
from ip2p_lib.course.exercises.checks import Rules, against, need, one_of
from ip2p_lib.course.exercises.grading import Exercise


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
    against(answer, added_parameters, [(layer, more) for layer in layers for more in (4, 1)], ADDED)


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
    against(answer, input_block, cases, BLOCKS)


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
    against(
        lambda *case: bool(answer(*case)), moves, [(*p, d) for d in (HALF, BRAIN, FULL) for p in pairs], MOVED
    )


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
            "Which of the six things does a frozen weight need, and in how many bytes?",
            "A trained weight: 4, 4 and 8, 2 more in mixed precision, and 4 more if averaged. A frozen one: 2 in mixed precision, else 4.",
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
