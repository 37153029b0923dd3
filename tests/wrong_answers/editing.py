"""Wrong answers to the exercises of notebook 05."""

from math import ceil

from ip2p_lib.course.exercises.editing import needed

ALL = {"full", "image_only", "neither"}


def one_scale(full, image_only, neither, s_text, s_image):
    return neither + s_text * (full - neither)


def as_in_diffusers(s_text, s_image):
    return ALL if s_text > 1 and s_image >= 1 else {"full"}


def kept(*rules):
    names = ("full", "image_only", "neither")
    return lambda t, i: {n for n, rule in zip(names, rules, strict=True) if rule(t, i)}


def text(t, i):
    return t != 0


def clean(of_noise, of_velocity):
    def answer(output, z, s, kind):
        return (of_noise if kind == "epsilon" else of_velocity)(output, z, s, (s**2 + 1) ** 0.5)

    return answer


def noise(o, z, s, root):
    return z - s * o


def up(s, to):
    return (to**2 * (s**2 - to**2) / s**2) ** 0.5


def squared_down(s, to):
    return to**2 - up(s, to) ** 2


def split(rule):
    return lambda s, to: rule(s, to) if to else (0.0, 0.0)


def size(rounded):
    def answer(width, height, resolution, multiple):
        factor = resolution / max(width, height)
        factor = rounded(min(width, height) * factor / multiple) * multiple / min(width, height)
        return int(width * factor // multiple) * multiple, int(height * factor // multiple) * multiple

    return answer


def asks_first(request, latest, step, steps):
    if latest() != request:
        return None
    for i in range(steps):
        result = step(i)
    return result


def asks_last(request, latest, step, steps):
    for i in range(steps):
        result = step(i)
    return result if latest() == request else None


def never_asks(request, latest, step, steps):
    for i in range(steps):
        result = step(i)
    return result


def shows_the_half_done(request, latest, step, steps):
    result = None
    for i in range(steps):
        if latest() != request:
            break
        result = step(i)
    return result


def asks_before_each_step_alone(request, latest, step, steps):
    for i in range(steps):
        if latest() != request:
            return None
        result = step(i)
    return result


def asks_after_each_step(request, latest, step, steps):
    for i in range(steps):
        result = step(i)
        if latest() != request:
            return None
    return result


WRONG = {
    "05.1": [
        (lambda f, i, n, t, s: n + t * (i - n) + s * (f - i), "exchanged"),
        (lambda f, i, n, t, s: n + s * (i - n) + t * (f - n), "starts at the picture"),
        (lambda f, i, n, t, s: s * (i - n) + t * (f - i), "add `neither`"),
        (lambda f, i, n, t, s: i + s * (i - n) + t * (f - i), "Start at the prediction with neither"),
        (lambda f, i, n, t, s: n + s * (n - i) + t * (i - f), "backwards"),
        (one_scale, "one scale"),
        (lambda f, i, n, t, s: f[0], "wrong shape"),
    ],
    "05.2": [
        (lambda t, i: ALL, "weights are zero"),
        (as_in_diffusers, "well-known pipeline"),
        (kept(text, lambda t, i: True, lambda t, i: i != 1), "can cancel"),
        (kept(text, lambda t, i: i != 0, lambda t, i: i != 1), "s_I - s_T, not s_I"),
        (kept(text, lambda t, i: i != t, lambda t, i: i != 0), "1 - s_I, not s_I"),
        (kept(text, lambda t, i: i != t, lambda t, i: i > 1), "positive too"),
        (lambda t, i: len(needed(t, i)), "set of names"),
    ],
    "05.3": [
        (clean(noise, noise), "noise's rule"),
        (clean(lambda o, z, s, r: z + s * o, noise), "not added"),
        (clean(lambda o, z, s, r: z - o, noise), "sigma times the noise"),
        (clean(noise, lambda o, z, s, r: z / r**2 + o * s / r), "taken off"),
        (clean(noise, lambda o, z, s, r: (z - o * s) / r), "once more"),
        (clean(noise, lambda o, z, s, r: (z - o * s) / r**2), "not by its square"),
    ],
    "05.4": [
        (split(lambda s, to: (up(s, to), squared_down(s, to) ** 0.5)), "exchanged"),
        (lambda s, to: (to, 0.0), "Euler"),
        (split(lambda s, to: (to - up(s, to), up(s, to))), "squares, not in their sizes"),
        (split(lambda s, to: (squared_down(s, to), up(s, to) ** 2)), "take the roots"),
        (split(lambda s, to: (to, up(s, to))), "below the next level"),
        (lambda s, to: (max(to**2 / s, 0.1 * (to == 0)), up(s, to)), "last step"),
        (lambda s, to: up(s, to), "two numbers"),
    ],
    "05.5": [("b", "missing there as well"), ("c", "(0, 3)"), ("d", "by s_T, as ours"), ("E", "Another seed"), ("swap", "Choose one of")],
    "05.6": [
        (size(ceil), "Floating point"),
        (size(int), "rounded up, so that"),
        (size(round), "nearest"),
        (lambda w, h, r, m: (r, r), "keeps its shape"),
        (lambda w, h, r, m: (w * r // max(w, h), h * r // max(w, h)), "whole multiples"),
        (lambda w, h, r, m: size(ceil)(h, w, r, m), "Width first"),
        (lambda w, h, r, m: r, "two numbers"),
    ],
    "05.7": [
        (never_asks, "Nobody asked"),
        (asks_first, "too early"),
        (asks_last, "before every step"),
        (shows_the_half_done, "shows nothing"),
        (asks_before_each_step_alone, "once more after the last step"),
        (asks_after_each_step, "before the first step too"),
        (lambda request, latest, step, steps: step(0), "in order"),
    ],
}  # fmt: skip
