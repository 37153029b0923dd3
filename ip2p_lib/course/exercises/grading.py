"""Exercises and how an answer to one is judged. Pure: nothing is shown, nothing remembered."""

import copy
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, Literal

RIGHT: Literal["right"] = "right"
WRONG: Literal["wrong"] = "wrong"
OPEN: Literal["not attempted"] = "not attempted"
FORGOT_RETURN = "The function ran, but gave nothing back: is a `return` missing?"


class Wrong(Exception):
    """An answer is wrong, and this is how.

    Args:
        hint: what to think about: a text, or the number of one of the exercise's hints (0 is the first).
        detail: what was seen, beside what must hold.
    """

    def __init__(self, hint: int | str, detail: str = "") -> None:
        super().__init__(hint, detail)
        self.hint, self.detail = hint, detail


class NotAttempted(Exception):
    """There is no answer yet. `reason` is "" for an untouched stub."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Exercise:
    """One thing for the learner to build or to answer.

    Args:
        id: "NN.k", notebook and number in it.
        difficulty, importance: 1 to 5.
        minutes: about how long it takes.
        reference: the library's version, or the right answer.
        check: called with the answer and a seed for its inputs; raises `Wrong`, or returns for a right
            answer. It tests shape, then value, then property, takes under two seconds, and calls a
            function first where a right one returns something.
        hints: layers, from the idea to the line. They do not contain the solution.

    Raises:
        ValueError: a rating lies outside its range, or there are fewer than two hints.
    """

    id: str
    title: str
    difficulty: int
    importance: int
    minutes: int
    reference: Any
    check: Callable[[Any, int], None]
    hints: tuple[str, ...]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d\d\.\d+", self.id):
            raise ValueError(f"an exercise's id must be notebook and number like 02.3, got {self.id!r}")
        for name in ("difficulty", "importance"):
            if not 1 <= getattr(self, name) <= 5:
                raise ValueError(f"{name} of {self.id} must lie in 1..5, got {getattr(self, name)}")
        if self.minutes < 1:
            raise ValueError(f"minutes of {self.id} must be at least 1, got {self.minutes}")
        if len(self.hints) < 2:
            raise ValueError(f"exercise {self.id} must have at least two hints, got {len(self.hints)}")

    @property
    def header(self) -> str:
        """The rating in words, as the notebook shows it."""
        return (
            f"Exercise {self.id} · difficulty {self.difficulty} of 5 · importance {self.importance} of 5"
            f" · about {self.minutes} minute{'s' if self.minutes > 1 else ''}"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an answer."""

    status: Literal["right", "wrong", "not attempted"]
    hint: str = ""
    detail: str = ""


def grade(exercise: Exercise, answer: Any, seed: int = 0) -> Verdict:
    """Judge an answer. Whatever the learner's code raises ends up in the verdict."""
    if _nothing(answer):
        return Verdict(OPEN)
    try:
        if callable(exercise.reference) != callable(answer):
            wanted, given = (
                ("the function itself", "a value")
                if callable(exercise.reference)
                else ("a value", "a function")
            )
            raise Wrong(f"Give {wanted}, not {given}.", f"got {answer!r:.80}")
        exercise.check(Watched(answer) if callable(answer) else answer, seed)
    except NotAttempted as left:
        return Verdict(OPEN, detail=left.reason)
    except Wrong as error:
        hint = exercise.hints[error.hint] if isinstance(error.hint, int) else error.hint
        return Verdict(WRONG, hint, error.detail)
    except Exception as error:  # noqa: BLE001 - an answer may be anything, and must never stop the notebook
        return Verdict(WRONG, "The answer is not of the kind that can be compared.", _said(error))
    return Verdict(RIGHT)


class Watched:
    """A learner's function while it is checked.

    It gets copies of tensors and lists, so that it may change them. What it raises becomes a `Wrong`. If its
    very first call gives nothing, it counts as not attempted.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        update_wrapper(self, function, updated=())
        self.function, self.calls = function, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, with copies."""
        self.calls += 1
        try:
            result = self.function(*map(_copied, args), **{n: _copied(a) for n, a in kwargs.items()})
        except NotImplementedError:
            raise NotAttempted from None
        except Exception as error:
            raise Wrong(
                "Your code stopped with an error; see to that first.", _said(error, own=True)
            ) from error
        if self.calls == 1 and _nothing(result):
            raise NotAttempted("" if _is_stub(self.function) else FORGOT_RETURN)
        return result


def _nothing(value: Any) -> bool:
    """Whether a value is None, `...`, or a tuple of nothing else."""
    if isinstance(value, tuple):
        return bool(value) and all(map(_nothing, value))
    return value is None or value is ...


def _copied(value: Any) -> Any:
    if isinstance(value, list | dict | set):
        return copy.deepcopy(value)
    return value.clone() if hasattr(value, "clone") else value


def _is_stub(function: Callable[..., Any]) -> bool:
    """Whether a function's body does nothing at all."""
    code = getattr(function, "__code__", None)
    return code is not None and len(code.co_code) <= len(_nothing_at_all.__code__.co_code)


def _nothing_at_all() -> None: ...


def _said(error: Exception, own: bool = False) -> str:
    """An exception in one line, with the place where the learner's `own` code raised it or called what did."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__] if own else []
    mine = [f for f in frames if f.filename == frames[0].filename]
    place = f" (line {mine[-1].lineno} of {mine[-1].name})" if mine else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{place}"
