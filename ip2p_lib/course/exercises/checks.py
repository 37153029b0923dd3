"""What checks are made of: compare shape, then value, and tell by the value which slip it was."""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ip2p_lib.course.exercises.grading import NotAttempted, Wrong

Slips = Sequence[tuple[Any, Any]]  # a wrong result, and the hint (number or text) for who gets it
Rules = Sequence[tuple[Callable[..., Any], int | str]]  # what people compute instead, and the hint for it


def need(condition: bool, hint: int | str, detail: str = "") -> None:
    """Refuse an answer unless a condition holds.

    Raises:
        Wrong: it does not.
    """
    if not condition:
        raise Wrong(hint, detail)


def same_tensor(
    got: Any, expected: Tensor, *, slips: Slips = (), hint: int | str = 0, what: str = "the result"
) -> None:
    """Compare a tensor with the right one; `slips` are wrong ones that people get, each with its hint.

    Raises:
        Wrong: it is no tensor, has another shape, or other values.
    """
    need(isinstance(got, Tensor), f"{_upper(what)} must be a tensor.", f"got {type(got).__name__}")
    for wrong, said in slips:  # before the shape: some slips have another one
        if got.shape == wrong.shape != expected.shape and _near(got, wrong):
            raise Wrong(said, f"{what} has shape {tuple(got.shape)}, not {tuple(expected.shape)}")
    need(
        got.shape == expected.shape,
        f"{_upper(what)} has the wrong shape.",
        f"must be {tuple(expected.shape)}, got {tuple(got.shape)}",
    )
    if _near(got, expected):
        return
    off = (got.double() - expected.double()).abs().max().item()
    for wrong, said in slips:
        if wrong.shape == got.shape and _near(got, wrong):
            raise Wrong(said, f"{what} is off by up to {off:.3g}")
    raise Wrong(hint, f"{what} is off by up to {off:.3g}")


def same_value(
    got: Any, expected: Any, *, slips: Slips = (), hint: int | str = 0, what: str = "the result"
) -> None:
    """Compare a number, text, tuple or list with the right one; numbers within rounding.

    Raises:
        Wrong: they differ; the hint is that of the slip with this very value, if there is one.
    """
    if _equal(got, expected):
        return
    said = next((said for wrong, said in slips if _equal(got, wrong)), hint)
    raise Wrong(said, f"{what} must be {_short(expected)}, got {_short(got)}")


def one_of(answer: Any, right: str, because: Mapping[str, str]) -> None:
    """Compare a choice by letter or word; neither case nor spaces count.

    Args:
        because: for each wrong choice why it is not that one.

    Raises:
        Wrong: another choice, or none that is offered.
        NotAttempted: it is empty.
    """
    chosen = str(answer).strip().strip("().").lower()
    if not chosen:
        raise NotAttempted
    if chosen != right:
        offered = ", ".join(sorted({right, *because}))
        raise Wrong(because.get(chosen, f"Choose one of {offered}."), f"you chose {_short(answer)}")


def _near(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5, equal_nan=True)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and a.ndim == 0:
        a = a.item()
    if isinstance(b, tuple | list):
        a = a.tolist() if isinstance(a, Tensor) else a
        return isinstance(a, tuple | list) and len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(b, float) and isinstance(a, Real):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
    return bool(a == b)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 160 else text[:159] + "…"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def against(
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


def numbers(got: Any, count: int) -> list[float]:
    """An answer of so many numbers, to six digits; None counts as not a number.

    Raises:
        Wrong: it is no list or tuple of that length.
    """
    good = isinstance(got, list | tuple) and len(got) == count
    need(good, f"Give {count} numbers.", f"got {got!r:.60}")
    return [math.nan if v is None else round(float(v), 6) for v in got]


def plain(values: tuple[float, ...]) -> list[float]:
    """Numbers of any kind as a list of floats to six digits."""
    return [round(float(v), 6) for v in values]
