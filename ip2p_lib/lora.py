"""Train an editor by a small adapter instead of all its weights, and write it for others.

A LoRA adds a product of two thin matrices to each attention projection. It reaches no convolution, so it
cannot teach a UNet that was just widened to look at the picture: the first layer must learn as well, and
a LoRA file has no place for it. Hence two uses: an adapter for an editor, which is a small file of its
own; or an adapter and the first layer for a text-to-image model, which end up merged in a whole editor.

Source: LoRA (arXiv:2106.09685).
"""

import copy
from pathlib import Path

import torch
from diffusers import StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor

from ip2p_lib import storage

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")  # of self- and cross-attention
NAME = "default"


def add_lora(
    unet: UNet2DConditionModel, rank: int, alpha: int, *, train_conv_in: bool, seed: int = 0
) -> UNet2DConditionModel:
    """Freeze an editor's UNet and give it an adapter that does nothing yet; in place, returned as well.

    Args:
        unet: from `unet.as_editor_unet`.
        rank: of the products added to the attention projections.
        alpha: the adapter counts alpha / rank times.
        train_conv_in: whether the first layer learns too, in full. A widened text-to-image UNet needs it.
        seed: of the adapter's first weights.

    Raises:
        ValueError: rank or alpha is below 1, the UNet has no channels for a picture or an adapter
            already, or nothing would ever teach it to look at the picture.
    """
    if rank < 1 or alpha < 1:
        raise ValueError(f"rank and alpha must be at least 1, got {rank} and {alpha}")
    if adapter_weights(unet):
        raise ValueError("the UNet must be without an adapter, but it has one; merge_lora makes it plain")
    latent_channels = unet.config.out_channels
    if unet.config.in_channels != 2 * latent_channels:
        raise ValueError(
            f"an editor's UNet must take {2 * latent_channels} channels, got one that takes"
            f" {unet.config.in_channels}; pass it through as_editor_unet first"
        )
    if not train_conv_in and not unet.conv_in.weight[:, latent_channels:].any():
        raise ValueError(
            "the first layer ignores the picture, since the weights of its channels are all zero, and an"
            " adapter cannot change that; set train_conv_in, or start from an editor"
        )
    unet.requires_grad_(False)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(TARGETS)), NAME)
    for p in adapter_weights(unet).values():
        p.data = p.data.float()  # small steps vanish in bf16
    unet.conv_in.requires_grad_(train_conv_in)
    return unet


def adapter_weights(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """Parameters of the adapter by name; empty without one."""
    return {name: p for name, p in unet.named_parameters() if ".lora_" in name}


def store_frozen(unet: UNet2DConditionModel, dtype: torch.dtype) -> UNet2DConditionModel:
    """Keep frozen matrices and kernels in the dtype that mixed precision computes in; in place, returned as well.

    Autocast would cast them at each use, so a step's result is the same to the bit, in half of the memory. Norms and
    biases stay as they are, and so does what is trained. Outside of autocast such a UNet cannot run, see `computing`.
    """
    for weight in unet.parameters():
        if not weight.requires_grad and weight.ndim > 1:
            weight.data = weight.data.to(dtype)
    return unet


def computing(unet: UNet2DConditionModel) -> torch.autocast:
    """Autocast in the dtype of a UNet's frozen weights after `store_frozen`; it does nothing where all are float32."""
    dtypes = {p.dtype for p in unet.parameters()} - {torch.float32}
    is_mixed = len(dtypes) == 1 and any(p.dtype == torch.float32 for p in unet.parameters())
    return torch.autocast(unet.device.type, dtypes.pop() if is_mixed else None, enabled=is_mixed)


def save_lora(unet: UNet2DConditionModel, path: Path) -> None:
    """Write the adapter alone, as `load_lora_weights` of diffusers' pipeline reads it.

    alpha / rank is multiplied into the weights, so that the adapter counts once in any reader.

    Raises:
        ValueError: the path does not end in .safetensors, there is no adapter, or other weights were
            trained beside it (or that can no longer be told), so that the file would not hold them.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"the file's name must end in .safetensors, got {path.name}")
    _check_adapter_is_all(unet)
    config = unet.peft_config[NAME]
    scale = config.lora_alpha / config.r
    weights = {
        name: (t * scale if ".lora_B." in name else t).detach().cpu().contiguous()
        for name, t in get_peft_model_state_dict(unet, adapter_name=NAME).items()
    }
    with storage.atomic_file(path) as partial:
        StableDiffusionInstructPix2PixPipeline.save_lora_weights(
            partial.parent,
            unet_lora_layers=convert_state_dict_to_diffusers(weights),
            weight_name=partial.name,
        )


def merge_lora(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A plain copy with the adapter added into the projections, for `save_pipeline` and `save_single_file`.

    Raises:
        ValueError: there is no adapter.
    """
    if not adapter_weights(unet):
        raise ValueError("the UNet must have an adapter, but it has none; add_lora gives it one")
    merged = copy.deepcopy(unet)
    merged.fuse_lora()
    merged.unload_lora()
    return merged.requires_grad_(False)


def _check_adapter_is_all(unet: UNet2DConditionModel) -> None:
    """Refuse where weights outside of the adapter were trained: what has a gradient was."""
    adapter = adapter_weights(unet)
    if not adapter:
        raise ValueError("the UNet must have an adapter, but it has none; add_lora gives it one")
    if not all(p.requires_grad for p in adapter.values()):
        raise ValueError(
            "save_lora must see what was trained, but the adapter is frozen; save before requires_grad_(False)"
        )
    others = [n for n, p in unet.named_parameters() if p.requires_grad and n not in adapter]
    if others:
        raise ValueError(
            f"a LoRA file holds the adapter only, but {', '.join(others[:3])} were trained as well; write the"
            " whole editor instead: merge_lora, then save_pipeline"
        )
