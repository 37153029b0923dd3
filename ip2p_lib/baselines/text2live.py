"""Text2LIVE (Bar-Tal et al. 2022): for each picture a small network learns to paint one layer over it."""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ip2p_lib import images, storage
from ip2p_lib.backbone import ClipEncoder
from ip2p_lib.baselines import layer_losses as losses
from ip2p_lib.baselines.systems import Edited, System
from ip2p_lib.records import Triplet
from ip2p_lib.similarity import text_features

SHARES = (1.0, 0.5, 0.25, 0.1)  # the whole training first: it passes by the others, which then cost nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveConfig:
    """How a layer is learned. Weights, iterations and views are the released code's.

    Raises:
        ValueError: a count is below 1.
    """

    iterations: int = 1_000
    learning_rate: float = 2.5e-3  # deviation: Adam, as MADGRAD would be one more dependency
    views: int = 16  # of each picture and iteration; the first is the whole
    width: int = 128  # channels of the network
    scales: int = 5  # times that it halves the side, as far as the picture allows
    composition: float = (
        1.0  # weight of the edited picture's distance from its text, and from the change of text
    )
    screen: float = 1.0  # of the layer's own, over green
    structure: float = 2.0
    opacity_l1: float = 0.06
    opacity_l0: float = 0.06
    screen_text: str = "{} over a green screen"

    @classmethod
    def for_side(cls, resolution: int) -> "LiveConfig":
        """The released effort at 512 pixels; less for smaller pictures, which have less to paint."""
        return cls(
            iterations=min(1_000, 2 * resolution),
            width=min(128, max(16, resolution // 4)),
            views=min(16, max(4, resolution // 32)),
        )

    def __post_init__(self) -> None:
        for name in ("iterations", "views", "width", "scales"):
            if getattr(self, name) < 1:
                raise ValueError(f"LiveConfig.{name} must be at least 1, got {getattr(self, name)}")


def _stage(before: int, after: int, stride: int = 1) -> nn.Sequential:
    groups = next(g for g in (8, 4, 2, 1) if after % g == 0)
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, padding_mode="replicate"),
        nn.GroupNorm(groups, after),
        nn.LeakyReLU(0.2),
    )


class LayerPainter(nn.Module):
    """A U-Net from a picture to a layer over it. It starts out nearly transparent."""

    def __init__(self, width: int, scales: int) -> None:
        super().__init__()
        self.first = _stage(3, width)
        self.down = nn.ModuleList(_stage(width, width, stride=2) for _ in range(scales))
        self.up = nn.ModuleList(_stage(2 * width, width) for _ in range(scales))
        self.last = nn.Conv2d(width, 4, 1)
        with torch.no_grad():
            self.last.bias[3] = -2.0  # type: ignore[index]

    def forward(self, pixels: Tensor) -> Tensor:
        """Colour and opacity (B, 4, H, W) in [0, 1] for pictures (B, 3, H, W) in [0, 1]."""
        x, skips = self.first(images.from_unit(pixels)), []
        for stage in self.down:
            skips.append(x)
            x = stage(x)
        for stage, skip in zip(self.up, reversed(skips), strict=True):
            grown = F.interpolate(x, skip.shape[2:], mode="bilinear", align_corners=False)
            x = stage(torch.cat([grown, skip], dim=1))
        return torch.sigmoid(self.last(x))


def new_painter(
    config: LiveConfig, size: tuple[int, int], seed: int, device: torch.device | str
) -> LayerPainter:
    """A painter with random weights that depend on the seed alone; no deeper than four pixels allow."""
    scales = max(1, min(config.scales, min(size).bit_length() - 3))
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        return LayerPainter(config.width, scales).to(device)


@dataclass(frozen=True, slots=True)
class LiveStep:
    """State after one iteration."""

    index: int  # 0-based
    parts: dict[str, float]  # each weighted part of the objective, before this iteration's update
    layer: Tensor  # (1, 4, H, W) in [0, 1], before this iteration's update

    @property
    def objective(self) -> float:
        """What is made small."""
        return sum(self.parts.values())


class Objective:
    """The losses of one picture and its texts; views are drawn anew each time."""

    def __init__(
        self, clip: ClipEncoder, picture: Tensor, triplet: Triplet, config: LiveConfig, seed: int
    ) -> None:
        self.clip, self.picture, self.config = clip, picture, config
        texts = [triplet.input, triplet.output, config.screen_text.format(triplet.output)]
        self.before, self.after, self.screen = text_features(clip, texts).split(1)
        self.generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.places = losses.places_of(clip, picture)

    def parts(self, layer: Tensor) -> dict[str, Tensor]:
        """Weighted losses of a layer (1, 4, H, W), by name."""
        c, size = self.config, self.clip.size
        edited, alone = losses.composite(layer, self.picture), losses.over_green(layer)
        maps = losses.random_views(c.views, self.generator)
        seen = [losses.take_views(p, maps, size) for p in (edited, alone)]
        shown, screened = losses.embed(self.clip, torch.cat(seen)).chunk(2)
        with torch.no_grad():
            was = losses.embed(self.clip, losses.take_views(self.picture, maps, size))
        l1, l0 = losses.sparsity(layer[:, 3:])
        return {
            "text": c.composition * losses.text_loss(shown, self.after),
            "direction": c.composition * losses.direction_loss(was, shown, self.before, self.after),
            "screen": c.screen * losses.text_loss(screened, self.screen),
            "structure": c.structure
            * losses.structure_loss(self.places, losses.places_of(self.clip, edited)),
            "opacity_l1": c.opacity_l1 * l1,
            "opacity_l0": c.opacity_l0 * l0,
        }


def live_layers(
    clip: ClipEncoder, picture: Tensor, triplet: Triplet, config: LiveConfig, *, seed: int = 0
) -> Iterator[LiveStep]:
    """Learn a layer over one picture, yielding at each iteration; stop by leaving the loop.

    Args:
        picture: (1, 3, H, W) in [0, 1].
        triplet: its input caption says what is there, its output caption what should be.
        seed: of the network's first weights and of the views.

    Source: Text2LIVE (arXiv:2204.02491), section 3. Without the relevancy bootstrap, which it leaves optional.
    """
    picture = picture.to(clip.device)
    objective = Objective(clip, picture, triplet, config, seed)
    painter = new_painter(config, (picture.shape[2], picture.shape[3]), seed, picture.device)
    optimiser = torch.optim.Adam(painter.parameters(), lr=config.learning_rate)
    for index in range(config.iterations + 1):  # the last only shows what the one before has learned
        with torch.enable_grad():
            layer = painter(picture)
            parts = objective.parts(layer)
            if index < config.iterations:
                optimiser.zero_grad()
                sum(parts.values()).backward()  # type: ignore[union-attr]
                optimiser.step()
        yield LiveStep(index, {n: v.item() for n, v in parts.items()}, layer.detach())


def painted_at(
    clip: ClipEncoder, picture: Image.Image, triplet: Triplet, config: LiveConfig, wanted: Set[int], seed: int
) -> Iterator[tuple[int, Edited]]:
    """What one training shows at some of its iterations; it ends with the last of them."""
    pixels = images.to_unit(images.to_tensor([picture]))
    for step in live_layers(clip, pixels, triplet, config, seed=seed):
        if step.index in wanted:
            edited = losses.composite(step.layer.cpu(), pixels)
            yield step.index, Edited(images.to_pictures(images.from_unit(edited))[0])
        if step.index >= max(wanted):
            return


def text2live(clip: ClipEncoder, config: LiveConfig | None = None) -> System:
    """Text2LIVE as a system; the dial is the share of the iterations that are run.

    One training serves all values up to its own, so measure the largest first.
    """
    chosen = config or LiveConfig()
    passed: dict[tuple[Any, ...], dict[int, Edited]] = {}  # results of each edit by iteration

    def run(
        pictures: Sequence[Image.Image], triplets: Sequence[Triplet], value: float, seeds: Sequence[int]
    ) -> list[Edited]:
        if not 0 <= value <= 1:
            raise ValueError(f"the share of iterations must lie in 0..1, got {value}")
        last = round(value * chosen.iterations)
        wanted = {last, *(round(s * chosen.iterations) for s in SHARES if s < value)}
        out = []
        for picture, triplet, seed in zip(pictures, triplets, seeds, strict=True):
            key = images.digest(picture), triplet.input, triplet.output, seed
            if last not in passed.get(key, {}):
                passed[key] = dict(painted_at(clip, picture, triplet, chosen, wanted, seed))
            out.append(passed[key][last])
        return out

    return System(
        name="text2live",
        about="Text2LIVE: a layer painted over the picture, trained for each",
        dial="share of the iterations",
        values=SHARES,
        run=run,
        mark=storage.fingerprint([clip.mark, str(chosen)]),
        slow=True,
    )
