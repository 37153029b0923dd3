"""What the notebooks' controls choose among: plain values and pictures, made beforehand or at once. No widget is in here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log10
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from ip2p_lib import records
from ip2p_lib.attention import AttentionMaps
from ip2p_lib.course.figures import BLUE, INK, ORANGE, PAPER
from ip2p_lib.diffusion import Schedule
from ip2p_lib.filtering import passes
from ip2p_lib.presets import FilterConfig
from ip2p_lib.training import conditioning_dropout


@dataclass(frozen=True, slots=True)
class Noised:
    """Latents at one timestep of the forward process, (B, C, h, w), of which `kept` of the variance is signal."""

    timestep: int
    kept: float
    latents: Tensor

    @property
    def signal_to_noise(self) -> float:
        """Ratio of the variances of signal and noise, for latents of unit variance."""
        return self.kept / (1 - self.kept)

    @property
    def decibels(self) -> float:
        """The same in dB: 0 where signal and noise are equal."""
        return 10 * log10(self.signal_to_noise)


def forward_process(
    schedule: Schedule, latents: Tensor, noise: Tensor, timesteps: Sequence[int]
) -> list[Noised]:
    """The same latents and the same noise, (B, C, h, w), mixed as at each of `timesteps`.

    Raises:
        ValueError: a timestep is not one of the schedule's.
    """
    count = schedule.num_train_timesteps
    for t in timesteps:
        if not 0 <= t < count:
            raise ValueError(f"a timestep must lie in 0..{count - 1}, got {t}")
    return [
        Noised(
            t,
            float(schedule.alphas_cumprod[t]),
            schedule.add_noise(latents, noise, torch.full((len(latents),), t)),
        )
        for t in timesteps
    ]


def maps_by_step(
    steps: Iterable[Any], maps: AttentionMaps, words: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """Where each word of one pair's target looks in each step, (N, side, side).

    Args:
        steps: a run of `word_pair_steps` with one seed that fills `maps`.
        maps: those that it fills; they add up over the steps.
        words: positions of each word's tokens in the target's caption.

    Raises:
        ValueError: there were no steps.
    """
    sums, counts = {word: [torch.zeros(maps.side, maps.side)] for word in words}, [0]
    for _ in steps:
        counts.append(maps.count)
        for word, positions in words.items():
            sums[word].append(maps.of_tokens(positions)[1] * maps.count)
    if len(counts) == 1:
        raise ValueError("maps by step need a run of at least one step, got none")
    each = torch.tensor(counts).diff().view(-1, 1, 1)
    return {word: torch.stack(s).diff(dim=0) / each for word, s in sums.items()}


@dataclass(frozen=True, slots=True)
class Selection:
    """Numbers of the candidates that bounds keep and reject, each list from the nearest to its bounds to the farthest."""

    kept: tuple[int, ...]
    rejected: tuple[int, ...]

    def bought(self, exact: Sequence[bool]) -> tuple[float, float]:
        """Precision and recall of the kept ones, in [0, 1]; a share of nothing is 0."""
        right = sum(bool(exact[i]) for i in self.kept)
        return right / max(1, len(self.kept)), right / max(1, sum(map(bool, exact)))


def select_by_bounds(scores: Sequence[Mapping[str, float]], config: FilterConfig) -> Selection:
    """Candidates by the bounds of the filter alone, not by the best of each triplet.

    The distance to a bound is counted in standard deviations of its score, so that the four can be compared.
    """
    bounds = dict(
        zip(
            records.SIMILARITIES,
            (config.min_text, config.min_text, config.min_direction, config.min_image),
            strict=True,
        )
    )
    spread = {n: float(np.std([s[n] for s in scores])) or 1.0 for n in bounds}
    slack = [min((s[n] - bound) / spread[n] for n, bound in bounds.items()) for s in scores]
    kept = [i for i, s in enumerate(scores) if passes(s, config)]
    rejected = sorted(set(range(len(scores))) - set(kept))
    return Selection(
        tuple(sorted(kept, key=lambda i: slack[i])), tuple(sorted(rejected, key=lambda i: -slack[i]))
    )


def likeliest(
    logits: Tensor, temperature: float, words: Sequence[str], most: int = 6
) -> list[tuple[str, float]]:
    """The likeliest next tokens and their probabilities at a temperature, the likeliest first.

    Args:
        logits: of all tokens, (V,).
        words: what each token reads, V of them.

    Raises:
        ValueError: the temperature is not above 0.
    """
    if temperature <= 0:
        raise ValueError(f"the temperature must be above 0, got {temperature}")
    top = (logits.double() / temperature).softmax(-1).topk(min(most, len(logits)))
    return [(words[i], p) for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)]


def bars(shares: Sequence[tuple[str, float]], *, marked: str = "", width: int = 560) -> Image.Image:
    """Horizontal bars of shares in [0, 1] with their names and percentages; the `marked` one has another colour and a star."""
    row, left, right = 24, 170, 60
    sheet = Image.new("RGB", (width, row * len(shares) + 8), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for i, (name, share) in enumerate(shares):
        top = 4 + i * row
        is_marked = bool(marked) and name == marked
        draw.text((6, top + 2), f"{name} *" if is_marked else name, INK, font)
        end = left + round(share * (width - left - right))
        draw.rectangle((left, top + 2, max(end, left + 1), top + row - 6), ORANGE if is_marked else BLUE)
        draw.text((end + 6, top + 2), f"{share:.1%}", INK, font)
    return sheet


@dataclass(frozen=True, slots=True)
class Given:
    """Which conditions a training example keeps, and which of the three predictions it teaches, if any."""

    text: bool
    picture: bool

    @property
    def teaches(self) -> str:
        """The prediction in words and in the guidance's notation."""
        if self.picture:
            return "with picture and text, e(I, T)" if self.text else "with the picture alone, e(I, nothing)"
        return "with the text alone, which guidance never asks for" if self.text else "with nothing at all"


def given_at(draw: float, prob: float) -> Given:
    """What one draw in [0, 1) leaves of an example's conditions when each event has the share `prob`.

    Raises:
        ValueError: the draw lies outside [0, 1), or the share outside [0, 1/3].
    """
    if not 0 <= draw < 1:
        raise ValueError(f"a draw must lie in [0, 1), got {draw}")
    drop_text, drop_picture = conditioning_dropout(torch.tensor([draw], dtype=torch.float64), prob)
    return Given(not drop_text.item(), not drop_picture.item())


def outlined(picture: Image.Image, mask: np.ndarray, scale: int = 2) -> Image.Image:
    """A picture enlarged by a whole number, with a line around the places of a mask (H, W) of truth values.

    Raises:
        ValueError: picture and mask differ in size.
    """
    if mask.shape != (picture.height, picture.width):
        raise ValueError(
            f"the mask must be (H, W) = {(picture.height, picture.width)} as the picture is, got {mask.shape}"
        )
    size = picture.width * scale, picture.height * scale
    inside = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
    edge = ImageChops.subtract(inside, inside.filter(ImageFilter.MinFilter(3)))
    out = picture.resize(size, Image.Resampling.NEAREST)
    out.paste(Image.new("RGB", size, ORANGE), (0, 0), edge)
    return out
