"""Exercises of notebook 02: shared noise, shared self-attention, forks, words."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ip2p_lib.attention import is_shared
from ip2p_lib.course.exercises.checks import need, one_of, same_tensor
from ip2p_lib.course.exercises.forks import check_forks, check_words, followed_map, forked_rows
from ip2p_lib.course.exercises.grading import Exercise
from ip2p_lib.diffusion import seeded_noise


def keyed_noise(seeds: Sequence[int], shape: tuple[int, ...], draw: int) -> Tensor:
    """Unit normal noise (B, *shape); row b depends on (seeds[b], draw) alone."""
    return seeded_noise(seeds, shape, draw=draw)


def check_noise(answer: Callable[..., Any], seed: int) -> None:
    """Shape, then what the key decides, then the distribution."""
    shape = (4, 16, 16)
    first = answer([seed + 7, seed + 3, seed + 7], shape, 0)
    need(isinstance(first, Tensor), "The noise must be a tensor.", f"got {type(first).__name__}")
    need(first.shape == (3, *shape), 1, f"must be {(3, *shape)}, got {tuple(first.shape)}")
    need(
        torch.equal(first, answer([seed + 7, seed + 3, seed + 7], shape, 0)),
        "The same call gave another noise: make a torch.Generator() and seed it by the key.",
    )
    need(torch.equal(first[0], first[2]), 1, "two rows of one seed differ")
    need(not torch.equal(first[0], first[1]), "All rows are alike, whatever their seeds: key each row.")
    need(torch.equal(answer([seed + 3], shape, 0)[0], first[1]), 1, "a row depends on its batch mates")
    later = answer([seed + 3], shape, 1)[0]
    need(
        not torch.equal(later, first[1]), "`draw` must matter: else each ancestral step adds one noise again."
    )
    need(
        not torch.equal(later, answer([seed + 4], shape, 0)[0]),
        "Seed + draw makes (3, draw 1) the noise of (4, draw 0): let the key tell all pairs apart.",
    )
    _check_keys(answer)
    large = answer([seed], (64, 64), 2)
    off = max(abs(large.mean().item()), abs(large.std().item() - 1))
    need(off < 0.1, "Diffusion wants normal noise: mean 0 and deviation 1.", f"off by {off:.2f}")


def _check_keys(answer: Callable[..., Any]) -> None:
    """Many pairs of seed and draw, none of which may share its noise with another."""
    seen: dict[tuple[float, ...], tuple[int, int]] = {}
    for draw in (*range(16), 100):
        for seed, row in enumerate(answer(list(range(16)), (3,), draw)):
            twin = seen.setdefault(tuple(row.tolist()), (seed, draw))
            need(
                twin == (seed, draw),
                "Two pairs of seed and draw make one key: let the key tell all pairs apart.",
                f"seed {twin[0]}, draw {twin[1]} and seed {seed}, draw {draw} give one noise",
            )


def check_rule(answer: Callable[..., Any], seed: int) -> None:
    """All thresholds and steps of some schedules, against the rules that people mistake for it."""
    steps = 11 + 2 * seed
    thresholds = [t / (steps - 1) for t in range(steps)] + [t / 10 + 0.05 for t in range(12)]
    grid = [(t, i) for t in thresholds for i in range(steps)]
    answer(0.9, 0, steps)
    got = [bool(answer(t, i, steps)) for t, i in grid]
    wrong = [g for g, own in zip(grid, got, strict=True) if own != is_shared(*g, steps)]
    slips: list[tuple[Callable[[float, int], bool], int | str]] = [
        (
            lambda t, i: t >= i / (steps - 1),
            "The rule is strict: where both sides are equal, nothing is shared.",
        ),
        (lambda t, i: t > i / steps, "The last of N steps has number N - 1, and must count as 1."),
        (lambda t, i: t > (i + 1) / steps, "The steps count from 0, and the first must count as 0."),
        (lambda t, i: t < i / (steps - 1), "It is the first steps that share: the layout is decided early."),
    ]
    for rule, hint in slips:
        need(not wrong or got != [rule(t, i) for t, i in grid], hint)
    shown = ", ".join(f"({t:.2f}, {i})" for t, i in wrong[:3])
    need(not wrong, 1, f"wrong for (threshold, step) {shown} of {steps} steps")


def lenders(pairs: int) -> Tensor:
    """For each of 4S rows [uncond sources, uncond targets, cond sources, cond targets] whose maps it uses, (4S,)."""
    rows = torch.arange(pairs)
    return torch.cat([rows, rows, rows + 2 * pairs, rows + 2 * pairs])


def check_lenders(answer: Callable[..., Any], seed: int) -> None:
    """For one pair and for several."""
    for pairs in (1, 3 + seed):
        expected, own = lenders(pairs), torch.arange(4 * pairs)
        sources = (own // (2 * pairs)) * 2 * pairs
        got = answer(pairs)
        got = torch.tensor(got) if isinstance(got, list | tuple) else got
        half = torch.cat([own[: 2 * pairs], expected[2 * pairs :]])
        slips = [
            (own, "So every row attends for itself: nothing is lent."),
            (half, "Both halves of classifier-free guidance share, the unconditional one too."),
            (expected + pairs, "The targets lend here. The source must not notice anything."),
            (
                (own // 2) * 2,
                "Source and target do not lie side by side: all sources come before all targets.",
            ),
            (sources, "Each target has its own source; here one source lends to all."),
        ]
        same_tensor(
            got, expected, slips=slips if pairs > 1 else slips[:3], hint=1, what="the index of lenders"
        )


def shared_attention(q: Tensor, k: Tensor, v: Tensor, lender: Tensor) -> Tensor:
    """Softmax(q k^T / sqrt(d)) v, with the queries and keys of the lending rows, all (B, heads, N, d)."""
    return F.scaled_dot_product_attention(q[lender], k[lender], v)


def check_attention(answer: Callable[..., Any], seed: int) -> None:
    """Four rows of which the second and the fourth borrow."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 4, 2, 9, 8, generator=generator)
    lender = torch.tensor([0, 0, 2, 2])
    attend, scores = F.scaled_dot_product_attention, q[lender] @ k[lender].transpose(-1, -2)
    slips = [
        (
            attend(q, k[lender], v),
            "The target still asks with its own queries: keys alone make another method.",
        ),
        (attend(q[lender], k, v), "The queries are lent, the keys are not: a map needs both from one row."),
        (
            attend(q[lender], k[lender], v[lender]),
            "The formula mixes the target's own values; yours mixes the source's.",
        ),
        (attend(q, k, v), "Nothing is lent yet: `lender` says whose queries and keys each row uses."),
        (scores.softmax(-1) @ v, "Divide the scores by the square root of d, the size of one head."),
        ((scores / 8**0.5).softmax(-2) @ v, "The softmax goes over the keys, the last dimension."),
        ((scores / 18**0.5).softmax(-1) @ v, 1),
    ]
    same_tensor(answer(q, k, v, lender), attend(q[lender], k[lender], v), slips=slips, hint=1)


