"""Write a model as one file, and say what a reader of that file cannot see in it."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ip2p_lib import storage
from ip2p_lib.backbone import Backbone
from ip2p_lib.single_file.layout import text_modules, unet_modules, vae_modules

# What programs that know Stable Diffusion 1.x take for granted, since the file holds weights only.
ASSUMED = {
    "unet": {
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "norm_num_groups": 32,
        "act_fn": "silu",
    },
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "mid_block_add_attention": True,
        "scaling_factor": 0.18215,
    },
    "text_encoder": {
        "vocab_size": 49408,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
    },
    "scheduler": {
        "prediction_type": "epsilon",
        "num_train_timesteps": 1000,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    },
}


def original_weights(model: Backbone) -> dict[str, Tensor]:
    """All weights of a model under their names in the original; views, so nothing is copied.

    Raises:
        ValueError: a weight has no counterpart there; its name is given, and nothing is left out.
    """
    parts = (
        ("model.diffusion_model", model.unet, unet_modules(model.unet.config)),
        ("first_stage_model", model.vae, vae_modules(model.vae.config)),
        (
            "cond_stage_model.transformer.text_model",
            model.text_encoder,
            text_modules(model.text_encoder.config),
        ),
    )
    weights = {}
    for prefix, part, modules in parts:
        for name, tensor in part.state_dict().items():
            module, _, kind = name.rpartition(".")
            if module not in modules:
                raise ValueError(
                    f"{name} of {type(part).__name__} has no counterpart in Stable Diffusion 1.x's layout;"
                    " only that architecture, at any size and with adapters merged, fits in a single file"
                )
            weights[f"{prefix}.{modules[module]}.{kind}"] = tensor
    return {name: _as_convolution(name, tensor) for name, tensor in weights.items()}


def save_single_file(model: Backbone, path: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write text encoder, autoencoder and UNet as one safetensors file, whole or not at all.

    Tokenizer, noise schedule and architecture are not in it: see `departures`. The header notes the
    kind of prediction for whoever looks. Equal models give equal bytes.

    Args:
        path: must end in .safetensors, by which programs tell it from a pickle.
        dtype: float16 is what programs expect; bfloat16 and float32 are read as well.

    Raises:
        ValueError: the path ends otherwise, a weight has no counterpart, or dtype cannot hold it.
    """
    check_name(path)
    weights = {name: _cast(name, tensor, dtype) for name, tensor in original_weights(model).items()}
    kind = model.scheduler.config.prediction_type
    # One entry only: safetensors writes several in any order, and equal models would differ in bytes.
    header = {"modelspec.prediction_type": "v" if kind == "v_prediction" else kind}
    with storage.atomic_file(path) as partial:
        save_file(weights, partial, header)


def check_name(path: Path) -> None:
    """Refuse a path that programs would not take for safetensors.

    Raises:
        ValueError: it does not end in .safetensors.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"the file's name must end in .safetensors, got {path.name}")


def departures(model: Backbone) -> list[str]:
    """Where a model differs from what a program assumes of a Stable Diffusion 1.x file, a line each.

    Empty means that programs which look at the file alone run it rightly. Otherwise only a reader that
    is given the configuration does, as diffusers' `from_single_file(path, config=folder)`.
    """
    found = []
    for part, expected in ASSUMED.items():
        config = getattr(model, part).config
        for name, usual in expected.items():
            value = getattr(config, name)
            value = list(value) if isinstance(value, tuple) else value
            if value != usual:
                found.append(f"{part}.{name} is {value}, not {usual}")
    return found


def _as_convolution(name: str, tensor: Tensor) -> Tensor:
    """The original's autoencoder attends through 1x1 convolutions: (C, C) becomes (C, C, 1, 1)."""
    return tensor[:, :, None, None] if ".mid.attn_1." in name and tensor.ndim == 2 else tensor


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    cast = tensor.detach().to(device="cpu", dtype=dtype).contiguous()
    if not torch.isfinite(cast).all():
        raise ValueError(f"every weight must be finite in {dtype}, but {name} is not; try float32")
    return cast
