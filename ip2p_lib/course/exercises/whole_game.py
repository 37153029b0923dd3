"""Exercises of notebook 00: four more channels, what training drops, and two guidance scales."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ip2p_lib.course.exercises.checks import need, one_of, same_tensor
from ip2p_lib.course.exercises.grading import Exercise
from ip2p_lib.guidance import Branches, dual_guidance
from ip2p_lib.training.loss import conditioning_dropout


def wider(weight: Tensor, extra: int) -> Tensor:
    """A convolution's weight (C_out, C_in, k, k) with `extra` input channels more, all of them ignored."""
    return F.pad(weight, (0, 0, 0, 0, 0, extra))


def check_wider(answer: Callable[..., Any], seed: int) -> None:
    """Shape, the old weights, the new ones, and what the layer then computes."""
    generator = torch.Generator().manual_seed(seed)
    weight, extra = torch.randn(6, 4, 3, 3, generator=generator), 3
    got = answer(weight, extra)
    need(isinstance(got, Tensor), "The weight must be a tensor.", f"got {type(got).__name__}")
    said = f"must be {(6, 4 + extra, 3, 3)}, got {tuple(got.shape)}"
    need(
        got.shape != (6 + extra, 4, 3, 3),
        "It is the input that grows: the second dimension, not the first.",
        said,
    )
    need(got.shape == (6, 4 + extra, 3, 3), 1, said)
    need(
        not torch.equal(got[:, extra:], weight),
        "The new channels come after the old ones: the noise stays in front.",
    )
    need(
        torch.equal(got[:, :4], weight),
        "The old weights must stay as they are.",
        "the first 4 channels changed",
    )
    need(not got[:, 4:].any(), 0, f"new weights up to {got[:, 4:].abs().max():.2g}")


def network_input(noisy: Tensor, picture: Tensor, drop_image: Tensor) -> Tensor:
    """What the wide UNet is given, (B, 2C, h, w): noise, then the picture, zeros where it is dropped."""
    return torch.cat([noisy, torch.where(drop_image.view(-1, 1, 1, 1), 0.0, picture)], dim=1)


def check_input(answer: Callable[..., Any], seed: int) -> None:
    """Three rows, of which one loses its picture."""
    generator = torch.Generator().manual_seed(seed)
    noisy, picture = torch.randn(2, 3, 4, 5, 5, generator=generator)
    drop, none = torch.tensor([False, True, False]), torch.zeros(3, dtype=torch.bool)
    kept = torch.where(drop.view(-1, 1, 1, 1), picture, 0.0)
    gone = torch.where(drop.view(-1, 1, 1, 1), 0.0, torch.cat([noisy, picture], 1))
    expected = network_input(noisy, picture, drop)
    slips = [
        (torch.cat([expected[:, 4:], noisy], 1), "The noise comes first: its channels are those that the old weights read."),
        (network_input(noisy, picture, none), "Where drop_image is True, the picture's channels must be zeros."),
        (torch.cat([noisy, kept], 1), "True means dropped: those rows lose their picture, the others keep it."),
        (gone, "Drop the picture alone; the noise is what the network has to clean."),
        (torch.cat([noisy, expected[:, 4:]], 0), "Join them as channels (dimension 1), not as more rows."),
        (noisy + expected[:, 4:], "Do not add them: the network has channels of its own for the picture."),
    ]  # fmt: skip
    same_tensor(answer(noisy, picture, drop), expected, slips=slips, hint=1, what="the network's input")


def check_dropout(answer: Callable[..., Any], seed: int) -> None:
    """A fine row of draws: which events there are, and where they lie."""
    prob = 0.05 + 0.01 * (seed % 5)
    u = torch.arange(0.0005, 1, 0.001)
    got = answer(u, prob)
    both = isinstance(got, tuple | list) and len(got) == 2 and all(isinstance(g, Tensor) for g in got)
    need(both, "Return two tensors: (drop_text, drop_image).", f"got {type(got).__name__}")
    text, image = (g.bool() for g in got)
    need(text.shape == image.shape == u.shape, 1, f"must be {tuple(u.shape)} each, got {tuple(text.shape)}")
    right_text, right_image = conditioning_dropout(u, prob)
    shares = [f"{e.float().mean():.3f}" for e in (text & ~image, text & image, ~text & image)]
    seen = f"text alone {shares[0]}, both {shares[1]}, picture alone {shares[2]}; each must be {prob:.2f}"
    swapped = torch.equal(text, right_image) and torch.equal(image, right_text)
    need(not swapped, "Order: text alone lies first, from 0 to prob, and the text's mask is returned first.")
    need(
        bool((text & image).any()),
        "There is no draw that drops both; the unconditional prediction is learned there.",
        seen,
    )
    need(bool((text ^ image).any()), "Always both or neither: each must sometimes go alone.", seen)
    inside = not bool((text[u > 3 * prob] | image[u > 3 * prob]).any())
    need(inside, "More than 3 * prob of all draws drop something.", seen)
    need(
        bool((text & ~image).any()), "No draw drops the text alone: the picture is kept while u < prob.", seen
    )
    need(bool((image & ~text).any()), "No draw drops the picture alone: the text returns at 2 * prob.", seen)
    need(torch.equal(text, right_text) and torch.equal(image, right_image), 1, seen)


def two_scales(full: Tensor, image: Tensor, none: Tensor, text_scale: float, image_scale: float) -> Tensor:
    """The prediction that the sampler follows, from those with picture and text, picture alone, and neither."""
    return dual_guidance(full, image, none, guidance_scale=text_scale, image_guidance_scale=image_scale)


