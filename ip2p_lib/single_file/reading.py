"""Read a single file in the original Stable Diffusion layout: each weight in its place, or a refusal by name.

A file holds weights only. What they mean, a folder of the same name beside it says (`editor/` for
`editor.safetensors`, with configurations, tokenizer and noise schedule as in a diffusers folder; weights
there are not looked at). Without one it is taken for Stable Diffusion 1.x. Nothing is asked of the hub.
"""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ip2p_lib.single_file import architecture
from ip2p_lib.single_file.layout import counterparts, original_shape
from ip2p_lib.storage import first_line

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
FIRST_LAYER = "model.diffusion_model.input_blocks.0.0.weight"
# What checkpoints carry along from their training, and no reader of the model needs.
LUGGAGE = (
    *("model_ema.", "betas", "alphas_cumprod", "sqrt_", "log_one_minus_", "posterior_", "logvar", "lvlb_"),
    *("first_stage_model.loss.", "cond_stage_model.logit_scale", "cond_stage_model.text_projection"),
    "cond_stage_model.transformer.text_model.embeddings.position_ids",
)


def is_file_name(model: str) -> bool:
    """Whether a model is given as a file and not as a folder or hub id."""
    return Path(model).suffix.lower() in (".safetensors", *PICKLES) and not Path(model).is_dir()


def read_single_file(path: Path) -> dict[str, Any]:
    """A model's `unet`, `vae`, `text_encoder` in the file's precision, `tokenizer` and `scheduler`.

    Names and shapes are held against the architecture before any weight is read, and only what belongs
    to the model is read: not the average that some checkpoints carry along.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a pickle, cut short, of another architecture, or lacks a weight.
    """
    _check_kind(path)
    try:
        with safe_open(path, "pt") as file:
            shapes = {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118
            parts = _described(path, shapes, file.metadata() or {})
            places = _places(path, shapes, parts)
            weights: dict[str, dict[str, Tensor]] = {"unet": {}, "vae": {}, "text_encoder": {}}
            for original, (part, name, like) in places.items():
                weights[part][name] = file.get_tensor(original).view(like.shape)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, cut short or no safetensors file: {error}") from error
    for part, own in weights.items():
        parts[part].load_state_dict(own, assign=True)
    return parts


def _check_kind(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a file of weights, but there is none")
    if path.suffix.lower() in PICKLES:
        target = path.with_suffix(".safetensors")
        raise ValueError(
            f'{path} is a pickle, which may run code when it is opened; convert it: python -c "from torch import'
            f" load; from safetensors.torch import save_file; w = load('{path}', weights_only=True);"
            " w = w.get('state_dict', w); save_file({n: t.clone() for n, t in w.items() if hasattr(t, 'clone')},"
            f" '{target}')\""
        )


def _described(
    path: Path, shapes: Mapping[str, tuple[int, ...]], header: Mapping[str, str]
) -> dict[str, Any]:
    """All parts, still without numbers: as the folder beside the file says, or Stable Diffusion 1.x's."""
    folder = path.with_suffix("")
    if (folder / "unet" / "config.json").is_file():
        return _configured(folder)
    first = shapes.get(FIRST_LAYER, (0, 0))
    if FIRST_LAYER in shapes and (len(first) != 4 or first[1] not in (4, 8)):
        raise ValueError(
            f"{path} must be a text-to-image model, of 4 input channels, or an editor, of 8; its first layer"
            f" {FIRST_LAYER} is {first}"
        )
    kind = {"v": "v_prediction"}.get(header.get("modelspec.prediction_type", ""), "epsilon")
    parts: dict[str, Any] = {**architecture.empty_networks(8 if first[1] == 8 else 4)}
    return {
        **_with_positions(parts),
        "tokenizer": architecture.clip_tokenizer(),
        "scheduler": architecture.scheduler(kind),
    }


def _configured(folder: Path) -> dict[str, Any]:
    try:
        with torch.device("meta"):
            parts = {
                "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")),
                "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
                "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
            }
        return {
            **_with_positions(parts),
            "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
            "scheduler": EulerAncestralDiscreteScheduler.from_pretrained(folder / "scheduler"),
        }
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} must describe the file beside it, with unet/, vae/, text_encoder/, tokenizer/ and"
            f" scheduler/ as in a diffusers folder: {first_line(error)}"
        ) from error


def _with_positions(parts: dict[str, Any]) -> dict[str, Any]:
    """The text encoder's one buffer that no file holds: 0, 1, 2 and so on."""
    embeddings = parts["text_encoder"].embeddings
    embeddings.position_ids = torch.arange(embeddings.position_embedding.num_embeddings)[None]
    return parts


def _places(
    path: Path, shapes: Mapping[str, tuple[int, ...]], parts: Mapping[str, nn.Module]
) -> dict[str, tuple[str, str, Tensor]]:
    """Where each weight belongs; refuses if one is missing, unknown or of another shape."""
    places = counterparts(SimpleNamespace(**parts))
    unknown = [n for n in shapes if n not in places and not n.startswith(LUGGAGE)]
    if missing := [n for n in places if n not in shapes]:
        hint = f", but holds {_some(unknown)}, which this architecture does not have" if unknown else ""
        raise ValueError(f"{path} must hold {_some(missing)}{hint}; is it whole, and Stable Diffusion 1.x?")
    if unknown:
        raise ValueError(f"{path} holds {_some(unknown)}, which this architecture does not have")
    for name, (_, _, like) in places.items():
        if shapes[name] not in (tuple(like.shape), original_shape(name, like)):
            raise ValueError(f"{path}: {name} must be {original_shape(name, like)}, got {shapes[name]}")
    return places


def _some(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
