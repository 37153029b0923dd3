"""Make the small models from nothing, in order, resumably, into any folder: `make miniature`."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from ip2p_lib import images, storage
from ip2p_lib.backbone import Backbone, LanguageModel, load_language_model, load_text_to_image
from ip2p_lib.dataset import open_dataset
from ip2p_lib.evaluation import sample_captions, scene_pixels
from ip2p_lib.miniature import clip as clip_stage
from ip2p_lib.miniature import judge as judge_stage
from ip2p_lib.miniature import pairs as pairs_stage
from ip2p_lib.miniature import text_to_image as unet_stage
from ip2p_lib.miniature import vae as vae_stage
from ip2p_lib.miniature import writer as writer_stage
from ip2p_lib.miniature.instructions import InstructionRecipe, teach_instructions
from ip2p_lib.miniature.pictures import HELD_OUT_SEED
from ip2p_lib.miniature.recipes import EDITOR_TRAINING
from ip2p_lib.miniature.texts import ordinary_text
from ip2p_lib.miniature.tokenizer import learn_tokenizer
from ip2p_lib.miniature.watching import Sheet, sheet_path, watch, write_record
from ip2p_lib.optimisation import Report
from ip2p_lib.presets import MINIATURE, Preset
from ip2p_lib.records import Triplet, read_triplets
from ip2p_lib.scenes.language import caption
from ip2p_lib.scenes.world import sample_scenes
from ip2p_lib.training import EditSheet, train_editor
from ip2p_lib.triplets.tuning import fine_tune, save_writer, with_adapter
from ip2p_lib.unet import as_editor_unet, save_pipeline


def located(out: Path) -> Preset:
    """The miniature's preset with the models of another folder."""
    return replace(
        MINIATURE, manifest=str(out), text_to_image=str(out / "text_to_image"), editor=str(out / "editor"),
        clip=str(out / "clip"), language_model=str(out / "language_model"), writer=str(out / "writer"),
    )  # fmt: skip