def check_scales(answer: Callable[..., Any], seed: int) -> None:
    """General scales against the ways to mix them up; then the scales at which the answer is known."""
    generator = torch.Generator().manual_seed(seed)
    full, image, none = torch.randn(3, 2, 4, 5, 5, generator=generator)
    t, i = 7.5, 1.5
    slips = [
        (two_scales(full, image, none, i, t), "Your factors stand at each other's term: s_I belongs to the step from nothing to the picture."),
        (none + i * (image - none) + t * (full - none), "The text's step begins where the picture's step ended: at e(I, nothing)."),
        (i * (image - none) + t * (full - image), "The walk begins somewhere: at the prediction without any condition."),
        (none + t * (full - none), "That is ordinary guidance with one scale; the picture's step is missing."),
        (none + i * (none - image) + t * (image - full), "Each step goes from less condition to more; yours go backwards."),
        (image + i * (image - none) + t * (full - image), "The picture's step is counted once too often: begin at e(nothing, nothing)."),
        (image + t * (full - image), "The picture's step is not scaled: s_I is missing."),
    ]  # fmt: skip
    got = answer(full, image, none, t, i)
    same_tensor(got, two_scales(full, image, none, t, i), slips=slips, hint=1, what="the guided prediction")
    same_tensor(answer(full, image, none, 1.0, 1.0), full, hint="With both scales 1 it must be e(I, T).")
    same_tensor(
        answer(full, image, none, 0.0, 0.0),
        none,
        hint="A scale of 0 is legal: both 0 must leave e(nothing, nothing).",
    )


def branches(text_scale: float, image_scale: float) -> tuple[str, ...]:
    """Names of the predictions whose weight is not zero, of "full", "image" and "none"."""
    kept = Branches.of([text_scale], [image_scale])
    names = {(True, True): "full", (False, True): "image", (False, False): "none"}
    return tuple(names[pair] for pair in zip(kept.has_text, kept.has_image, strict=True))


def check_branches(answer: Callable[..., Any], seed: int) -> None:
    """A general pair of scales, then each special one."""
    s = 1.5 + seed / 10
    cases: list[tuple[float, float, int | str]] = [
        (7.5, s, "In general all three predictions count: only special scales spare one."),
        (7.5, 1.0, "At s_I = 1 one prediction leaves the formula. Whose weight is 1 - s_I?"),
        (s, s, "Where both scales are equal, e(I, nothing) leaves: its weight is s_I - s_T."),
        (1.0, 1.0, "With both scales 1 the formula is e(I, T) alone."),
        (2.0, 0.0, "s_I = 0 spares nothing: the weights are s_T, -s_T and 1."),
        (0.0, 1.0, "At s_T = 0 the text plays no part: e(I, T) has the weight s_T."),
        (0.0, 0.0, "With both scales 0 only e(nothing, nothing) is left."),
        (0.5, s, "A scale below 1 is legal, and its predictions count like any others."),
    ]
    for text, image, hint in cases:
        got = answer(text, image)
        named = isinstance(got, tuple | list | set | frozenset) and set(got) <= {"full", "image", "none"}
        need(named, 'Return names: some of "full", "image" and "none".', f"got {got!r:.60}")
        expected = branches(text, image)
        said = f"s_T = {text:g}, s_I = {image:g}: must be {sorted(expected)}, got {sorted(got)}"
        need(set(got) == set(expected), hint, said)


CAUSES = {
    "a": "If it were not used, raising the text scale would change nothing; their pictures do change.",
    "c": "That differs from ours at equal scales too, for the picture's step is then counted more than once.",
    "d": "Another null would change the result at equal scales too; there it is ours.",
    "e": "Other noise would give other pictures at equal scales too; there they are ours.",
}


def check_cause(answer: Any, seed: int) -> None:
    """The symptoms are those of scales that have changed places."""
    one_of(answer, "b", CAUSES)


EXERCISES = (
    Exercise(
        "00.1", "Four channels that change nothing", 1, 5, 4, wider, check_wider,
        (
            "Before training the network must not notice its new input, whatever it is. Which weights ignore their input?",
            "A weight is (C_out, C_in, k, k): join zeros of shape (C_out, extra, k, k) along dimension 1, after the old ones.",
        ),
    ),
    Exercise(
        "00.2", "What the network is given", 2, 4, 5, network_input, check_input,
        (
            "Noise and picture are channels of one input. A dropped picture is a picture of zeros.",
            "Make drop_image (B,) into (B, 1, 1, 1), put zeros into those rows of the picture, then torch.cat along dimension 1.",
        ),
    ),
    Exercise(
        "00.3", "One draw, three events", 3, 5, 8, conditioning_dropout, check_dropout,
        (
            "Three predictions are needed later, so the network must see three kinds of missing condition. One draw picks: text alone, both, picture alone, or nothing.",
            "Cut [0, 1) at prob, 2 * prob and 3 * prob. The text is missing in the first two parts, the picture in the second and third.",
        ),
    ),
    Exercise(
        "00.4", "Two scales", 2, 5, 5, two_scales, check_scales,
        (
            "Walk from no condition to the picture, then from the picture to picture and text. Each step has its own factor.",
            "none + image_scale * (image - none) + a second step of the same form.",
        ),
    ),
    Exercise(
        "00.5", "Which predictions can be spared?", 3, 4, 8, branches, check_branches,
        (
            "Write the formula as a sum of the three predictions, each with one weight. What has weight 0 need not be computed.",
            "The weights are s_T for full, s_I - s_T for image, 1 - s_I for none.",
        ),
    ),
    Exercise(
        "00.6", "Break it: the more I ask, the less happens", 3, 4, 6, "b", check_cause,
        (
            "At equal scales their pictures are ours. Which of the faults cannot be seen just there?",
            "Raising the image scale should hold the picture. What raises it in their version?",
        ),
    ),
)  # fmt: skip
