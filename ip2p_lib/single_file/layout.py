"""What diffusers and the original Stable Diffusion 1.x code call the same layer, block by block.

diffusers names a layer by its resolution: `down_blocks.1.resnets.0`. The original counts through: what
the UNet does on its way down is input_blocks.0, 1, 2 and so on, each change of resolution being one of
them, and likewise output_blocks on the way up.

Source: CompVis/stable-diffusion, ldm/modules/diffusionmodules/openaimodel.py and model.py.
"""

from typing import Any

from torch import Tensor

Modules = dict[str, str]  # a layer's path in diffusers -> its path in the original

UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
TRANSFORMER = (
    *("norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2"),
    *(f"attn{n}.{layer}" for n in (1, 2) for layer in ("to_q", "to_k", "to_v", "to_out.0")),
)
VAE_RESNET = {**{n: n for n in ("norm1", "conv1", "norm2", "conv2")}, "conv_shortcut": "nin_shortcut"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
TEXT_LAYER = (
    *("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"),
    *(f"self_attn.{layer}_proj" for layer in "qkv"),
    "self_attn.out_proj",
)


def counterparts(model: Any) -> dict[str, tuple[str, str, Tensor]]:
    """For each name in the original: which part of a model it is, its name there, and the weight.

    Args:
        model: has `unet`, `vae` and `text_encoder`, as a `Backbone` has.

    Raises:
        ValueError: a weight has no counterpart there; its name is given, and nothing is left out.
    """
    parts = (
        ("unet", "model.diffusion_model", unet_modules(model.unet.config)),
        ("vae", "first_stage_model", vae_modules(model.vae.config)),
        (
            "text_encoder",
            "cond_stage_model.transformer.text_model",
            text_modules(model.text_encoder.config),
        ),
    )
    found = {}
    for part, prefix, modules in parts:
        network = getattr(model, part)
        for name, tensor in network.state_dict().items():
            module, _, kind = name.rpartition(".")
            if module not in modules:
                raise ValueError(
                    f"{name} of {type(network).__name__} has no counterpart in Stable Diffusion 1.x's layout;"
                    " only that architecture, at any size and with adapters merged, fits in a single file"
                )
            found[f"{prefix}.{modules[module]}.{kind}"] = part, name, tensor
    return found


def original_shape(name: str, tensor: Tensor) -> tuple[int, ...]:
    """A weight's shape in the original, whose autoencoder attends through 1x1 convolutions."""
    shape = tuple(tensor.shape)
    return (*shape, 1, 1) if ".mid.attn_1." in name and tensor.ndim == 2 else shape


def unet_modules(config: Any) -> Modules:
    """Every layer that a UNet may have and the original can name.

    Raises:
        ValueError: the configuration is one that the original has no words for.
    """
    if config.use_linear_projection:
        raise ValueError(
            "Stable Diffusion 1.x goes into attention by a 1x1 convolution, and this UNet by a linear layer:"
            " use_linear_projection must be false"
        )
    if not isinstance(config.layers_per_block, int):
        raise ValueError(f"layers_per_block must be one number for all levels, got {config.layers_per_block}")
    levels, layers = len(config.block_out_channels), config.layers_per_block
    attention = _attention(config.transformer_layers_per_block)
    modules = {**UNET_ENDS, **_unet_middle(attention)}
    for level in range(levels):
        first = 1 + level * (layers + 1)
        for layer in range(layers):
            here, there = f"down_blocks.{level}", f"input_blocks.{first + layer}"
            modules |= _within(f"{here}.resnets.{layer}", f"{there}.0", UNET_RESNET)
            modules |= _within(f"{here}.attentions.{layer}", f"{there}.1", attention)
        modules[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{first + layers}.0.op"
    for level, kind in enumerate(config.up_block_types):
        first = level * (layers + 1)
        for layer in range(layers + 1):
            here, there = f"up_blocks.{level}", f"output_blocks.{first + layer}"
            modules |= _within(f"{here}.resnets.{layer}", f"{there}.0", UNET_RESNET)
            modules |= _within(f"{here}.attentions.{layer}", f"{there}.1", attention)
        place = 2 if kind.startswith("CrossAttn") else 1  # behind the attention, where there is one
        modules[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{first + layers}.{place}.conv"
    return modules


def vae_modules(config: Any) -> Modules:
    """Every layer that an autoencoder may have and the original can name.

    The original counts the decoder's levels from the picture, diffusers from the latents.
    """
    modules = {n: n for n in ("quant_conv", "post_quant_conv")}
    for half in ("encoder", "decoder"):
        modules |= {f"{half}.{n}": f"{half}.{n}" for n in ("conv_in", "conv_out")}
        modules[f"{half}.conv_norm_out"] = f"{half}.norm_out"
        modules |= _within(f"{half}.mid_block.attentions.0", f"{half}.mid.attn_1", VAE_ATTENTION)
        for n in range(2):
            modules |= _within(f"{half}.mid_block.resnets.{n}", f"{half}.mid.block_{n + 1}", VAE_RESNET)
    levels, layers = len(config.block_out_channels), config.layers_per_block
    for level in range(levels):
        down, up = f"encoder.down.{level}", f"decoder.up.{levels - 1 - level}"
        for layer in range(layers):
            modules |= _within(
                f"encoder.down_blocks.{level}.resnets.{layer}", f"{down}.block.{layer}", VAE_RESNET
            )
        for layer in range(layers + 1):
            modules |= _within(
                f"decoder.up_blocks.{level}.resnets.{layer}", f"{up}.block.{layer}", VAE_RESNET
            )
        modules[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = f"{down}.downsample.conv"
        modules[f"decoder.up_blocks.{level}.upsamplers.0.conv"] = f"{up}.upsample.conv"
    return modules


def text_modules(config: Any) -> Modules:
    """Every layer of a CLIP text encoder; both sides use the names of transformers."""
    names = ["embeddings.token_embedding", "embeddings.position_embedding", "final_layer_norm"]
    for layer in range(config.num_hidden_layers):
        names += [f"encoder.layers.{layer}.{name}" for name in TEXT_LAYER]
    return {name: name for name in names}


def _within(here: str, there: str, names: Modules) -> Modules:
    return {f"{here}.{ours}": f"{there}.{theirs}" for ours, theirs in names.items()}


def _attention(depth: Any) -> Modules:
    """Names inside one attention of the UNet, which are the same on both sides."""
    deepest = depth if isinstance(depth, int) else max(depth)
    inside = (f"transformer_blocks.{n}.{name}" for n in range(deepest) for name in TRANSFORMER)
    return {name: name for name in ("norm", "proj_in", "proj_out", *inside)}


def _unet_middle(attention: Modules) -> Modules:
    return {
        **_within("mid_block.resnets.0", "middle_block.0", UNET_RESNET),
        **_within("mid_block.attentions.0", "middle_block.1", attention),
        **_within("mid_block.resnets.1", "middle_block.2", UNET_RESNET),
    }
