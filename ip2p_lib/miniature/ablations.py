"""What the editor owes to each part of its training: the same short run again with one part changed.

The paper's ablations (data size, CLIP filter) and three more: no conditioning dropout, a random start, and, to see
what wrong pairs cost, drawn answers in the place of generated ones. The last is for
measuring only; no shipped model learns from drawn answers.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from tqdm.auto import tqdm

from ip2p_lib import filtering, records, storage
from ip2p_lib.backbone import Backbone, load_clip, load_judge, load_text_to_image
from ip2p_lib.dataset import EditDataset, open_dataset
from ip2p_lib.evaluation import EditScore, bootstrap, distance_ratio, evaluate_edits, share
from ip2p_lib.evaluation.report import plain
from ip2p_lib.pairs import Candidate
from ip2p_lib.pairs.shards import PAIR_SCHEMA, writing_shard
from ip2p_lib.pairs.synthesis import pair_row
from ip2p_lib.presets import MINIATURE, FilterConfig, TrainConfig
from ip2p_lib.records import Triplet, read_triplets
from ip2p_lib.scenes import render
from ip2p_lib.training import train_editor, watched
from ip2p_lib.triplets import world_triplets
from ip2p_lib.triplets.world import understood
from ip2p_lib.unet import as_editor_unet

STEPS, EDITS, EDIT_SEED = 1_000, 256, 905
EDITING = replace(MINIATURE.edit, guidance_scale=1.5, image_guidance_scale=1.5)  # of every run on file
EVERYTHING = FilterConfig(min_text=-1, min_direction=-1, min_image=-1, max_per_triplet=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """One run: what differs from the first."""

    name: str
    about: str
    share: float = 1.0  # of the prompts
    pairs: str = "kept"  # or "unfiltered", "drawn"
    conditioning_dropout: float = 0.05
    random_start: bool = False


ABLATIONS = (
    Ablation(name="all", about="kept pairs, all of them, as the shipped editor but shorter"),
    Ablation(name="tenth", about="a tenth of the prompts", share=0.1),
    Ablation(name="hundredth", about="a hundredth of the prompts", share=0.01),
    Ablation(name="unfiltered", about="every triplet's first candidate, no CLIP filter", pairs="unfiltered"),
    Ablation(name="no_dropout", about="no conditioning dropout", conditioning_dropout=0.0),
    Ablation(name="random_start", about="random weights instead of the text-to-image model's", random_start=True),
    Ablation(name="drawn", about="drawn answers: pairs without a wrong one", pairs="drawn"),
)  # fmt: skip


class Study:
    """The runs of a miniature's work folder, each resumable."""

    def __init__(self, work: Path, config: TrainConfig | None = None, edits: int = EDITS) -> None:
        self.work, self.edits = work, edits
        self.config = config or replace(MINIATURE.train, steps=STEPS, decay_steps=STEPS)
        self.base = load_text_to_image(MINIATURE)

    def run(self, ablation: Ablation) -> dict[str, Any]:
        """Train, edit held-out pictures, and tell how well."""
        data = subset(self._data(ablation.pairs), ablation.share, self.config.seed)
        config = replace(self.config, conditioning_dropout=ablation.conditioning_dropout)
        unet = self._start(ablation.random_start)
        folder = self.work / "ablations" / ablation.name
        reports = watched(train_editor(unet, self.base, data, config, folder), config)
        with tqdm(total=config.steps, desc=ablation.name, unit="step") as bar:
            for last, progress in reports:
                bar.update(last.step - bar.n)
                if progress:
                    bar.set_postfix_str(str(progress))
        last.ema.swap()
        scores = self._scores(self.base.with_unet(unet.eval().requires_grad_(False), ablation.name))
        return {**asdict(ablation), "prompts": len(data), "steps": config.steps, **summary(scores)}

    def _start(self, is_random: bool) -> UNet2DConditionModel:
        unet = self.base.unet
        if is_random:
            with torch.random.fork_rng():
                torch.random.default_generator.manual_seed(self.config.seed)
                unet = UNet2DConditionModel.from_config(unet.config)
        return as_editor_unet(unet, self.base.latent_channels)

    def _data(self, pairs: str) -> EditDataset:
        if pairs == "kept":
            folder = self.work / "kept"
        else:
            folder = self.work / "ablations" / f"{pairs}-pairs"
            make = {"unfiltered": self._export_unfiltered, "drawn": self._draw_kept}
            if not folder.exists():
                make[pairs](folder)
        return open_dataset(folder, self.base, resolution=self.config.resolution)

    def _export_unfiltered(self, folder: Path) -> None:
        candidates = self.work / "candidates"
        first = [r for r in filtering.read_scores(candidates) if r[records.CANDIDATE] == 0]
        filtering.export_kept(candidates, filtering.select(first, EVERYTHING), folder, EVERYTHING)

    def _draw_kept(self, folder: Path) -> None:
        """True renders before and after, for the triplets of the kept pairs."""
        kept = {r[records.TRIPLET_ID] for r in _kept_rows(self.work / "kept")}
        triplets = [t for t in read_triplets(self.work / "triplets.jsonl") if t.id in kept]
        with storage.atomic_folder(folder) as partial:
            with writing_shard(partial / "pairs-00000.parquet", PAIR_SCHEMA) as writer:
                for number, triplet in enumerate(triplets):
                    if row := drawn_row(triplet, number, self.config.resolution):
                        writer.add([row])
            (partial / "pairs-00000.json").unlink()

    def _scores(self, editor: Backbone) -> list[EditScore]:
        judge, clip = load_judge(MINIATURE), load_clip(MINIATURE)
        triplets = list(world_triplets(self.edits, EDIT_SEED, held_out=True))
        steps = evaluate_edits(editor, judge, clip, triplets, EDITING)
        return [score for score, *_ in tqdm(steps, total=len(triplets), desc="edits", unit="edit")]


