"""The whole game: every stage once, in minutes, on the miniature; then a page that shows it."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from tqdm.auto import tqdm

from ip2p_lib import filtering, images, records, storage
from ip2p_lib.backbone import (
    Backbone,
    ClipEncoder,
    load_clip,
    load_editor,
    load_judge,
    load_text_to_image,
    load_writer,
)  # fmt: skip
from ip2p_lib.course.figures import BLUE, ORANGE, Cell, Section, contact_sheet, save_picture, write_page
from ip2p_lib.dataset import open_dataset
from ip2p_lib.evaluation import EditScore, distance_ratio, evaluate_edits, pairs_exact, share
from ip2p_lib.judge import Judge
from ip2p_lib.pairs import candidate_shards, read_shard, synthesise
from ip2p_lib.presets import MINIATURE, Preset
from ip2p_lib.records import Triplet, read_triplets
from ip2p_lib.scenes import render, sample_scenes
from ip2p_lib.training import train_editor, validation_loss
from ip2p_lib.triplets import understood, world_captions, world_triplets, write_all
from ip2p_lib.triplets.local import LocalWriter
from ip2p_lib.unet import as_editor_unet

T = TypeVar("T")
TRIPLETS, CANDIDATES, FINE_TUNE_STEPS, EDITS = 32, 4, 120, 48
COURSE_SEED, EDIT_SEED = 600, 950
Edited = tuple[EditScore, Image.Image, Image.Image, Image.Image]


class WholeGame:
    """One run of the pipeline in a folder; every stage reuses what an earlier run left there."""

    def __init__(self, out: Path, preset: Preset = MINIATURE) -> None:
        self.out, self.preset = out, preset
        self.metrics: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, stage: Callable[[], T]) -> T:
        """Run a stage and note how long it took."""
        started = time.monotonic()
        result = stage()
        self.seconds[name] = round(time.monotonic() - started, 1)
        return result

    def draw_scenes(self) -> None:
        """A sheet of the world."""
        pictures = [render(s, 128) for s in sample_scenes(40, COURSE_SEED)]
        save_picture(images.grid(pictures, 10, gap=4), self.out / "scenes.png")

    def write_triplets(self) -> list[Triplet]:
        """The writer reads captions and writes instructions and edited captions; the world checks them."""
        path, config = self.out / "triplets.jsonl", replace(self.preset.write, seed=COURSE_SEED)
        writer = LocalWriter(load_writer(self.preset), config)
        made_by = {"writer": writer.language.name, "captions": self.preset.captions}
        for tally in write_all(
            world_captions(COURSE_SEED), writer, config, path, made_by=made_by, count=TRIPLETS
        ):
            self.metrics["attempts_rejected"] = tally.rejected.total()
        triplets = list(read_triplets(path))
        self.metrics["triplets"] = len(triplets)
        self.metrics["triplets_valid"] = asdict(share([float(understood(t) is not None) for t in triplets]))
        return triplets

    def _written(self) -> dict[str, str]:
        """Some triplets as a table, with the world's verdict."""
        shown = list(read_triplets(self.out / "triplets.jsonl"))[:8]
        verdict = {True: "", False: " (a fault: the world does not follow)"}
        return {t.input: f"{t.edit} → {t.output}{verdict[understood(t) is not None]}" for t in shown}

    def make_pairs(self, triplets: Sequence[Triplet], base: Backbone) -> Path:
        """Candidate pairs by prompt-to-prompt."""
        folder = self.out / "candidates"
        config = replace(
            self.preset.pairs,
            candidates_per_triplet=CANDIDATES,
            batch_size=16,
            triplets_per_shard=8,
            seed=COURSE_SEED,
        )
        with tqdm(total=len(triplets) * CANDIDATES, desc="pairs", unit="pair") as bar:
            for progress in synthesise(triplets, base, config, folder):
                bar.update(progress.candidates - bar.n)
        return folder

    def filter_pairs(self, folder: Path, clip: ClipEncoder, judge: Judge) -> Path:
        """Score, keep the best, compare with what the world says is true, and show both kinds."""
        for _ in tqdm(
            filtering.score(folder, clip), desc="scoring", total=len(candidate_shards(folder)), unit="shard"
        ):
            pass
        scores = filtering.read_scores(folder)
        kept = filtering.select(scores, self.preset.filter)
        out = self.out / "kept"
        if not out.exists():
            filtering.export_kept(folder, kept, out, self.preset.filter)
        self._judge_pairs(folder, scores, set(kept), judge)
        return out

    def _judge_pairs(
        self, folder: Path, scores: Sequence[dict[str, Any]], kept: set[tuple[str, int]], judge: Judge
    ) -> None:
        rows = [r for s in candidate_shards(folder) for r in read_shard(s)]
        by_id = {t.id: understood(t) for t in read_triplets(self.out / "triplets.jsonl")}
        before, after = (
            filtering.shard_pictures(rows, c) for c in (records.ORIGINAL_IMAGE, records.EDITED_IMAGE)
        )
        exact = pairs_exact(judge, before, after, [by_id[r[records.TRIPLET_ID]] for r in rows])
        ids = [r[records.TRIPLET_ID] for r in rows]
        is_kept = [(i, r[records.CANDIDATE]) in kept for i, r in zip(ids, rows, strict=True)]
        chosen = [i for i, k in enumerate(is_kept) if k]
        self.metrics["candidates"] = len(rows)
        self.metrics["kept"] = sum(is_kept)
        self.metrics["exact_of_all"] = asdict(share(exact, groups=ids))
        self.metrics["exact_of_kept"] = asdict(
            share([exact[i] for i in chosen], groups=[ids[i] for i in chosen])
        )
        for name, wanted in (("kept", True), ("rejected", False)):
            chosen = [i for i, k in enumerate(is_kept) if k == wanted][:16]
            cells = [self._pair_cells(rows[i], scores[i], exact[i]) for i in chosen]
            paired = [left + right for left, right in zip(cells[::2], cells[1::2], strict=False)]
            if paired:
                save_picture(contact_sheet(paired, side=120, lines=4), self.out / f"{name}.png")

    @staticmethod
    def _pair_cells(row: dict[str, Any], score: dict[str, Any], exact: float) -> list[Cell]:
        first, second = (
            images.from_bytes(row[c]["bytes"]) for c in (records.ORIGINAL_IMAGE, records.EDITED_IMAGE)
        )
        numbers = f"dir {score['clip_sim_dir']:.2f} img {score['clip_sim_image']:.2f} p2p {row[records.P2P_THRESHOLD]:.2f}"
        frame = BLUE if exact else ORANGE
        return [
            Cell(first, row[records.ORIGINAL_PROMPT]),
            Cell(second, f"{row[records.EDIT_PROMPT]}: {numbers}", frame),
        ]

    def fine_tune(self, kept: Path, base: Backbone) -> None:
        """A short real fine-tune from the text-to-image model; must improve on prompts it never saw."""
        config = replace(
            self.preset.train, steps=FINE_TUNE_STEPS, batch_size=16, warmup_steps=10, checkpoint_every=30,
            decay_steps=FINE_TUNE_STEPS, ema_decay=0.9, noisy_fraction=0.0, seed=COURSE_SEED,
        )  # fmt: skip
        data, unseen = (
            open_dataset(kept, base, resolution=config.resolution, held_out=0.25, part=part)
            for part in ("train", "held_out")
        )
        unet = as_editor_unet(base.unet, base.latent_channels)
        before = validation_loss(unet, base, unseen, config)
        curve = []
        for report in tqdm(
            train_editor(unet, base, data, config, self.out / "fine_tune"),
            total=config.steps,
            desc="fine-tune",
            unit="step",
        ):
            last = report
            curve.append(report.loss)
        last.ema.swap()
        after = validation_loss(unet.eval(), base, unseen, config)
        if after >= before:
            raise FloatingPointError(
                f"fine-tuning must lower the loss on unseen prompts, got {before:.4f} -> {after:.4f}"
            )
        self.metrics["fine_tune_loss_before"], self.metrics["fine_tune_loss_after"] = before, after

    def edit_held_out(self, editor: Backbone, judge: Judge, clip: ClipEncoder) -> None:
        """Edit pictures the editor never saw, in phrasings it never read, with known answers."""
        triplets = list(world_triplets(EDITS, EDIT_SEED, held_out=True))
        edited: list[Edited] = list(
            tqdm(evaluate_edits(editor, judge, clip, triplets, self.preset.edit, batch_size=12),
                 total=EDITS, desc="edits", unit="edit")
        )  # fmt: skip
        scores = [e[0] for e in edited]
        self.metrics["edits"] = EDITS
        self.metrics["edit_exact"] = asdict(share([s.exact for s in scores]))
        self.metrics["edit_requested"] = asdict(share([s.requested for s in scores]))
        ratio = distance_ratio(scores)
        self.metrics["edit_l1_over_unedited_l1"] = asdict(ratio)
        rows = []
        for triplet, (score, before, after, truth) in zip(triplets, edited, strict=True):
            frame = BLUE if score.exact else ORANGE
            rows.append(
                [
                    Cell(before, triplet.edit),
                    Cell(after, "all right" if score.exact else "not exact", frame),
                    Cell(truth),
                ]
            )
        sheet = [[c for row in rows[i : i + 3] for c in row] for i in range(0, min(24, len(rows)), 3)]
        save_picture(
            contact_sheet(sheet, heads=("input", "edit", "truth") * 3, lines=2), self.out / "edits.png"
        )

    def write_page(self) -> Path:
        """One page that shows what every stage made, with the measured numbers."""
        m = self.metrics

        def share(key: str) -> str:
            return f"{m[key]['value']:.0%} (95 % interval {m[key]['low']:.0%} to {m[key]['high']:.0%})"

        table = {
            "triplets that change exactly what they say": share("triplets_valid"),
            "candidates made, kept": f"{m['candidates']}, {m['kept']}",
            "candidates that do exactly what was asked": share("exact_of_all"),
            "kept pairs that do": share("exact_of_kept"),
            "fine-tune, loss on unseen prompts": f"{m['fine_tune_loss_before']:.3f} to {m['fine_tune_loss_after']:.3f}",
            "held-out edits: the requested change is there": share("edit_requested"),
            "held-out edits: that change and nothing else": share("edit_exact"),
            "distance to the exact answer, over the unedited picture's": f"{m['edit_l1_over_unedited_l1']['value']:.2f}",
            "seconds by stage": ", ".join(f"{k} {v:.0f}" for k, v in self.seconds.items()),
        }
        sections = [
            Section("The picture world", "Every picture is drawn from a scene: subject, colour, place, time, weather,"
                    " style and extra objects.", "scenes.png", "Forty drawn scenes in five styles"),
            Section("Triplets", "What the small language model wrote for captions it had never seen.",
                    table=self._written()),
            Section("Kept pairs", "Two captions, one noise: prompt-to-prompt makes picture pairs, CLIP keeps the"
                    " consistent ones. Blue frame: the judge finds exactly the requested change.", "kept.png",
                    "Kept pairs with instruction and scores"),
            Section("Rejected pairs", "What the filter threw away. Orange frame: not exactly what was asked.",
                    "rejected.png", "Rejected pairs with instruction and scores"),
            Section("Edits of pictures never seen", "Input, edit by the shipped editor, and the exact answer that only"
                    " the world knows.", "edits.png", "Held-out edits beside input and truth"),
            Section("Measured in this run", "Numbers of this run, on this machine.", table=table),
        ]  # fmt: skip
        sections = [s for s in sections if not s.picture or (self.out / s.picture).exists()]
        run = {"minutes": round(sum(self.seconds.values()) / 60, 1), "peak_memory_gb": peak_memory_gb()}
        storage.write_json(
            self.out / "metrics.json", {**run, **m, "seconds": self.seconds, **storage.environment()}
        )
        write_page(self.out / "index.html", "InstructPix2Pix, the whole game", sections)
        return self.out / "index.html"