class Builder:
    """The stages, each leaving its result in `out` (to ship) or `work` (checkpoints, pictures, sheets).

    What lies in `out` is finished and is not made again, whatever `work` holds.
    """

    def __init__(self, out: Path, work: Path) -> None:
        self.out, self.work, self.preset = out, work, located(out)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    def tokenizer(self) -> CLIPTokenizer:
        """Merges learned on captions and ordinary texts of the world."""
        folder = self.work / "tokenizer"
        if not folder.exists():
            scenes = sample_scenes(6_000, 1)
            texts = [caption(s, i) for i, s in enumerate(scenes)]
            return learn_tokenizer(texts + [ordinary_text(s, i) for i, s in enumerate(scenes)], folder)
        return CLIPTokenizer.from_pretrained(folder)

    def vae(self) -> AutoencoderKL:
        """The autoencoder, with its scale set."""
        folder = self._finished("vae") or self.work / "vae-and-decoder"
        if not folder.exists():
            recipe = vae_stage.VaeRecipe()
            pixels = scene_pixels(sample_scenes(24, HELD_OUT_SEED))

            def sheet(name: str, report: Report) -> None:
                vae: Any = report.model
                rebuilt = vae.decode(vae.encode(pixels.to(vae.device)).latent_dist.mode())
                pictures = images.to_pictures(torch.cat([pixels, rebuilt.sample.cpu()]))
                images.grid(pictures, 12).save(self._sheet(name, report))

            steps = vae_stage.train_vae(recipe, self.work)
            last = self._watch("vae", steps, recipe.steps, partial(sheet, "vae"), asdict(recipe))
            last.ema.swap()
            vae_stage.set_scale(last.model.cpu(), scene_pixels(sample_scenes(256, 1)))
            alone = vae_stage.DecoderRecipe()
            steps = vae_stage.train_decoder(alone, last.model, self.work)
            last = self._watch("decoder", steps, alone.steps, partial(sheet, "decoder"), asdict(alone))
            last.ema.swap()
            last.model.cpu().save_pretrained(folder)
        return AutoencoderKL.from_pretrained(folder).float().to(self.device).eval().requires_grad_(False)

    def clip(self) -> CLIPTextModel:
        """CLIP, which then learns to read instructions, into `out/clip`; returns its text tower as a text encoder."""
        recipe, tokenizer = clip_stage.ClipRecipe(), self.tokenizer()
        reading = InstructionRecipe()
        config = clip_stage.clip_config(recipe, len(tokenizer))
        folder = self._finished("text_encoder") or self.work / "text-encoder"
        if not folder.exists():
            steps = clip_stage.train_clip(recipe, tokenizer, self.work)
            last = self._watch("clip", steps, recipe.steps, None, asdict(recipe))
            last.ema.swap()
            steps = teach_instructions(reading, last.model, tokenizer, self.work)
            last = self._watch("clip-instructions", steps, reading.steps, None, asdict(reading))
            last.ema.swap()
            last.model.cpu().eval()
            clip_stage.save_clip(last.model, config, self.out / "clip")
            tokenizer.save_pretrained(self.out / "clip" / "tokenizer")
            self._card("clip", extra=("clip-instructions",))
            clip_stage.as_text_encoder(last.model, config, tokenizer.eos_token_id).save_pretrained(folder)
        return CLIPTextModel.from_pretrained(folder).float().to(self.device).eval().requires_grad_(False)

    def _finished(self, part: str) -> Path | None:
        """Where a part of the text-to-image model lies, if that is made."""
        folder = self.out / "text_to_image" / part
        return folder if folder.is_dir() else None

    def judge(self) -> None:
        """The judge into `out/judge`."""
        if (self.out / "judge" / "judge.safetensors").exists():
            return
        recipe = judge_stage.JudgeRecipe()
        last = self._watch(
            "judge", judge_stage.train_judge(recipe, self.work), recipe.steps, None, asdict(recipe)
        )
        last.ema.swap()
        weights = {n: t.half().cpu().contiguous() for n, t in last.model.state_dict().items()}
        with storage.atomic_folder(self.out / "judge") as partial:
            save_file(weights, partial / "judge.safetensors")
        self._card("judge")

    def text_to_image(self) -> None:
        """The text-to-image model into `out/text_to_image`."""
        if (self.out / "text_to_image").exists():
            return
        recipe, vae, encoder, tokenizer = unet_stage.UNetRecipe(), self.vae(), self.clip(), self.tokenizer()
        scenes = sample_scenes(24, HELD_OUT_SEED)

        def assembled(report: Report) -> Backbone:
            return Backbone(
                tokenizer, encoder, vae, report.model, unet_stage.miniature_scheduler(), "miniature"
            )

        def sheet(report: Report) -> None:
            texts = [caption(s, i) for i, s in enumerate(scenes)]
            pixels = sample_captions(
                assembled(report), texts, guidance_scale=4.0, num_inference_steps=15, resolution=64
            )
            images.grid(images.to_pictures(torch.cat([pixels, scene_pixels(scenes)])), 12).save(
                self._sheet("unet", report)
            )

        steps = unet_stage.train_text_to_image(recipe, vae, encoder, tokenizer, self.work)
        last = self._watch("unet", steps, recipe.steps, sheet, asdict(recipe))
        last.ema.swap()
        save_pipeline(assembled(last), self.out / "text_to_image")
        self._card("unet", "text_to_image", extra=("vae", "decoder", "clip"))

    def pretrained_writer(self) -> LanguageModel:
        """The writer before it has seen a triplet."""
        folder = self.work / "writer-pretrained"
        if not folder.exists():
            recipe = writer_stage.WriterRecipe()
            tokenizer = writer_stage.learn_writer_tokenizer(recipe.vocabulary, self.seed_triplets)
            language = writer_stage.build_writer(recipe, tokenizer)
            steps = writer_stage.pretrain_writer(recipe, language, self.work / "writer")
            self._watch("writer", steps, recipe.steps, None, asdict(recipe)).ema.swap()
            save_writer(language, folder)
            save_writer(replace(language, model=deepcopy(language.model).half()), self.out / "language_model")
            self._card("writer", "language_model")
        return load_language_model(str(folder), device=self.device)

    def writer(self) -> None:
        """The writer of triplets into `out/writer`."""
        if (self.out / "writer").exists():
            return
        language = with_adapter(self.pretrained_writer(), MINIATURE.tune)
        texts = writer_stage.rehearsal(language)
        seeds = writer_stage.weighted(self.seed_triplets)
        steps = fine_tune(language, seeds, MINIATURE.tune, self.work / "writer-tuned", rehearsal=texts)
        last = self._watch("writer-tuned", steps, MINIATURE.tune.steps, None, asdict(MINIATURE.tune))
        last.ema.swap()
        save_writer(replace(language, model=language.model.half()), self.out / "writer")
        self._card("writer-tuned", "writer")

    @property
    def seed_triplets(self) -> list[Triplet]:
        """What people asked for in the picture world."""
        return list(read_triplets(Path(MINIATURE.seed_triplets)))

    def pairs(self) -> Path:
        """Candidates, scores and the kept pairs the editor learns from; returns the kept folder."""
        storage.write_manifest(self.out)
        return pairs_stage.kept_pairs(self.work, self.device, self.preset)

    def editor(self) -> None:
        """The editor into `out/editor`, trained on kept pairs alone."""
        if (self.out / "editor").exists():
            return
        kept = self.pairs()
        base = load_text_to_image(self.preset, device=self.device)
        data = open_dataset(kept, base, resolution=EDITOR_TRAINING.resolution)
        unet = as_editor_unet(base.unet, base.latent_channels)
        drawing = EditSheet(base, data, MINIATURE.edit, 12)

        def sheet(report: Report) -> None:
            drawing.save(report.model, self._sheet("editor", report))

        steps = train_editor(unet, base, data, EDITOR_TRAINING, self.work / "editor")
        last = self._watch("editor", steps, EDITOR_TRAINING.steps, sheet, asdict(EDITOR_TRAINING))
        last.ema.swap()
        save_pipeline(base.with_unet(last.model.eval(), "editor"), self.out / "editor")
        self._card("editor")

    def _sheet(self, name: str, report: Report) -> Path:
        return sheet_path(self.work, name, report)

    def _watch(
        self, name: str, steps: Iterable[Report], total: int, sheet: Sheet | None, recipe: dict[str, Any]
    ) -> Report:
        return watch(self.work, name, steps, total, sheet, recipe)

    def _card(self, name: str, folder: str | None = None, extra: tuple[str, ...] = ()) -> None:
        write_record(self.work, self.out / (folder or name), (name, *extra))


STAGES = ("vae", "clip", "judge", "text_to_image", "writer", "pairs", "editor")


def build(out: Path, work: Path, only: str | None = None) -> Iterator[str]:
    """Make all models that `out` lacks, or one stage; yields each stage's name when it is done.

    Pairs are made for an editor, and where that is finished only if they are asked for.

    Raises:
        ValueError: no stage of that name.
    """
    if only is not None and only not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}; got {only!r}")
    builder = Builder(out, work)
    for stage in [s for s in STAGES if s != "pairs"] if only is None else (only,):
        getattr(builder, stage)()
        yield stage
    storage.write_manifest(out)
