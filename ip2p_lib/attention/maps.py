"""Cross-attention maps, kept while sampling: where each word looks, and where an edit may change the picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


class AttentionMaps:
    """Sum of cross-attention maps over layers of one resolution and over steps, mean over heads."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.total: Tensor | None = None  # (rows, side * side, T)
        self.count = 0

    def add(self, probabilities: Tensor) -> None:
        """Take the maps (rows, heads, N, T) of one layer; other resolutions than `side` are passed over."""
        if probabilities.shape[2] != self.side**2:
            return
        mean = probabilities.float().mean(1)
        self.total = mean if self.total is None else self.total + mean
        self.count += 1

    def of_tokens(self, positions: Sequence[int]) -> Tensor:
        """Mean map of a word's tokens taken together, (rows, side, side), in [0, 1] unless reweighted.

        Raises:
            ValueError: no layer had this resolution.
        """
        if self.total is None:
            raise ValueError(
                f"maps of {self.side} x {self.side} must be met while sampling, but no cross-attention layer"
                " has that resolution"
            )
        chosen = self.total[..., list(positions)].sum(-1) / self.count
        return chosen.unflatten(1, (self.side, self.side))


@dataclass(frozen=True, slots=True)
class LocalBlend:
    """Outside what the named words look at, the target's latents are the source's.

    Args:
        source_tokens, target_tokens: positions of the words in either caption.
        side: resolution of the maps; a quarter of the latents' in Stable Diffusion at 512 pixels.
        threshold: share of a map's maximum from which a place belongs to the word.
        start: share of the steps before which nothing is blended, int(N * start) of them.

    Raises:
        ValueError: a caption's words have no tokens, or a share lies outside [0, 1].

    Source: google/prompt-to-prompt: prompt-to-prompt_stable.ipynb, LocalBlend.
    """

    source_tokens: Sequence[int]
    target_tokens: Sequence[int]
    side: int
    threshold: float = 0.3
    start: float = 0.0

    def __post_init__(self) -> None:
        for name in ("source_tokens", "target_tokens"):
            if not len(getattr(self, name)):
                raise ValueError(
                    f"LocalBlend.{name} must name at least one token, see `positions_of`; got none"
                )
        for name in ("threshold", "start"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise ValueError(f"LocalBlend.{name} is a share and must lie in [0, 1], got {share}")

    def mask(self, maps: AttentionMaps, size: tuple[int, int]) -> Tensor:
        """Where the target may differ, (S, 1, *size) of 0 and 1, from maps of S sources and then S targets."""
        source = maps.of_tokens(self.source_tokens).chunk(2)[0]
        target = maps.of_tokens(self.target_tokens).chunk(2)[1]
        grown = F.max_pool2d(torch.stack([source, target], 1), 3, stride=1, padding=1)
        resized = F.interpolate(grown, size=size)
        most = resized.amax((2, 3), keepdim=True)  # no quotient: a word weighted to nothing is nowhere
        return (resized > self.threshold * most).any(1, keepdim=True).float()
