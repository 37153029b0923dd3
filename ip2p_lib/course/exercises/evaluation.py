"""Exercises of notebook 06: sides of the mask, what exact means, intervals, pairs, curves at equal direction."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ip2p_lib.backbone import ClipEncoder
from ip2p_lib.course.exercises.checks import need, numbers, one_of, same_value
from ip2p_lib.course.exercises.grading import Exercise
from ip2p_lib.course.exercises.intervals import (
    change,
    check_change,
    check_edits,
    check_height,
    check_interval,
    edits_for,
    height,
    interval,
)
from ip2p_lib.diffusion import seeded_noise
from ip2p_lib.evaluation.rows import distances, released_range

Seen = Mapping[str, Any]
NAN = float("nan")


def colleague_prepares(clip: ClipEncoder, pixels: Tensor) -> Tensor:
    """What the colleague of exercise 06.1 feeds CLIP, from pictures in [0, 1]. Find out by the symptoms."""
    return released_range(clip, pixels)


CAUSES = {
    "a": "Then grey would be grey: equal channels do not care for their order.",
    "b": "Then white would become black, and black white.",
    "d": "That happens after the encoder. Here the features themselves are those of other pictures.",
    "e": "A picture of one colour is the same at every size.",
}


def check_cause(answer: Any, seed: int) -> None:
    """White stays, grey becomes black: x was taken for 2 x - 1."""
    one_of(answer, "c", CAUSES)


def sides(after: Tensor, truth: Tensor, mask: Tensor) -> tuple[float, float]:
    """L1 to the exact answer inside and outside the mask (H, W), of pictures (3, H, W); NaN for an empty side."""
    found = distances(truth, after, truth, mask.numpy())
    inside, outside = found["l1_inside"], found["l1_outside"]
    return NAN if inside is None else inside, NAN if outside is None else outside


def check_sides(answer: Callable[..., Any], seed: int) -> None:
    """A mask of a quarter, then one that is empty and one that is everything."""
    after, truth = (seeded_noise([seed], (3, 8, 8), draw=d)[0].clamp(-1, 1) for d in (0, 1))
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[2:6, 3:7] = True
    off, signed = (after - truth).abs().mean(0), (after - truth).mean(0)
    inside, outside = off[mask].mean().item(), off[~mask].mean().item()
    slips = [
        ((outside, inside), "The sides are exchanged: where the mask is True is inside."),
        ((off[mask].sum().item(), off[~mask].sum().item()), "Means, not sums: the sides differ in size."),
        (((off * mask).mean().item(), (off * ~mask).mean().item()), "Divide by the pixels of the side, not by all."),
        ((3 * inside, 3 * outside), "The mean goes over the three channels too."),
        ((signed[mask].mean().item(), signed[~mask].mean().item()), "Take the absolute value before you average."),
        (tuple(((after - truth) ** 2).mean(0)[m].mean().item() for m in (mask, ~mask)), "That is squared: L1 is the absolute difference."),
        (tuple((after - truth).abs().amax(0)[m].mean().item() for m in (mask, ~mask)), "The mean of the channels, not the largest."),
    ]  # fmt: skip
    got = [round(v, 4) for v in numbers(answer(after, truth, mask), 2)]
    right = [round(v, 4) for v in (inside, outside)]
    known = [([round(v, 4) for v in w], h) for w, h in slips]
    _near_or_wrong(got, right, known)
    for flags, empty in ((torch.zeros_like(mask), 0), (torch.ones_like(mask), 1)):
        found = numbers(answer(after, truth, flags), 2)
        need(
            np.isnan(found[empty]),
            "An empty side has no mean: give NaN, not a number.",
            f"got {found[empty]}",
        )
        whole, seen = off.mean().item(), found[1 - empty]
        need(
            abs(seen - whole) <= 2e-4,
            "The other side, which is all of it, has a mean.",
            f"must be {whole:.4f}, got {seen}",
        )


def _near_or_wrong(got: list[float], right: list[float], slips: list[tuple[list[float], str]]) -> None:
    """Numbers within 2e-4 count as equal: sums run in other orders."""
    for wanted, hint in [(right, ""), *slips]:
        if np.allclose(got, wanted, atol=2e-4):
            need(wanted is right, hint, f"must be {right}, got {got}")
            return
    same_value(got, right, hint=1)


def judged(seen: Seen, before: Seen, wanted: Seen) -> tuple[bool, bool]:
    """(exact, requested): all is as wanted; what should change is as wanted, whatever else happened."""
    return seen == wanted, all(seen[n] == wanted[n] for n in wanted if before[n] != wanted[n])


SCENE = {"subject": "house", "colour": "red", "place": "meadow", "time": "day", "kite": False, "boat": True}
JUDGEMENTS: tuple[tuple[Callable[[Seen, Seen, Seen], tuple[bool, bool]], str], ...] = (
    (lambda s, b, w: (judged(s, b, w)[1],) * 2, "Exact is more than requested: all else must be as it was."),
    (lambda s, b, w: (judged(s, b, w)[0],) * 2, "Requested asks about the change alone, whatever else happened."),
    (lambda s, b, w: judged(s, b, w)[::-1], "The two are exchanged: exact comes first."),
    (lambda s, b, w: (s == b, judged(s, b, w)[1]), "Exact compares with the wanted scene, not with the input."),
    (lambda s, b, w: (judged(s, b, w)[0], s != b), "Some change is not the requested one."),
    (
        lambda s, b, w: (all(s[n] == w[n] for n in w if not isinstance(w[n], bool)), judged(s, b, w)[1]),
        "The extras belong to the picture: a kite that vanished is no exact edit.",
    ),
    (
        lambda s, b, w: (judged(s, b, w)[0], any(s[n] == w[n] for n in w if b[n] != w[n])),
        "If two things were to change, both must have.",
    ),
)  # fmt: skip


def check_judged(answer: Callable[..., Any], seed: int) -> None:
    """Exact, nothing done, done with losses, something else done, and half of what was asked."""
    night, kite = {**SCENE, "time": "night"}, {**SCENE, "kite": True}
    both = {**night, "colour": "blue"}
    cases = [
        (night, night), (SCENE, night), ({**night, "boat": False}, night), ({**night, "colour": "blue"}, night),
        ({**SCENE, "colour": "blue"}, night), ({**SCENE, "time": "dusk"}, night), (kite, kite), ({**kite, "boat": False}, kite),
        (both, both), (night, both), ({**both, "kite": True}, both),
    ]  # fmt: skip
    got = []
    for seen, wanted in cases:
        pair = answer(dict(seen), dict(SCENE), dict(wanted))
        need(isinstance(pair, list | tuple) and len(pair) == 2, "Give two truth values: (exact, requested).")
        got.append((bool(pair[0]), bool(pair[1])))
    right = [judged(seen, SCENE, wanted) for seen, wanted in cases]
    for rule, hint in JUDGEMENTS:
        need(got == right or got != [rule(seen, SCENE, wanted) for seen, wanted in cases], hint)
    for (seen, wanted), own, expected in zip(cases, got, right, strict=True):
        asked = {n: v for n, v in wanted.items() if SCENE[n] != v}
        found = {n: v for n, v in seen.items() if SCENE[n] != v}
        same_value(own, expected, hint=1, what=f"asked was {asked}, changed has {found}: (exact, requested)")


EXERCISES = (
    Exercise(
        "06.1", "Break it: a colleague's CLIP", 3, 4, 6, "c", check_cause,
        (
            "Look at the greys first: which picture does theirs take for which?",
            "White stays white, mid-grey becomes black. Which of the causes maps 1 to 1 and 0.5 to 0?",
        ),
    ),
    Exercise(
        "06.2", "Inside and outside the mask", 1, 4, 5, sides, check_sides,
        (
            "One picture of differences, averaged over two sets of pixels.",
            "off = (after - truth).abs().mean(0), then off[mask].mean() and off[~mask].mean(); the mean of nothing is NaN.",
        ),
    ),
    Exercise(
        "06.3", "Exactly, and as requested", 2, 5, 8, judged, check_judged,
        (
            "One asks whether all is as wanted, the other about that alone which was to change.",
            "exact: seen == wanted. requested: for all names whose value differs between before and wanted, seen has the wanted value.",
        ),
    ),
    Exercise(
        "06.4", "How sure is a mean?", 2, 5, 6, interval, check_interval,
        (
            "Draw the same number of edits with repetition, again and again: how far do their means scatter?",
            "values[picks] is (draws, N): its means along axis 1, and of those np.quantile at 0.025 and 0.975.",
        ),
    ),
    Exercise(
        "06.5", "The same edits twice", 2, 5, 5, change, check_change,
        (
            "Subtract first: each edit against itself. Then there is only one list of numbers.",
            "difference = other - one; its mean, and the quantiles 0.025 and 0.975 of difference[picks].mean(axis=1).",
        ),
    ),
    Exercise(
        "06.6", "At equal direction", 2, 4, 5, height, check_height,
        (
            "Find both neighbours, and go along the line between them as far as the direction lies between theirs.",
            "np.interp(at, directions, kept), for the directions ascend.",
        ),
    ),
    Exercise(
        "06.7", "How many edits?", 2, 3, 4, edits_for, check_edits,
        (
            "The interval of a mean shrinks with the root of the number of edits.",
            "edits times (width / wanted) squared, rounded up.",
        ),
    ),
)  # fmt: skip
