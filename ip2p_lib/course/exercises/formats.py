"""The first part of notebook 01's exercises: a triplet as text, and a completion taken apart."""

from collections.abc import Callable
from typing import Any

from ip2p_lib.course.exercises.checks import need, same_value
from ip2p_lib.records import Triplet
from ip2p_lib.triplets.prompts import Completion, RejectedError, completion_of, prompt_for, read_completion


def example(caption: str, edit: str, output: str) -> tuple[str, str]:
    """Prompt and completion of a triplet."""
    return prompt_for(caption), completion_of(Triplet("x", caption, edit, output))


def check_example(answer: Callable[..., Any], seed: int) -> None:
    """The two texts, against what people forget."""
    caption, edit, output = f"{seed + 2} red houses", "make them blue", f"{seed + 2} blue houses"
    got = answer(caption, edit, output)
    pair = isinstance(got, tuple | list) and len(got) == 2 and all(isinstance(t, str) for t in got)
    need(pair, "Return two texts: (prompt, completion).", f"got {got!r:.80}")
    prompt, completion = got
    right_prompt, right_completion = example(caption, edit, output)
    slips: list[tuple[str, int | str]] = [
        (right_prompt.rstrip("\n"), "The line break after ## belongs to the prompt: the model continues on a new line."),
        (f"{caption}##", 1),
        (f"{caption}\n%%\n", "The prompt ends with ##; %% comes later, between instruction and new caption."),
        (right_prompt + right_completion, "The prompt is what the model is given; the instruction it must write itself."),
    ]  # fmt: skip
    same_value(prompt, right_prompt, slips=slips, hint=1, what="the prompt")
    slips = [
        (f"{edit}\n%%\n{output}", "Without END the model never learns where to stop."),
        (f"{edit}\n%%\n{output}END", "END stands on a line of its own."),
        (right_completion + "\n", "Nothing follows END: sampling stops there."),
        (f"{output}\n%%\n{edit}\nEND", "The instruction comes first, then the new caption."),
        (
            f"{edit}\n##\n{output}\nEND",
            "Instruction and new caption are parted by %%, so that ## occurs once.",
        ),
        (
            right_prompt + right_completion,
            "The completion does not repeat the prompt: it is given, not learned.",
        ),
    ]
    same_value(completion, right_completion, slips=slips, hint=1, what="the completion")


def reading(completion: str, caption: str) -> tuple[str, str] | None:
    """(instruction, edited caption) of a finished completion, or None if the filters reject it."""
    try:
        return read_completion(Completion(completion, finished=True), caption)
    except RejectedError:
        return None


def check_reading(answer: Callable[..., Any], seed: int) -> None:
    """One good completion, then one of each kind that must be refused or cleaned."""
    caption, good = (
        f"a house with {seed + 2} doors",
        (f"give it {seed + 3} doors", f"a house with {seed + 3} doors"),
    )
    first, second = good
    whole = f"{first}\n%%\n{second}"
    cases: list[tuple[str, Any, int | str]] = [
        (f"{whole}\nEND", good, "A good completion: cut it at the line END, then at the line %%."),
        (f"{whole}\nEND\n\na cat\n##\n", good, "What follows END is none of our business: cut there first."),
        (
            f"write THE END on {first}\n%%\n{second}\nEND",
            (f"write THE END on {first}", second),
            "END ends a completion where it is a line of its own, not inside a sentence.",
        ),
        (f" {first} \n%%\n {second} \nEND", good, "Strip both parts of spaces."),
        (first, None, "One part alone is no triplet: there must be exactly two."),
        (f"{whole}\n%%\na red house\nEND", None, "Three parts are no triplet: there must be exactly two."),
        (f"\n%%\n{second}\nEND", None, "A part that is empty makes no triplet."),
        (f"{first}\n%%\n{caption}\nEND", None, "The caption is the old one again: nothing was edited."),
        (f"{first}\n%%\n{caption.upper()}\nEND", None, "Compare the captions without case: this one did not change."),
        (f"{first}\n%%\n{caption}.\nEND", None, "Compare the captions without final . ! ?: this one did not change."),
    ]  # fmt: skip
    for text, expected, hint in cases:
        got = answer(text, caption)
        same_value(
            tuple(got) if isinstance(got, list) else got, expected, hint=hint, what=f"the reading of {text!r}"
        )
