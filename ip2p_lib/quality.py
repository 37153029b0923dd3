"""Measure everything that ships and write `quality.json`: one object per number, with its interval."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ip2p_lib import filtering, records, storage
from ip2p_lib.backbone import Backbone, ClipEncoder, load_clip, load_editor, load_judge, load_text_to_image
from ip2p_lib.evaluation import (
    EditScore,
    Measure,
    all_attributes_right,
    bootstrap,
    bootstrap_ratio,
    by_kind,
    different_captions,
    evaluate_edits,
    pairs_exact,
    psnr,
    recall_at_1,
    reconstruct,
    sample_captions,
    scene_pixels,
)
from ip2p_lib.judge import Judge
from ip2p_lib.pairs import candidate_shards, synthesise
from ip2p_lib.presets import MINIATURE, Preset
from ip2p_lib.scenes import caption, sample_scenes
from ip2p_lib.triplets import edit_of, world_triplets

SCENES_SEED, EDIT_SEED, PAIRS_SEED = 901, 902, 903  # held out: no training draws from them


@dataclass(frozen=True, slots=True)
class Goal:
    """What a measure must reach."""

    at_least: float | None = None
    at_most: float | None = None

    def met_by(self, value: float) -> bool:
        """Whether a value reaches the goal."""
        above = self.at_least is None or value >= self.at_least
        return above and (self.at_most is None or value <= self.at_most)


GOALS = {
    "judge_all_attributes": Goal(0.99),
    "vae_psnr_db": Goal(30),
    "vae_keeps_attributes": Goal(0.97),
    "text_to_image_all_attributes": Goal(0.90),
    "clip_recall_at_1": Goal(0.90),
    "pairs_unfiltered_exact": Goal(),
    "pairs_kept_exact": Goal(0.90),
    "editor_exact": Goal(0.85),
    "editor_exact_worst_kind": Goal(0.75),
    "editor_l1_over_unedited_l1": Goal(at_most=0.5),
}


class Quality:
    """The measures, each of held-out scenes; models are loaded when first needed."""

    def __init__(self, preset: Preset = MINIATURE, count: int = 512) -> None:
        self.preset, self.count = preset, count
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
        triplets = list(world_triplets(self.count, EDIT_SEED, held_out=True))
        editor = load_editor(self.preset)
        steps = evaluate_edits(editor, self.judge, self.clip, triplets, self.preset.edit)
        return [score for score, *_ in tqdm(steps, total=len(triplets), desc="edits", unit="edit")]

    @cached_property
    def pairs(self) -> tuple[list[float], list[float]]:
        """Exactness of all candidates and of the kept ones, on fresh triplets."""
        from tempfile import TemporaryDirectory

        triplets = list(world_triplets(self.count // 4, PAIRS_SEED))
        edits = {t.id: edit_of(t) for t in triplets}
        with TemporaryDirectory() as name:
            folder = Path(name)
            config = replace(self.preset.pairs, candidates_per_triplet=2, seed=PAIRS_SEED)
            for _ in tqdm(synthesise(triplets, self.base, config, folder), desc="pairs", unit="batch"):
                pass
            for _ in filtering.score(folder, self.clip):
                pass
            kept = set(filtering.select(filtering.read_scores(folder), self.preset.filter))
            rows = [r for s in candidate_shards(folder) for r in pq.read_table(s).to_pylist()]
        before, after = (
            filtering.shard_pictures(rows, c) for c in (records.ORIGINAL_IMAGE, records.EDITED_IMAGE)
        )
        exact = pairs_exact(self.judge, before, after, [edits[r[records.TRIPLET_ID]] for r in rows])
        is_kept = [(r[records.TRIPLET_ID], r[records.CANDIDATE]) in kept for r in rows]
        return exact, [e for e, k in zip(exact, is_kept, strict=True) if k]

    def judge_all_attributes(self) -> Measure:
        """Judge on true renders."""
        return bootstrap(all_attributes_right(self.judge, scene_pixels(self.scenes), self.scenes))

    def vae_psnr_db(self) -> Measure:
        """Reconstruction, in dB."""
        pixels = scene_pixels(self.scenes)
        return bootstrap(psnr(reconstruct(self.base, pixels), pixels).tolist())

    def vae_keeps_attributes(self) -> Measure:
        """Judge on reconstructions: the ceiling of everything downstream."""
        rebuilt = reconstruct(self.base, scene_pixels(self.scenes))
        return bootstrap(all_attributes_right(self.judge, rebuilt, self.scenes))

    def text_to_image_all_attributes(self) -> Measure:
        """Judge on pictures made from captions."""
        config = self.preset.edit
        pixels = sample_captions(
            self.base, [caption(s, i) for i, s in enumerate(self.scenes)], guidance_scale=4.0,
            num_inference_steps=config.num_inference_steps, resolution=config.resolution, seed=SCENES_SEED,
        )  # fmt: skip
        return bootstrap(all_attributes_right(self.judge, pixels, self.scenes))

    def clip_recall_at_1(self) -> Measure:
        """Own caption found among 256 different ones."""
        scenes, captions = different_captions(self.scenes, 256)
        return bootstrap(recall_at_1(self.clip, scene_pixels(scenes), captions))

    def pairs_unfiltered_exact(self) -> Measure:
        """Candidates that do exactly what was asked."""
        return bootstrap(self.pairs[0])

    def pairs_kept_exact(self) -> Measure:
        """Kept pairs that do."""
        return bootstrap(self.pairs[1])

    def editor_exact(self) -> Measure:
        """Edits of true renders that are exactly right."""
        self.details["editor_exact_by_kind"] = {k: asdict(v) for k, v in by_kind(self.edits).items()}
        self.details["editor_requested"] = asdict(bootstrap([s.requested for s in self.edits]))
        return bootstrap([s.exact for s in self.edits])

    def editor_exact_worst_kind(self) -> Measure:
        """The same, for the kind of edit that does worst."""
        return min(by_kind(self.edits).values(), key=lambda m: m.value)

    def editor_l1_over_unedited_l1(self) -> Measure:
        """Distance to the exact answer over the unedited picture's."""
        return bootstrap_ratio([s.l1 for s in self.edits], [s.unedited_l1 for s in self.edits])


