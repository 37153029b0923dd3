"""Exercises of notebook 04: a wider layer, dropped conditions, the target, the average, who learns to see."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ip2p_lib.backbone import Backbone
from ip2p_lib.course.exercises.checks import need, one_of, same_tensor, same_value
from ip2p_lib.course.exercises.details import (
    check_event,
    check_flip,
    check_frozen,
    check_memory,
    may_flip,
    only_first_layer,
    updates_until,
)
from ip2p_lib.course.exercises.grading import Exercise
from ip2p_lib.course.exercises.widening import (
    check_layer_cause,
    check_test,
    check_wider,
    ignores_the_picture,
    noise,
)
from ip2p_lib.diffusion import Schedule, training_target
from ip2p_lib.training import conditioning_dropout
from ip2p_lib.unet import extend_input_channels


def check_dropout(answer: Callable[..., Any], seed: int) -> None:
    """Draws over the whole range, bounds among them, at two rates."""
    draws = torch.cat(
        [torch.rand(400, generator=torch.Generator().manual_seed(seed)), torch.tensor([0.0, 0.99])]
    )
    for p in (0.05, 0.2):
        d = torch.cat([draws, torch.tensor([p, 2 * p, 3 * p])])
        text, image = conditioning_dropout(d, p)
        first, second, third = d < p, (p <= d) & (d < 2 * p), (2 * p <= d) & (d < 3 * p)
        got = answer(d, p)
        need(isinstance(got, tuple | list) and len(got) == 2, "Give two masks: (drop_text, drop_image).")
        for mask in got:
            good = isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.shape == d.shape
            need(good, "Both masks must be boolean tensors of the draws' shape.", f"got {mask!r:.60}")
        slips = [
            ((image, text), "The masks are exchanged: text first."),
            ((first, second), "With neither row in common, nothing is ever dropped together."),
            ((first, image), "In [p, 2p) both go: the text is dropped below 2p."),
            ((text, second), "In [2p, 3p) the picture is dropped, and the text kept."),
            (
                (text, text),
                "Where text and picture always go together, `the picture alone` is never learned.",
            ),
            ((text, d < 3 * p), "In [0, p) the picture stays: it is dropped from p on."),
            ((first, third), "In [p, 2p) both are dropped."),
            ((~text, ~image), "True means dropped, not kept."),
            (
                (text, d >= 1 - 2 * p),
                "Text and picture are dropped at opposite ends: they never go together.",
            ),
        ]
        for wrong, hint in slips:
            need(not all(torch.equal(g, w) for g, w in zip(got, wrong, strict=True)), hint)
        off = torch.stack([(got[0] != text), (got[1] != image)]).any(0)
        need(
            not off.any(), 1, f"wrong for draws such as {d[off][:3].tolist()} at p = {p}" if off.any() else ""
        )


def target_of(kind: str, latents: Tensor, noise: Tensor, kept: Tensor) -> Tensor:
    """What the network should answer, (B, C, h, w), for rows that keep a share `kept` (B,) of the signal's variance."""
    return training_target(Schedule(kept, kind), latents, noise, torch.arange(len(kept)))


def check_target(answer: Callable[..., Any], seed: int) -> None:
    """Both kinds, at three levels, so that a wrong shape or a missing root shows."""
    x0, eps = (noise(seed + i, 3, 4, 5, 6) for i in (0, 1000))
    kept = torch.tensor([0.9, 0.5 - seed / 100, 0.1])
    a = kept.view(-1, 1, 1, 1)
    s, n = a.sqrt(), (1 - a).sqrt()
    same_tensor(
        answer("epsilon", x0, eps, kept), eps, what="the target of epsilon",
        slips=[
            (x0, "That is the clean picture. A network of this kind answers with the noise."),
            (s * x0 + n * eps, "That is what the network is given, not what it should answer."),
            (s * eps - n * x0, "That is the velocity: the right answer of the other kind."),
        ],
    )  # fmt: skip
    same_tensor(
        answer("v_prediction", x0, eps, kept), s * eps - n * x0, hint=1, what="the target of v_prediction",
        slips=[
            (eps, "That is the noise: the right answer of the other kind."),
            (s * x0 + n * eps, "That is what the network is given, not what it should answer."),
            (n * x0 - s * eps, "The signs are exchanged: noise minus picture."),
            (s * x0 - n * eps, "The roots stand at the wrong terms: the noise gets the root of kept."),
            (n * eps - s * x0, "The roots stand at the wrong terms: the noise gets the root of kept."),
            (a * eps - (1 - a) * x0, "Roots are missing: `kept` is a share of the variance, amplitudes are its roots."),
            (s * eps + n * x0, "The picture is subtracted, not added."),
        ],
    )  # fmt: skip


def averaged(average: Any, weights: Any, n: int, limit: float) -> Any:
    """The average after update n = 1, 2, …: the decay runs up to its limit as min(limit, (1 + n) / (10 + n))."""
    decay = min(limit, (1 + n) / (10 + n))
    return decay * average + (1 - decay) * weights


