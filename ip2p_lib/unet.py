"""Turn a text-to-image UNet into one that also takes a picture, and write the result for others."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionInstructPix2PixPipeline, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn

from ip2p_lib import storage
from ip2p_lib.backbone import Backbone


def extend_input_channels(conv_in: nn.Conv2d, extra_channels: int) -> nn.Conv2d:
    """Widen a first convolution so that the new channels start out ignored.

    The result computes exactly what `conv_in` computed, whatever is fed to the new channels, until
    training moves their weights away from zero.

    Args:
        conv_in: first layer of the pretrained UNet, weight (C_out, C_in, k, k).
        extra_channels: channels of the condition appended after C_in; 4 for Stable Diffusion 1.x.

    Raises:
        ValueError: extra_channels is below 1, or conv_in is grouped.

    Source: InstructPix2Pix (arXiv:2211.09800), section 3.2.
    """
    if extra_channels < 1:
        raise ValueError(f"extra_channels must be at least 1, got {extra_channels}")
    if conv_in.groups != 1:
        raise ValueError(f"conv_in must not be grouped, got groups={conv_in.groups}")
    wide = nn.Conv2d(
        conv_in.in_channels + extra_channels,
        conv_in.out_channels,
        conv_in.kernel_size,  # type: ignore[arg-type]
        conv_in.stride,  # type: ignore[arg-type]
        conv_in.padding,  # type: ignore[arg-type]
        bias=conv_in.bias is not None,
        device=conv_in.weight.device,
        dtype=conv_in.weight.dtype,
    )
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[:, : conv_in.in_channels].copy_(conv_in.weight)  # (C_out, C_in, k, k)
        if conv_in.bias is not None and wide.bias is not None:
            wide.bias.copy_(conv_in.bias)  # diffusers' training script forgets this one
    return wide


def widen_unet(unet: UNet2DConditionModel, extra_channels: int) -> UNet2DConditionModel:
    """A trainable copy of a text-to-image UNet with `extra_channels` more input channels."""
    wide = copy.deepcopy(unet).requires_grad_(True)
    wide.conv_in = extend_input_channels(wide.conv_in, extra_channels)
    # Values marked as defaults are lost when the configuration is used again; this one is no default now.
    defaults = [n for n in unet.config.get("_use_default_values", []) if n != "in_channels"]
    wide.register_to_config(
        in_channels=unet.config.in_channels + extra_channels, _use_default_values=defaults
    )
    return wide


def as_editor_unet(unet: UNet2DConditionModel, latent_channels: int) -> UNet2DConditionModel:
    """A trainable copy that takes noise and picture, from a text-to-image model or from an editor.

    A text-to-image UNet is widened, and predicts what it did whatever the picture. An editor keeps all
    its channels, so that training continues where it stopped.

    Args:
        latent_channels: of the noise, and as many of the picture; 4 for Stable Diffusion 1.x.

    Raises:
        ValueError: the UNet takes neither latent_channels nor twice as many.
    """
    channels = unet.config.in_channels
    if channels == latent_channels:
        return widen_unet(unet, latent_channels)
    if channels == 2 * latent_channels:
        return copy.deepcopy(unet).requires_grad_(True)
    raise ValueError(
        f"a UNet must take {latent_channels} channels (text-to-image) or {2 * latent_channels} (an editor),"
        f" got one that takes {channels}"
    )


def load_unet_weights(unet: UNet2DConditionModel, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a UNet in place, in its own dtype: all of them or, if one does not fit, none.

    Raises:
        ValueError: names are missing or unexpected, or shapes differ; the first few are given.
    """
    own = unet.state_dict()
    wrong = {
        "missing": [n for n in own if n not in weights],
        "unexpected": [n for n in weights if n not in own],
        "of another shape": [
            f"{n} {tuple(weights[n].shape)}, not {tuple(t.shape)}"
            for n, t in own.items()
            if n in weights and weights[n].shape != t.shape
        ],
    }
    if any(wrong.values()):
        said = [f"{len(names)} {what} ({_first(names)})" for what, names in wrong.items() if names]
        raise ValueError(f"weights must be those of this UNet, but: {'; '.join(said)}")
    unet.load_state_dict(weights)


def _first(names: Sequence[str], count: int = 3) -> str:
    return ", ".join([*names[:count], *(["…"] if len(names) > count else [])])


def save_pipeline(model: Backbone, folder: Path) -> None:
    """Write a diffusers folder in fp16 safetensors, whole or not at all.

    A UNet with extra channels is written as `StableDiffusionInstructPix2PixPipeline`, which opens the
    folder unchanged; one without, as `StableDiffusionPipeline`.
    """
    is_editor = model.unet.config.in_channels > model.latent_channels
    kind = StableDiffusionInstructPix2PixPipeline if is_editor else StableDiffusionPipeline
    pipeline = kind(
        vae=copy.deepcopy(model.vae).half(),
        text_encoder=copy.deepcopy(model.text_encoder).half(),
        tokenizer=model.tokenizer,
        unet=copy.deepcopy(model.unet).half().to(memory_format=torch.contiguous_format),
        scheduler=model.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with storage.atomic_folder(folder) as partial:
        pipeline.save_pretrained(partial, safe_serialization=True)
        for path in partial.rglob("config.json"):  # where the parts were loaded from concerns nobody else
            config = storage.read_json(path)
            if config.pop("_name_or_path", None) is not None:
                storage.write_json(path, config)
