"""Measure everything that ships and write `quality.json`: one object per number, with its interval."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm.auto import tqdm

from ip2p_lib import filtering, records, storage
from ip2p_lib.backbone import (
    Backbone,
    ClipEncoder,
    load_clip,
    load_editor,
    load_judge,
    load_text_to_image,
)
from ip2p_lib.evaluation import (
    EditScore,
    Measure,
    all_attributes_right,
    bootstrap,
    by_kind,
    by_style,
    different_captions,
    distance_ratio,
    evaluate_edits,
    psnr,
    recall_at_1,
    reconstruct,
    sample_captions,
    scene_pixels,
    share,
)
from ip2p_lib.evaluation.report import plain
from ip2p_lib.judge import Judge, read_attributes, right_by_attribute
from ip2p_lib.pairs import synthesise
from ip2p_lib.presets import MINIATURE, EditConfig, Preset, WriteConfig
from ip2p_lib.quality.candidates import Judged, judged_candidates
from ip2p_lib.quality.goals import GOALS, Goal
from ip2p_lib.quality.writer import judge_writer
from ip2p_lib.scenes import caption, sample_scenes
from ip2p_lib.triplets import edit_of, world_triplets
from ip2p_lib.triplets.verdicts import WriterVerdict

SCENES_SEED, EDIT_SEED, PAIRS_SEED = 901, 902, 903  # held out: no training draws from them


class Quality:
    """The measures, each of held-out scenes; models are loaded when first needed.

    Args:
        bold: a bolder way of writing triplets, whose bounds are measured beside the preset's writer.
    """

    def __init__(self, preset: Preset = MINIATURE, count: int = 512, bold: WriteConfig | None = None) -> None:
        self.preset, self.count, self.bold = preset, count, bold
        self.details: dict[str, Any] = {}

    @cached_property
    def judge(self) -> Judge:
        """Reads scenes off pictures."""
        return load_judge(self.preset)

    @cached_property
    def clip(self) -> ClipEncoder:
        """Scores pictures and texts."""
        return load_clip(self.preset)

    @cached_property
    def base(self) -> Backbone:
        """The text-to-image model."""
        return load_text_to_image(self.preset)

    @cached_property
    def scenes(self) -> list[Any]:
        """Held-out scenes."""
        return sample_scenes(self.count, SCENES_SEED)

    @cached_property
    def edits(self) -> list[EditScore]:
        """Scores of held-out edits in held-out phrasings."""
        return self.edited(self.preset.edit)

    def edited(self, config: EditConfig) -> list[EditScore]:
        """The same with other settings."""
        triplets = list(world_triplets(self.count, EDIT_SEED, held_out=True))
        steps = evaluate_edits(load_editor(self.preset), self.judge, self.clip, triplets, config)
        return [score for score, *_ in tqdm(steps, total=len(triplets), desc="edits", unit="edit")]

    @cached_property
    def pairs(self) -> tuple[list[Judged], list[Judged]]:
        """All candidates of fresh triplets, and the kept ones, with the truth about them."""
        triplets = list(world_triplets(self.count // 4, PAIRS_SEED))
        with TemporaryDirectory() as name:
            folder = Path(name)
            config = replace(self.preset.pairs, candidates_per_triplet=2, seed=PAIRS_SEED)
            for _ in tqdm(synthesise(triplets, self.base, config, folder), desc="pairs", unit="batch"):
                pass
            for _ in filtering.score(folder, self.clip):
                pass
            kept = set(filtering.select(filtering.read_scores(folder), self.preset.filter))
            rows = judged_candidates(folder, triplets, self.judge, edit_of)
        return rows, [r for r in rows if (r.triplet, r.score[records.CANDIDATE]) in kept]

    @cached_property
    def triplets(self) -> list[WriterVerdict]:
        """The world's verdicts on triplets written for held-out captions."""
        found, self.details["triplets"] = judge_writer(self.preset, bold=self.bold)
        return found

    def triplets_valid(self) -> Measure:
        """Triplets in which the world finds no fault."""
        return share([float(not v.fault) for v in self.triplets])

    def triplets_new(self) -> Measure:
        """Of these, the ones not copied from what the writer learned from."""
        return share([float(v.new) for v in self.triplets])

    def judge_all_attributes(self) -> Measure:
        """Judge on true renders."""
        return share(all_attributes_right(self.judge, scene_pixels(self.scenes), self.scenes))

    def vae_psnr_db(self) -> Measure:
        """Reconstruction, in dB."""
        pixels = scene_pixels(self.scenes)
        return bootstrap(psnr(reconstruct(self.base, pixels), pixels).tolist())

    def vae_keeps_attributes(self) -> Measure:
        """Judge on reconstructions: the ceiling of everything downstream."""
        rebuilt = reconstruct(self.base, scene_pixels(self.scenes))
        return share(all_attributes_right(self.judge, rebuilt, self.scenes))

    def text_to_image_all_attributes(self) -> Measure:
        """Judge on pictures made from captions."""
        pixels = sample_captions(
            self.base, [caption(s, i) for i, s in enumerate(self.scenes)], guidance_scale=4.0,
            num_inference_steps=20, resolution=self.preset.edit.resolution, seed=SCENES_SEED,
        )  # fmt: skip
        shares = right_by_attribute(read_attributes(self.judge, pixels), self.scenes)
        self.details["text_to_image_by_attribute"] = {k: round(v, 4) for k, v in shares.items()}
        return share(all_attributes_right(self.judge, pixels, self.scenes))

    def clip_recall_at_1(self) -> Measure:
        """Own caption found among 256 different ones."""
        scenes, captions = different_captions(self.scenes, 256)
        return share(recall_at_1(self.clip, scene_pixels(scenes), captions))

    def pairs_unfiltered_exact(self) -> Measure:
        """Candidates that do exactly what was asked."""
        return _exact(self.pairs[0])

    def pairs_kept_exact(self) -> Measure:
        """Kept pairs that do."""
        return _exact(self.pairs[1])

    def editor_exact(self) -> Measure:
        """Edits of true renders that are exactly right."""
        self.details["editor_by_kind"] = {
            "editor_exact_by_kind": {k: asdict(v) for k, v in by_kind(self.edits).items()},
            "editor_exact_by_style": {k: asdict(v) for k, v in by_style(self.edits).items()},
            "editor_requested": asdict(share([s.requested for s in self.edits])),
        }
        restored = self.edited(replace(self.preset.edit, restore_detail=True))
        self.details["editor_with_detail"] = {
            "exact": asdict(share([s.exact for s in restored])),
            "l1_over_unedited_l1": asdict(distance_ratio(restored)),
        }
        return share([s.exact for s in self.edits])

    def editor_exact_worst_kind(self) -> Measure:
        """The same, for the kind of edit that does worst."""
        return min(by_kind(self.edits).values(), key=lambda m: m.value)

    def editor_l1_over_unedited_l1(self) -> Measure:
        """Distance to the exact answer over the unedited picture's."""
        return distance_ratio(self.edits)


