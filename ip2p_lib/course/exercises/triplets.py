"""Exercises of notebook 01: the format, the loss, the draw, and what the filters know."""

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ip2p_lib.course.exercises.checks import need, one_of, same_tensor, same_value
from ip2p_lib.course.exercises.formats import check_example, check_reading, example, reading
from ip2p_lib.course.exercises.grading import Exercise
from ip2p_lib.scenes.world import KINDS


def completion_losses(logits: Tensor, ids: Tensor, given: int) -> Tensor:
    """Cross-entropy of each completion token, (T - given,), predicted from all before it."""
    return F.cross_entropy(logits[:-1], ids[1:], reduction="none")[given - 1 :]


def check_losses(answer: Callable[..., Any], seed: int) -> None:
    """Nine tokens of which four are given."""
    generator = torch.Generator().manual_seed(seed)
    logits, given = torch.randn(9, 20, generator=generator), 4
    ids = torch.randint(20, (9,), generator=generator)
    expected, entropy = completion_losses(logits, ids, given), F.cross_entropy
    everything = entropy(logits[:-1], ids[1:], reduction="none")
    slips = [
        (entropy(logits[given:], ids[given:], reduction="none"), "Position i predicts token i + 1: shift them against each other."),
        (entropy(logits, ids, reduction="none"), "Position i predicts token i + 1, and the prompt's tokens do not count."),
        (everything, "The prompt is given, not learned: only tokens from number `given` on count."),
        (everything[given:], "One token is missing: the completion's first is predicted by the prompt's last position."),
        (expected.mean(), "Return one loss for each token; the mean is taken over all examples later."),
        (expected.sum(), "Return one loss for each token; the mean is taken over all examples later."),
        (-expected, "A loss is minus the log-probability."),
    ]  # fmt: skip
    same_tensor(answer(logits, ids, given), expected, slips=slips, hint=1, what="the losses")


def draw(logits: Tensor, u: float, temperature: float) -> int:
    """The first token (a number) at which the cumulative distribution passes u."""
    cumulative = (logits.double() / temperature).softmax(-1).cumsum(-1)
    return int((cumulative <= u * cumulative[-1]).sum())


def check_draw(answer: Callable[..., Any], seed: int) -> None:
    """Many draws against those of wrong samplers, then the edge."""
    generator = torch.Generator().manual_seed(seed)
    logits, temperature = 3 * torch.randn(12, generator=generator), 0.6
    draws = [(k + 0.5) / 60 for k in range(60)]
    got = [answer(logits, u, temperature) for u in draws]
    whole = all(isinstance(g, Integral) or (isinstance(g, Tensor) and g.numel() == 1) for g in got)
    need(whole, "Return the number of one token.", f"got {got[0]!r:.60}")
    numbers = [int(g) for g in got]
    slips = [
        ([int(logits.argmax())] * 60, "That is always the likeliest token; u must choose."),
        ([draw(logits, u, 1.0) for u in draws], "The temperature plays no part yet: divide the logits by it."),
        ([draw(logits, u, 1 / temperature) for u in draws], "Divide the logits by the temperature; below 1 it sharpens."),
        ([draw(logits, u, temperature) - 1 for u in draws], "One too low: count the tokens that u has passed."),
        ([draw(logits, u, temperature) + 1 for u in draws], "One too high: tokens count from 0."),
    ]  # fmt: skip
    same_value(numbers, [draw(logits, u, temperature) for u in draws], slips=slips, hint=1, what="the tokens")
    logits[:2] = -math.inf
    edge = int(answer(logits, 0.0, temperature))
    need(
        edge == 2,
        "u = 0 chose a token of probability 0: the sum must be greater than u, not equal.",
        f"got {edge}",
    )


def certainty(logits: Tensor, tokens: Tensor, start: int) -> float:
    """Least log-probability among tokens[start:], in nats; logits[i] is what the model said of tokens[i]."""
    return logits.log_softmax(-1).gather(1, tokens[:, None])[start:, 0].min().item()


def check_certainty(answer: Callable[..., Any], seed: int) -> None:
    """Eight written tokens of which the last five are the caption; its first, and one before it, were guessed."""
    generator = torch.Generator().manual_seed(seed)
    logits, start = 2 * torch.randn(8, 15, generator=generator), 3
    tokens = torch.randint(15, (8,), generator=generator)
    for guessed, sharper in ((0, 3), (start, 2)):
        logits[guessed] *= sharper
        tokens[guessed] = logits[guessed].argmin()
    logs = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    slips = [
        (logs[start:].sum().item(), "Do not add up, or a long caption always looks unsure: take the least."),
        (logs[start:].mean().item(), "A mean hides one doubtful word among a dozen sure ones: take the least."),
        (logs[start:].max().item(), "That is the token it was surest of; the doubtful one tells more."),
        (logs.min().item(), "Count the tokens of the new caption alone, from `start` on."),
        (-logs[start:].min().item(), "That is the loss: a certainty is larger where the model is surer."),
        (logs[start:].exp().min().item(), "Leave it in nats: no exponential at the end."),
        (logits.gather(1, tokens[:, None])[start:].min().item(), "Logits are not probabilities: log_softmax them first."),
        (logs[start + 1 :].min().item(), "Token number `start` belongs to the caption already."),
    ]  # fmt: skip
    got = answer(logits, tokens, start)
    single = isinstance(got, Real) or (isinstance(got, Tensor) and got.numel() == 1)
    need(single, "Return one number.", f"got {got!r:.60}")
    got, right = float(got), certainty(logits, tokens, start)
    close = [(wrong, said) for wrong, said in slips if abs(got - wrong) < 1e-4]
    need(abs(got - right) < 1e-4, close[0][1] if close else 1, f"must be {right:.4f}, got {got:.4f}")


