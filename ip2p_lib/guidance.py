"""Classifier-free guidance with one and two conditions. Pure tensor math, no models."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


def single_guidance(cond: Tensor, uncond: Tensor, guidance_scale: Tensor | float) -> Tensor:
    """Walk from the unconditional prediction through the conditional one.

    Args:
        cond, uncond: predictions, (B, C, h, w).
        guidance_scale: one number or one per row; 1 means no extrapolation.
    """
    return uncond + _per_row(guidance_scale, cond) * (cond - uncond)


def dual_guidance(
    full: Tensor,
    image_only: Tensor,
    uncond: Tensor,
    *,
    guidance_scale: Tensor | float,
    image_guidance_scale: Tensor | float,
) -> Tensor:
    """Combine three predictions into the one the sampler follows.

    Walks from "no condition" to "image" to "image and text", each leg scaled on its own. Linear, so
    it holds for noise, velocity and clean-latent predictions alike.

    Args:
        full: prediction given picture and instruction, (B, C, h, w).
        image_only: given the picture and an empty instruction, same shape.
        uncond: given neither, same shape.
        guidance_scale: s_T, one number or one per row. 1 = no extrapolation; below 1 is legal.
        image_guidance_scale: s_I, likewise.

    Raises:
        ValueError: the three shapes differ.

    Source: InstructPix2Pix (arXiv:2211.09800), section 3.2.1, equation 3.
    """
    if not full.shape == image_only.shape == uncond.shape:
        shapes = [tuple(t.shape) for t in (full, image_only, uncond)]
        raise ValueError(f"the three predictions must have one shape, got {shapes}")
    image_leg = _per_row(image_guidance_scale, full) * (image_only - uncond)
    text_leg = _per_row(guidance_scale, full) * (full - image_only)
    return uncond + image_leg + text_leg


def _per_row(scale: Tensor | float, like: Tensor) -> Tensor | float:
    if not isinstance(scale, Tensor) or scale.ndim == 0:
        return scale
    return scale.to(like).view(-1, *(1,) * (like.ndim - 1))


@dataclass(frozen=True, slots=True)
class Branches:
    """Which predictions an edit needs, and their weights: sum of weight times prediction.

    The same formula as `dual_guidance`, collected by prediction, so that a prediction whose weight is
    zero in every row is never computed: s_T full + (s_I - s_T) image_only + (1 - s_I) uncond.
    """

    has_text: tuple[bool, ...]  # per kept branch
    has_image: tuple[bool, ...]
    weights: Tensor  # (kept branches, B)

    @classmethod
    def of(cls, guidance_scales: Sequence[float], image_guidance_scales: Sequence[float]) -> "Branches":
        """Branches for one pair of scales per row, in the order full, image only, none."""
        text = torch.tensor(list(guidance_scales), dtype=torch.float64)
        image = torch.tensor(list(image_guidance_scales), dtype=torch.float64)
        weights = torch.stack([text, image - text, 1 - image])
        kept = [i for i in range(3) if bool((weights[i] != 0).any())]
        return cls(
            has_text=tuple(i == 0 for i in kept),
            has_image=tuple(i < 2 for i in kept),
            weights=weights[kept].float(),
        )

    def to(self, device: torch.device) -> "Branches":
        """The same on a device, where no step waits for a copy of the weights."""
        return replace(self, weights=self.weights.to(device))

    def combine(self, predictions: Tensor) -> Tensor:
        """Weighted sum over branches, (branches * B, C, h, w) to (B, C, h, w)."""
        stacked = predictions.unflatten(0, self.weights.shape)
        weights = self.weights.to(predictions).view(*self.weights.shape, *(1,) * (stacked.ndim - 2))
        return (weights * stacked).sum(0)
