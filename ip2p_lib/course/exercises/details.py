"""The last part of notebook 04's exercises: an event, a flip, an average's memory, a frozen network."""

import re
from collections.abc import Callable
from itertools import count
from numbers import Integral
from typing import Any

from torch import nn

from ip2p_lib.course.exercises.checks import need, same_value
from ip2p_lib.course.exercises.widening import (
    a_layer,
)
from ip2p_lib.dataset.drawing import SIDED


def check_event(answer: Any, seed: int) -> None:
    """(text there, picture there) of the event that no prediction of the formula needs."""
    need(
        isinstance(answer, tuple | list) and len(answer) == 2 and all(isinstance(v, bool) for v in answer),
        "Give two truth values: is the text there, is the picture there.", f"got {answer!r:.60}",
    )  # fmt: skip
    used = {
        (True, True): "e(c_I, c_T) has both: the formula starts its last leg there.",
        (False, True): "e(c_I, ∅) has the picture without text, and stands in the formula twice.",
        (False, False): "e(∅, ∅) has nothing, and is where guidance starts.",
    }
    same_value(tuple(answer), (True, False), slips=list(used.items()), what="the event")


def may_flip(instruction: str) -> bool:
    """Whether a pair may be mirrored: its instruction names no side."""
    return not SIDED.search(instruction)


FLIPS: tuple[tuple[Callable[[str], bool], str], ...] = (
    (
        lambda t: not ("left" in t.lower() or "right" in t.lower()),
        "“bright” has the letters of a side, and is none. Look where the word begins.",
    ),
    (lambda t: not re.search(r"\b(left|right)", t), "Instructions may begin with a capital letter."),
    (
        lambda t: not re.search(r"\b(left|right)\b", t, re.I),
        "“leftmost” names a side too, and so does “right-hand”.",
    ),
    (lambda t: bool(SIDED.search(t)), "The other way round: True means that mirroring does no harm."),
    (lambda t: not re.search(r"\bleft", t, re.I), "There are two sides."),
    (lambda t: not re.search(r"\bright", t, re.I), "There are two sides."),
    (
        lambda t: not set(t.lower().split()) & {"left", "right"},
        "Words end at commas and hyphens too, not only at spaces.",
    ),
)
INSTRUCTIONS = (
    "make it night", "put a kite on the left", "Right side: add snow", "the leftmost house in red", "make it bright",
    "to the left, add a tree", "Left half in pencil", "a right-hand moon", "brighten the sky", "upright letters",
    "a cleft in the rock", "on the right.", "remove the thing leftmost of all", "turn the RIGHT door green",
)  # fmt: skip


def check_flip(answer: Callable[..., Any], seed: int) -> None:
    """Sides at the beginning, in capitals, inside longer words, and words that only look like sides."""
    got = [bool(answer(text)) for text in INSTRUCTIONS]
    expected = [may_flip(text) for text in INSTRUCTIONS]
    for rule, hint in FLIPS:
        need(got == expected or got != [rule(text) for text in INSTRUCTIONS], hint)
    wrong = [t for t, own, right in zip(INSTRUCTIONS, got, expected, strict=True) if own != right]
    need(not wrong, 1, f"wrong for {wrong[0]!r}" if wrong else "")


def updates_until(left: float, limit: float, ramp: bool) -> int:
    """After how many updates at most a share `left` of the first weights remains in the average."""
    share = 1.0
    for n in count(1):
        share *= min(limit, (1 + n) / (10 + n)) if ramp else limit
        if share <= left:
            return n
    raise AssertionError


def check_memory(answer: Any, seed: int) -> None:
    """Two numbers of updates."""
    good = (
        isinstance(answer, tuple | list) and len(answer) == 2 and all(isinstance(v, Integral) for v in answer)
    )
    need(good, "Give two whole numbers of updates: with the ramp, and without.", f"got {answer!r:.60}")
    ramped, plain = updates_until(0.01, 0.998, True), updates_until(0.01, 0.998, False)
    slips: list[tuple[Any, int | str]] = [
        ((plain, ramped), "With the ramp the start is forgotten sooner, not later."),
        ((ramped - 1, plain - 1), "One update less leaves just more than a hundredth."),
        ((ramped + 1, plain + 1), "One update earlier it is a hundredth already."),
        ((ramped, updates_until(0.5, 0.998, False)), "One hundredth is to be left, not a half."),
        ((plain, plain), "The ramp matters: multiply the small decays of the first updates too."),
    ]
    same_value(
        list(answer), [ramped, plain], slips=[(list(w), h) for w, h in slips], hint=1, what="the memory"
    )


def only_first_layer(unet: Any) -> Any:
    """The network, of which nothing but `conv_in` will be trained."""
    unet.requires_grad_(False)
    unet.conv_in.requires_grad_(True)
    return unet


class _Small(nn.Module):
    """A network with a first layer, a middle and an end; some of it frozen already."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in, self.mid, self.conv_out = (
            a_layer(0, 8),
            nn.Conv2d(6, 6, 1),
            nn.Conv2d(6, 4, 3, padding=1),
        )
        self.conv_in.requires_grad_(False)


def check_frozen(answer: Callable[..., Any], seed: int) -> None:
    """Which weights require a gradient afterwards."""
    unet = _Small()
    found = answer(unet)
    whole = isinstance(found, nn.Module) and hasattr(found, "conv_in")
    need(whole, "Give the whole network back.", f"got {type(found).__name__}")
    trained = {name for name, p in found.named_parameters() if p.requires_grad}
    slips = {
        frozenset(): "Nothing can learn now: conv_in must require a gradient again, after all was frozen.",
        frozenset({"conv_in.weight"}): "The first layer's bias belongs to it.",
        frozenset({"mid.weight", "mid.bias", "conv_out.weight", "conv_out.bias"}): "conv_in was frozen before: set it to True yourself, and all else to False.",
        frozenset({"conv_out.weight", "conv_out.bias"}): "That is the last layer. Who sees the picture first?",
    }  # fmt: skip
    wanted = {"conv_in.weight", "conv_in.bias"}
    need(
        trained == wanted,
        slips.get(frozenset(trained), 1),
        f"trained are {', '.join(sorted(trained)) or 'none'}",
    )
