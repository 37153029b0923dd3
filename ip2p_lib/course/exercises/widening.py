"""The first part of notebook 04's exercises: a wider layer, a test of it, and a layer gone wrong."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ip2p_lib.course.exercises.checks import need, one_of, same_tensor
from ip2p_lib.diffusion import seeded_noise
from ip2p_lib.unet import extend_input_channels


def a_layer(seed: int, channels: int = 4) -> nn.Conv2d:
    """A first layer with weights of its own; no global generator decides them."""
    conv = nn.Conv2d(channels, 6, 3, padding=1)
    with torch.no_grad():
        for number, p in enumerate(conv.parameters()):
            p.copy_(0.3 * seeded_noise([seed], tuple(p.shape), draw=number)[0])
    return conv


def noise(seed: int, *shape: int) -> Tensor:
    """Unit normal noise of any shape, keyed by its seed."""
    return seeded_noise([seed], shape, draw=9)[0]


def check_wider(answer: Callable[..., Any], seed: int) -> None:
    """The layer itself, its weights one part after the other, then what it computes."""
    conv, extra = a_layer(seed), 3
    before = [p.detach().clone() for p in conv.parameters()]
    wide = answer(conv, extra)
    need(isinstance(wide, nn.Conv2d), "Give back an nn.Conv2d.", f"got {type(wide).__name__}")
    weight, wanted = wide.weight.detach(), (6, 4 + extra, 3, 3)
    need(weight.shape == wanted, 1, f"its weight must be {wanted}, is {tuple(weight.shape)}")
    same = all(torch.equal(a, b) for a, b in zip(before, conv.parameters(), strict=True))
    need(same and wide is not conv, "The old layer must stay as it is: make a new one.")
    old = before[0]
    in_front = torch.allclose(weight[:, extra:], old) and not torch.allclose(weight[:, :4], old)
    need(not in_front, "The picture is laid behind the noise: the new channels come last.")
    need(torch.allclose(weight[:, :4], old), "The first channels must have the old weights.")
    need(
        not weight[:, 4:].any(),
        "The new channels' weights must be zero: fill, do not trust what PyTorch put there.",
    )
    need(wide.bias is not None and torch.allclose(wide.bias, before[1]), "The bias must come along.")
    shared = {p.data_ptr() for p in wide.parameters()} & {p.data_ptr() for p in conv.parameters()}
    need(
        not shared,
        "Copy the numbers: a parameter of both layers would change the old one as the new one learns.",
    )
    said = (wide.in_channels, wide.out_channels) == (4 + extra, 6)
    need(
        said,
        "The layer must be of its new size in name too: make a new nn.Conv2d.",
        f"in_channels is {wide.in_channels}",
    )
    given = noise(seed, 2, 4 + extra, 5, 5)
    with torch.no_grad():
        same_tensor(
            wide(given),
            conv(given[:, :4]),
            hint="Padding must be the old layer's.",
            what="the wide layer's output",
        )
    need(
        all(p.requires_grad for p in wide.parameters()), "The new layer must be able to learn: requires_grad."
    )


def ignores_the_picture(conv: nn.Conv2d, wide: nn.Conv2d) -> bool:
    """Whether a widened layer computes what the old one did, whatever picture lies beside the noise."""
    given, picture = (
        noise(1, 2, conv.in_channels, 8, 8),
        noise(2, 2, wide.in_channels - conv.in_channels, 8, 8),
    )
    with torch.no_grad():
        return torch.allclose(wide(torch.cat([given, picture], dim=1)), conv(given), atol=1e-5)


def _faults(conv: nn.Conv2d) -> list[tuple[Callable[[nn.Conv2d], None], str]]:
    """Ways to spoil a right layer, each with what to say to a test that does not see it."""

    def lost_bias(wide: nn.Conv2d) -> None:
        wide.state_dict()["bias"].copy_(0.1 * noise(3, wide.out_channels))

    def random_channels(wide: nn.Conv2d) -> None:
        wide.weight[:, 4:] = 0.1 * noise(4, *wide.weight[:, 4:].shape)

    def cancelling(wide: nn.Conv2d) -> None:
        wide.weight[:, 4], wide.weight[:, 5] = 0.2, -0.2

    def in_front(wide: nn.Conv2d) -> None:
        wide.weight.copy_(wide.weight.roll(4, dims=1))

    def slightly_off(wide: nn.Conv2d) -> None:
        wide.weight[0, 0] += 1e-3

    return [
        (lost_bias, "It lets a lost bias pass: compare what the layers compute, not their weights."),
        (random_channels, "It lets random new weights pass: beside zeros nobody sees them. Show a picture."),
        (
            cancelling,
            "New weights that cancel pass before a picture with equal channels: fill it with noise.",
        ),
        (in_front, "It lets new channels pass that come first: the noise goes first, the picture behind."),
        (slightly_off, "It lets old weights pass that changed a little: the tolerance is too wide."),
    ]


def check_test(answer: Callable[..., Any], seed: int) -> None:
    """A learner's test is tested: it must pass what is right and see each of five faults."""
    conv = a_layer(seed + 50)
    right = bool(answer(conv, extend_input_channels(conv, 4)))
    for spoil, hint in _faults(conv):
        wide = extend_input_channels(conv, 4)
        with torch.no_grad():
            spoil(wide)
        need(right, "It refuses a right layer. Allow for rounding: 1e-5.")
        need(not bool(answer(conv, wide)), hint)


def colleagues_layer(conv: nn.Conv2d) -> nn.Conv2d:
    """The widened layer of exercise 04.3. Find out by the symptoms, not by reading on."""
    wide = extend_input_channels(conv, conv.in_channels)
    with torch.no_grad():
        _faults(conv)[0][0](wide)
    return wide


LAYER_CAUSES = {
    "a": "Then the error would grow with the picture. A thousandfold one changes nothing.",
    "c": "Then the noise would meet zero weights, and what comes out would not depend on it at all.",
    "d": "Then the difference would follow the noise. It is one number per channel, everywhere.",
}


def check_layer_cause(answer: Any, seed: int) -> None:
    """A constant for each channel that nothing given changes is a bias."""
    one_of(answer, "b", LAYER_CAUSES)
