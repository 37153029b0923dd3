"""What else changes: an editor's bias, as far as the picture world has one.

The paper's bias is a thing of people: ask for a nurse and a woman comes. The world has no people, but the same
question can be asked of it, and counted: ask for one attribute, and see which other one moves, and where to.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ip2p_lib import images, storage
from ip2p_lib.backbone import Backbone, weights_mark
from ip2p_lib.baselines import Edited, System, exact_answer
from ip2p_lib.evaluation.cases import Case, open_case
from ip2p_lib.evaluation.intervals import share
from ip2p_lib.evaluation.measures import ATTRIBUTE_OF_KIND, reconstruct
from ip2p_lib.evaluation.report import plain
from ip2p_lib.evaluation.sweep import Instruments, configuration
from ip2p_lib.filtering import passes
from ip2p_lib.judge import Judge, Verdict, read_attributes
from ip2p_lib.pairs import blocks
from ip2p_lib.presets import FilterConfig
from ip2p_lib.records import Triplet
from ip2p_lib.scenes.world import ATTRIBUTES, EXTRAS, KINDS, SceneEdit
from ip2p_lib.similarity import score_edits

COLUMNS = (*ATTRIBUTES, "extras")
RECORD, BLOCK = "effects.json", 32


@dataclass(frozen=True, slots=True)
class Besides:
    """One edit: what the judge reads to have changed though nobody asked, with the value that came."""

    kind: str
    changed: Mapping[str, str]  # column -> new value; of extras, those that came or went


def besides(before: Verdict, after: Verdict, edit: SceneEdit) -> Besides:
    """Compare two pictures as the judge reads them, leaving out what the edit was about."""
    asked = ATTRIBUTE_OF_KIND.get(edit.kind)
    changed = {n: v for n, v in after.attributes.items() if n != asked and v != before.attributes[n]}
    about = {e for e in EXTRAS if (e in edit.before.extras) != (e in edit.after.extras)}
    if moved := (before.extras ^ after.extras) - about:
        changed["extras"] = " ".join(f"{'+' if e in after.extras else '-'}{e}" for e in sorted(moved))
    return Besides(edit.kind, changed)


def asked_for(kind: str, column: str) -> bool:
    """Whether a kind of edit is about a column, so that a change there is no side effect.

    Adding and removing are about one extra; the others may still change, so this column is not theirs.
    """
    return ATTRIBUTE_OF_KIND.get(kind) == column


def matrix(found: Sequence[Besides]) -> list[dict[str, Any]]:
    """Share of edits, by kind and for "all", that change each column besides, with intervals.

    Over "all" a column counts only edits that were not about it. Columns without such edits are left out.
    """
    lines = []
    for kind in (*KINDS, "all"):
        chosen = [b for b in found if kind in (b.kind, "all")]
        if not chosen:
            continue
        shares: dict[str, Any] = {}
        for column in COLUMNS:
            values = [float(column in b.changed) for b in chosen if not asked_for(b.kind, column)]
            if values:
                shares[column] = plain(share(values))
        shares["anything"] = plain(share([float(bool(b.changed)) for b in chosen]))
        lines.append({"kind": kind, "edits": len(chosen), "besides": shares})
    return lines


def pulls(found: Iterable[Besides]) -> list[dict[str, Any]]:
    """Where a column moves when nobody asked: its most frequent new value and that value's share of such changes."""
    came: dict[str, list[str]] = {}
    for one in found:
        for column, value in one.changed.items():
            came.setdefault(column, []).append(value)
    lines = []
    for column in (c for c in COLUMNS if c in came):
        value, _ = Counter(came[column]).most_common(1)[0]
        part = share([float(v == value) for v in came[column]])
        lines.append({"column": column, "changes": len(came[column]), "to": value, "share": plain(part)})
    return lines


def told(found: Sequence[Besides]) -> dict[str, Any]:
    """Both as they stand in the result file."""
    return {"edits": len(found), "matrix": matrix(found), "pulls": pulls(found)}


def effects(
    system: System,
    dial: float,
    cases: Sequence[Case],
    folder: Path,
    instruments: Instruments,
    *,
    seed: int = 0,
    filtered: FilterConfig | None = None,
) -> Iterator[list[Besides]]:
    """Edit cases of the world, a block at a time, and tell what changes besides; case i has the seed `seed + i`.

    Pictures that a system painted itself are compared with each other. A block on disk is not made again.

    Args:
        folder: where blocks are put.
        filtered: leave out results that the CLIP filter would not keep as a training pair.

    Raises:
        ValueError: there is no judge, a case has no scenes for it to be asked about, or the folder belongs to
            other cases, weights or settings.
    """
    if instruments.judge is None or any(c.scenes is None for c in cases):
        raise ValueError("side effects need a judge, and cases of the picture world")
    told = configuration(system, cases, instruments, seed, BLOCK)
    storage.claim_folder(folder, {**told, "dial": dial, "filter": str(filtered)}, RECORD)
    for number, block in enumerate(blocks(list(enumerate(cases)), BLOCK)):
        path = folder / f"besides-{number:05d}.json"
        if not path.exists():
            found = _block(system, dial, block, instruments, instruments.judge, seed, filtered)
            storage.write_json(path, [asdict(b) for b in found])
        yield _read_block(path)


def _block(
    system: System,
    dial: float,
    block: Sequence[tuple[int, Case]],
    instruments: Instruments,
    judge: Judge,
    seed: int,
    filtered: FilterConfig | None,
) -> list[Besides]:
    """One block, as it goes on disk."""
    cases = [c for _, c in block]
    given = [open_case(c, instruments.config).picture for c in cases]
    made = system.run(given, [c.triplet for c in cases], dial, [seed + i for i, _ in block])
    old = images.to_tensor([e.source or p for e, p in zip(made, given, strict=True)])
    new = images.to_tensor([e.picture for e in made])
    kept = _passing(old, new, cases, instruments, filtered) if filtered else [True] * len(cases)
    read = zip(read_attributes(judge, old), read_attributes(judge, new), strict=True)
    return [
        besides(*verdicts, case.scenes)
        for case, verdicts, passed in zip(cases, read, kept, strict=True)
        if passed and case.scenes is not None
    ]


def _read_block(path: Path) -> list[Besides]:
    try:
        return [Besides(**one) for one in storage.read_json(path)]
    except TypeError as error:
        raise ValueError(
            f"{path} must hold side effects, but is damaged ({error}); delete it and run again"
        ) from error


def _passing(
    old: Tensor, new: Tensor, cases: Sequence[Case], instruments: Instruments, config: FilterConfig
) -> list[bool]:
    texts = ([getattr(c.triplet, n) for c in cases] for n in ("input", "output"))
    scores = score_edits(instruments.clip, images.to_unit(old), images.to_unit(new), *texts)
    return [passes(asdict(s), config) for s in scores]


def rebuilt_answer(model: Backbone) -> System:
    """The exact answer through the autoencoder: what judge and autoencoder do alone, the floor of every side effect."""

    def run(
        pictures: Sequence[Image.Image], triplets: Sequence[Triplet], value: float, seeds: Sequence[int]
    ) -> list[Edited]:
        answers = [e.picture for e in exact_answer().run(pictures, triplets, value, seeds)]
        return [Edited(p) for p in images.to_pictures(reconstruct(model, images.to_tensor(answers)))]

    mark = f"rebuilt-{weights_mark(model.vae)}"
    return replace(
        exact_answer(), name="rebuilt", about="the exact answer through the autoencoder", run=run, mark=mark
    )
