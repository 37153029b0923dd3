"""Ordinary ways to ask for a change: what a language model has read before anybody shows it a triplet.

Wider than the grammar's own instructions, and without any form that is kept for tests.
"""

import numpy as np

from ip2p_lib.scenes.language import EXTRA_NOUNS, INSTRUCTION_WORDS, noun, with_articles
from ip2p_lib.scenes.world import SceneEdit

WISHES: dict[str, tuple[str, ...]] = {
    "replace": (
        "what if the {old} were a {new}?", "how about a {new} instead of the {old}", "can the {old} become a {new}?",
        "i would like a {new} rather than the {old}", "no {old}, show a {new} instead", "we want a {new} here, not a {old}",
        "out with the {old}, in with a {new}", "let a {new} stand where the {old} is", "exchange the {old} for a {new}",
        "trade the {old} for a {new} please", "draw a {new} in place of the {old}", "please make the {old} a {new}",
        "could we have a {new} instead?", "the {old} goes, a {new} comes in", "i wish it were a {new}",
        "there was a {old}, now there is a {new}", "switch the {old} to a {new}", "please use a {new} instead of the {old}",
        "a {new} would look nice here instead of a {old}", "show me a {new}, no more {old}", "i want to see a {new} here",
    ),
    "recolour": (
        "give the {noun} a coat of {new} paint", "what if the {noun} were {new}?", "dye the {noun} {new}", "tint the {noun} {new}",
        "colour the {noun} {new} please", "{new} instead of {old} please", "i want the {noun} in {new}", "could it be {new}?",
        "not {old}, {new} please", "let the {noun} be {new}", "how about {new} for the {noun}", "use {new} rather than {old}",
        "the {noun} would look better in {new}", "no more {old}, make it {new}", "show the {noun} in {new}",
        "redo the {noun} in {new}", "recolour the {noun} {new}", "the {noun} turns {new}", "i wish the {noun} were {new}",
        "the {noun} needs a {new} coat of paint", "swap the {old} for {new}", "it would be nice in {new}",
    ),
    "place": (
        "send the {noun} to {new}", "let the {noun} stand in {new}", "what if the {noun} were in {new}?", "show it in {new} instead",
        "we want {new} behind the {noun}", "bring the {noun} to {new}", "build it in {new}", "how about {new} for the background",
        "the {noun} would look nice in {new}", "i wish the {noun} were in {new}", "could the {noun} be in {new}?",
        "off to {new} with the {noun}", "park the {noun} in {new}", "place the {noun} in {new} please", "let us go to {new}",
        "i would like to see the {noun} in {new}", "have {new} around the {noun}", "draw {new} as the background",
        "can we see it in {new}?", "use {new} as background", "where it stands now, draw {new}", "out of here, over to {new}",
    ),
    "time": (
        "what if it were {new}?", "let {new} come", "show it at {new}", "i want to see it at {new}", "it is {new} now",
        "how about {new}", "could it be {new} please?", "{new} please", "let us have {new}", "i wish it were {new}",
        "can we have {new}?", "bring on {new}", "draw it at {new} instead", "we want {new}", "it gets {new}", "now it is {new}",
        "let there be {new} over the {noun}", "have the {noun} stand there at {new}", "i would like {new} rather than this",
    ),
    "falling": (
        "let it {verb}", "could it {verb}?", "we want {some} {word}", "bring {some} {word} please", "let {word} fall on the {noun}",
        "have {word} come down", "what if it were {ing}?", "it {verb}s now", "how about {some} {word}", "{word} please",
        "can we have {word}?", "i wish it were {ing}", "let the {word} come down over it", "make it {verb}", "show it in the {word}",
        "i would like {word}", "now it is {ing}", "let {word} fall", "cover the ground in {word}", "some {word} would be nice",
    ),
    "clear": (
        "let the {falling} stop", "stop the {falling}", "no more {falling}", "no {falling}, just a clear sky", "the {falling} is gone",
        "i wish it were dry", "the {falling} stops and the sky is clear", "keep the {noun} dry", "could we have clear weather?",
        "how about a clear sky", "without {falling} please", "we want it dry", "the sky is clear now", "out with the {falling}",
        "can the {falling} go away?", "leave out the {falling}", "it would be nice without the {falling}", "clear weather please",
    ),
    "restyle": (
        "as a {new} please", "i want it as a {new}", "what if it were a {new}?", "redo it as a {new}", "show it as a {new}",
        "how about a {new}", "could this be a {new}?", "let it look like a {new}", "use the style of a {new}", "a {new} please",
        "i would like a {new} instead", "print this as a {new}", "can we have it as a {new}?", "let us see a {new} of it",
        "it would look better as a {new}", "draw this like a {new}", "i wish it were a {new}", "give it the look of a {new}",
    ),
    "add": (
        "put up {new}", "i want to see {new}", "we need {new} here", "what about {new}", "can we have {new}?", "bring in {new}",
        "let {new} stand beside the {noun}", "place {new} next to the {noun}", "could you add {new} please?", "show {new} too",
        "{new} is missing here", "have {new} above the {noun}", "with {new} as well please", "{new} would be nice here",
        "i would like {new} over the {noun}", "hang {new} up in the air", "set {new} behind the {noun}", "build {new} around it",
        "there is {new} by the {noun} now", "let us see {new}", "how about {new} up there", "the {noun} could use {new}",
    ),
    "remove": (
        "lose {old}", "can {old} go away?", "take down {old}", "we do not want {old}", "no more {bare}", "let {old} disappear",
        "it is better without {old}", "hide {old}", "drop {old} please", "{old} is gone now", "pull out {old} and drop it",
        "leave out {old}", "wipe {old} away", "do without {old}", "no {bare} please", "out with {old}", "make {old} go away",
        "i want it without {old}", "what if {old} were not there?", "let {old} fade away", "the {noun} needs no {bare}",
    ),
}  # fmt: skip
TIME_WORDS = {"day": ("day", "daytime", "noon", "daylight"), "sunset": ("sunset", "dusk", "evening"),
              "night": ("night", "night time", "night-time")}  # fmt: skip
