"""The text that a language model reads and continues, and how its continuation is taken apart."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from ip2p_lib.presets import WriteConfig
from ip2p_lib.records import Triplet

SEPARATOR, PARTS, STOP = "\n##\n", "\n%%\n", "\nEND"
UNBOUND = WriteConfig()  # no bound on certainty or changes
CHAT_SYSTEM = (
    "You continue a list. Each item is an image caption, a line '##', an instruction for editing that image, a line"
    " '%%', the caption of the edited image, and a line 'END'. Change one thing only and keep every other word of"
    " the caption. Answer with the continuation alone."
)


@dataclass(frozen=True, slots=True)
class Request:
    """One text to continue; the seed alone decides the draw."""

    prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote. `finished` is False where it was cut off by the token limit.

    `certainty` is the log-probability of the edited caption's least sure token, in nats at temperature 1,
    where the writer knows it; `instruction_certainty` that of the instruction's.
    """

    text: str
    finished: bool
    prompt_tokens: int = 0
    completion_tokens: int = 0
    certainty: float | None = field(default=None, compare=False)
    instruction_certainty: float | None = field(default=None, compare=False)
    refused: bool = False  # by a server that answers other texts


class RejectedError(ValueError):
    """An attempt that is no triplet; `reason` is one of "refused", "empty", "unfinished", "parts",
    "lines", "no-op", "changes", "unsure"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def prompt_for(caption: str, examples: Sequence[Triplet] = ()) -> str:
    """The prompt of a caption: itself and the separator, after worked examples if there are any.

    A model fine-tuned on triplets needs no examples.

    Source: timothybrooks/instruct-pix2pix@0dffd1e, prompt_app.py and dataset_creation/generate_txt_dataset.py.
    """
    shown = "".join(f"{e.input}{SEPARATOR}{completion_of(e)}\n\n" for e in examples)
    return f"{shown}{caption}{SEPARATOR}"


def completion_of(triplet: Triplet) -> str:
    """What fine-tuning teaches to write after the prompt.

    Source: timothybrooks/instruct-pix2pix@0dffd1e, dataset_creation/prepare_for_gpt.py.
    """
    return f"{triplet.edit}{PARTS}{triplet.output}{STOP}"


def _normalised(text: str) -> str:
    """Deviation: articles do not count either, since "the forest" for "a forest" is no edit."""
    return re.sub(r"\b(?:an?|the) ", "", text.strip().strip(".!?").lower())


def read_completion(completion: Completion, caption: str, config: WriteConfig = UNBOUND) -> tuple[str, str]:
    """Instruction and edited caption of a completion, stripped.

    Args:
        config: holds the bounds on certainty and changes.

    Raises:
        RejectedError: the text was refused, nothing was written, the end is missing, there are not exactly two parts, a part is
            empty or runs over lines, the edited caption is the caption again but for case and final
            marks, changes in too many places, or the writer was not sure. All but the end, the lines, the changes
            and the certainty are the released code's rules.
    """
    text, stop, _ = completion.text.partition(STOP)
    if completion.refused:
        raise RejectedError("refused")
    if not text.strip():
        raise RejectedError("empty")
    if not stop and not completion.finished:
        raise RejectedError("unfinished")
    parts = [part.strip() for part in f"{text}\n".split(PARTS)]
    if len(parts) != 2 or not all(parts):
        raise RejectedError("parts")
    if any(len(part.splitlines()) > 1 for part in parts):
        raise RejectedError("lines")
    edit, output = parts
    if _normalised(output) == _normalised(caption):
        raise RejectedError("no-op")
    if config.max_changes is not None and _changes(caption, output) > config.max_changes:
        raise RejectedError("changes")
    if _is_unsure(completion, config):
        raise RejectedError("unsure")
    return edit, output


def _changes(before: str, after: str) -> int:
    """In how many places words of a text were replaced, put in or left out."""
    old, new = (_normalised(text).split() for text in (before, after))
    return sum(tag != "equal" for tag, *_ in SequenceMatcher(None, old, new, autojunk=False).get_opcodes())


def _is_unsure(completion: Completion, config: WriteConfig) -> bool:
    bounds = (
        (completion.certainty, config.min_certainty),
        (completion.instruction_certainty, config.min_instruction_certainty),
    )
    return any(sure is not None and bound is not None and sure < bound for sure, bound in bounds)