def _exact(rows: Sequence[Judged]) -> Measure:
    """Share of exact pairs; attempts at one triplet are drawn together."""
    return share([r.exact for r in rows], groups=[r.triplet for r in rows])


def measure_all(
    out: Path,
    only: str | None = None,
    preset: Preset = MINIATURE,
    count: int = 512,
    bold: WriteConfig | None = None,
) -> Iterator[str]:
    """Measure, as `Quality` does, and write `out/quality.json`; yields one line per number.

    Raises:
        ValueError: no measure of that name.
    """
    if only is not None and only not in GOALS:
        raise ValueError(f"measure must be one of {', '.join(GOALS)}; got {only!r}")
    path, quality = out / "quality.json", Quality(preset, count, bold)
    results = storage.read_json(path) if path.exists() else {}
    for key in GOALS if only is None else (only,):
        measure: Callable[[], Measure] = getattr(quality, key)
        found = measure()
        results[key] = {
            **plain(found),
            "command": f"ip2p quality --only {key}",
            "commit": storage.commit(),
        }
        storage.write_json(path, results)
        goal = GOALS[key]
        verdict = "" if goal == Goal() else (", reached" if goal.met_by(found.value) else ", NOT reached")
        yield f"{key}: {found.value:.3f} ({found.low:.3f} to {found.high:.3f}, n={found.n}){verdict}"
    for name, detail in quality.details.items():
        storage.write_json(out / f"{name}.json", detail)
