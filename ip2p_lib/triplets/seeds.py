"""Check hand-written triplets for variety, near-duplicates and form; tell in words how a run went."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ip2p_lib.records import Triplet
from ip2p_lib.triplets.journal import Tally
from ip2p_lib.triplets.prompts import (
    PARTS,
    SEPARATOR,
    STOP,
    Completion,
    RejectedError,
    completion_of,
    read_completion,
)

MAX_LENGTH = 450  # characters of one text
SAME_CAPTION, SAME_INSTRUCTION = 0.75, 0.85  # overlap of word sets from which two texts are near-duplicates
FRAME_SHARE = 0.05  # of all instructions may start with the same two words
# What prompt-to-prompt cannot do: camera, position, count, written text, sharpness.
IMPOSSIBLE = re.compile(
    r"\b(zoom\w*|crop\w*|camera angle|close-?up of|from (above|below|behind|the side)|pan (left|right)|rotate\w*"
    r"|flip\w*|mirror(ed)? image|swap (their|the) (places|positions)|move \w+ \w+ to the (left|right)"
    r"|(one|two|three|four|five) (more|fewer|less)|instead of (one|two|three|four|five)|twice as many"
    r"|(sharper|blurrier|higher resolution)|change the text|read instead)\b",
    re.IGNORECASE,
)


def word_set(text: str) -> frozenset[str]:
    """The different words of a text, lower case, without articles."""
    return frozenset(re.findall(r"\w+", text.lower())) - {"a", "an", "the"}


def overlap(a: frozenset[str], b: frozenset[str]) -> float:
    """Shared words over all words, in [0, 1]."""
    return len(a & b) / len(a | b) if a or b else 1.0


def near_duplicates(texts: Sequence[str], limit: float) -> Iterator[tuple[int, int]]:
    """Pairs of texts whose words overlap by at least `limit`; for some thousands of texts."""
    sets = [word_set(t) for t in texts]
    for j, later in enumerate(sets):
        for i in range(j):
            small, large = sorted((len(sets[i]), len(later)))
            if small >= limit * large and overlap(sets[i], later) >= limit:
                yield i, j


def faults(triplets: Sequence[Triplet]) -> list[str]:
    """Every fault found, one line each: form, near-duplicates, impossible edits, monotony, missing kinds."""
    found = [f"{_name(t, i)}: {fault}" for i, t in enumerate(triplets) for fault in _own_faults(t)]
    for what, limit in (("input", SAME_CAPTION), ("edit", SAME_INSTRUCTION)):
        texts = [getattr(t, what) for t in triplets]
        found += [
            f"{_name(triplets[j], j)}: {what} nearly repeats {_name(triplets[i], i)}: {texts[j]!r}"
            for i, j in near_duplicates(texts, limit)
        ]
    starts = Counter(" ".join(t.edit.lower().split()[:2]) for t in triplets)
    allowed = max(3, FRAME_SHARE * len(triplets))
    found += [f"{n} instructions start with {start!r}" for start, n in starts.items() if n > allowed]
    kinds = Counter(str(t.source.get("kind", "")) for t in triplets)
    found += [
        f"kind {kind!r} has {n} triplets, less than half of an equal share"
        for kind, n in kinds.items()
        if 2 * n * len(kinds) < len(triplets)
    ]
    return found


def _name(triplet: Triplet, index: int) -> str:
    return f"line {index + 1}" if triplet.id == f"{index:07d}" else triplet.id


def _own_faults(triplet: Triplet) -> Iterator[str]:
    if not triplet.source.get("kind"):
        yield "source.kind must name the kind of edit"
    for name in ("input", "edit", "output"):
        text = getattr(triplet, name)
        if len(text) > MAX_LENGTH:
            yield f"{name} must have at most {MAX_LENGTH} characters, got {len(text)}"
        if text != text.strip() or any(ord(c) < 32 for c in text) or "  " in text:
            yield f"{name} must be one line without outer or double spaces"
        if any(mark.strip() in text.split() for mark in (SEPARATOR, PARTS, STOP)):
            yield f"{name} must not contain a separator of the prompt format"
    if IMPOSSIBLE.search(triplet.edit):
        yield f"prompt-to-prompt cannot do this: {triplet.edit!r}"
    try:
        read_completion(Completion(completion_of(triplet), finished=True), triplet.input)
    except RejectedError as error:
        yield f"the filters would reject it: {error.reason}"


def portrait(triplets: Sequence[Triplet]) -> list[str]:
    """A few lines on what a file holds: kinds, lengths, variety of instructions.

    Raises:
        ValueError: there are none.
    """
    if not triplets:
        raise ValueError("a file to check must hold at least one triplet, got none")
    kinds = Counter(str(t.source.get("kind", "unknown")) for t in triplets)
    lengths = sorted(len(t.input.split()) for t in triplets)
    starts = Counter(" ".join(t.edit.lower().split()[:2]) for t in triplets)
    return [
        "kinds: " + ", ".join(f"{kind} {n}" for kind, n in kinds.most_common()),
        f"words in a caption: {lengths[0]} to {lengths[-1]}, median {lengths[len(lengths) // 2]}",
        f"different first two words of instructions: {len(starts)} of {len(triplets)}",
        "most frequent: " + ", ".join(f"{start!r} {n}" for start, n in starts.most_common(5)),
    ]


def repeated_instructions(triplets: Iterable[Triplet]) -> tuple[int, int, list[tuple[str, int]]]:
    """Triplets, different instructions (words alone, in any order), and the most frequent ones; streamed."""
    counts: Counter[str] = Counter()
    for triplet in triplets:
        counts[" ".join(sorted(word_set(triplet.edit)))] += 1
    return counts.total(), len(counts), counts.most_common(5)


def summary(tally: Tally) -> str:
    """One line on a run: captions read, triplets accepted, what was skipped or rejected and why."""

    def reasons(counts: Counter[str]) -> str:
        return ", ".join(f"{reason} {n}" for reason, n in counts.most_common()) or "none"

    tokens = f"; tokens {tally.prompt_tokens} + {tally.completion_tokens}" if tally.prompt_tokens else ""
    return (
        f"captions {tally.captions}, triplets {tally.accepted}, given up {tally.given_up}; skipped:"
        f" {reasons(tally.skipped)}; attempts rejected: {reasons(tally.rejected)}{tokens}"
    )
