"""The judge: reads a scene's attributes off a picture. An instrument for measuring, never for training."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ip2p_lib.scenes.world import ATTRIBUTES, EXTRAS, Scene


class _Block(nn.Module):
    """Halve the side, then one residual step."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(before, after, 4, stride=2, padding=1)
        self.norm = nn.GroupNorm(8, after)
        self.conv = nn.Conv2d(after, after, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, after)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.down(x)))
        return x + F.silu(self.norm2(self.conv(x)))


class Judge(nn.Module):
    """One small network with a head for each attribute and one logit for each extra object."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 192)) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(_Block(a, b) for a, b in zip((3, *widths), widths, strict=False)))
        self.trunk = nn.Linear(widths[-1] * 16, 384)
        self.heads = nn.ModuleDict({name: nn.Linear(384, len(v)) for name, v in ATTRIBUTES.items()})
        self.extras = nn.Linear(384, len(EXTRAS))

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits by attribute name, and under "extras", for pictures (B, 3, 64, 64) in [-1, 1]."""
        x = F.silu(self.trunk(self.blocks(pixels).flatten(1)))
        return {**{name: head(x) for name, head in self.heads.items()}, "extras": self.extras(x)}


def labels_of(scenes: list[Scene]) -> dict[str, Tensor]:
    """Attribute indices (B,) by name, and the extras' presence (B, 4) as floats."""
    labels = {
        name: torch.tensor([values.index(getattr(s, name)) for s in scenes])
        for name, values in ATTRIBUTES.items()
    }
    labels["extras"] = torch.tensor([[float(e in s.extras) for e in EXTRAS] for s in scenes])
    return labels


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge saw in one picture: attribute values by name, and the extras present."""

    attributes: dict[str, str]
    extras: frozenset[str]

    def differs(self, scene: Scene) -> list[str]:
        """Names of the attributes and extras on which picture and scene disagree."""
        wrong = [name for name, value in self.attributes.items() if value != getattr(scene, name)]
        return wrong + [e for e in EXTRAS if (e in self.extras) != (e in scene.extras)]

    def agrees(self, scene: Scene) -> bool:
        """Whether the picture shows all of the scene's attributes, and no extra but its own."""
        return not self.differs(scene)


@torch.no_grad()
def read_attributes(judge: Judge, pixels: Tensor, *, batch_size: int = 256) -> list[Verdict]:
    """What the judge sees in pictures (N, 3, H, W) in [-1, 1]; other sizes are reduced to 64 px."""
    verdicts: list[Verdict] = []
    device = next(judge.parameters()).device
    for block in pixels.split(batch_size):
        if block.shape[-1] != 64:
            block = F.interpolate(block, (64, 64), mode="area")
        logits = judge(block.to(device).float())
        best = {name: logits[name].argmax(1).tolist() for name in ATTRIBUTES}
        seen = (logits["extras"] > 0).tolist()
        verdicts += [
            Verdict(
                {name: ATTRIBUTES[name][best[name][i]] for name in ATTRIBUTES},
                frozenset(e for e, here in zip(EXTRAS, seen[i], strict=True) if here),
            )
            for i in range(len(block))
        ]
    return verdicts


def right_by_attribute(verdicts: Sequence[Verdict], scenes: Sequence[Scene]) -> dict[str, float]:
    """Share of pictures that show each attribute as their scene has it, and of each extra's scenes those that show it."""
    shares = {
        name: sum(v.attributes[name] == getattr(s, name) for v, s in zip(verdicts, scenes, strict=True))
        / len(scenes)
        for name in ATTRIBUTES
    }
    for extra in EXTRAS:
        shown = [extra in v.extras for v, s in zip(verdicts, scenes, strict=True) if extra in s.extras]
        shares |= {extra: sum(shown) / len(shown)} if shown else {}
    return shares
