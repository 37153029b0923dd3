"""Exercises of notebook 03: which way a picture moved, thresholds, the best few, what a filter buys."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ip2p_lib import filtering
from ip2p_lib.course.exercises.checks import need, one_of, same_tensor, same_value
from ip2p_lib.course.exercises.grading import Exercise
from ip2p_lib.course.exercises.selection import check_best, check_passes, some_candidates
from ip2p_lib.records import SIMILARITIES
from ip2p_lib.similarity import similarities

Row = Mapping[str, Any]
Flags = NDArray[np.bool_]


def direction_similarity(image_0: Tensor, image_1: Tensor, text_0: Tensor, text_1: Tensor) -> Tensor:
    """Cosine (N,) of the picture's move with the caption's, from features (N, D) of any length; 0 without a move."""
    return similarities(*(F.normalize(f, dim=-1) for f in (image_0, image_1, text_0, text_1)))["clip_sim_dir"]


def check_direction(answer: Callable[..., Any], seed: int) -> None:
    """Features of any length; the first picture did not change."""
    lengths = torch.tensor([1.0, 4.0, 0.5, 2.0]).view(4, 1, 1)
    features = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(seed)) * lengths
    features[1, 0] = features[0, 0]
    (i0, i1, t0, t1), cos = F.normalize(features, dim=-1), F.cosine_similarity
    expected = cos(i1 - i0, t1 - t0)
    nowhere = expected.clone()
    nowhere[0] = float("nan")
    slips = [
        (cos(features[1] - features[0], features[3] - features[2]), 1),
        (
            ((i1 - i0) * (t1 - t0)).sum(-1),
            "Two moves of any size: divide by the lengths of both differences.",
        ),
        (cos(i1, t1), "That asks where the new picture is. Ask which way it moved."),
        (cos(i0 - i1, t1 - t0), "One of the moves runs backwards: after minus before, for both."),
        (cos(i1, t1) - cos(i0, t0), "A difference of two similarities is no similarity of two differences."),
        (nowhere, "A picture that did not change has no direction: give 0 there, not NaN."),
    ]
    same_tensor(answer(*features), expected, slips=slips, what="the direction similarity")


def check_similarities(answer: Callable[..., Any], seed: int) -> None:
    """Names, then each value against the values that people write under that name."""
    draws = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(seed))
    i0, i1, t0, t1 = F.normalize(draws, dim=-1)
    got, expected, cos = answer(i0, i1, t0, t1), similarities(i0, i1, t0, t1), F.cosine_similarity
    need(isinstance(got, dict), "Give a dictionary: name to tensor.", f"got {type(got).__name__}")
    need(set(got) == set(expected), f"The names must be {', '.join(SIMILARITIES)}.", f"got {sorted(got)}")
    slips = {
        "clip_sim_0": [(cos(i0, t1), "The first picture belongs to the first caption.")],
        "clip_sim_1": [(cos(i1, t0), "The second picture is asked about the second caption.")],
        "clip_sim_dir": [(cos(i0 - i1, t1 - t0), "After minus before, for the picture and for the caption.")],
        "clip_sim_image": [(cos(t0, t1), "That compares the captions. Compare the pictures.")],
    }
    for name, value in expected.items():
        others = [(v, f"{name} holds what belongs to {n}.") for n, v in expected.items() if n != name]
        same_tensor(got[name], value, slips=[*slips[name], *others], hint=1, what=name)


def quantile_bounds(scores: Sequence[Row], text: float, direction: float, image: float) -> tuple[float, ...]:
    """Thresholds (text, direction, image), to four digits, below which given shares of the candidates lie."""
    found = filtering.thresholds_at_quantiles(scores, text=text, direction=direction, image=image)
    return found.min_text, found.min_direction, found.min_image


def check_bounds(answer: Callable[..., Any], seed: int) -> None:
    """Shares that all differ, on scores whose columns differ."""
    rows, shares = some_candidates(seed + 7, 6, 7), (0.1, 0.35, 0.2)
    got, expected = answer([dict(r) for r in rows], *shares), quantile_bounds(rows, *shares)
    column = {n: np.array([r[n] for r in rows]) for n in SIMILARITIES}
    mean, both = (
        (column["clip_sim_0"] + column["clip_sim_1"]) / 2,
        [column["clip_sim_0"], column["clip_sim_1"]],
    )

    def of(texts: Any, shares: Sequence[float]) -> tuple[float, ...]:
        columns = (texts, column["clip_sim_dir"], column["clip_sim_image"])
        return tuple(round(float(np.quantile(c, q)), 4) for c, q in zip(columns, shares, strict=True))

    kept, least = [1 - q for q in shares], np.minimum(*both)
    slips = [
        (of(np.concatenate(both), kept), "The shares say how many lie below, not how many are kept."),
        (
            of(mean, shares),
            "One bound serves both captions: take the quantile over all their scores together.",
        ),
        (of(least, shares), "Not over the lower of the two: over all scores of both captions together."),
        (of(both[0], shares), "The bound on text is for both captions: put clip_sim_1 in as well."),
        (of(both[1], shares), "The bound on text is for both captions: put clip_sim_0 in as well."),
        (
            of(np.concatenate(both), [q / 100 for q in shares]),
            "np.percentile counts to 100, np.quantile to 1.",
        ),
        (tuple(expected[i] for i in (1, 0, 2)), "The order is text, direction, image."),
    ]
    need(isinstance(got, list | tuple) and len(got) == 3, "Give three numbers.", f"got {got!r:.80}")
    same_value(
        [round(float(v), 4) for v in got], list(expected), slips=[(list(w), h) for w, h in slips], hint=1
    )


def bought(exact: Flags, kept: Flags) -> tuple[float, float]:
    """Precision and recall of what was kept, from flags (N,); a share of nothing is 0."""
    right = float((exact & kept).sum())
    return right / max(1.0, float(kept.sum())), right / max(1.0, float(exact.sum()))


def check_bought(answer: Callable[..., Any], seed: int) -> None:
    """A filter that knows something, one that keeps nothing, and nothing worth keeping."""
    rng = np.random.default_rng(seed)
    exact = np.arange(40) < 22
    kept = rng.permutation(40) < 15
    none = np.zeros(40, dtype=bool)
    precision, recall = bought(exact, kept)
    slips = [
        ((recall, precision), "These two are exchanged: precision looks at what was kept."),
        ((exact.mean(), recall), "Precision counts among the kept alone."),
        ((precision, kept.mean()), "Recall asks how many of the right ones were kept."),
        (((exact == kept).mean(), recall), "That is accuracy: it also rewards what was rightly rejected."),
        ((precision * 100, recall * 100), "Give shares from 0 to 1."),
    ]
    got = answer(exact.copy(), kept.copy())
    need(isinstance(got, list | tuple) and len(got) == 2, "Give two numbers.", f"got {got!r:.80}")
    same_value([float(v) for v in got], [precision, recall], slips=[(list(w), h) for w, h in slips], hint=1)
    for flags in ((exact, none), (none, kept), (none, none)):
        with np.errstate(all="ignore"):
            empty = [float(v) for v in answer(*(f.copy() for f in flags))]
        same_value(empty, [0.0, 0.0], hint="A share of nothing is 0 here: no division by zero, no NaN.")


def colleagues_choice(scores: Sequence[Row]) -> list[tuple[str, int]]:
    """What the filter of exercise 03.7 keeps. Find out by the symptoms, not by reading on."""
    return [(row["triplet_id"], row["candidate"]) for row in scores]


CAUSES = {
    "a": "A bound on the direction would show: no kept pair could lie below it. Some do.",
    "b": "The paper's bounds are bounds too: they would show in the lowest scores.",
    "d": "Then four pairs would be left in all.",
    "e": "Then a tenth would be kept, and the lowest scores would be high.",
}


def check_cause(answer: Any, seed: int) -> None:
    """Everything is kept."""
    one_of(answer, "c", CAUSES)


EXERCISES = (
    Exercise(
        "03.1", "Did the picture move as the words did?", 2, 5, 8, direction_similarity, check_direction,
        (
            "Make unit vectors, take two differences, and ask for the angle between them.",
            "Normalise all four before you subtract: F.normalize(features, dim=-1). Then F.cosine_similarity of both moves.",
        ),
    ),
    Exercise(
        "03.2", "Four questions to CLIP", 1, 4, 5, similarities, check_similarities,
        (
            "The table above gives for each name which two vectors it compares.",
            "Four times F.cosine_similarity, collected in a dictionary under the released names.",
        ),
    ),
    Exercise(
        "03.3", "Good enough", 1, 4, 4, filtering.passes, check_passes,
        (
            "Four scores against three bounds: both captions share one.",
            "All four comparisons are `>=`, joined by `and`.",
        ),
    ),
    Exercise(
        "03.4", "The best few of each triplet", 3, 5, 10, filtering.select, check_best,
        (
            "Throw out what does not pass, gather the rest by triplet, and cut each group by itself.",
            "Triplets in the order in which they first occur; in each, sorted by -clip_sim_dir, the first config.max_per_triplet.",
        ),
    ),
    Exercise(
        "03.5", "Carry over the shares", 2, 4, 6, quantile_bounds, check_bounds,
        (
            "A quantile is the value below which a given share lies.",
            "np.quantile(column, share), rounded to four digits; the column of the text bound holds the scores of both captions.",
        ),
    ),
    Exercise(
        "03.6", "What the filter buys", 1, 5, 5, bought, check_bought,
        (
            "Both count the pairs that are right and kept; they divide by different things.",
            "Precision divides (exact & kept).sum() by kept.sum(), recall by exact.sum(); where that is 0 the share is 0.",
        ),
    ),
    Exercise(
        "03.7", "Break it: a filter that was no trouble at all", 2, 4, 5, "c", check_cause,
        (
            "Which of the causes would leave a trace in the lowest score of some column?",
            "Compare the number of kept pairs with the number of candidates, and the share of exact ones before and after.",
        ),
    ),
)  # fmt: skip
