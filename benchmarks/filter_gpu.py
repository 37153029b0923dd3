"""The GPU benchmark's part about the filter: CLIP ViT-L/14 on many candidates at once, and on one per call.

Random weights, float32 as the filter computes. Pictures begin as tensors on the processor's side, so that moving them counts.
Run through `python benchmarks/gpu.py`.
"""

from collections.abc import Iterator
from dataclasses import replace
from statistics import median

import torch
from gpu_parts import Deadline, Row, largest, peak_gib, rounds_within
from torch import Tensor

from ip2p_lib.backbone import Backbone, ClipEncoder, load_clip
from ip2p_lib.presets import FULL, MINIATURE
from ip2p_lib.similarity import encode_edits, image_features, similarities

COUNT, SIZES_TRIED = 128, (256, 512, 1024)


class Filter:
    """A CLIP and candidates for it: random pictures, four candidates to a caption."""

    def __init__(self, quick: bool, device: torch.device) -> None:
        preset = (
            MINIATURE if quick else replace(FULL, clip="ViT-L-14")
        )  # an architecture alone: random weights
        self.clip: ClipEncoder = load_clip(preset, device=device)
        self.count = 8 if quick else COUNT
        generator, shape = torch.Generator().manual_seed(4), (self.count, 3, *(64 if quick else 512,) * 2)
        self.before, self.after = (torch.rand(shape, generator=generator) for _ in range(2))
        numbers = [n // 4 for n in range(self.count)]
        self.texts = (
            [f"a house, number {n}" for n in numbers],
            [f"a house at night, number {n}" for n in numbers],
        )

    def together(self) -> Tensor:
        """All four similarities, (4, N), of candidates in one call."""
        return torch.stack(
            list(similarities(*encode_edits(self.clip, self.before, self.after, *self.texts)).values())
        )

    def apart(self) -> Tensor:
        """The same, one candidate after the other."""
        found = []
        for i in range(self.count):
            pictures = self.before[i : i + 1], self.after[i : i + 1]
            encoded = encode_edits(self.clip, *pictures, *([texts[i]] for texts in self.texts))
            found.append(torch.stack(list(similarities(*encoded).values())))
        return torch.cat(found, 1)


def equal(base: Backbone, quick: bool) -> Row:
    """Largest difference between both ways' similarities.

    Raises:
        ValueError: it is above 1e-4.
    """
    work = Filter(quick, base.device)
    error = (work.together() - work.apart()).abs().max().item()
    if not error <= 1e-4:
        raise ValueError(f"both ways must agree within 1e-4, got {error}")
    return {"equal_within": float(f"{error:.1e}")}


def rows(base: Backbone, quick: bool, deadline: Deadline, peak: float | None) -> Iterator[Row]:
    """Both ways, and the largest batch of pictures that fits."""
    work = Filter(quick, base.device)
    ways = {"together": work.together, "apart": work.apart}
    taken = rounds_within(ways, 0 if quick else deadline.left / 2)
    ours, theirs = (60 * work.count / median(taken[way]) for way in ways)
    row: Row = {
        "name": "filter_gpu",
        "ratio": round(ours / theirs, 2),
        "ours": round(ours),
        "theirs": round(theirs),
    }
    row |= {"unit": "candidates scored per minute", "dtype": "float32", "rounds": len(taken["apart"])}
    yield {**row, "peak_gib": {way: peak_gib(ways[way]) for way in ways}}  # fmt: skip
    one = work.before[:1]
    yield {"name": "filter_largest_batch_gpu", **largest(
        lambda n: image_features(work.clip, one.expand(n, -1, -1, -1), batch_size=n), (16,) if quick else SIZES_TRIED,
        deadline)}  # fmt: skip
