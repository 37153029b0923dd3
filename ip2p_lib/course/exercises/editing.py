"""Exercises of notebook 05: two scales, what need not be computed, steps, sizes, whose turn it is."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ip2p_lib import images
from ip2p_lib.course.exercises.checks import need, one_of, same_tensor, same_value
from ip2p_lib.course.exercises.grading import Exercise
from ip2p_lib.course.exercises.serving import check_serve, check_size, serve
from ip2p_lib.diffusion import ancestral_step, denoised_from, seeded_noise
from ip2p_lib.guidance import Branches, dual_guidance

NAMES = ("full", "image_only", "neither")


def guided(full: Tensor, image_only: Tensor, neither: Tensor, s_text: float, s_image: float) -> Tensor:
    """The prediction that the sampler follows, from three predictions of one shape and two scales."""
    return dual_guidance(full, image_only, neither, guidance_scale=s_text, image_guidance_scale=s_image)


def check_guidance(answer: Callable[..., Any], seed: int) -> None:
    """Two pairs of different scales: whoever exchanges, drops or misplaces a leg gets another number."""
    f, i, n = (seeded_noise([seed], (2, 3, 4), draw=d)[0] for d in range(3))
    for t, s in ((7.5, 1.5), (0.5, 0.3 + seed / 100)):
        slips = [
            (n + t * (i - n) + s * (f - i), "The scales are exchanged: s_T belongs to what the text adds."),
            (n + s * (i - n) + t * (f - n), "The text's leg starts at the picture: full - image_only."),
            (
                n + s * (f - n) + t * (i - n),
                "Neither leg is right: from neither to image_only, then on to full.",
            ),
            (i + s * (i - n) + t * (f - i), "Start at the prediction with neither."),
            (s * (i - n) + t * (f - i), "The legs are right, but they start somewhere: add `neither`."),
            (f + s * (i - n) + t * (f - i), "Start at the prediction with neither, not at the full one."),
            (n + s * (n - i) + t * (i - f), "Both legs run backwards: what is added minus what was there."),
            (n + s * (i - n) + (t - s) * (f - i), "Each leg has its own scale; take none off the other."),
            (n + t * (f - n), "That is guidance with one scale. Split the way in two legs."),
        ]
        same_tensor(answer(f, i, n, t, s), guided(f, i, n, t, s), slips=slips, what="the guided prediction")


def needed(s_text: float, s_image: float) -> set[str]:
    """Names of the predictions whose weight is not zero, of "full", "image_only" and "neither"."""
    kept = Branches.of([s_text], [s_image])
    names = {(True, True): NAMES[0], (False, True): NAMES[1], (False, False): NAMES[2]}
    return {names[pair] for pair in zip(kept.has_text, kept.has_image, strict=True)}


def check_needed(answer: Callable[..., Any], seed: int) -> None:
    """Pairs of scales where nothing, one thing or two things vanish; some below 1, as diffusers refuses them."""
    pairs = [
        (7.5, 1.5),
        (3, 1),
        (1.5, 1.5),
        (0, 1.5),
        (1, 1),
        (0, 1),
        (0, 0),
        (3, 0.9),
        (0.5, 0.3),
        (2, 0),
        (1, 2),
    ]
    got = [answer(*pair) for pair in pairs]
    good = all(isinstance(g, set | frozenset | list | tuple) and set(g) <= set(NAMES) for g in got)
    need(good, f"Give a set of names among {', '.join(NAMES)}.", f"got {got[0]!r:.60}")
    everything = [(lambda t, i: True, lambda t, i: True, lambda t, i: True)]
    right = (lambda t, i: t != 0, lambda t, i: i != t, lambda t, i: i != 1)
    rules: list[tuple[Sequence[Callable[[float, float], bool]], str]] = [
        (everything[0], "Some weights are zero. At s_I = 1 for instance one is 1 - s_I."),
        ((right[0], lambda t, i: True, right[2]), "image_only occurs in both legs: its weights can cancel."),
        ((right[0], lambda t, i: i != 0, right[2]), "image_only has the weight s_I - s_T, not s_I."),
        ((right[0], right[1], lambda t, i: i != 0), "neither has the weight 1 - s_I, not s_I."),
        ((right[0], right[1], lambda t, i: i > 1), "1 - s_I may be positive too: below 1 `neither` counts."),
        ((lambda t, i: t != 1, right[1], right[2]), "full has the weight s_T: it is not needed at s_T = 0."),
        (
            (lambda t, i: True, lambda t, i: t > 1 and i >= 1, lambda t, i: t > 1 and i >= 1),
            "That is the well-known pipeline's rule. Look at the weights alone; scales below 1 are legal.",
        ),
    ]  # fmt: skip
    sets = [set(g) for g in got]
    for rule, hint in rules:
        need(sets != [{n for n, r in zip(NAMES, rule, strict=True) if r(*p)} for p in pairs], hint)
    for pair, own in zip(pairs, sets, strict=True):
        same_value(own, needed(*pair), hint=1, what=f"the predictions for s_T, s_I = {pair}")


def check_clean(answer: Callable[..., Any], seed: int) -> None:
    """Both kinds of network, small and large noise; the property: the right output gives the clean latents back."""
    x0, eps = (seeded_noise([seed], (4, 3, 3), draw=d)[0] for d in (0, 1))
    for s in (0.5, 7.0):
        z, root = x0 + s * eps, (s**2 + 1) ** 0.5
        v = (eps - s * x0) / root
        same_tensor(
            answer(eps, z, s, "epsilon"), denoised_from(eps, z, s, "epsilon"), what="the estimate of epsilon",
            slips=[
                (z + s * eps, "The noise is taken off, not added."),
                (z - eps, "The latents hold sigma times the noise."),
                ((z - s * eps) / root, "These latents are clean latents plus noise: nothing to divide by here."),
                (z / (s**2 + 1) - eps * s / root, "That is the velocity's rule. This network answers with the noise."),
            ],
        )  # fmt: skip
        same_tensor(
            answer(v, z, s, "v_prediction"), denoised_from(v, z, s, "v_prediction"), hint=1,
            what="the estimate of v_prediction",
            slips=[
                (z - s * v, "That is the noise's rule. This network answers with the velocity."),
                (z / (s**2 + 1) + v * s / root, "The velocity is taken off: it points from picture to noise."),
                (z / root - v * s / root, "The network saw z / root; the latents themselves are divided once more."),
                (z / (s**2 + 1) - v * s / (s**2 + 1), "The velocity is divided by the root, not by its square."),
                (z / (s**2 + 1) - v / root, "Sigma is missing beside the velocity."),
            ],
        )  # fmt: skip


def check_split(answer: Callable[..., Any], seed: int) -> None:
    """Inside the schedule, then its last step; the squares must add up."""
    for sigma, to in ((10.0, 4.0), (2.0, 1.5 + seed / 50), (0.5, 0.1)):
        down, up = ancestral_step(sigma, to)
        got = answer(sigma, to)
        good = isinstance(got, list | tuple) and len(got) == 2
        need(good, "Give two numbers: (sigma_down, sigma_up).", f"got {got!r:.60}")
        slips = [
            ((up, down), "They are exchanged: sigma_down is where the deterministic step ends."),
            ((to, 0.0), "That is Euler's method: no noise is added."),
            ((to - up, up), "Independent noises add up in their squares, not in their sizes."),
            ((down, to - down), "Independent noises add up in their squares, not in their sizes."),
            ((down**2, up**2), "Those are the squares: take the roots."),
            ((to, up), "Step below the next level first, or the added noise ends above it."),
            ((0.0, to), "That throws away all that the latents remember: sigma_up is smaller."),
        ]
        same_value([float(v) for v in got], [down, up], slips=[(list(w), h) for w, h in slips], hint=1)
    last = [float(v) for v in answer(3.0, 0.0)]
    same_value(last, [0.0, 0.0], hint="The last step ends at 0, and nothing is added after it.")


def colleagues_guidance(
    full: Tensor, image_only: Tensor, neither: Tensor, s_text: float, s_image: float
) -> Tensor:
    """The guidance of exercise 05.5. Find out by the symptoms, not by reading on."""
    return neither + s_image * (image_only - neither) + s_text * (full - neither)


CAUSES = {
    "b": "Then both would differ at s_T = 0 too: the prediction with nothing would be missing there as well.",
    "c": "Then both would agree wherever s_I is 1, and differ at (0, 3).",
    "d": "Then theirs would move with the words by s_I. It moves by s_T, as ours does.",
    "e": "Another seed would differ everywhere, at s_T = 0 too.",
}


def check_cause(answer: Any, seed: int) -> None:
    """Equal where s_T is 0, and nowhere else; the words count alike everywhere."""
    one_of(answer, "a", CAUSES)


EXERCISES = (
    Exercise(
        "05.1", "Three predictions, two scales", 2, 5, 6, guided, check_guidance,
        (
            "Walk from nothing to the picture, and from the picture to the instruction; each leg has a scale.",
            "neither, plus s_image times (image_only - neither), plus s_text times (full - image_only).",
        ),
    ),
    Exercise(
        "05.2", "What need not be computed", 2, 4, 6, needed, check_needed,
        (
            "Collect the formula by prediction: what is each one multiplied with in all?",
            "The weights are s_T, s_I - s_T and 1 - s_I. Name those that are not zero.",
        ),
    ),
    Exercise(
        "05.3", "What the network takes the result for", 3, 4, 8, denoised_from, check_clean,
        (
            "Noise: solve for the clean latents. Velocity: x_0 = a z_t - b v, and z_t are the latents over sqrt(sigma² + 1).",
            "epsilon: latents - sigma * output. v_prediction: latents / (sigma² + 1) - output * sigma / sqrt(sigma² + 1).",
        ),
    ),
    Exercise(
        "05.4", "Half a step down, some dice up", 3, 4, 8, ancestral_step, check_split,
        (
            "Step further down than the next level, then add fresh noise; variances add up: down² + up² = next².",
            "up is the root of next² (sigma² - next²) / sigma², down the root of next² - up²; both are 0 if next is.",
        ),
    ),
    Exercise(
        "05.5", "Break it: the colleague's sliders", 3, 5, 6, "a", check_cause,
        (
            "For which pairs of scales do both agree? What have these pairs in common?",
            "Both move with the words alike, so the text's part is right. What else does s_T multiply in theirs? Try each of the five faults at (1, 0) and (0, 3).",
        ),
    ),
    Exercise(
        "05.6", "Any picture, whole multiples", 3, 3, 10, images.edit_size, check_size,
        (
            "Shrink by resolution / long side. The short side then becomes a whole multiple, rounded up; that gives the factor for both.",
            "With Fraction: n = ceil(short * resolution / long / multiple); factor = n * multiple / short; each side is side * factor // multiple * multiple.",
        ),
    ),
    Exercise(
        "05.7", "The latest request wins", 2, 4, 8, serve, check_serve,
        (
            "A slider asks for fifty edits a second. Which of them is anybody still waiting for, and when can you know?",
            "Before each step and once after the last: if latest() is not this request, return None.",
        ),
    ),
)  # fmt: skip
