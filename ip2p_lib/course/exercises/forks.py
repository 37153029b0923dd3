"""The later part of notebook 02's exercises: what forks cost, and maps that follow words."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ip2p_lib.attention import shared_steps
from ip2p_lib.course.exercises.checks import same_tensor, same_value
from ip2p_lib.pairs import Candidate, rows_computed
from ip2p_lib.records import Triplet


def forked_rows(thresholds: Sequence[float], steps: int) -> int:
    """UNet rows of one guidance half for candidates of one triplet and one seed, each different row computed once."""
    triplet = Triplet("x", "a red house", "make it blue", "a blue house")
    return rows_computed([Candidate(triplet, i, 0, t, 1.0) for i, t in enumerate(thresholds)], steps)


def check_forks(answer: Callable[..., Any], seed: int) -> None:
    """Spread thresholds, a single one, and two that share equally long."""
    steps = 16 + seed
    for thresholds in ((0.5,), (0.15, 0.3, 0.45, 0.6, 0.75, 0.9), (0.3, 0.31, 0.8), (0.0, 1.1)):
        shared = [shared_steps(t, steps) for t in thresholds]
        expected = forked_rows(thresholds, steps)
        alone = sum(steps - s for s in shared)
        slips = [
            (
                2 * steps * len(thresholds),
                "That is each candidate alone: source and trunk are common to all.",
            ),
            (expected - steps, "The source has a row of its own in every step."),
            (steps + alone, "While they still share, the targets are one row too: the trunk."),
            (steps + steps * len(thresholds), "Before its fork a target needs no row of its own."),
            (
                steps + max(shared) + alone,
                "Thresholds that stop sharing at the same step are the same picture.",
            ),
        ]
        got = answer(list(thresholds), steps)
        same_value(got, expected, slips=slips, hint=1, what=f"rows for {thresholds} in {steps} steps")


def followed_map(source: Tensor, target: Tensor, partners: Sequence[int]) -> Tensor:
    """Cross-attention map of a target, (N, T), whose words follow their partners in the source; -1 is none."""
    columns = [source[:, p] if p >= 0 else target[:, n] for n, p in enumerate(partners)]
    return torch.stack(columns, dim=1)


def check_words(answer: Callable[..., Any], seed: int) -> None:
    """A target of five words: one moved, two new."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(6, 4, generator=generator).softmax(-1)
    target = torch.randn(6, 5, generator=generator).softmax(-1)
    partners = [0, 2, -1, 3, -1]
    expected = followed_map(source, target, partners)
    places = target.clone()
    places[:, [0, 1, 3]] = source[:, [0, 1, 3]]
    swapped = target.clone()
    swapped[:, [0, 1, 3]] = 0
    blank = expected.clone()
    blank[:, [2, 4]] = 0
    slips = [
        (source[:, partners], "Python reads -1 as the last column. A new word keeps the target's own map."),
        (target, "Words with a partner must use the partner's column of the source's map."),
        (places, "The partner of word n is partners[n], not the source's word in place n."),
        (blank, "A new word has no partner, but it has a map: the target's own."),
        (
            expected / expected.sum(-1, keepdim=True),
            "Do not renormalise: the article leaves the columns as they are.",
        ),
    ]
    same_tensor(answer(source, target, partners), expected, slips=slips, hint=1, what="the map")