def peak_memory_gb() -> float | None:
    """The most memory that this process has held so far; None on Windows, whose Python does not tell."""
    try:
        import resource
    except ImportError:
        return None
    unit = 2**30 if sys.platform == "darwin" else 2**20  # it counts bytes there, kB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def course_sentence(metrics: dict[str, Any]) -> str:
    """What README says about the main job, from the record of a run."""
    peak = metrics["peak_memory_gb"]
    memory = "" if peak is None else f", with at most {peak} GB of memory"
    return (
        f"Measured on {metrics['machine']}: the main job took {metrics['minutes']} minutes after install{memory}."
        " A second run reuses what is there; Ctrl-C and run again continues."
    )


def play(out: Path) -> Path:
    """Run every stage once into `out` and return the page that shows the results.

    Raises:
        FileNotFoundError, ValueError: shipped weights are missing or altered.
        FloatingPointError: the fine-tune did not improve.
    """
    game = WholeGame(out)
    game.timed("scenes", game.draw_scenes)
    triplets = game.timed("triplets", game.write_triplets)
    base = game.timed("loading", lambda: load_text_to_image(MINIATURE))
    clip, judge = load_clip(MINIATURE), load_judge(MINIATURE)
    folder = game.timed("pairs", lambda: game.make_pairs(triplets, base))
    kept = game.timed("filter", lambda: game.filter_pairs(folder, clip, judge))
    game.timed("fine-tune", lambda: game.fine_tune(kept, base))
    game.timed("edits", lambda: game.edit_held_out(load_editor(MINIATURE), judge, clip))
    return game.write_page()
