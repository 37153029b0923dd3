"""Wrong answers to the exercises of notebook 00."""

import torch


def joined(*parts, dim=1):
    return torch.cat(parts, dim=dim)


def dropped(picture, rows):
    return torch.where(rows.view(-1, 1, 1, 1), 0.0, picture)


def guided(first, second, start="none"):
    def rule(full, image, none, t, i):
        scales, begin = {"t": t, "i": i, "1": 1.0, "0": 0.0}, {"none": none, "zero": 0 * none, "image": image}
        return begin[start] + scales[first] * (image - none) + scales[second] * (full - image)

    return rule


def weighted(text, image):
    return {"full": text, "image": image - text, "none": 1 - image}


WRONG = {
    "00.1": [
        (lambda w, extra: joined(w, 0.02 * torch.randn(w.shape[0], extra, *w.shape[2:])), "ignore their input"),
        (lambda w, extra: joined(w.new_zeros(w.shape[0], extra, 3, 3), w), "come after"),
        (lambda w, extra: joined(w, w.new_zeros(extra, *w.shape[1:]), dim=0), "second dimension"),
        (lambda w, extra: joined(w, w)[:, : 4 + extra] / 2, "old weights must stay"),
        (lambda w, extra: w, "dimension 1"),
    ],
    "00.2": [
        (lambda n, p, d: joined(dropped(p, d), n), "noise comes first"),
        (lambda n, p, d: joined(n, p), "must be zeros"),
        (lambda n, p, d: joined(n, dropped(p, ~d)), "True means dropped"),
        (lambda n, p, d: dropped(joined(n, p), d), "Drop the picture alone"),
        (lambda n, p, d: joined(n, dropped(p, d), dim=0), "not as more rows"),
        (lambda n, p, d: n + dropped(p, d), "Do not add"),
        (lambda n, p, d: joined(n, p * d), "stopped with an error"),
    ],
    "00.3": [
        (lambda u, p: (u < p, u < p), "Always both or neither"),
        (lambda u, p: (u < p, (u >= p) & (u < 2 * p)), "no draw that drops both"),
        (lambda u, p: ((u >= p) & (u < 3 * p), u < 2 * p), "text alone lies first"),
        (lambda u, p: (u < 2 * p, (u >= p) & (u < 4 * p)), "More than 3 * prob"),
        (lambda u, p: (u < p, u < 3 * p), "text alone"),
        (lambda u, p: (u < 2 * p, (u >= 1.5 * p) & (u < 3 * p)), "Cut [0, 1)"),
        (lambda u, p: u < 3 * p, "two tensors"),
    ],
    "00.4": [
        (guided("t", "i"), "each other's term"),
        (lambda f, m, n, t, i: n + i * (m - n) + t * (f - n), "where the picture's step ended"),
        (guided("i", "t", "zero"), "begins somewhere"),
        (lambda f, m, n, t, i: n + t * (f - n), "one scale"),
        (guided("i", "t", "image"), "once too often"),
        (guided("0", "t", "image"), "s_I is missing"),
        (lambda f, m, n, t, i: n + i * (n - m) + t * (m - f), "backwards"),
        (lambda f, m, n, t, i: n + max(i, 1) * (m - n) + max(t, 1) * (f - m), "0 is legal"),
    ],
    "00.5": [
        (lambda t, i: ("full", "image", "none"), "Whose weight is 1 - s_I"),
        (lambda t, i: [n for n in ("full", "image", "none") if n != "none" or i != 1], "both scales are equal"),
        (lambda t, i: [n for n, w in weighted(t, i).items() if w > 0], "In general all three"),
        (lambda t, i: [n for n, w in weighted(t, i).items() if w and (n == "full" or i)], "s_I = 0 spares nothing"),
        (lambda t, i: [n for n, w in weighted(t, i).items() if w or n == "full"], "At s_T = 0"),
        (lambda t, i: (t, i), "Return names"),
    ],
    "00.6": [
        ("a", "pictures do change"),
        ("c", "counted more than once"),
        ("swapped", "Choose one of a, b, c, d, e"),
        (lambda: "b", "Give a value"),
    ],
}  # fmt: skip
