"""All exercises, collected from one module for each notebook when they are first asked for."""

from functools import cache
from importlib import import_module

from ip2p_lib.course.exercises.grading import Exercise

# One name for each notebook, in order; a module exports EXERCISES: tuple[Exercise, ...].
MODULES: tuple[str, ...] = (
    "whole_game",
    "triplets",
    "pairs",
    "filtering",
    "training",
    "editing",
    "evaluation",
    "full_size",
)


@cache
def all_exercises() -> dict[str, Exercise]:
    """Exercises by id, in the order of the notebooks.

    Raises:
        ValueError: two exercises have one id.
    """
    found: dict[str, Exercise] = {}
    for name in MODULES:
        for exercise in import_module(f"{__package__}.{name}").EXERCISES:
            if exercise.id in found:
                raise ValueError(f"an exercise's id must be its own, but {exercise.id} occurs twice")
            found[exercise.id] = exercise
    return found


def find(exercise_id: str) -> Exercise:
    """An exercise by its id.

    Raises:
        ValueError: there is no such exercise.
    """
    exercises = all_exercises()
    if exercise_id not in exercises:
        raise ValueError(f"the exercise must be one of {', '.join(exercises)}; got {exercise_id!r}")
    return exercises[exercise_id]


def header(exercise_id: str) -> str:
    """The line under an exercise's heading: id, difficulty, importance, minutes."""
    return find(exercise_id).header
