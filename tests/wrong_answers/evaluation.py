"""Wrong answers to the exercises of notebook 06."""

import math

import numpy as np

from ip2p_lib.course.exercises.evaluation import change, interval, judged


def off(after, truth):
    return (after - truth).abs().mean(0)


def by_side(rule):
    return lambda after, truth, mask: tuple(float(rule(after, truth, m)) for m in (mask, ~mask))


def zero_for_nothing(after, truth, mask):
    return tuple(off(after, truth)[m].mean().item() if m.any() else 0.0 for m in (mask, ~mask))


def nothing_at_all(after, truth, mask):
    return zero_for_nothing(after, truth, mask) if mask.any() and not mask.all() else (math.nan, math.nan)


def no_extras(seen, before, wanted):
    exact = all(seen[n] == wanted[n] for n in wanted if not isinstance(wanted[n], bool))
    return exact, judged(seen, before, wanted)[1]


def half_is_enough(seen, before, wanted):
    return seen == wanted, any(seen[n] == wanted[n] for n in wanted if before[n] != wanted[n])


def of_means(*ends, axis=1):
    return lambda values, picks: tuple(np.quantile(values[picks].mean(axis=axis), ends))


def normal(values, picks):
    error = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    return values.mean() - error, values.mean() + error


def unpaired(one, other, picks):
    (l1, h1), (l2, h2) = interval(one, picks), interval(other, picks)
    return (other - one).mean(), l2 - h1, h2 - l1


def ends_apart(one, other, picks):
    (l1, h1), (l2, h2) = interval(one, picks), interval(other, picks)
    return (other - one).mean(), l2 - l1, h2 - h1


WRONG = {
    "06.1": [("a", "grey would be grey"), ("B", "black white"), ("d", "after the encoder"), ("e", "at every size"), ("range", "Choose one of")],
    "06.2": [
        (by_side(lambda a, t, m: off(a, t)[~m].mean()), "exchanged"),
        (by_side(lambda a, t, m: off(a, t)[m].sum()), "not sums"),
        (by_side(lambda a, t, m: (off(a, t) * m).mean()), "pixels of the side"),
        (by_side(lambda a, t, m: ((a - t) ** 2).mean(0)[m].mean()), "squared"),
        (by_side(lambda a, t, m: (a - t).mean(0)[m].mean()), "absolute"),
        (zero_for_nothing, "An empty side"),
        (nothing_at_all, "which is all of it"),
        (lambda a, t, m: off(a, t), "2 numbers"),
    ],
    "06.3": [
        (lambda s, b, w: (judged(s, b, w)[1],) * 2, "more than requested"),
        (lambda s, b, w: (s == w, s == w), "change alone"),
        (lambda s, b, w: judged(s, b, w)[::-1], "exchanged"),
        (lambda s, b, w: (s == w, s != b), "not the requested one"),
        (no_extras, "extras belong"),
        (half_is_enough, "both must have"),
        (lambda s, b, w: s == w, "two truth values"),
    ],
    "06.4": [
        (lambda v, p: tuple(np.quantile(v, (0.025, 0.975))), "where the values lie"),
        (of_means(0.05, 0.95), "0.025 and 0.975"),
        (of_means(0.975, 0.025), "Low first"),
        (of_means(0.0, 1.0), "extremes"),
        (of_means(0.025, 0.975, axis=0), "one draw"),
        (normal, "normal approximation"),
        (lambda v, p: v.mean(), "2 numbers"),
    ],
    "06.5": [
        (lambda a, b, p: change(b, a, p), "Other minus one"),
        (unpaired, "independent"),
        (ends_apart, "before you resample"),
        (lambda a, b, p: (b.mean(), *interval(b, p)), "second measurement"),
        (lambda a, b, p: ((b - a).mean(), *interval(b - a.mean(), p)), "edit by edit, not the mean"),
        (lambda a, b, p: interval(b - a, p), "3 numbers"),
    ],
    "06.6": [
        (lambda x, y, at: y[np.abs(x - at).argmin()], "nearest point"),
        (lambda x, y, at: y[x <= at][-1], "point before"),
        (lambda x, y, at: (y[x <= at][-1] + y[x >= at][0]) / 2, "Weigh both"),
        (lambda x, y, at: np.interp(at, y[::-1], x[::-1]), "axes are exchanged"),
        (lambda x, y, at: np.polyval(np.polyfit(x, y, 1), at), "One line"),
        (lambda x, y, at: y.mean(), "mean of the curve"),
        (lambda x, y, at: y, "kind that can be compared"),
    ],
    "06.7": [
        (lambda width, n, wanted: n * width / wanted, "root"),
        (lambda width, n, wanted: n * (width / wanted) ** 0.5, "with the square"),
        (lambda width, n, wanted: n * (wanted / width) ** 2, "not fewer"),
        (lambda width, n, wanted: (width / wanted) ** 2, "how many times"),
        (lambda width, n, wanted: n * ((width / wanted) ** 2 - 1), "there already"),
        (lambda width, n, wanted: n, "rounded up"),
    ],
}  # fmt: skip
