"""What a notebook's cell calls: judge an answer, say so, remember it, and go on with something that works."""

import html
from dataclasses import dataclass
from typing import Any

from IPython.display import display

from ip2p_lib.course.exercises.catalogue import find
from ip2p_lib.course.exercises.grading import OPEN, RIGHT, Exercise, Verdict, grade
from ip2p_lib.course.exercises.progress import progress_file, remember


@dataclass(frozen=True, slots=True)
class Notice:
    """Some lines about an attempt, as HTML and as plain text. The words say all; nothing hangs on a colour."""

    status: str
    lines: tuple[str, ...]

    def _repr_html_(self) -> str:
        first, *rest = (html.escape(line) for line in self.lines)
        body = "".join(f"<br>{line}" for line in rest)
        return (
            '<div role="status" style="border-left:4px solid;padding-left:.7em">'
            f"<strong>{first}</strong>{body}</div>"
        )

    def __repr__(self) -> str:
        return "\n".join(self.lines)


def attempt(exercise_id: str, answer: Any) -> Any:
    """Check an answer and say what was found; returns it if it is right, else the library's version.

    `None`, `...`, or a function that gives None or `...` back or raises NotImplementedError is no attempt
    yet. Each wrong attempt shows one hint more than the one before.

    Raises:
        ValueError: there is no such exercise.
    """
    exercise = find(exercise_id)
    verdict = grade(exercise, answer)
    display(_notice(exercise, verdict))
    return answer if verdict.status == RIGHT else exercise.reference


def _notice(exercise: Exercise, verdict: Verdict) -> Notice:
    name = f"Exercise {exercise.id}"
    if verdict.status == OPEN:
        first = f"{name} not attempted yet: the library's version stands in."
        return Notice(OPEN, (first, verdict.detail) if verdict.detail else (first,))
    solved = verdict.status == RIGHT
    most = len({verdict.hint, *exercise.hints})
    record, trouble = remember(progress_file(), exercise.id, solved=solved, most_hints=most)
    lines = (
        [f"{name} solved: your version takes its place."]
        if solved
        else _help(exercise, verdict, record.hints)
    )
    return Notice(verdict.status, (*lines, *([trouble] if trouble else [])))


def _help(exercise: Exercise, verdict: Verdict, shown: int) -> list[str]:
    """Lines about a wrong attempt: what this answer suggests, then a layer more each time."""
    lines = [f"Exercise {exercise.id} is not right yet: the library's version stands in."]
    lines += [f"What was seen: {verdict.detail}"] if verdict.detail else []
    layers = [h for h in exercise.hints if h != verdict.hint]
    lines += [f"Hint: {hint}" for hint in (verdict.hint, *layers[: max(shown, 1) - 1])]
    if shown > len(layers):
        lines.append("The solution is folded away in the cell above.")
    return lines
