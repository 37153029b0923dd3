"""Causal language models, which write triplets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from ip2p_lib import storage
from ip2p_lib.backbone.files import files_digest, frozen
from ip2p_lib.presets import Preset
from ip2p_lib.storage import first_line

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")  # which a folder of an adapter need not have


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """A causal language model with its tokenizer, padded on the left for generation."""

    model: Any  # transformers causal LM, or the same under a peft adapter
    tokenizer: Any
    name: str = "unnamed"
    files: str = ""  # digest of its folder's files; "" for a hub id

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
        is_bare = adapter.is_file() and not any((folder / n).is_file() for n in TOKENIZER)
        tokenizer = AutoTokenizer.from_pretrained(base if is_bare else model, padding_side="left")
    except OSError as error:
        if Path(base).is_dir():
            raise ValueError(
                f"{base} must hold a language model in safetensors: {first_line(error)}"
            ) from error
        raise FileNotFoundError(
            f"the language model {base} is neither a folder here nor in the hub's cache, and the hub did not"
            f" answer; download it elsewhere and pass the folder ({first_line(error)})"
        ) from error
    except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{base} is damaged or no causal language model: {first_line(error)}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    name = folder.name if folder.is_dir() else model
    files = files_digest(p for p in folder.rglob("*") if p.is_file())
    return LanguageModel(frozen(network, device), tokenizer, name, files)


def load_writer(preset: Preset, model: str | None = None, **options: Any) -> LanguageModel:
    """The preset's writer of triplets, or another language model by folder or hub id."""
    name = model or preset.writer
    guarded = bool(preset.manifest) and Path(name).is_relative_to(preset.manifest)
    return load_language_model(name, manifest=preset.manifest if guarded else "", **options)
