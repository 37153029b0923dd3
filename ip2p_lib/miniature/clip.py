"""The miniature's CLIP (open_clip), and its text tower as the text encoder of the diffusion model."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ip2p_lib import storage
from ip2p_lib.miniature.pictures import BASE_SEED, as_tensor, drawn_scenes
from ip2p_lib.miniature.texts import ordinary_text
from ip2p_lib.miniature.tokenizer import MAX_LENGTH
from ip2p_lib.optimisation import FitConfig, Report, batch_indices, fit
from ip2p_lib.scenes.language import caption

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class ClipRecipe:
    """Sizes and weights of CLIP's training."""

    embed_dim: int = 192
    vision_width: int = 24
    text_width: int = 192
    text_layers: int = 3
    pictures: int = 30_000
    batch_size: int = 128
    ordinary_texts: int = 48  # of each batch, read for their language alone
    language_weight: float = 0.1  # next-word loss, through which the tower learns to read instructions
    steps: int = 1_000
    seed: int = 12

    @property
    def fit(self) -> FitConfig:
        """Optimiser settings."""
        return FitConfig(
            steps=self.steps, learning_rate=2e-3, weight_decay=0.05, adam_beta2=0.98, warmup_steps=40,
            decay_steps=self.steps, max_grad_norm=1.0, ema_decay=0.98, mixed_precision="auto",
        )  # fmt: skip


def clip_config(recipe: ClipRecipe, vocab_size: int) -> dict[str, Any]:
    """The open_clip configuration: a small ResNet of CLIP's own kind beside a causal text tower."""
    return {
        "embed_dim": recipe.embed_dim,
        "vision_cfg": {
            "image_size": 64,
            "layers": [1, 1, 1, 1],
            "width": recipe.vision_width,
            "head_width": 64,
        },
        "text_cfg": {
            "context_length": MAX_LENGTH,
            "vocab_size": vocab_size,
            "width": recipe.text_width,
            "heads": recipe.text_width // 32,
            "layers": recipe.text_layers,
        },
    }


def build_clip(config: dict[str, Any]) -> open_clip.CLIP:
    """An open_clip model with random weights."""
    return open_clip.CLIP(**config)


def hidden_states(clip: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Last hidden states of the text tower, (B, T) ids to (B, T, D)."""
    length = tokens.shape[1]
    x = clip.token_embedding(tokens) + clip.positional_embedding[:length]
    return clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))


def language_loss(clip: open_clip.CLIP, states: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of each next token up to the first end token, with tied embeddings."""
    logits = states[:, :-1] @ clip.token_embedding.weight.T
    ended = (tokens == tokens.max()).int().cumsum(1)[:, :-1] > 0
    targets = tokens[:, 1:].masked_fill(ended, -100)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100)


def pooled(clip: open_clip.CLIP, states: Tensor, tokens: Tensor) -> Tensor:
    """CLIP's text features, (B, D) and of length one, from the tower's states."""
    ends = states[torch.arange(len(tokens), device=tokens.device), tokens.argmax(dim=1)]
    return F.normalize((ends @ clip.text_projection).float(), dim=-1)


def contrastive_loss(clip: open_clip.CLIP, images: Tensor, states: Tensor, tokens: Tensor) -> Tensor:
    """Symmetric cross-entropy over the batch's image-text similarities (Radford et al. 2021)."""
    image_features = F.normalize(clip.visual(images).float(), dim=-1)
    logits = clip.logit_scale.clamp(max=4.6).exp() * image_features @ pooled(clip, states, tokens).T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def train_clip(recipe: ClipRecipe, tokenizer: CLIPTokenizer, work: Path) -> Iterator[Report]:
    """Train CLIP, resuming in `work/clip`."""
    scenes, pictures = drawn_scenes(recipe.pictures, BASE_SEED, work)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(recipe.seed)
        clip = build_clip(clip_config(recipe, len(tokenizer)))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))

    def tokens_of(texts: list[str]) -> Tensor:
        batch = tokenizer(
            texts, padding="longest", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        return batch.input_ids.to(clip.logit_scale.device)

    def loss_at(step: int) -> Tensor:
        picked = batch_indices(len(pictures), recipe.batch_size, step, recipe.seed)
        device = clip.logit_scale.device
        pixels = (as_tensor(pictures[picked], device) + 1) / 2
        images = (pixels - mean.to(device)) / std.to(device)
        captions = tokens_of([caption(scenes[i], step * 7919 + int(i)) for i in picked])
        spoken = picked[: recipe.ordinary_texts]
        ordinary = tokens_of([ordinary_text(scenes[i], step * 7919 + int(i)) for i in spoken])
        states = hidden_states(clip, captions)
        language = language_loss(clip, states, captions)
        language = language + language_loss(clip, hidden_states(clip, ordinary), ordinary)
        return contrastive_loss(clip, images, states, captions) + recipe.language_weight * language

    return fit(clip, loss_at, recipe.fit, folder=work / "clip")


def save_clip(clip: nn.Module, config: dict[str, Any], folder: Path) -> None:
    """Write open_clip's configuration and fp16 weights."""
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    weights = {n: t.half() if t.is_floating_point() else t for n, t in clip.state_dict().items()}
    with storage.atomic_folder(folder) as partial:
        storage.write_json(
            partial / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": preprocess}
        )
        save_file({n: t.contiguous() for n, t in weights.items()}, partial / "open_clip_model.safetensors")


def as_text_encoder(clip: nn.Module, config: dict[str, Any], end_token: int) -> CLIPTextModel:
    """The text tower as transformers' `CLIPTextModel`, the form in which Stable Diffusion carries it."""
    text = config["text_cfg"]
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=text["vocab_size"], hidden_size=text["width"], intermediate_size=4 * text["width"],
            projection_dim=config["embed_dim"], num_hidden_layers=text["layers"],
            num_attention_heads=text["heads"], max_position_embeddings=text["context_length"],
            hidden_act="gelu", bos_token_id=end_token - 1, eos_token_id=end_token, pad_token_id=end_token,
        )
    )  # fmt: skip
    source = clip.state_dict()
    prefix = "text_model." if any(k.startswith("text_model.") for k in model.state_dict()) else ""
    weights = {
        f"{prefix}embeddings.token_embedding.weight": source["token_embedding.weight"],
        f"{prefix}embeddings.position_embedding.weight": source["positional_embedding"],
        f"{prefix}final_layer_norm.weight": source["ln_final.weight"],
        f"{prefix}final_layer_norm.bias": source["ln_final.bias"],
    }
    for i in range(text["layers"]):
        theirs, ours = f"transformer.resblocks.{i}.", f"{prefix}encoder.layers.{i}."
        for part in ("weight", "bias"):
            packed = source[f"{theirs}attn.in_proj_{part}"].chunk(3)
            for name, value in zip(("q_proj", "k_proj", "v_proj"), packed, strict=True):
                weights[f"{ours}self_attn.{name}.{part}"] = value
            weights[f"{ours}self_attn.out_proj.{part}"] = source[f"{theirs}attn.out_proj.{part}"]
            weights[f"{ours}layer_norm1.{part}"] = source[f"{theirs}ln_1.{part}"]
            weights[f"{ours}layer_norm2.{part}"] = source[f"{theirs}ln_2.{part}"]
            weights[f"{ours}mlp.fc1.{part}"] = source[f"{theirs}mlp.c_fc.{part}"]
            weights[f"{ours}mlp.fc2.{part}"] = source[f"{theirs}mlp.c_proj.{part}"]
    model.load_state_dict({**model.state_dict(), **weights}, strict=True)
    return model.eval()
