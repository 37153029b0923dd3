"""What programs take for granted of a Stable Diffusion 1.x file, which holds weights only.

Source: the configurations published with stable-diffusion-v1-5 and timbrooks/instruct-pix2pix.
"""

from typing import Any

import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "act_fn": "silu",
}
VAE: dict[str, Any] = {
    "sample_size": 512,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "mid_block_add_attention": True,
    "scaling_factor": 0.18215,
}
TEXT_ENCODER: dict[str, Any] = {  # the text tower of CLIP ViT-L/14
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}
SCHEDULER: dict[str, Any] = {
    "prediction_type": "epsilon",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
}


def empty_networks(in_channels: int = 4) -> dict[str, nn.Module]:
    """UNet, autoencoder and text encoder of Stable Diffusion 1.x: names and shapes, no numbers, no memory.

    Args:
        in_channels: of the UNet; 4 for text-to-image, 8 for an editor.
    """
    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel(**UNET, in_channels=in_channels),
            "vae": AutoencoderKL(**VAE),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER)),
        }


def scheduler(prediction_type: str = "epsilon") -> EulerAncestralDiscreteScheduler:
    """Its noise schedule."""
    return EulerAncestralDiscreteScheduler(**{**SCHEDULER, "prediction_type": prediction_type})


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer, from the merges that open_clip ships."""
    from open_clip.tokenizer import SimpleTokenizer

    source = SimpleTokenizer()
    specials = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {specials.get(token, token): number for token, number in source.encoder.items()}
    return CLIPTokenizer(vocab=vocabulary, merges=list(source.bpe_ranks), model_max_length=77)
