"""How people say it: captions of scenes, instructions for edits, and phrasings held out for tests."""

import re
from functools import cache

import numpy as np

from ip2p_lib.scenes.world import COLOURS, SUBJECTS, Scene, SceneEdit

Phrases = dict[str, tuple[str, ...]]
NOUNS: Phrases = {"balloon": ("hot air balloon", "balloon"), "sailboat": ("sailboat", "sailing boat")}
PLACE_PHRASES: Phrases = {
    "meadow": ("in a meadow", "in a green meadow", "on a grassy meadow"),
    "beach": ("on a beach", "on a sandy beach", "at the beach"),
    "desert": ("in a desert", "in the desert", "in a sandy desert"),
    "city": ("in a city", "in the city", "on a city street"),
    "mountains": ("in the mountains", "in front of mountains", "near the mountains"),
    "forest": ("in a forest", "in the forest", "at the edge of a forest"),
}
TIME_PHRASES: Phrases = {
    "day": ("", "by day", "during the day"),
    "sunset": ("at sunset", "at dusk", "during sunset"),
    "night": ("at night", "by night", "under a night sky"),
}
WEATHER_PHRASES: Phrases = {
    "clear": ("", "in clear weather", "under a clear sky"),
    "rain": ("in the rain", "in rainy weather", "while it rains"),
    "snow": ("in the snow", "in snowy weather", "while it snows"),
}
STYLE_PHRASES: Phrases = {
    "plain": ("", "flat illustration", "plain drawing"),
    "pencil": ("pencil sketch", "pencil drawing"),
    "watercolour": ("watercolour painting", "watercolour"),
    "pixel": ("pixel art", "pixel art game scene"),
    "poster": ("travel poster", "vintage poster"),
}
EXTRA_NOUNS = {"rainbow": "a rainbow", "fence": "a wooden fence", "lamp": "a street lamp", "kite": "a kite"}

# Instructions by kind. {new} and {old} are filled by the words below; {noun} is the subject's name.
TRAINING_PHRASINGS: Phrases = {
    "replace": (
        "turn the {old} into a {new}", "replace the {old} with a {new}", "make it a {new}",
        "change the {old} to a {new}", "swap the {old} for a {new}", "it should be a {new}",
    ),
    "recolour": (
        "make the {noun} {new}", "turn the {noun} {new}", "paint the {noun} {new}",
        "change the {noun} from {old} to {new}", "make it {new}", "change the colour to {new}",
    ),
    "place": (
        "move it to {new}", "put the {noun} in {new}", "change the background to {new}",
        "set it in {new}", "make the background {new}", "take the {noun} to {new}",
    ),
    "time": (
        "make it {new}", "change it to {new}", "turn it into {new}", "set the time to {new}",
        "it should be {new}",
    ),
    "weather": (
        "make it {new}", "change the weather to {new}", "let it be {new}", "it should be {new}",
        "turn the weather {new}",
    ),
    "restyle": (
        "make it a {new}", "turn it into a {new}", "draw it as a {new}", "change the style to a {new}",
        "in the style of a {new}",
    ),
    "add": ("add {new}", "put {new} in the picture", "add {new} to the scene", "draw {new}", "give it {new}"),
    "remove": (
        "remove {old}", "take away {old}", "delete {old}", "get rid of {old}", "erase {old}",
    ),
}  # fmt: skip
# New sentences made of words that training has seen, as a person might put it after the course.
HELD_OUT_PHRASINGS: Phrases = {
    "replace": (
        "change it to a {new}",
        "put a {new} there in place of the {old}",
        "the {old} should be a {new}",
    ),
    "recolour": (
        "the {noun} should be {new}",
        "give the {noun} a {new} colour",
        "change it from {old} to {new}",
    ),
    "place": ("take it to {new}", "change the scene to {new}", "the background should be {new}"),
    "time": ("the time should be {new}", "let it be {new}", "change the scene to {new}"),
    "weather": ("the weather should be {new}", "make the weather {new}", "set the weather to {new}"),
    "restyle": ("it should be a {new}", "paint it as a {new}", "make the picture a {new}"),
    "add": ("there should be {new}", "put {new} in it", "add {new} to it"),
    "remove": ("take {old} away", "remove {old} from the picture", "delete {old} from the scene"),
}
INSTRUCTION_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "place": {
        "meadow": ("a meadow", "a green meadow"), "beach": ("a beach", "a sandy beach"),
        "desert": ("a desert", "the desert"), "city": ("a city", "the city"),
        "mountains": ("the mountains",), "forest": ("a forest", "the forest"),
    },
    "time": {"day": ("day", "daytime"), "sunset": ("sunset", "dusk"), "night": ("night", "night time")},
    "weather": {"clear": ("clear", "clear and dry"), "rain": ("rainy",), "snow": ("snowy",)},
    "style": {
        "plain": ("flat illustration", "plain drawing"), "pencil": ("pencil sketch", "pencil drawing"),
        "watercolour": ("watercolour painting", "watercolour"), "pixel": ("pixel art picture",),
        "poster": ("travel poster", "vintage poster"),
    },
    "remove": {k: (v.replace("a ", "the ", 1),) for k, v in EXTRA_NOUNS.items()},
}  # fmt: skip


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[rng.integers(len(options))]


