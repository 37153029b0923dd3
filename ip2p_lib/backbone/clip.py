"""CLIP by open_clip: from a folder of ours, or a published one by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from ip2p_lib import storage
from ip2p_lib.backbone.files import check_vocabulary, component, fill, frozen, weights_mark
from ip2p_lib.presets import Preset
from ip2p_lib.storage import first_line


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
        return storage.fingerprint([self.size, self.mean, self.std, weights_mark(self.model)])


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
    fill(model, folder / "open_clip_model.safetensors")
    tokenizer = component(CLIPTokenizer, str(folder), "tokenizer")
    check_vocabulary(tokenizer, config["model_cfg"]["text_cfg"]["vocab_size"], str(folder))

    def tokenize(texts: Sequence[str]) -> Tensor:
        length = config["model_cfg"]["text_cfg"]["context_length"]
        batch = tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return batch.input_ids

    size = config["model_cfg"]["vision_cfg"]["image_size"]
    norm = config["preprocess_cfg"]
    return ClipEncoder(frozen(model, device), tokenize, size, tuple(norm["mean"]), tuple(norm["std"]))


def _published_clip(name: str, device: torch.device | str) -> ClipEncoder:
    import open_clip

    architecture, _, tag = name.partition("/")
    trained = (open_clip.get_pretrained_cfg(architecture, tag) if tag else None) or {}
    try:
        # OpenAI's weights want another activation than the architecture's own; open_clip by itself only warns.
        model = open_clip.create_model(
            architecture, pretrained=tag or None, force_quick_gelu=bool(trained.get("quick_gelu"))
        )
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"CLIP {name} is neither in the cache nor reachable; pass a folder with open_clip_config.json"
            f" and open_clip_model.safetensors ({first_line(error)})"
        ) from error
    size = model.visual.image_size
    return ClipEncoder(
        frozen(model, device),
        open_clip.get_tokenizer(architecture),
        size[0] if isinstance(size, tuple) else size,
        tuple(trained.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        tuple(trained.get("std", open_clip.OPENAI_DATASET_STD)),
    )
