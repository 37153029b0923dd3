"""Weights read from disk or hub: safetensors alone, each fault in one line."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTokenizer

from ip2p_lib import storage
from ip2p_lib.backbone.model import Backbone
from ip2p_lib.storage import first_line

SAVED = (
    "transformers_version",
    "dtype",
    "torch_dtype",
    "architectures",
)  # what saving adds to a configuration
FEWEST_TOKENS = 256  # any alphabet of bytes has as many


def component(kind: Any, model: str, subfolder: str) -> Any:
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
                f"{model}/{subfolder} must hold safetensors weights: {first_line(error)}"
            ) from error
        if "does not appear to have a file" in str(error):
            raise FileNotFoundError(
                f"{model} must offer safetensors weights of full precision for {subfolder}, but: {first_line(error)}"
            ) from error
        raise FileNotFoundError(
            f"{model} is neither a folder here nor in the hub's cache, and the hub did not answer; download it"
            f" elsewhere and pass the folder ({first_line(error)})"
        ) from error
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{model}/{subfolder} is damaged or of another shape: {first_line(error)}"
        ) from error


def files_digest(files: Iterable[Path]) -> str:
    """Digest of a model's files, whatever device and dtype it is loaded for; "" if there are none."""
    found = sorted(files)
    return storage.fingerprint([[p.name, storage.quick_digest(p)] for p in found]) if found else ""


def check_vocabulary(tokenizer: CLIPTokenizer, size: int, model: str) -> None:
    """Refuse a tokenizer without its files, which loads all the same and then knows no word, or another model's.

    Args:
        size: tokens that the text encoder knows.

    Raises:
        ValueError: the tokenizer has too few, or more.
    """
    if not FEWEST_TOKENS < len(tokenizer) <= size:
        raise ValueError(
            f"{model}/tokenizer must hold the vocabulary of its text encoder, of up to {size} tokens, but has"
            f" {len(tokenizer)}; is tokenizer.json, or vocab.json with merges.txt, missing?"
        )


def fill(module: nn.Module, path: Path) -> None:
    """Load a safetensors file into a module built for it, in float32."""
    try:
        weights = load_file(path)
        module.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in weights.items()})
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or of another shape: {first_line(error)}") from error


def frozen(model: Any, device: torch.device | str) -> Any:
    """The model on a device, for use alone."""
    return model.to(device).eval().requires_grad_(False)


def weights_mark(module: nn.Module) -> str:
    """Digest of all weights with their names, shapes and dtype: equal marks, equal networks."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def model_mark(backbone: Backbone) -> str:
    """Digest of all that decides what a model makes of a text and a seed: networks, settings, vocabulary."""
    networks = backbone.text_encoder, backbone.vae, backbone.unet
    settings = [_settings(part.config) for part in (*networks, backbone.scheduler)]
    return storage.fingerprint([*map(weights_mark, networks), settings, backbone.tokenizer.get_vocab()])


def _settings(config: Any) -> dict[str, Any]:
    """A part's configuration without where it came from."""
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {n: v for n, v in values.items() if not n.startswith("_") and n not in SAVED}