def subset(data: EditDataset, share: float, seed: int) -> EditDataset:
    """A share of the prompts, at least one, the smaller shares within the larger ones."""
    order = np.random.default_rng((seed, 44)).permutation(len(data.groups))
    chosen = sorted(order[: max(1, round(share * len(order)))].tolist())
    return replace(data, groups=[data.groups[i] for i in chosen])


def drawn_row(triplet: Triplet, layout: int, size: int) -> dict[str, Any] | None:
    """A pair row with the true pictures of a triplet; None if the world finds a fault in it."""
    edit = understood(triplet)
    if edit is None:
        return None
    moved = edit.laid_out(layout)
    before, after = (render(s, size) for s in (moved.before, moved.after))
    return pair_row(Candidate(triplet, 0, layout, 0.0, 0.0), before, after)


def _kept_rows(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    shards = sorted(folder.glob("pairs-*.parquet"))
    return [row for s in shards for row in pq.read_table(s, columns=[records.TRIPLET_ID]).to_pylist()]


def summary(scores: list[EditScore]) -> dict[str, Any]:
    """Shares, distances and CLIP's opinion of held-out edits, each with its interval."""
    found = {
        "exact": share([s.exact for s in scores]),
        "requested": share([s.requested for s in scores]),
        "l1_over_unedited_l1": distance_ratio(scores),
        "clip_sim_dir": bootstrap([s.clip_sim_dir for s in scores]),
        "clip_sim_image": bootstrap([s.clip_sim_image for s in scores]),
    }
    return {name: plain(m) for name, m in found.items()}


def run_ablations(work: Path, path: Path, only: str | None = None) -> Iterator[str]:
    """Run what is not on file yet and write `path` after each; yields one line per run.

    Raises:
        ValueError: there is no ablation of that name.
        FileNotFoundError: the work folder has no kept pairs; `ip2p miniature --only pairs` makes them.
    """
    names = [a.name for a in ABLATIONS]
    if only is not None and only not in names:
        raise ValueError(f"ablation must be one of {', '.join(names)}; got {only!r}")
    if not (work / "kept").is_dir():
        raise FileNotFoundError(
            f"{work} must hold kept pairs, found none; make them with `ip2p miniature --only pairs`"
        )
    study = Study(work)
    results = storage.read_json(path) if path.exists() else {}
    for ablation in ABLATIONS:
        if only not in (None, ablation.name) or (only is None and ablation.name in results):
            continue
        found = study.run(ablation)
        command = {"command": f"ip2p ablations --only {ablation.name}", "commit": storage.commit()}
        results[ablation.name] = {**found, **command}
        storage.write_json(path, {name: results[name] for name in names if name in results})
        exact, ratio = found["exact"]["value"], found["l1_over_unedited_l1"]["value"]
        yield f"{ablation.name}: exact {exact:.3f}, distance {ratio:.3f} of the unedited picture's"
