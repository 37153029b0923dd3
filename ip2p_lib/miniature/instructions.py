"""CLIP's text tower learns to read instructions: as the way from one caption to another.

The full CLIP has read hundreds of millions of texts from the web. The miniature's has read captions, and a tower that
knows captions alone places "the fence should go" nowhere near "remove the fence". So after CLIP is trained, its tower
goes on with the ways in which people ask for a change, while captions must keep the states they had: what was
learned from those, the text-to-image model above all, stays valid. Forms that are kept for tests are not among the texts.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTokenizer

from ip2p_lib.miniature.clip import hidden_states, language_loss, pooled
from ip2p_lib.miniature.pictures import BASE_SEED
from ip2p_lib.miniature.tokenizer import MAX_LENGTH
from ip2p_lib.miniature.wishes import wish
from ip2p_lib.optimisation import FitConfig, Report, fit
from ip2p_lib.scenes.language import caption, instruction
from ip2p_lib.scenes.world import SceneEdit, sample_edit, sample_scenes

FROZEN = ("visual", "logit_scale", "text_projection")  # what pictures and captions are compared by


@dataclass(frozen=True, kw_only=True)
class InstructionRecipe:
    """Sizes and weights of the tower's second training."""

    scenes: int = 30_000
    batch_size: int = 128
    caption_weight: float = 4.0  # captions keep their states
    empty_weight: float = 0.06  # and so does "", counted as one caption in sixteen
    language_weight: float = 0.05
    steps: int = 700
    seed: int = 5

    @property
    def fit(self) -> FitConfig:
        """Optimiser settings."""
        return FitConfig(
            steps=self.steps, learning_rate=1e-3, weight_decay=0.01, adam_beta2=0.98, warmup_steps=40,
            decay_steps=self.steps, max_grad_norm=1.0, ema_decay=0.98, mixed_precision="auto",
        )  # fmt: skip


def asked(edit: SceneEdit, seed: int) -> str:
    """An instruction of the grammar, or a wish in other words."""
    return (wish if seed % 2 else instruction)(edit, seed)


def instruction_loss(
    clip: open_clip.CLIP,
    before_training: open_clip.CLIP,
    recipe: InstructionRecipe,
    texts: tuple[Tensor, Tensor, Tensor],
    empty: Tensor,
) -> Tensor:
    """How far instructions point from the way between their captions, and captions moved from where they were.

    Args:
        before_training: a frozen copy of the tower as it was.
        texts: tokens of captions before the edit, after it, and of the instructions, each (B, T).
        empty: tokens of "", which guidance needs to stay what it was, (1, T).
    """
    before, after, instructions = texts
    with torch.no_grad():
        kept, nothing = hidden_states(before_training, after), hidden_states(before_training, empty)
        start = pooled(before_training, hidden_states(before_training, before), before)
        way = F.normalize(pooled(before_training, kept, after) - start, dim=-1)
    moved = F.mse_loss(hidden_states(clip, after), kept) / kept.var()
    moved = moved + recipe.empty_weight * F.mse_loss(hidden_states(clip, empty), nothing) / kept.var()
    states = hidden_states(clip, instructions)
    turned = 1 - (pooled(clip, states, instructions) * way).sum(-1).mean()
    language = language_loss(clip, states, instructions)
    return turned + recipe.caption_weight * moved + recipe.language_weight * language


def teach_instructions(
    recipe: InstructionRecipe, clip: open_clip.CLIP, tokenizer: CLIPTokenizer, work: Path
) -> Iterator[Report]:
    """Train the text tower of `clip` in place, resuming in `work/clip-instructions`; the picture tower stays."""
    before_training = deepcopy(clip).eval().requires_grad_(False)
    for name, parameter in clip.named_parameters():
        parameter.requires_grad_(not name.startswith(FROZEN))
    scenes = sample_scenes(recipe.scenes, BASE_SEED)

    def tokens_of(texts: list[str]) -> Tensor:
        batch = tokenizer(
            texts, padding="longest", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        )
        return batch.input_ids.to(clip.logit_scale.device)

    nothing = tokenizer("", padding="max_length", max_length=MAX_LENGTH, return_tensors="pt").input_ids

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((recipe.seed, step))
        picked = rng.integers(len(scenes), size=recipe.batch_size)
        edits = [sample_edit(scenes[i], rng) for i in picked]
        seeds = range(step * 7919, step * 7919 + len(edits))
        before, after, instructions = (
            tokens_of([say(e, s) for e, s in zip(edits, seeds, strict=True)])
            for say in (lambda e, s: caption(e.before, s), lambda e, s: caption(e.after, s), asked)
        )
        return instruction_loss(
            clip, before_training, recipe, (before, after, instructions), nothing.to(clip.logit_scale.device)
        )

    return fit(clip, loss_at, recipe.fit, folder=work / "clip-instructions")
