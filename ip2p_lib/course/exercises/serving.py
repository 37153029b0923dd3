"""The last part of notebook 05's exercises: any size of picture, and the latest request."""

from collections.abc import Callable
from math import ceil
from numbers import Integral
from typing import Any

from ip2p_lib import images
from ip2p_lib.course.exercises.checks import need, same_value

SIZES = (
    (512, 512, 512, 64), (500, 370, 512, 64), (333, 500, 512, 64), (640, 480, 512, 64), (300, 100, 128, 8),
    (100, 30, 64, 16), (1000, 667, 512, 64),
)  # fmt: skip


def check_size(answer: Callable[..., Any], seed: int) -> None:
    """Squares, both orientations, and a size at which floating point loses a whole multiple."""
    for w, h, r, m in SIZES:
        expected, long, short = images.edit_size(w, h, r, m), max(w, h), min(w, h)
        got = answer(w, h, r, m)
        need(
            isinstance(got, list | tuple) and len(got) == 2,
            "Give two numbers: (width, height).",
            f"got {got!r:.60}",
        )

        def by(
            rounded: Callable[[float], int], w: int = w, h: int = h, m: int = m, r: int = r
        ) -> tuple[int, int]:
            factor = r / max(w, h)
            factor = rounded(min(w, h) * factor / m) * m / min(w, h)
            return int(w * factor // m) * m, int(h * factor // m) * m

        slips = [
            (by(ceil), "Floating point loses a whole multiple here: count in whole numbers or fractions.Fraction."),
            ((expected[1], expected[0]), "Width first, then height."),
            (by(round), "The short side is rounded up, not to the nearest multiple."),
            (by(int), "The short side is rounded up, so that nothing of it is lost."),
            ((r, r), "The picture keeps its shape: only sides that were equal become equal."),
            ((w * r // long, h * r // long), "Both sides must be whole multiples: the network halves them again and again."),
            ((w * r // long // m * m, h * r // long // m * m), "After rounding the short side up there is a new factor, for both sides."),
            ((w * r // short // m * m, h * r // short // m * m), "The resolution is for the long side."),
        ]  # fmt: skip
        same_value(list(got), list(expected), slips=[(list(s), t) for s, t in slips], hint=1, what=f"the size of {w} x {h} at {r} in steps of {m}")  # fmt: skip
        need(
            all(isinstance(v, Integral) for v in got),
            "Sides are whole numbers: give ints.",
            f"got {got!r:.60}",
        )


def serve(request: Any, latest: Callable[[], Any], step: Callable[[int], Any], steps: int) -> Any:
    """Do the steps 0, 1, … of a request and give the last one's result; None once another request is the latest."""
    result = None
    for number in range(steps):
        if latest() != request:
            return None
        result = step(number)
    return result if latest() == request else None


class _Desk:
    """Where requests come in: the next one arrives during a given step."""

    def __init__(self, overtaken_in: int | None) -> None:
        self.overtaken_in, self.newest, self.asked = overtaken_in, "first", 0
        self.done: list[int] = []

    def latest(self) -> str:
        self.asked += 1
        return self.newest

    def step(self, number: int) -> str:
        self.done.append(number)
        if number == self.overtaken_in:
            self.newest = "second"
        return f"picture after step {number}"


def check_serve(answer: Callable[..., Any], seed: int) -> None:
    """Left alone, then overtaken early, late, in the very last step, and before the first."""
    steps = 8 + seed
    desk = _Desk(None)
    result = answer("first", desk.latest, desk.step, steps)
    need(desk.done == list(range(steps)), "Do the steps 0 to steps - 1, in order.", f"done were {desk.done}")
    same_value(
        result, f"picture after step {steps - 1}", hint="Give the last step's result.", what="the result"
    )
    need(desk.asked > 0, "Nobody asked `latest()`: then an old request is worked on to its end.")
    for at in (2, 5, steps - 1):
        desk = _Desk(at)
        result, wasted = answer("first", desk.latest, desk.step, steps), len(desk.done) - at - 1
        seen = f"overtaken in step {at} of {steps}: {wasted} more steps were done"
        need(
            wasted == 0 or desk.asked > 1, "Ask before every step: once at the beginning is too early.", seen
        )
        need(wasted == 0, "Ask before every step, and stop at once.", seen)
        late = "Ask once more after the last step: it may have been overtaken while it ran."
        need(result is None, late if at == steps - 1 else "Who was overtaken shows nothing: give None.", seen)
    desk = _Desk(None)
    desk.newest = "second"
    answer("first", desk.latest, desk.step, steps)
    need(not desk.done, "Ask before the first step too: the request may be old when its turn comes.")
