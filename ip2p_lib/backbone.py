"""Models: the only place that loads weights and chooses device and dtype."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPTextModel, CLIPTokenizer

from ip2p_lib import storage
from ip2p_lib.judge import Judge
from ip2p_lib.presets import Preset
from ip2p_lib.single_file import is_file_name, read_single_file

# A fast tokenizer keeps padding and truncation as state: two threads that want different ones get each other's.
TOKENIZING = Lock()
PARTS = {
    "text_encoder": CLIPTextModel,
    "vae": AutoencoderKL,
    "unet": UNet2DConditionModel,
    "tokenizer": CLIPTokenizer,
    "scheduler": EulerAncestralDiscreteScheduler,
}


@dataclass(frozen=True, slots=True)
class Backbone:
    """A latent diffusion model in parts: the text-to-image model, or an editor with a wider UNet."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    scheduler: EulerAncestralDiscreteScheduler
    name: str = "unnamed"

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.unet.device

    @property
    def factor(self) -> int:
        """Pixels per latent along a side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_channels(self) -> int:
        """Channels of a picture's latents."""
        return self.vae.config.latent_channels

    def with_unet(self, unet: UNet2DConditionModel, name: str) -> "Backbone":
        """The same model around another UNet."""
        return replace(self, unet=unet, name=name)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Last hidden states of the frozen text encoder, (B, T, D), padded and cut to its length."""
        with TOKENIZING:
            tokens = self.tokenizer(
                list(texts),
                padding="max_length",
                truncation=True,
                max_length=self.tokenizer.model_max_length,
                return_tensors="pt",
            )
        ids = tokens.input_ids.to(self.device)
        return self.text_encoder(ids).last_hidden_state.to(self.unet.dtype)

    @torch.no_grad()
    def image_latents(self, pixels: Tensor) -> Tensor:
        """The image condition: mode of the encoder, NOT scaled, (B, C, h, w), for pixels in [-1, 1]."""
        return self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist.mode()

    @torch.no_grad()
    def latent_moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of scaled latents, each (B, C, h, w), for pixels in [-1, 1]."""
        posterior = self.vae.encode(pixels.to(self.vae.device, self.vae.dtype)).latent_dist
        scale = self.vae.config.scaling_factor
        return posterior.mean * scale, posterior.std * scale

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, C, h, w) to pixels (B, 3, H, W) in [-1, 1], clipped."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.device, self.vae.dtype)
        return self.vae.decode(scaled).sample.float().clamp(-1, 1)


def pick_device() -> tuple[torch.device, torch.dtype, str]:
    """Device, dtype and the reason: bf16 on a GPU that has it, else fp16; fp32 on a CPU."""
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported():
            return torch.device("cuda"), torch.bfloat16, "a GPU with bf16"
        return torch.device("cuda"), torch.float16, "a GPU without bf16"
    return torch.device("cpu"), torch.float32, "no GPU found"


def _component(kind: Any, model: str, subfolder: str) -> Any:
    """Load one part of a diffusers folder or hub id; only safetensors, never a pickle.

    Raises:
        FileNotFoundError: the model is neither a folder here nor reachable.
        ValueError: its files are damaged or of another shape.
    """
    local = Path(model).is_dir()
    if local and not (Path(model) / subfolder).is_dir():
        raise FileNotFoundError(f"{model} must be a diffusers folder, but it has no {subfolder}/")
    options = {"use_safetensors": True} if issubclass(kind, nn.Module) else {}
    try:
        return kind.from_pretrained(model, subfolder=subfolder, **options)
    except OSError as error:
        if local:
            raise ValueError(
                f"{model}/{subfolder} must hold safetensors weights: {_first_line(error)}"
            ) from error
        raise FileNotFoundError(
            f"{model} is neither a folder here nor in the hub's cache, and the hub did not answer; download it"
            f" elsewhere and pass the folder ({_first_line(error)})"
        ) from error
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{model}/{subfolder} is damaged or of another shape: {_first_line(error)}"
        ) from error


def _fill(module: nn.Module, path: Path) -> None:
    """Load a safetensors file into a module built for it, in float32."""
    try:
        weights = load_file(path)
        module.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in weights.items()})
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or of another shape: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


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
        parts = {part: _component(kind, model, part) for part, kind in PARTS.items()}
    for part in parts.values():
        if isinstance(part, nn.Module):
            # not part.to: diffusers then warns of networks that must stay in float32, and lists none
            nn.Module.to(part, device=device, dtype=dtype).eval().requires_grad_(False)
    return Backbone(**parts, name=model_name(model))


def model_name(model: str) -> str:
    """What a model is called: a folder by its name, a file by its name without ending, else the hub id."""
    if is_file_name(model):
        return Path(model).stem
    return Path(model).name if Path(model).is_dir() else model


def load_text_to_image(preset: Preset, **options: Any) -> Backbone:
    """The preset's text-to-image model."""
    return load_backbone(preset.text_to_image, manifest=preset.manifest, **options)


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


def weights_mark(module: nn.Module) -> float:
    """Sum of all weights' magnitudes, to six digits: differs between any two trainings."""
    return float(f"{sum(p.detach().double().abs().sum().item() for p in module.parameters()):.6g}")


@dataclass(frozen=True, slots=True)
class ClipEncoder:
    """An open_clip model with its tokenizer, size and normalisation."""

    model: Any  # open_clip.CLIP
    tokenize: Any  # texts -> (B, T) ids
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return next(self.model.parameters()).device

    @property
    def mark(self) -> str:
        """Short digest of weights and preprocessing: scores of equal marks can be compared."""
        return storage.fingerprint([self.size, self.mean, self.std, f"{weights_mark(self.model):.6g}"])


