"""Wrong answers to the exercises of notebook 01."""

from torch.nn import functional as F

from ip2p_lib.course.exercises.triplets import completion_losses, draw
from ip2p_lib.scenes.world import KINDS


def written(prompt="{c}\n##\n", completion="{e}\n%%\n{o}\nEND"):
    return lambda c, e, o: (prompt.format(c=c, e=e, o=o), completion.format(c=c, e=e, o=o))


def reading(
    cut="\nEND", strip=str.strip, parts=(2,), plain=lambda t: t.strip().strip(".!?").lower(), full=True
):
    """The right reading, with one part of it spoilt."""

    def read(completion, caption):
        text = completion.split(cut)[0] if cut else completion.removesuffix("\nEND")
        found = [strip(p) for p in text.split("\n%%\n")]
        if len(found) not in parts or (full and not all(found)):
            return None
        return None if plain(found[-1]) == plain(caption) else (found[0], found[1] if len(found) > 1 else "")

    return read


def logs(logits, tokens):
    return logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


def shares(kinds, over=lambda valid, every: len(valid), kept=KINDS):
    valid = [k for k in kinds if k]
    return {k: valid.count(k) / max(over(valid, kinds), 1) for k in kept}


WRONG = {
    "01.1": [
        (written(prompt="{c}\n##"), "line break after ##"),
        (written(prompt="{c}\n%%\n"), "ends with ##"),
        (written(completion="{e}\n%%\n{o}"), "Without END"),
        (written(completion="{o}\n%%\n{e}\nEND"), "instruction comes first"),
        (written(completion="{e}\n##\n{o}\nEND"), "parted by %%"),
        (written(completion="{c}\n##\n{e}\n%%\n{o}\nEND"), "does not repeat"),
        (lambda c, e, o: f"{c}\n##\n{e}\n%%\n{o}\nEND", "two texts"),
    ],
    "01.2": [
        (reading(cut=None), "What follows END"),
        (reading(cut="END"), "line of its own"),
        (reading(strip=str), "Strip both"),
        (reading(parts=(1, 2)), "One part"),
        (reading(parts=(2, 3)), "Three parts"),
        (reading(full=False), "empty"),
        (reading(plain=lambda t: t.strip(".!?")), "without case"),
        (reading(plain=str.lower), "final . ! ?"),
        (reading(plain=lambda t: object()), "nothing was edited"),
        (lambda completion, caption: completion.split("\n%%\n")[1:3] * 2, "cut it at the line END"),
    ],
    "01.3": [
        (lambda x, ids, g: F.cross_entropy(x[g:], ids[g:], reduction="none"), "shift them"),
        (lambda x, ids, g: F.cross_entropy(x[:-1], ids[1:], reduction="none"), "prompt is given"),
        (lambda x, ids, g: F.cross_entropy(x[:-1], ids[1:], reduction="none")[g:], "One token is missing"),
        (lambda x, ids, g: completion_losses(x, ids, g).mean(), "one loss for each token"),
        (lambda x, ids, g: -completion_losses(x, ids, g), "minus the log"),
        (lambda x, ids, g: F.cross_entropy(x, ids[1:]), "stopped with an error"),
    ],
    "01.4": [
        (lambda x, u, t: x.argmax(), "likeliest"),
        (lambda x, u, t: draw(x, u, 1.0), "temperature plays no part"),
        (lambda x, u, t: draw(x, u, 1 / t), "below 1 it sharpens"),
        (lambda x, u, t: draw(x, u, t) + 1, "One too high"),
        (lambda x, u, t: int(((x.double() / t).softmax(-1).cumsum(-1) < u).sum()), "probability 0"),
        (lambda x, u, t: (x / t).softmax(-1), "number of one token"),
    ],
    "01.5": [
        ("a", "same twice"),
        ("C", "shares are right"),
        ("(d)", "every row"),
        ("f", "Choose one of a, b, c, d, e"),
    ],
    "01.6": [
        (lambda x, ids, s: logs(x, ids)[s:].sum(), "Do not add up"),
        (lambda x, ids, s: logs(x, ids)[s:].mean(), "A mean hides"),
        (lambda x, ids, s: logs(x, ids)[s:].max(), "surest of"),
        (lambda x, ids, s: logs(x, ids).min(), "new caption alone"),
        (lambda x, ids, s: F.cross_entropy(x[s:], ids[s:], reduction="none").max(), "That is the loss"),
        (lambda x, ids, s: logs(x, ids)[s:].min().exp(), "no exponential"),
        (lambda x, ids, s: x.gather(1, ids[:, None])[s:].min(), "log_softmax"),
        (lambda x, ids, s: logs(x, ids)[s + 1 :].min(), "belongs to the caption"),
        (lambda x, ids, s: logs(x, ids)[s:], "one number"),
    ],
    "01.7": [
        (lambda kinds: shares(kinds, over=lambda valid, every: len(every)), "number of valid"),
        (lambda kinds: shares(kinds, over=lambda *_: 1), "counts"),
        (lambda kinds: shares(kinds, kept=[*KINDS, ""]), "has no kind"),
        (lambda kinds: {k: v for k, v in shares(kinds).items() if v}, "One key for each of KINDS"),
        (lambda kinds: {k: kinds.count(k) / (len(kinds) - kinds.count("")) for k in KINDS}, "stopped with an error"),
        (lambda kinds: {k: 100 * v for k, v in shares(kinds).items()}, "between 0 and 1"),
    ],
}  # fmt: skip