STYLE_WISHES = {
    "pencil": ("sketch it in pencil", "draw this with a pencil", "in pencil please"),
    "watercolour": ("use watercolours", "paint it in watercolours", "in watercolour please"),
    "pixel": ("make it look like a retro game", "draw it in pixels", "as pixel art please"),
    "poster": ("print it as a poster", "a poster look please", "turn this into a poster"),
    "plain": ("keep it plain", "a plain style please", "as flat illustration"),
}
FALLING: dict[str, dict[str, tuple[str, ...]]] = {
    "rain": {"verb": ("rain",), "ing": ("raining",), "word": ("rain", "rainfall")},
    "snow": {"verb": ("snow",), "ing": ("snowing",), "word": ("snow", "snowfall")},
}


def wish(edit: SceneEdit, seed: int) -> str:
    """Ask for an edit as people might, lower case."""
    rng = np.random.default_rng((seed, 41))

    def pick(options: tuple[str, ...]) -> str:
        return options[rng.integers(len(options))]

    words = {"noun": noun(edit.before.subject, rng), "old": edit.old, "new": edit.new}
    kind = edit.kind
    if kind == "replace":
        words |= {"old": words["noun"], "new": noun(edit.new, rng)}
    elif kind == "weather":
        kind = "clear" if edit.new == "clear" else "falling"
        words |= {"falling": edit.old, "some": "some"}
        if kind == "falling":
            words |= {k: pick(v) for k, v in FALLING[edit.new].items()}
    elif kind == "restyle":
        if rng.random() < 0.25:
            return pick(STYLE_WISHES[edit.new])
        words["new"] = pick(INSTRUCTION_WORDS["style"][edit.new])
    elif kind == "place":
        words["new"] = pick(INSTRUCTION_WORDS["place"][edit.new])
    elif kind == "time":
        words["new"] = pick(TIME_WORDS[edit.new])
    elif kind in ("add", "remove"):
        words |= {
            "new": EXTRA_NOUNS.get(edit.new, ""),
            "old": EXTRA_NOUNS.get(edit.old, "").replace("a ", "the ", 1),
        }
        words["bare"] = words["old"].removeprefix("the ")
    return with_articles(pick(WISHES[kind]).format(**words))