def build_clip(config: dict[str, Any]) -> nn.Module:
    """An open_clip model from its configuration, random weights."""
    import open_clip

    return open_clip.CLIP(**config)


def load_clip(preset: Preset, *, device: torch.device | str = "cpu") -> ClipEncoder:
    """The preset's CLIP: a folder with open_clip's files and a tokenizer, or `architecture/weights`.

    Raises:
        FileNotFoundError: weights are missing or not reachable.
        ValueError: weights are damaged or altered.
    """
    folder = Path(preset.clip)
    if not folder.is_dir():
        return _published_clip(preset.clip, device)
    if preset.manifest and folder.parent == Path(preset.manifest):
        storage.check_manifest(folder.parent, f"{folder.name}/")
    config = storage.read_json(folder / "open_clip_config.json")
    model = build_clip(config["model_cfg"])
    _fill(model, folder / "open_clip_model.safetensors")
    tokenizer = _component(CLIPTokenizer, str(folder), "tokenizer")

    def tokenize(texts: Sequence[str]) -> Tensor:
        length = config["model_cfg"]["text_cfg"]["context_length"]
        batch = tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return batch.input_ids

    size = config["model_cfg"]["vision_cfg"]["image_size"]
    norm = config["preprocess_cfg"]
    return ClipEncoder(_frozen(model, device), tokenize, size, tuple(norm["mean"]), tuple(norm["std"]))


def _published_clip(name: str, device: torch.device | str) -> ClipEncoder:
    import open_clip

    architecture, _, tag = name.partition("/")
    try:
        model = open_clip.create_model(architecture, pretrained=tag or None)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"CLIP {name} is neither in the cache nor reachable; pass a folder with open_clip_config.json"
            f" and open_clip_model.safetensors ({_first_line(error)})"
        ) from error
    size = model.visual.image_size
    return ClipEncoder(
        _frozen(model, device),
        open_clip.get_tokenizer(architecture),
        size[0] if isinstance(size, tuple) else size,
        open_clip.OPENAI_DATASET_MEAN,
        open_clip.OPENAI_DATASET_STD,
    )


def _frozen(model: Any, device: torch.device | str) -> Any:
    return model.to(device).eval().requires_grad_(False)


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A causal language model with its tokenizer, padded on the left for generation."""

    model: Any  # transformers causal LM, or the same under a peft adapter
    tokenizer: Any
    name: str = "unnamed"

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.model.device


def load_language_model(
    model: str,
    *,
    manifest: str = "",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LanguageModel:
    """Load a causal language model, or a peft adapter on top of the model it names (merged into it).

    Args:
        model: local folder or hub id of a transformers model, or a local adapter folder.
        manifest: folder whose checksums the weights must match first; empty skips the check.

    Raises:
        FileNotFoundError: model, or the base model of an adapter, is missing.
        ValueError: weights are damaged or altered.
    """
    folder = Path(model)
    if manifest:
        storage.check_manifest(Path(manifest), f"{folder.relative_to(manifest).as_posix()}/")
    adapter = folder / "adapter_config.json"
    base = storage.read_json(adapter)["base_model_name_or_path"] if adapter.is_file() else model
    try:
        network = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, use_safetensors=True)
        if adapter.is_file():
            from peft import PeftModel

            network = PeftModel.from_pretrained(network, model).merge_and_unload()
        tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    except OSError as error:
        if Path(base).is_dir():
            raise ValueError(
                f"{base} must hold a language model in safetensors: {_first_line(error)}"
            ) from error
        raise FileNotFoundError(
            f"the language model {base} is neither a folder here nor in the hub's cache, and the hub did not"
            f" answer; download it elsewhere and pass the folder ({_first_line(error)})"
        ) from error
    except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{base} is damaged or no causal language model: {_first_line(error)}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LanguageModel(_frozen(network, device), tokenizer, folder.name if folder.is_dir() else model)


def load_writer(preset: Preset, model: str | None = None, **options: Any) -> LanguageModel:
    """The preset's writer of triplets, or another language model by folder or hub id."""
    name = model or preset.writer
    guarded = bool(preset.manifest) and Path(name).is_relative_to(preset.manifest)
    return load_language_model(name, manifest=preset.manifest if guarded else "", **options)


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
    _fill(judge, folder / "judge.safetensors")
    return _frozen(judge, device)


def check_instruction(backbone: Backbone, instruction: str) -> None:
    """Refuse an instruction that the text encoder cannot read.

    A word counts as unknown when the tokenizer has to spell it out in pieces of one or two letters.

    Raises:
        ValueError: it is empty, does not fit, or more than half of its words are unknown.
    """
    words = re.findall(r"\w+", instruction.lower())
    if not words:
        raise ValueError(f"an instruction must contain words, got {instruction!r}; try 'make it night'")
    with TOKENIZING:
        unknown = [w for w in words if len(w) > 2 and len(backbone.tokenizer.tokenize(w)) > len(w) / 2]
        length = len(backbone.tokenizer(instruction).input_ids)
    if len(unknown) * 2 > len(words):
        raise ValueError(
            f"an instruction must use words that {backbone.name} knows; unknown here: {', '.join(unknown[:5])};"
            " try 'make it night' or 'add a rainbow'"
        )
    limit = backbone.tokenizer.model_max_length
    if length > limit:
        raise ValueError(f"an instruction must fit in {limit} tokens, got {length}; shorten it")
