"""One edit measured: what CLIP sees of it, what the judge reads, how far it is from the exact answer."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ip2p_lib import images
from ip2p_lib.backbone import ClipEncoder
from ip2p_lib.baselines.systems import Edited
from ip2p_lib.evaluation.cases import Case, Opened
from ip2p_lib.evaluation.measures import changed_exactly, changed_requested, psnr
from ip2p_lib.judge import Judge, Verdict, read_attributes
from ip2p_lib.scenes.world import SceneEdit
from ip2p_lib.similarity import preprocess, similarities, text_features

Values = dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRow:
    """One edit at one value of a dial. None where a measure has no meaning or failed; `fault` says why.

    Distances are means over channels of values in [-1, 1], so they lie in [0, 2].
    """

    id: str
    kind: str
    dial: float
    fault: str = ""
    clip_sim_dir: float | None = None  # change of picture with change of caption
    clip_sim_image: float | None = None  # input with result
    released_sim_dir: float | None = None  # the same two with pixels in the wrong range, see released_range
    released_sim_image: float | None = None
    exact: float | None = None  # 1: the judge reads the requested change and no other
    requested: float | None = None  # 1: the judge reads the requested change
    l1: float | None = None  # to the exact answer
    unedited_l1: float | None = None  # of the input to the exact answer
    l1_inside: float | None = None  # where the exact answer differs from the input
    l1_outside: float | None = None  # where it does not
    psnr: float | None = None  # to the exact answer, dB

    @property
    def kept_outside(self) -> float | None:
        """Minus `l1_outside`, so that more is better, as in every curve."""
        return None if self.l1_outside is None else -self.l1_outside

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "EditRow":
        """Read one JSON object.

        Raises:
            ValueError: it has other fields.
        """
        if set(row) != {f.name for f in fields(cls)}:
            raise ValueError(f"an edit's row must have the fields of EditRow, got {', '.join(sorted(row))}")
        return cls(**row)


MEASURES = tuple(f.name for f in fields(EditRow) if f.name not in ("id", "kind", "dial", "fault"))


def released_range(clip: ClipEncoder, pixels: Tensor) -> Tensor:
    """CLIP's input as the released metrics script makes it: pictures in [-1, 1] taken for [0, 1].

    Squashing is linear, so the mistake can be made after it: x becomes 2 x - 1, then is normalised.

    Args:
        pixels: (B, 3, H, W) in [0, 1].

    Source: timothybrooks/instruct-pix2pix@0dffd1e:metrics/compute_metrics.py.
    """
    mean, std = (torch.tensor(v, device=pixels.device).view(1, 3, 1, 1) for v in (clip.mean, clip.std))
    squashed = preprocess(pixels, clip) * std + mean
    return (2 * squashed - 1 - mean) / std


@torch.no_grad()
def _clip_values(clip: ClipEncoder, before: Tensor, after: Tensor, rows: Sequence[Opened]) -> list[Values]:
    """Both similarities of each edit, with the right range and with the released script's."""
    texts = [text_features(clip, [getattr(r.case.triplet, n) for r in rows]) for n in ("input", "output")]
    both, found = images.to_unit(torch.cat([before, after])).to(clip.device), {}
    for prefix, pixels in (("clip", preprocess(both, clip)), ("released", released_range(clip, both))):
        first, second = F.normalize(clip.model.encode_image(pixels).float(), dim=-1).chunk(2)
        cosines = similarities(first, second, *texts)
        found[f"{prefix}_sim_dir"] = cosines["clip_sim_dir"].tolist()
        found[f"{prefix}_sim_image"] = cosines["clip_sim_image"].tolist()
    return [{name: values[i] for name, values in found.items()} for i in range(len(rows))]


def _judged(before: Verdict, after: Verdict, edit: SceneEdit | None, *, own: bool) -> Values:
    """What the judge reads. Pictures that a system painted itself are compared with each other."""
    if edit is None:
        return {}
    exact = changed_exactly(before, after, edit) if own else after.agrees(edit.after)
    return {"exact": float(exact), "requested": float(changed_requested(after, edit))}


def distances(before: Tensor, after: Tensor, truth: Tensor, mask: NDArray[np.bool_] | None) -> Values:
    """Distances of one edit (3, H, W) to its exact answer, values in [-1, 1]; mask (H, W).

    A mask that is empty or covers everything has only one side.
    """
    off = (after - truth).abs().mean(0)  # (H, W)
    values: Values = {
        "l1": off.mean().item(),
        "unedited_l1": (before - truth).abs().mean().item(),
        "psnr": psnr(after[None], truth[None]).item(),
    }
    if mask is not None:
        inside = torch.from_numpy(mask)
        values["l1_inside"] = off[inside].mean().item() if inside.any() else None
        values["l1_outside"] = off[~inside].mean().item() if (~inside).any() else None
    return values


def measure(
    rows: Sequence[Opened], results: Sequence[Edited], dial: float, clip: ClipEncoder, judge: Judge | None
) -> list[EditRow]:
    """Measure edits of any sizes, one row each, in order.

    A result of another size than its input is named and not measured; a measure that is no number is named
    and left out.
    """
    out = [
        unmeasured(r.case, dial, f"result must have its input's size {r.picture.size}, has {e.picture.size}")
        for r, e in zip(rows, results, strict=True)
    ]
    inputs = [e.source or r.picture for r, e in zip(rows, results, strict=True)]
    same = [i for i, e in enumerate(results) if e.picture.size == inputs[i].size == rows[i].picture.size]
    for batch in images.by_size([inputs[i] for i in same], 256):
        chosen = [same[b] for b in batch]
        group, made = [rows[i] for i in chosen], [results[i] for i in chosen]
        for i, values in zip(chosen, _measure_group(group, made, clip, judge), strict=True):
            out[i] = _row(rows[i], dial, values)
    return out


def _measure_group(
    rows: Sequence[Opened], results: Sequence[Edited], clip: ClipEncoder, judge: Judge | None
) -> list[Values]:
    """Values of edits of one size."""
    before = images.to_tensor([e.source or r.picture for r, e in zip(rows, results, strict=True)])
    after = images.to_tensor([e.picture for e in results])
    found = _clip_values(clip, before, after, rows)
    if judge is not None:
        read = zip(read_attributes(judge, before), read_attributes(judge, after), strict=True)
        for values, verdicts, row, result in zip(found, read, rows, results, strict=True):
            values |= _judged(*verdicts, row.case.scenes, own=result.source is not None)
    for i, (row, result) in enumerate(zip(rows, results, strict=True)):
        if row.truth is not None and result.source is None:
            found[i] |= distances(before[i], after[i], images.to_tensor([row.truth])[0], row.mask)
    return found


def unmeasured(case: Case, dial: float, fault: str) -> EditRow:
    """The row of an edit that could not be made or measured."""
    return EditRow(id=case.triplet.id, kind=case.kind, dial=dial, fault=" ".join(fault.split()))


def _row(row: Opened, dial: float, values: Values) -> EditRow:
    broken = sorted(n for n, v in values.items() if v is not None and not math.isfinite(v))
    faults = [*row.faults, *(f"{name} is not a number" for name in broken)]
    kept = {n: v for n, v in values.items() if n not in broken}
    return EditRow(id=row.case.triplet.id, kind=row.case.kind, dial=dial, fault="; ".join(faults), **kept)


def as_json(row: EditRow) -> dict[str, Any]:
    """The JSON object of a row; numbers keep six decimals."""
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(row).items()}
