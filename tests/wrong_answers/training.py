"""Wrong answers to the exercises of notebook 04."""

import re
from copy import deepcopy

import torch
from torch import nn

from ip2p_lib.training import conditioning_dropout
from ip2p_lib.unet import extend_input_channels

# 04.1


def spoiled(spoil):
    def answer(conv, extra):
        wide = extend_input_channels(conv, extra)
        with torch.no_grad():
            spoil(wide)
        return wide

    return answer


def as_pytorch_made_it(conv, extra):
    return nn.Conv2d(conv.in_channels + extra, conv.out_channels, 3, padding=1)


def sharing_the_bias(conv, extra):
    wide = extend_input_channels(conv, extra)
    wide.bias = conv.bias
    return wide


def of_the_old_name(conv, extra):
    wide = deepcopy(conv)
    wide.weight = nn.Parameter(extend_input_channels(conv, extra).weight.detach())
    return wide


def without_padding(conv, extra):
    wide = nn.Conv2d(conv.in_channels + extra, conv.out_channels, 3)
    wide.load_state_dict(extend_input_channels(conv, extra).state_dict())
    return wide


def more_outputs(conv, extra):
    return nn.Conv2d(conv.in_channels, conv.out_channels + extra, 3, padding=1)


def in_front(wide):
    wide.weight.copy_(wide.weight.roll(3, dims=1))


# 04.2


def beside(picture, atol=1e-5):
    def answer(conv, wide):
        noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
        shown = picture(noise)
        with torch.no_grad():
            return torch.allclose(wide(torch.cat([noise, shown], 1)), conv(noise), atol=atol)

    return answer


def compares_weights(conv, wide):
    return torch.equal(wide.weight[:, :4], conv.weight) and not wide.weight[:, 4:].any()


# 04.4


def masks(text, image):
    return lambda r, u: (text(r, u), image(r, u))


def below(k):
    return lambda r, u: r < k * u


def between(a, b):
    return lambda r, u: (a * u <= r) & (r < b * u)


# 04.5


def target(velocity):
    def answer(kind, latents, noise, kept):
        a = kept.view(-1, 1, 1, 1)
        return noise if kind == "epsilon" else velocity(latents, noise, a)

    return answer


# 04.6


def average(decay):
    return lambda a, w, n, limit: decay(n, limit) * a + (1 - decay(n, limit)) * w


def ramp(n):
    return (1 + n) / (10 + n)


# 04.11


def freeze(*names, first=True):
    def answer(unet):
        if first:
            unet.requires_grad_(False)
        for name in names:
            unet.get_submodule(name).requires_grad_(True)
        return unet

    return answer


def only_the_weight(unet):
    unet.requires_grad_(False)
    unet.conv_in.weight.requires_grad_(True)
    return unet


WRONG = {
    "04.1": [
        (spoiled(lambda w: w.bias.add_(0.5)), "bias must come along"),
        (spoiled(lambda w: w.weight[:, 4:].add_(0.1)), "must be zero"),
        (spoiled(in_front), "new channels come last"),
        (as_pytorch_made_it, "old weights"),
        (sharing_the_bias, "Copy the numbers"),
        (of_the_old_name, "in name too"),
        (without_padding, "wrong shape"),
        (more_outputs, "conv.in_channels + extra"),
        (lambda conv, extra: conv.weight, "nn.Conv2d"),
        (lambda conv, extra: extend_input_channels(conv, extra).requires_grad_(False), "able to learn"),
    ],
    "04.2": [
        (beside(torch.zeros_like), "beside zeros"),
        (compares_weights, "lost bias"),
        (beside(torch.ones_like), "cancel"),
        (beside(lambda z: z.flip(0), atol=0.1), "tolerance"),
        (lambda conv, wide: False, "refuses a right layer"),
    ],
    "04.3": [("a", "grow with the picture"), ("c", "zero weights"), ("D", "follow the noise"), ("bias", "Choose one of")],
    "04.4": [
        (lambda r, u: conditioning_dropout(r, u)[::-1], "exchanged"),
        (masks(below(1), between(1, 2)), "together"),
        (masks(below(1), between(1, 3)), "both go"),
        (masks(below(2), below(2)), "never learned"),
        (masks(below(2), below(3)), "In [0, p) the picture stays"),
        (lambda r, u: tuple(~m for m in conditioning_dropout(r, u)), "not kept"),
        (masks(below(3), between(1, 3)), "below 2p"),
        (lambda r, u: conditioning_dropout(r, u)[0], "two masks"),
    ],
    "04.5": [
        (lambda kind, x, e, a: x, "clean picture"),
        (lambda kind, x, e, a: e, "other kind"),
        (target(lambda x, e, a: (1 - a).sqrt() * x - a.sqrt() * e), "signs"),
        (target(lambda x, e, a: (1 - a).sqrt() * e - a.sqrt() * x), "wrong terms"),
        (target(lambda x, e, a: a * e - (1 - a) * x), "Roots are missing"),
        (target(lambda x, e, a: a.sqrt() * x + (1 - a).sqrt() * e), "is given"),
        (target(lambda x, e, a: a.flatten().sqrt() * e - x), "stopped with an error"),
    ],
    "04.6": [
        (average(lambda n, limit: 1 - min(limit, ramp(n))), "what stays of the old"),
        (average(lambda n, limit: limit), "remembers the start"),
        (average(lambda n, limit: max(limit, ramp(n))), "remembers the start"),
        (average(lambda n, limit: ramp(n)), "stop at the limit"),
        (average(lambda n, limit: min(limit, n / (9 + n))), "count from 1"),
        (lambda a, w, n, limit: min(limit, ramp(n)) * a + w, "add up to 1"),
    ],
    "04.7": [("b", "no spread"), ("c", "Another's"), ("d", "not less"), ("e", "mirrored"), ("scale", "Choose one of")],
    "04.8": [
        ((True, True), "has both"),
        ((False, True), "twice"),
        ((False, False), "starts"),
        ("text", "two truth values"),
    ],
    "04.9": [
        (lambda t: "left" not in t.lower() and "right" not in t.lower(), "“bright”"),
        (lambda t: not re.search(r"\b(left|right)", t), "capital"),
        (lambda t: not re.search(r"\b(left|right)\b", t, re.I), "leftmost"),
        (lambda t: bool(re.search(r"\b(left|right)", t, re.I)), "other way round"),
        (lambda t: not re.search(r"\bleft", t, re.I), "two sides"),
        (lambda t: not {"left", "right"} & set(t.lower().split()), "commas"),
    ],
    "04.10": [
        ((2301, 4), "forgotten sooner"),
        ((3, 2300), "One update less"),
        ((2301, 2301), "ramp matters"),
        ((1, 2), "np.cumprod"),
        (2301, "two whole numbers"),
    ],
    "04.11": [
        (freeze(), "Nothing can learn"),
        (only_the_weight, "bias belongs"),
        (freeze(first=False), "frozen before"),
        (freeze("conv_out"), "last layer"),
        (freeze("conv_in", first=False), "requires_grad_(False) on the network"),
        (lambda unet: unet.conv_in, "whole network"),
    ],
}  # fmt: skip