def kind_shares(kinds: Sequence[str]) -> dict[str, float]:
    """Share of each of KINDS among the valid triplets; "" stands for one that is not valid."""
    valid = [k for k in kinds if k]
    return {kind: valid.count(kind) / max(len(valid), 1) for kind in KINDS}


def check_shares(answer: Callable[..., Any], seed: int) -> None:
    """Some kinds, some faulty triplets; then no valid one at all."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(KINDS) - 2, (30,), generator=generator).tolist()
    kinds = [KINDS[k] for k in drawn] + [""] * 7
    right = kind_shares(kinds)
    got = answer(kinds)
    need(isinstance(got, dict), "Return a dictionary: kind to share.", f"got {type(got).__name__}")
    need("" not in got, 'A triplet that is not valid has no kind: leave "" out.')
    need(list(got) == list(KINDS), 1, f"keys must be {', '.join(KINDS)}; got {', '.join(map(str, got))}")
    values = list(right.values())
    slips = [
        ([v * 30 / 37 for v in values], 'Divide by the number of valid triplets: "" does not count.'),
        ([v * 30 for v in values], "Those are counts; a share is a count over the number of valid triplets."),
        ([v * 100 for v in values], "A share lies between 0 and 1, not between 0 and 100."),
        ([1 / len(KINDS)] * len(KINDS), 0),
    ]
    same_value(list(got.values()), values, slips=slips, hint=0, what="the shares")
    same_value(
        list(answer(["", ""]).values()), [0.0] * len(KINDS), hint="Where nothing is valid, every share is 0."
    )


CAUSES = {
    "a": "An unseeded sampler would differ between two equal calls; theirs gives the same twice.",
    "c": "A wrong temperature would show in how often tokens come; the shares are right.",
    "d": "The likeliest token would be the same in every row; theirs are not.",
    "e": "A reversed distribution would show in how often tokens come; the shares are right.",
}


def check_cause(answer: Any, seed: int) -> None:
    """The symptoms are those of one stream of numbers for a whole batch."""
    one_of(answer, "b", CAUSES)


EXERCISES = (
    Exercise(
        "01.1", "A triplet as text", 1, 4, 5, example, check_example,
        (
            "The model only ever continues text. What is given ends where it must begin to write.",
            "The prompt is the caption, a line break, ##, a line break. The completion is the rest, with END as its last line.",
        ),
    ),
    Exercise(
        "01.2", "Take a completion apart", 3, 5, 10, reading, check_reading,
        (
            "Cut first, then judge: what stands before END, in how many parts, and did the caption change?",
            'Split at "\\nEND" and keep what is before it; split that at "\\n%%\\n"; strip; refuse an empty part; compare captions lower-case and without final . ! ?.',
        ),
    ),
    Exercise(
        "01.3", "Learn the answer, not the question", 3, 5, 8, completion_losses, check_losses,
        (
            "Every token is predicted from those before it. Which of the predictions are about the completion?",
            "Compare logits[:-1] with ids[1:], reduction='none'; token number `given` is the first that counts.",
        ),
    ),
    Exercise(
        "01.4", "A draw that is a function", 3, 5, 8, draw, check_draw,
        (
            "Lay the probabilities side by side on the line from 0 to 1: u falls on one of them.",
            "softmax of logits / temperature, then cumsum; the answer is how many of these sums are at most u.",
        ),
    ),
    Exercise(
        "01.5", "Break it: it depends on the neighbours", 2, 4, 5, "b", check_cause,
        (
            "The first row is right whatever the batch. What do later rows have that the first has not?",
            "Which faults would change how often each token comes?",
        ),
    ),
    Exercise(
        "01.6", "How sure was it?", 3, 3, 7, certainty, check_certainty,
        (
            "The model gave each token that it wrote a probability. One word that it had to guess spoils the caption.",
            "log_softmax over the vocabulary, gather the written tokens, keep those from `start` on, take the least.",
        ),
    ),
    Exercise(
        "01.7", "What kinds of edits?", 2, 3, 5, kind_shares, check_shares,
        (
            "A share is a count over the number of triplets that are valid.",
            "One key for each of KINDS, in that order, 0 where there is none; mind the division if nothing is valid.",
        ),
    ),
)  # fmt: skip
