"""The words that the reader of instructions knows: what names a value, and what only joins."""

from ip2p_lib.scenes import language
from ip2p_lib.scenes.world import COLOURS, SUBJECTS

SYNONYMS = {
    "colour": {},
    "subject": {"sailing boat": "sailboat", "boat": "sailboat", "hot air balloon": "balloon"},
    "place": {
        "woods": "forest", "town": "city", "city street": "city", "shore": "beach", "seaside": "beach",
        "green meadow": "meadow", "grassy meadow": "meadow", "sandy beach": "beach", "sandy desert": "desert",
    },
    "time": {
        "daytime": "day", "noon": "day", "noonday": "day", "daylight": "day", "dusk": "sunset",
        "evening": "sunset", "night time": "night", "night-time": "night", "night sky": "night",
        "nighttime": "night", "dark": "night", "after dark": "night", "evening sun": "sunset", "sun sets": "sunset",
        "sun set": "sunset", "sun go down": "sunset", "broad daylight": "day", "bright day": "day",
        "middle of the day": "day",
    },
    "weather": {
        "clear and dry": "clear", "dry": "clear", "clear weather": "clear", "clear sky": "clear",
        "rainy": "rain", "rains": "rain", "raining": "rain", "rainfall": "rain", "wet": "rain",
        "snowy": "snow", "snows": "snow", "snowing": "snow", "snowfall": "snow", "pour": "rain",
    },
    "style": {
        "flat illustration": "plain", "plain drawing": "plain", "plain": "plain", "pencil sketch": "pencil",
        "pencil drawing": "pencil", "pencil": "pencil", "sketch": "pencil", "watercolour painting": "watercolour",
        "watercolours": "watercolour", "pixel art": "pixel", "pixel art game scene": "pixel",
        "pixel art picture": "pixel", "pixels": "pixel", "retro game": "pixel", "travel poster": "poster", "vintage poster": "poster", "poster": "poster",
    },
    "extra": {
        "rainbow": "rainbow", "wooden fence": "fence", "fence": "fence", "street lamp": "lamp", "lamp": "lamp",
        "kite": "kite",
    },
}  # fmt: skip


def _value_words() -> dict[str, tuple[str, str]]:
    names = {
        "colour": COLOURS, "subject": SUBJECTS, "place": language.PLACE_PHRASES, "time": language.TIME_PHRASES,
        "weather": language.WEATHER_PHRASES, "style": language.STYLE_PHRASES, "extra": (),
    }  # fmt: skip
    found = {value: (attribute, value) for attribute, values in names.items() for value in values}
    for attribute, synonyms in SYNONYMS.items():
        found |= {word: (attribute, value) for word, value in synonyms.items()}
    return found


VALUE_WORDS = _value_words()


def _listed(text: str) -> frozenset[str]:
    return frozenset(phrase.strip() for phrase in text.split(","))


# A clause with one of these says that what it names goes.
REMOVAL = _listed(
    "away, can go, delete, disappear, drop, erase, fade, get rid of, gone, hide, leave out, lose, melt, "
    "needs no, no, no more, not, off, out with, pull, remove, rid of, stop, stopped, stops, take down, "
    "tear, wipe, without"
)
# What the next value is: the one that is there, the one that is to come, either.
OLD_MARKERS = _listed("exchange, from, in place of, instead of, rather than, replace, swap, switch, trade")
NEW_MARKERS = _listed("become, becomes, for, into, off to, over to, to, turns, turns into, with")
CHANGE = _listed(
    "add, bring, build, change, colour, draw, dye, give, have, is, just, keep, make, move, now, only, "
    "paint, place, put, recolour, set, show, tint, turn, use"
)
CLAUSE_ENDS = frozenset((",", "and", "but"))
FUNCTION_WORDS = _listed(
    "a, about, above, after, again, air, all, an, any, are, around, as, as well as, at, background, be, "
    "behind, beside, better, bright, by, can, coat, come, comes, could, cover, do, down, during, edge, "
    "evening, fall, fill, flies, fly, flying, front, get, gets, go, goes, ground, grow, hang, has, here, "
    "how, i, if, image, in, instead, it, its, keep, leave, let, light, light from, like, look, looks, "
    "me, middle, missing, more, much, near, need, needs, next, nice, of, on, one, out, over, park, "
    "picture, pixel, please, print, rather, redo, sail, scene, see, send, sets, should, sky, some, "
    "stand, stands, stay, stays, stood, style, sun, take, than, that, the, then, there, think, this, "
    "time, too, under, up, us, want, was, we, weather, well, were, what, where, while, wish, would, you"
)
# Parts of a picture that no attribute is about: "make the sky red" asks for what the world has no name for.
SCENERY = _listed("air, background, ground, image, light, picture, scene, sky, sun")
# Beside "not", which then says that something stays or never comes.
NOT_BUT = _listed("add, bring, draw, go, goes, keep, paint, place, put, show")
# "take the kite down" and its likes, as one word
TAKE_AWAY = r"\b(?:take|tear|fade|wipe|pull|leave) ((?:the |a )?[a-z ]+?) (?:down|away|off|out)\b"
KNOWN = VALUE_WORDS.keys() | REMOVAL | OLD_MARKERS | NEW_MARKERS | CHANGE | CLAUSE_ENDS | FUNCTION_WORDS