def check_average(answer: Callable[..., Any], seed: int) -> None:
    """On the ramp, and after it."""
    average, weights = noise(seed, 7), noise(seed + 1, 7)
    for n, limit in ((2, 0.99), (1, 0.9), (5000, 0.95)):
        ramp = (1 + n) / (10 + n)

        def mixed(d: float) -> Tensor:
            return d * average + (1 - d) * weights

        decay = min(limit, ramp)
        slips = [
            (mixed(1 - decay), "The decay is what stays of the old average; the new weights get the rest."),
            (
                mixed(limit),
                "In the first updates the decay is smaller: else the average remembers the start.",
            ),
            (mixed(ramp), "The ramp must stop at the limit."),
            (mixed(min(limit, n / (9 + n))), "The updates count from 1: the first has decay 2/11."),
            (mixed(min(limit, (2 + n) / (11 + n))), "The updates count from 1: the first has decay 2/11."),
            (decay * average + weights, "The two shares must add up to 1."),
        ]
        same_tensor(answer(average, weights, n, limit), mixed(decay), slips=slips, hint=1, what="the average")
    plain = answer(1.0, 0.0, 1, 0.9)
    same_value(float(plain), 2 / 11, hint=1, what="what is left of 1 after one update")


def colleagues_condition(base: Backbone, condition: Tensor) -> Tensor:
    """What the editor of exercise 04.7 is shown. Find out by the symptoms, not by reading on."""
    return condition * base.vae.config.scaling_factor


CONDITION_CAUSES = {
    "b": "Zeros have no spread at all, and cost the loss in the table's last row.",
    "c": "Another's picture has the spread of pictures, and costs far more.",
    "d": "A sample is spread a little wider than the mode, not less.",
    "e": "A mirrored picture has the same spread as a straight one.",
}


def check_condition_cause(answer: Any, seed: int) -> None:
    """The right picture, too faint by the scaling factor."""
    one_of(answer, "a", CONDITION_CAUSES)


EXERCISES = (
    Exercise(
        "04.1", "Four channels that change nothing", 2, 5, 8, extend_input_channels, check_wider,
        (
            "The new layer must compute what the old one did, whatever stands in the new channels.",
            "nn.Conv2d(conv.in_channels + extra, conv.out_channels, conv.kernel_size, padding=conv.padding); zero its weight, copy the old one into weight[:, :conv.in_channels], and the bias.",
        ),
    ),
    Exercise(
        "04.2", "A test that would have noticed", 3, 4, 8, ignores_the_picture, check_test,
        (
            "A test is good if it fails for everything that is wrong. What must it show to the wide layer, so that nothing can hide?",
            "Draw noise and a picture of noise, lay them together along dimension 1, and compare both layers' outputs with torch.allclose and atol=1e-5.",
        ),
    ),
    Exercise(
        "04.3", "Break it: off before the first step", 2, 4, 5, "b", check_layer_cause,
        (
            "What in a convolution adds the same number at every place, whatever is given?",
            "Take the causes in turn: would the error depend on the picture, or on the noise?",
        ),
    ),
    Exercise(
        "04.4", "One draw, three events", 2, 5, 6, conditioning_dropout, check_dropout,
        (
            "Read the table by columns: in which stretch of r is the text dropped, in which the picture?",
            "The text is dropped below 2p, the picture from p (inclusive) to 3p.",
        ),
    ),
    Exercise(
        "04.5", "What the network must answer", 2, 5, 6, target_of, check_target,
        (
            "One kind is asked for the noise, the other for the velocity of the formula above.",
            "kept is (B,): view it as (B, 1, 1, 1); the velocity is its root times the noise minus the root of the rest times the latents.",
        ),
    ),
    Exercise(
        "04.6", "An average that forgets its start", 2, 4, 5, averaged, check_average,
        (
            "The decay is the share of the old average that stays; in early updates it is small.",
            "decay = min(limit, (1 + n) / (10 + n)); the new average is decay times the old plus the rest of the weights.",
        ),
    ),
    Exercise(
        "04.7", "Break it: an editor that hardly looks", 3, 4, 6, "a", check_condition_cause,
        (
            "The loss lies between that of the right picture and that of none. What else tells the causes apart?",
            "Compare the two standard deviations with the table of section 2, and with the autoencoder's scaling_factor.",
        ),
    ),
    Exercise(
        "04.8", "The event that nobody asks for", 1, 2, 3, (True, False), check_event,
        (
            "Write down the predictions of the formula with two scales. Each is a pair (text there, picture there).",
            "Three of the four pairs occur: e(c_I, c_T), e(c_I, ∅), e(∅, ∅).",
        ),
    ),
    Exercise(
        "04.9", "Mirrors", 2, 3, 5, may_flip, check_flip,
        (
            "Search for words, not for letters: “make it bright” may be flipped, “the leftmost one” may not.",
            "A regular expression with \\b before (left|right) and none behind, and re.IGNORECASE.",
        ),
    ),
    Exercise(
        "04.10", "How long is the memory?", 3, 2, 8, (updates_until(0.01, 0.998, True), updates_until(0.01, 0.998, False)), check_memory,
        (
            "What is left of the first weights is the product of all decays so far.",
            "np.cumprod of min(0.998, (1 + n) / (10 + n)) for n = 1, 2, …; without the ramp it is 0.998 ** n. Find the first n at 0.01 or below.",
        ),
    ),
    Exercise(
        "04.11", "Which part learns to see?", 2, 3, 4, only_first_layer, check_frozen,
        (
            "The optimiser trains what requires a gradient.",
            "requires_grad_(False) on the network, then requires_grad_(True) on its conv_in, and return the network.",
        ),
    ),
)  # fmt: skip
