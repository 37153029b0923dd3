"""An editor beyond the size it was trained at, held against exact answers, which the world draws at any size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ip2p_lib.backbone import Backbone, ClipEncoder
from ip2p_lib.baselines import System, our_editor
from ip2p_lib.evaluation.cases import Case
from ip2p_lib.evaluation.intervals import bootstrap_ratio, share
from ip2p_lib.evaluation.measures import all_attributes_right, reconstruct, scene_pixels
from ip2p_lib.evaluation.report import mean_of, plain
from ip2p_lib.evaluation.rows import EditRow
from ip2p_lib.evaluation.side_by_side import enlarged, one_of_each_kind, said
from ip2p_lib.evaluation.sweep import Instruments, read_points, sweep
from ip2p_lib.judge import Judge
from ip2p_lib.presets import EditConfig

SHOWN = 5  # edits on the sheet
FACTORS = (1.0, 1.5, 2.0)  # of the size that the editor was trained at


@dataclass(frozen=True, slots=True)
class Way:
    """How pictures of one size are edited."""

    size: int  # of picture, result and exact answer, pixels
    edited_at: int  # the size at which the networks see it

    @property
    def name(self) -> str:
        """In words."""
        return (
            f"{self.size} px"
            if self.edited_at == self.size
            else f"{self.edited_at} px, enlarged to {self.size}"
        )


def ways(config: EditConfig) -> list[Way]:
    """The trained size, larger ones, and the largest reached by enlarging an edit of the trained size."""
    step = config.multiple
    sizes = [round(config.resolution * f / step) * step for f in FACTORS]
    return [*(Way(s, s) for s in dict.fromkeys(sizes)), Way(sizes[-1], sizes[0])]


def shown(cases: Sequence[Case]) -> list[int]:
    """Indices of the edits that the sheet shows."""
    return one_of_each_kind(cases)[:SHOWN]


def system_of(editor: Backbone, way: Way, config: EditConfig) -> System:
    """Our editor, going that way."""
    inner = replace(config, resolution=way.edited_at)
    one = our_editor(editor, inner)
    return one if way.edited_at == way.size else enlarged(one, inner)


def measure_sizes(
    editor: Backbone,
    config: EditConfig,
    clip: ClipEncoder,
    judge: Judge,
    cases: Sequence[Case],
    folder: Path,
    *,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """What becomes of the same edits at each size, one object for each way to go; all have the same noise seeds.

    Rows of single edits stay in `folder`; a stopped run goes on where it was. The judge sees every picture reduced to its own 64 pixels; distances are at the picture's own size, over
    those of the unedited picture at that size.
    """
    for way in ways(config):
        instruments = Instruments(clip, judge, replace(config, resolution=way.size))
        one, dial = system_of(editor, way, config), config.image_guidance_scale
        place = folder / f"{way.size}-at-{way.edited_at}"
        for _ in sweep(one, (dial,), cases, place, instruments, seed=seed, block=16):
            pass
        rows = read_points(place)[dial]
        yield {"way": way.name, "size": way.size, "edited_at": way.edited_at, **summed_up(rows)} | {
            "judge_reads": ceiling(judge, cases, way.size),
            "autoencoder_keeps": ceiling(judge, cases, way.edited_at, editor),
            "shown": [said(rows[i]) for i in shown(cases)],
        }


def summed_up(rows: Sequence[EditRow]) -> dict[str, Any]:
    """Shares, distance and CLIP's opinion of rows, with intervals; what has a fault is named and left out."""
    good = [r for r in rows if not r.fault]
    names = ("requested", "exact", "clip_sim_dir", "clip_sim_image", "l1_outside")
    found = {n: [v for r in good if (v := getattr(r, n)) is not None] for n in names}
    both = [(r.l1, r.unedited_l1) for r in good if r.l1 is not None and r.unedited_l1 is not None]
    return {
        **{n: plain(mean_of(n, v)) for n, v in found.items() if v},
        **({"l1_over_unedited_l1": plain(bootstrap_ratio(*zip(*both, strict=True)))} if both else {}),
        "faults": [f"{r.id}: {r.fault}" for r in rows if r.fault],
    }


@torch.no_grad()
def ceiling(
    judge: Judge, cases: Sequence[Case], size: int, model: Backbone | None = None
) -> dict[str, float | int]:
    """Share of exact answers, drawn at `size`, that the judge reads; with a model, after its autoencoder."""
    scenes = [c.scenes.after for c in cases if c.scenes is not None]
    pixels = scene_pixels(scenes, size)
    shown = pixels if model is None else reconstruct(model, pixels, batch_size=32)
    return plain(share(all_attributes_right(judge, shown, scenes)))