def noun(subject: str, rng: np.random.Generator) -> str:
    """One of the names people give a subject."""
    return _pick(NOUNS.get(subject, (subject,)), rng)


def caption(scene: Scene, seed: int = 0) -> str:
    """Say a scene in words; `seed` picks among phrasings, the attributes alone decide the meaning.

    The same seed phrases two scenes alike, so that captions before and after an edit differ only in
    what the edit changed.
    """
    rng = np.random.default_rng((seed, 7))
    name = noun(scene.subject, np.random.default_rng((seed, 8)))
    article = "an" if scene.colour == "orange" else "a"
    place, when, weather, style = (
        _pick(phrases[value], np.random.default_rng((seed, 9 + i)))
        for i, (phrases, value) in enumerate(
            (
                (PLACE_PHRASES, scene.place),
                (TIME_PHRASES, scene.time),
                (WEATHER_PHRASES, scene.weather),
                (STYLE_PHRASES, scene.style),
            )
        )
    )
    body = " ".join(p for p in (f"{article} {scene.colour} {name}", place, when, weather) if p)
    extras = " and ".join(EXTRA_NOUNS[e] for e in scene.extras)
    if extras:
        body = f"{body} with {extras}"
    if not style:
        return body
    style_article = "a " if style not in ("pixel art", "watercolour") else ""
    return (f"{body}, {style}", f"{style_article}{style} of {body}")[int(rng.integers(2))]


def _fill(template: str, edit: SceneEdit, rng: np.random.Generator) -> str:
    """Put an edit's words into a template."""
    subject = noun(edit.before.subject, rng)
    if edit.kind == "replace":
        old, new = subject, noun(edit.new, rng)
    elif edit.kind == "recolour":
        old, new = edit.old, edit.new
    elif edit.kind == "add":
        old, new = "", EXTRA_NOUNS[edit.new]
    elif edit.kind == "remove":
        old, new = _pick(INSTRUCTION_WORDS["remove"][edit.old], rng), ""
    else:
        words = INSTRUCTION_WORDS["style" if edit.kind == "restyle" else edit.kind]
        old, new = "", _pick(words[edit.new], rng)
    text = template.format(old=old, new=new, noun=subject)
    return with_articles(text)


def with_articles(text: str) -> str:
    """`a` becomes `an` before the world's words that begin with a vowel."""
    return re.sub(r"\ba (?=(?:orange|umbrella)\b)", "an ", text)


def instruction(edit: SceneEdit, seed: int = 0) -> str:
    """Ask for an edit in one of the phrasings that training may see."""
    rng = np.random.default_rng((seed, 21))
    return _fill(_pick(TRAINING_PHRASINGS[edit.kind], rng), edit, rng)


def held_out_instruction(edit: SceneEdit, seed: int = 0) -> str:
    """Ask for an edit in a phrasing that no training text contains."""
    rng = np.random.default_rng((seed, 22))
    return _fill(_pick(HELD_OUT_PHRASINGS[edit.kind], rng), edit, rng)


@cache
def _held_out_forms() -> re.Pattern[str]:
    nouns = [n for subject in SUBJECTS for n in NOUNS.get(subject, (subject,))]
    slots = {
        "replace": nouns,
        "recolour": COLOURS,
        "add": EXTRA_NOUNS.values(),
        **{k: [w for words in INSTRUCTION_WORDS[k].values() for w in words] for k in INSTRUCTION_WORDS},
    }
    slots["restyle"] = slots.pop("style")
    forms = []
    for kind, templates in HELD_OUT_PHRASINGS.items():
        value, noun_ = (f"(?:{'|'.join(map(re.escape, words))})" for words in (slots[kind], nouns))
        forms += [t.format(old=value, new=value, noun=noun_) for t in templates]
    return re.compile("|".join(re.sub(r"\ba \(", "an? (", form) for form in forms))


def is_held_out(instruction: str) -> bool:
    """Whether an instruction has a form that is kept for tests; nothing that trains an editor may have one."""
    return _held_out_forms().fullmatch(re.sub(r"[.!?,]", "", instruction).strip().lower()) is not None
