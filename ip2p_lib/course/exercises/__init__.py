"""Exercises that answer back: each knows the library's version, how answers go wrong, and hints in layers.

A notebook's cell, tagged `exercise:02.3`, holds a stub and hands it in; the returned function is the learner's own
if it is right, else the library's, so that nothing below ever waits for an exercise:

    from ip2p_lib.course.exercises import attempt

    def my_rule(threshold, step, steps): ...

    my_rule = attempt("02.3", my_rule)

The cell above it holds the exercise's `header`, the contract, and folded away two hints and the solution. The
solution, a fenced Python block, replaces the whole cell of the stub. It is tested in a namespace that holds nothing but
what the import lines of the notebook's code cells bring, so it may use what the notebook imports, anywhere at the top
level of a cell, but no function of another exercise.
"""

from ip2p_lib.course.exercises.attempts import Notice, attempt
from ip2p_lib.course.exercises.catalogue import all_exercises, find, header
from ip2p_lib.course.exercises.grading import Exercise, NotAttempted, Verdict, Wrong, grade

__all__ = [
    "Exercise",
    "NotAttempted",
    "Notice",
    "Verdict",
    "Wrong",
    "all_exercises",
    "attempt",
    "find",
    "grade",
    "header",
]
