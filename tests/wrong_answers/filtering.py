"""Wrong answers to the exercises of notebook 03."""

import numpy as np
from torch.nn import functional as F

from ip2p_lib import filtering
from ip2p_lib.similarity import similarities

cos = F.cosine_similarity


def unit(*features):
    return (F.normalize(f, dim=-1) for f in features)


def plain_product(*features):
    i0, i1, t0, t1 = unit(*features)
    return ((i1 - i0) * (t1 - t0)).sum(-1)


def divided_by_nothing(*features):
    i0, i1, t0, t1 = unit(*features)
    a, b = i1 - i0, t1 - t0
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def of_unit(rule):
    return lambda *features: rule(*unit(*features))


def with_wrong(**changed):
    return lambda i0, i1, t0, t1: {
        **similarities(i0, i1, t0, t1), **{n: rule(i0, i1, t0, t1) for n, rule in changed.items()}
    }  # fmt: skip


def reaches(
    s, c, above=lambda a, b: a >= b, names=("clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image")
):
    bounds = dict(zip(("clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image"),
                      (c.min_text, c.min_text, c.min_direction, c.min_image), strict=True))  # fmt: skip
    return [above(s[n], bounds[n]) for n in names]


def best(rows, config, key=lambda r: -r["clip_sim_dir"], good=filtering.passes):
    groups = {}
    for r in rows:
        groups.setdefault(r["triplet_id"], []).append(r)
    kept = [
        sorted((r for r in g if good(r, config)), key=key)[: config.max_per_triplet] for g in groups.values()
    ]
    return [(r["triplet_id"], r["candidate"]) for g in kept for r in g]


def best_of_all(rows, config):
    passing = sorted((r for r in rows if filtering.passes(r, config)), key=lambda r: -r["clip_sim_dir"])
    return [(r["triplet_id"], r["candidate"]) for r in passing[: config.max_per_triplet]]


def cut_before_the_bounds(rows, config):
    passing = {(r["triplet_id"], r["candidate"]) for r in rows if filtering.passes(r, config)}
    return [key for key in best(rows, config, good=lambda *_: True) if key in passing]


def everything_that_passes(rows, config):
    return [(r["triplet_id"], r["candidate"]) for r in rows if filtering.passes(r, config)]


def bounds(text_column, share=lambda q: q):
    def answer(scores, text, direction, image):
        c = {n: np.array([r[n] for r in scores]) for n in scores[0] if n.startswith("clip")}
        columns = (text_column(c), c["clip_sim_dir"], c["clip_sim_image"])
        return tuple(np.quantile(v, share(q)) for v, q in zip(columns, (text, direction, image), strict=True))

    return answer


def together(c):
    return np.concatenate([c["clip_sim_0"], c["clip_sim_1"]])


def naive_shares(exact, kept):
    return (exact & kept).sum() / kept.sum(), (exact & kept).sum() / exact.sum()


WRONG = {
    "03.1": [
        (lambda i0, i1, t0, t1: cos(i1 - i0, t1 - t0), "before you subtract"),
        (plain_product, "lengths of both differences"),
        (divided_by_nothing, "not NaN"),
        (of_unit(lambda i0, i1, t0, t1: cos(i1, t1)), "which way it moved"),
        (of_unit(lambda i0, i1, t0, t1: cos(i1 - i0, t0 - t1)), "backwards"),
        (of_unit(lambda i0, i1, t0, t1: cos(i1, t1) - cos(i0, t0)), "difference of two similarities"),
        (of_unit(lambda i0, i1, t0, t1: cos(i1 - i0, t1 - t0).mean()), "wrong shape"),
    ],
    "03.2": [
        (with_wrong(clip_sim_1=lambda i0, i1, t0, t1: cos(i1, t0)), "second caption"),
        (with_wrong(clip_sim_dir=lambda i0, i1, t0, t1: cos(i1 - i0, t0 - t1)), "After minus before"),
        (with_wrong(clip_sim_image=lambda i0, i1, t0, t1: cos(t0, t1)), "Compare the pictures"),
        (with_wrong(clip_sim_0=lambda i0, i1, t0, t1: cos(i0, i1)), "belongs to clip_sim_image"),
        (with_wrong(clip_sim_2=lambda i0, i1, t0, t1: cos(i0, i1)), "names must be"),
        (lambda *f: tuple(similarities(*f).values()), "dictionary"),
    ],
    "03.3": [
        (lambda s, c: all(reaches(s, c, lambda a, b: a > b)), "inclusive"),
        (lambda s, c: any(reaches(s, c)), "all must be reached"),
        (lambda s, c: all(reaches(s, c, names=("clip_sim_1", "clip_sim_dir", "clip_sim_image"))), "clip_sim_0 has no say"),
        (lambda s, c: all(reaches(s, c, names=("clip_sim_0", "clip_sim_1", "clip_sim_dir"))), "clip_sim_image has no say"),
        (lambda s, c: all(reaches(s, c)[2:]) and s["clip_sim_0"] + s["clip_sim_1"] >= 2 * c.min_text, "make up for"),
        (lambda s, c: True, "`>=`"),
    ],
    "03.4": [
        (best_of_all, "of each triplet, not of all"),
        (lambda rows, c: best(rows, c, lambda r: r["clip_sim_dir"]), "worst few"),
        (lambda rows, c: best(rows, c, lambda r: -r["clip_sim_image"]), "direction similarity"),
        (lambda rows, c: best(rows, c, lambda r: r["candidate"]), "before you cut"),
        (lambda rows, c: best(rows, c, good=lambda *_: True), "do not pass"),
        (cut_before_the_bounds, "nobody's place"),
        (everything_that_passes, "at most max_per_triplet"),
        (lambda rows, c: [candidate for _, candidate in filtering.select(rows, c)], "first config.max_per_triplet"),
    ],
    "03.5": [
        (bounds(together, lambda q: 1 - q), "not how many are kept"),
        (bounds(lambda c: (c["clip_sim_0"] + c["clip_sim_1"]) / 2), "all their scores together"),
        (bounds(lambda c: np.minimum(c["clip_sim_0"], c["clip_sim_1"])), "lower of the two"),
        (bounds(lambda c: c["clip_sim_0"]), "put clip_sim_1 in"),
        (bounds(together, lambda q: q / 100), "counts to 100"),
        (lambda *a: bounds(together)(*a)[0], "three numbers"),
    ],
    "03.6": [
        (lambda e, k: ((e & k).sum() / e.sum(), (e & k).sum() / k.sum()), "exchanged"),
        (lambda e, k: (e.mean(), (e & k).sum() / e.sum()), "among the kept"),
        (lambda e, k: ((e & k).sum() / k.sum(), k.mean()), "how many of the right ones"),
        (lambda e, k: ((e == k).mean(), (e & k).sum() / e.sum()), "accuracy"),
        (naive_shares, "share of nothing"),
        (lambda e, k: (e & k).mean(), "two numbers"),
    ],
    "03.7": [
        ("a", "bound on the direction"),
        ("B", "bounds too"),
        ("d", "four pairs"),
        ("filter", "Choose one of a, b, c, d, e"),
    ],
}  # fmt: skip
