"""How the judge is trained: true renders, roughened so that it reads generated pictures as well."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ip2p_lib.judge import Judge, labels_of
from ip2p_lib.miniature.pictures import JUDGE_SEED, as_tensor, drawn_scenes
from ip2p_lib.optimisation import FitConfig, Report, batch_indices, fit


@dataclass(frozen=True, kw_only=True)
class JudgeRecipe:
    """Sizes of the judge's training."""

    pictures: int = 40_000
    batch_size: int = 64
    steps: int = 1_200
    seed: int = 13

    @property
    def fit(self) -> FitConfig:
        """Optimiser settings."""
        return FitConfig(
            steps=self.steps, learning_rate=2e-3, weight_decay=0.02, adam_beta2=0.99, warmup_steps=50,
            decay_steps=self.steps, max_grad_norm=1.0, ema_decay=0.99, mixed_precision="auto",
        )  # fmt: skip


def roughen(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Leave a third of the pictures as they are, blur a third, add noise to a third."""
    draw = torch.rand(len(pixels), 1, 1, 1, generator=generator)
    half = F.avg_pool2d(pixels, 2)
    soft = 0.5 * pixels + 0.5 * F.interpolate(half, pixels.shape[-2:], mode="bilinear", align_corners=False)
    noisy = pixels + 0.12 * torch.randn(pixels.shape, generator=generator)
    return torch.where(draw < 0.33, soft, torch.where(draw < 0.66, noisy, pixels))


def train_judge(recipe: JudgeRecipe, work: Path) -> Iterator[Report]:
    """Train the judge, resuming in `work/judge`."""
    scenes, pictures = drawn_scenes(recipe.pictures, JUDGE_SEED, work)
    labels = labels_of(scenes)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(recipe.seed)
        judge = Judge()
    generator = torch.Generator()

    def loss_at(step: int) -> Tensor:
        picked = np.sort(batch_indices(len(pictures), recipe.batch_size, step, recipe.seed))
        generator.manual_seed(recipe.seed * 1_000_003 + step)
        device = judge.trunk.weight.device
        logits = judge(roughen(as_tensor(pictures[picked]), generator).to(device))
        truth = {name: values[picked].to(device) for name, values in labels.items()}
        losses = [F.cross_entropy(logits[n].float(), truth[n]) for n in truth if n != "extras"]
        return sum(losses) + 4 * F.binary_cross_entropy_with_logits(logits["extras"].float(), truth["extras"])

    return fit(judge, loss_at, recipe.fit, folder=work / "judge")