CAUSES = {
    "a": "If nothing were shared, the threshold would change nothing; here it changes the target a lot.",
    "c": "If the target lent, the source would notice. It does not.",
    "d": "If values were lent too, the words would still act through cross-attention: a castle, in either order of the words.",
    "e": "Other noise would move the sun, the moon and the ground. They stay where they were.",
}


def check_cause(answer: Any, seed: int) -> None:
    """The symptoms are those of maps that go by the place of a word in its caption."""
    one_of(answer, "b", CAUSES)


EXERCISES = (
    Exercise(
        "02.1", "Noise that has a name", 2, 4, 8, keyed_noise, check_noise,
        (
            "A row's noise must be a function of its seed and of the number of the draw, and of nothing else.",
            "Make one torch.Generator per row, seeded by one number made of (seed, draw), and stack the rows.",
        ),
    ),
    Exercise(
        "02.2", "How long to share", 1, 5, 4, is_shared, check_rule,
        (
            "The threshold is compared with how far the sampler has come: 0 at the first step, 1 at the last.",
            "Step i of N has come i / (N - 1) far; sharing is on while the threshold is larger.",
        ),
    ),
    Exercise(
        "02.3", "Who lends to whom", 2, 4, 6, lenders, check_lenders,
        (
            "A source attends for itself; a target attends with its source, in the same half of guidance.",
            "With S pairs the four blocks start at rows 0, S, 2S and 3S; rows of the second and the fourth point S back.",
        ),
    ),
    Exercise(
        "02.4", "One picture attends with the other's eyes", 3, 5, 10, shared_attention, check_attention,
        (
            "A map is made of queries and keys. Lend both, and let the target mix its own values.",
            "Index q and k by `lender`, divide q k^T by the square root of d = q.shape[-1], softmax over the last dimension.",
        ),
    ),
    Exercise(
        "02.5", "The price of a fork", 4, 3, 12, forked_rows, check_forks,
        (
            "Count the different pictures on their way at each step: one source, one trunk if anybody shares, and who has left it.",
            "Who left the trunk at the same step has the same picture: per step, add how many different counts of shared steps those have that stopped.",
        ),
    ),
    Exercise(
        "02.6", "New words look for themselves", 3, 3, 8, followed_map, check_words,
        (
            "Each column of the map belongs to a word of the target: take it from the partner, or leave it.",
            "Column n is source[:, partners[n]] if partners[n] >= 0, else target[:, n]; stack along dimension 1.",
        ),
    ),
    Exercise(
        "02.7", "Break it: the house that would not become a castle", 3, 4, 6, "b", check_cause,
        (
            "Which of the five causes would care about the order of the words?",
            "Ask of each cause: what would equal captions give, what would the source do, what would the threshold do?",
        ),
    ),
)  # fmt: skip
