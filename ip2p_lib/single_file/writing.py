"""Write a model as one file, and say what a reader of that file cannot see in it."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ip2p_lib import storage
from ip2p_lib.single_file import architecture
from ip2p_lib.single_file.layout import counterparts, original_shape

ASSUMED = {
    "unet": {n: v for n, v in architecture.UNET.items() if n != "sample_size"},
    "vae": {n: v for n, v in architecture.VAE.items() if n != "sample_size"},
    "text_encoder": {
        n: v for n, v in architecture.TEXT_ENCODER.items() if not n.endswith("_id") and n != "projection_dim"
    },
    "scheduler": architecture.SCHEDULER,
}


def original_weights(model: Any) -> dict[str, Tensor]:
    """All weights of a model under their names in the original; views, so nothing is copied.

    Raises:
        ValueError: a weight has no counterpart there; its name is given, and nothing is left out.
    """
    return {
        name: tensor.view(original_shape(name, tensor))
        for name, (_, _, tensor) in counterparts(model).items()
    }


def save_single_file(model: Any, path: Path, *, dtype: torch.dtype = torch.float16) -> None:
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


def departures(model: Any) -> list[str]:
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


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    cast = tensor.detach().to(device="cpu", dtype=dtype).contiguous()
    if not torch.isfinite(cast).all():
        raise ValueError(f"every weight must be finite in {dtype}, but {name} is not; try float32")
    return cast