def measure_all(
    out: Path, only: str | None = None, preset: Preset = MINIATURE, count: int = 512
) -> Iterator[str]:
    """Measure and write `out/quality.json`; yields one line per number.

    Raises:
        ValueError: no measure of that name.
    """
    if only is not None and only not in GOALS:
        raise ValueError(f"measure must be one of {', '.join(GOALS)}; got {only!r}")
    path, quality = out / "quality.json", Quality(preset, count)
    results = storage.read_json(path) if path.exists() else {}
    for key in GOALS if only is None else (only,):
        measure: Callable[[], Measure] = getattr(quality, key)
        found = measure()
        results[key] = {
            **{k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(found).items()},
            "command": f"ip2p quality --only {key}",
            "commit": storage.commit(),
        }
        storage.write_json(path, results)
        goal = GOALS[key]
        verdict = "" if goal == Goal() else (", reached" if goal.met_by(found.value) else ", NOT reached")
        yield f"{key}: {found.value:.3f} ({found.low:.3f} to {found.high:.3f}, n={found.n}){verdict}"
    if quality.details:
        storage.write_json(out / "editor_by_kind.json", quality.details)


LABELS = {
    "judge_all_attributes": "judge reads every attribute of a true render",
    "vae_psnr_db": "autoencoder, PSNR in dB",
    "vae_keeps_attributes": "all attributes survive the autoencoder",
    "text_to_image_all_attributes": "text-to-image shows every attribute of its caption",
    "clip_recall_at_1": "CLIP finds the right one of 256 captions",
    "pairs_unfiltered_exact": "candidate pairs that do exactly what was asked",
    "pairs_kept_exact": "kept pairs that do",
    "editor_exact": "edits of unseen pictures: exactly the requested change",
    "editor_exact_worst_kind": "the same, worst kind of edit",
    "editor_l1_over_unedited_l1": "distance to the exact answer over the unedited picture's",
}


def quality_table(results: dict[str, Any]) -> str:
    """The Markdown table that README shows between its quality marks."""
    rows = ["| measured on held-out scenes | value | 95 % interval | n | goal |", "|---|---|---|---|---|"]
    for key, label in LABELS.items():
        if key not in results:
            continue
        r, goal = results[key], GOALS[key]
        wanted = f"at least {goal.at_least:g}" if goal.at_least is not None else ""
        wanted = f"at most {goal.at_most:g}" if goal.at_most is not None else wanted
        missed = "" if goal.met_by(r["value"]) else ", not reached"
        interval = f"{r['low']:.3f} to {r['high']:.3f}"
        rows.append(f"| {label} (`{key}`) | {r['value']:.3f} | {interval} | {r['n']} | {wanted}{missed} |")
    return "\n".join(rows)


def replace_block(path: Path, name: str, text: str) -> None:
    """Put generated text between a document's marks `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: the marks are missing.
    """
    whole = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if begin not in whole or end not in whole:
        raise ValueError(f"{path} must hold the marks {begin.strip()} and {end}")
    head, rest = whole.split(begin, 1)
    with storage.atomic_file(path) as partial:
        partial.write_text(f"{head}{begin}\n{text}\n\n{end}{rest.split(end, 1)[1]}", encoding="utf-8")
