"""How good a writer of the picture world is: valid, new and varied triplets, as the world sees them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ip2p_lib.records import Caption, Triplet
from ip2p_lib.scenes.reading import read_caption, triplet_fault
from ip2p_lib.scenes.world import KINDS, edits
from ip2p_lib.triplets.seeds import word_set
from ip2p_lib.triplets.world import understood


@dataclass(frozen=True, slots=True)
class WriterVerdict:
    """What the world finds in one triplet."""

    fault: str  # "" if it is valid, else as in `scenes.reading.triplet_fault`
    kind: str  # of edit; "" if it is not valid
    new: bool  # valid, and its instruction's words are not those of any training triplet


def verdicts(triplets: Iterable[Triplet], training: Sequence[Triplet]) -> list[WriterVerdict]:
    """Judge triplets; `training` is what the writer was fine-tuned on.

    A triplet counts as copied if some training triplet has the same instruction, word for word but for
    order, case and articles, whatever the captions: the strict reading of "new".
    """
    known = {word_set(t.edit) for t in training}
    found = []
    for triplet in triplets:
        fault = triplet_fault(triplet.input, triplet.edit, triplet.output)
        edit = understood(triplet)
        found.append(
            WriterVerdict(fault, edit.kind if edit else "", not fault and word_set(triplet.edit) not in known)
        )
    return found


def target_mix(captions: Iterable[Caption | Triplet]) -> dict[str, float]:
    """Share of each kind of edit if every kind that a caption's scene allows were equally likely.

    Raises:
        ValueError: a text is no caption of the world.
    """
    shares: Counter[str] = Counter()
    count = 0
    for caption in captions:
        text = caption.input if isinstance(caption, Triplet) else caption.text
        reading = read_caption(text)
        if reading is None:
            raise ValueError(f"only captions of the picture world have a target mix, got {text!r}")
        possible = {e.kind for e in edits(reading.scene)}
        shares.update({kind: 1 / len(possible) for kind in possible})
        count += 1
    return {kind: shares[kind] / max(count, 1) for kind in KINDS}


def mix(found: Sequence[WriterVerdict]) -> dict[str, float]:
    """Share of each kind of edit among the valid triplets."""
    counts = Counter(v.kind for v in found if v.kind)
    return {kind: counts[kind] / max(counts.total(), 1) for kind in KINDS}
