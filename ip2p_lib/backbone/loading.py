"""Load a latent diffusion model, or the judge; choose device and dtype."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from ip2p_lib import storage
from ip2p_lib.backbone.files import check_vocabulary, component, files_digest, fill, frozen
from ip2p_lib.backbone.model import Backbone
from ip2p_lib.judge import Judge
from ip2p_lib.presets import Preset
from ip2p_lib.single_file import is_file_name, read_single_file

PARTS = {
    "text_encoder": CLIPTextModel,
    "vae": AutoencoderKL,
    "unet": UNet2DConditionModel,
    "tokenizer": CLIPTokenizer,
    "scheduler": EulerAncestralDiscreteScheduler,
}


def pick_device() -> tuple[torch.device, torch.dtype, str]:
    """Device, dtype and the reason: bf16 on a GPU that has it, else fp16; fp32 on a CPU."""
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):  # emulated bf16 is slow
            return torch.device("cuda"), torch.bfloat16, "a GPU with bf16"
        return torch.device("cuda"), torch.float16, "a GPU without bf16"
    return torch.device("cpu"), torch.float32, "no GPU found"


def load_backbone(
    model: str,
    *,
    manifest: str = "",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Backbone:
    """Load a Stable-Diffusion-shaped model: text-to-image, or an editor with extra input channels.

    Args:
        model: local diffusers folder, hub id, or a single file in the original layout (`single_file.reading`).
        manifest: folder whose checksums the weights must match first; empty skips the check.
        device, dtype: for all networks; parameters are frozen.

    Raises:
        FileNotFoundError: model or weights are missing.
        ValueError: weights are damaged or altered.
    """
    if manifest and Path(model).is_relative_to(manifest):
        storage.check_manifest(Path(manifest), f"{Path(model).relative_to(manifest).as_posix()}/")
    if is_file_name(model):
        parts = read_single_file(Path(model))
    else:
        parts = {part: component(kind, model, part) for part, kind in PARTS.items()}
        check_vocabulary(parts["tokenizer"], parts["text_encoder"].config.vocab_size, model)
        tokenizer, longest = parts["tokenizer"], parts["text_encoder"].config.max_position_embeddings
        tokenizer.model_max_length = min(longest, tokenizer.model_max_length)  # which not all tell
    for part in parts.values():
        if isinstance(part, nn.Module):
            # not part.to: diffusers then warns of networks that must stay in float32, and lists none
            nn.Module.to(part, device=device, dtype=dtype).eval().requires_grad_(False)
    return Backbone(**parts, name=model_name(model), files=files_mark(model))


def files_mark(model: str) -> str:
    """Digest of a model's files, whatever device and dtype it is loaded for; "" for a hub id."""
    if is_file_name(model):
        return storage.quick_digest(Path(model))
    return files_digest(p for part in PARTS for p in Path(model, part).rglob("*") if p.is_file())


def model_name(model: str) -> str:
    """What a model is called: a folder by its name, a file by its name without ending, else the hub id."""
    if is_file_name(model):
        return Path(model).stem
    return Path(model).name if Path(model).is_dir() else model


def load_text_to_image(preset: Preset, model: str | None = None, **options: Any) -> Backbone:
    """The preset's text-to-image model, or another one by folder, file or hub id.

    Raises:
        ValueError: its UNet takes more than the noise, as an editor's does.
    """
    name = model or preset.text_to_image
    base = load_backbone(name, manifest="" if model else preset.manifest, **options)
    if base.unet.config.in_channels != base.latent_channels:
        raise ValueError(
            f"a text-to-image model's UNet must have {base.latent_channels} input channels, {name} has"
            f" {base.unet.config.in_channels}; is it an editor?"
        )
    return base


def load_editor(preset: Preset, model: str | None = None, **options: Any) -> Backbone:
    """The preset's editor, or another one by folder, file or hub id.

    Raises:
        ValueError: its UNet does not take a picture beside the noise.
    """
    name = model or preset.editor
    editor = load_backbone(name, manifest="" if model else preset.manifest, **options)
    expected = 2 * editor.latent_channels
    if editor.unet.config.in_channels != expected:
        raise ValueError(
            f"an editor's UNet must have {expected} input channels, {name} has"
            f" {editor.unet.config.in_channels}; is it a text-to-image model?"
        )
    return editor


def load_judge(preset: Preset, *, device: torch.device | str = "cpu") -> Judge:
    """The instrument that reads scenes off pictures.

    Raises:
        FileNotFoundError: the preset's world has no judge.
    """
    folder = Path(preset.manifest or ".") / "judge"
    if not (folder / "judge.safetensors").is_file():
        raise FileNotFoundError(
            f"preset {preset.name} has no judge: its pictures have no known scene to compare with"
        )
    storage.check_manifest(Path(preset.manifest), "judge/")
    judge = Judge()
    fill(judge, folder / "judge.safetensors")
    return frozen(judge, device)
