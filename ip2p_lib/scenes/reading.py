"""Read captions and instructions of the world back, exactly or not at all: the judge of caption triplets.

A text that the reader is not sure of counts as not understood, so a share of understood texts never
flatters whoever wrote them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

from ip2p_lib.scenes import language
from ip2p_lib.scenes.lexicon import (
    CHANGE,
    CLAUSE_ENDS,
    KNOWN,
    NEW_MARKERS,
    NOT_BUT,
    OLD_MARKERS,
    REMOVAL,
    SCENERY,
    TAKE_AWAY,
    VALUE_WORDS,
)
from ip2p_lib.scenes.world import ATTRIBUTES, COLOURS, EXTRA_SETS, SUBJECTS, Scene, SceneEdit, edits


@dataclass(frozen=True, slots=True)
class CaptionReading:
    """What a caption says, and in which words it says each attribute."""

    scene: Scene
    words: Mapping[str, str]


def _phrases(options: language.Phrases) -> dict[str, str]:
    """Phrase -> value, longest phrase first, so that a regular expression prefers it."""
    found = {phrase: value for value, phrases in options.items() for phrase in phrases if phrase}
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


NOUNS = _phrases({s: language.NOUNS.get(s, (s,)) for s in SUBJECTS})
PLACES, TIMES, WEATHERS, STYLES = (
    _phrases(p)
    for p in (
        language.PLACE_PHRASES,
        language.TIME_PHRASES,
        language.WEATHER_PHRASES,
        language.STYLE_PHRASES,
    )
)
EXTRA_PHRASES = {" and ".join(language.EXTRA_NOUNS[e] for e in extras): extras for extras in EXTRA_SETS}


@cache
def _body_pattern() -> re.Pattern[str]:
    def one_of(phrases: Mapping[str, object] | tuple[str, ...]) -> str:
        return "|".join(re.escape(p) for p in phrases if p)

    return re.compile(
        rf"(?:an (?=orange)|a (?!orange))(?P<colour>{one_of(COLOURS)}) (?P<subject>{one_of(NOUNS)})"
        rf" (?P<place>{one_of(PLACES)})(?: (?P<time>{one_of(TIMES)}))?(?: (?P<weather>{one_of(WEATHERS)}))?"
        rf"(?: with (?P<extras>{one_of(EXTRA_PHRASES)}))?"
    )


def _styled(text: str) -> Iterator[tuple[str, str, str]]:
    """Ways to split a caption into body, style and the words (with their position) that say the style."""
    yield text, "plain", ""
    for phrase, value in STYLES.items():
        if text.endswith(f", {phrase}"):
            yield text.removesuffix(f", {phrase}"), value, f"…, {phrase}"
        article = "" if phrase in ("pixel art", "watercolour") else "a "
        if text.startswith(f"{article}{phrase} of "):
            yield text.removeprefix(f"{article}{phrase} of "), value, f"{phrase} of …"


def read_caption(text: str) -> CaptionReading | None:
    """The scene that a caption of the grammar describes (layout 0), or None for any other text."""
    for body, style, style_words in _styled(text.strip()):
        found = _body_pattern().fullmatch(body)
        if found is None:
            continue
        words = {name: found[name] or "" for name in (*ATTRIBUTES, "extras") if name != "style"}
        scene = Scene(
            subject=NOUNS[words["subject"]],
            colour=words["colour"],
            place=PLACES[words["place"]],
            time=TIMES.get(words["time"], "day"),
            weather=WEATHERS.get(words["weather"], "clear"),
            style=style,
            extras=EXTRA_PHRASES[words["extras"]],
        )
        return CaptionReading(scene, {**words, "style": style_words})
    return None


def read_change(before: CaptionReading, after: CaptionReading) -> SceneEdit | None:
    """The one edit that leads from one caption to the other, all else being said in the same words."""
    start = replace(before.scene, layout=0)
    for edit in edits(start):
        if edit.after == replace(after.scene, layout=0):
            changed = next(n for n in (*ATTRIBUTES, "extras") if getattr(start, n) != getattr(edit.after, n))
            same = all(after.words[n] == w for n, w in before.words.items() if n != changed)
            return edit if same else None
    return None


@dataclass(frozen=True, slots=True)
class _Mention:
    attribute: str  # or "extra"
    value: str
    role: str  # "old", "new", "gone" or "any", from the words around it


def _phrases_of(instruction: str) -> list[str] | None:
    """The instruction as known phrases, longest first at each place; None if a word is unknown."""
    text = re.sub(TAKE_AWAY, r"remove \1", instruction.lower().replace("’", "'"))
    words = re.findall(r"[a-z]+(?:[-'][a-z]+)*|[,;.:?!]", text)
    words = [w if w[0].isalpha() else "," for w in words]
    phrases, i = [], 0
    while i < len(words):
        for length in range(min(5, len(words) - i), 0, -1):
            phrase = " ".join(words[i : i + length])
            if phrase in KNOWN:
                phrases.append(phrase)
                i += length
                break
        else:
            return None
    return phrases


def _mentions(phrases: list[str]) -> list[_Mention]:
    """Values with the part they play: "gone" in a clause that removes, else by the marker before them."""
    found: list[_Mention] = []
    clause: list[_Mention] = []
    role, removes = "any", False
    for phrase in [*phrases, ","]:
        if phrase in VALUE_WORDS:
            clause.append(_Mention(*VALUE_WORDS[phrase], role))
        elif phrase in OLD_MARKERS:
            role = "old"
        elif phrase in NEW_MARKERS:
            role = "new"
        elif phrase in CHANGE:
            role = "any"
        elif phrase in CLAUSE_ENDS:
            if removes and not clause:  # "there was a kite, now it is gone"
                clause, found = found, []
            found += [replace(m, role="gone") for m in clause] if removes else clause
            clause, role, removes = [], "any", False
        removes = removes or phrase in REMOVAL
    return found


def _holds(scene: Scene, mention: _Mention) -> bool:
    if mention.attribute == "extra":
        return mention.value in scene.extras
    return getattr(scene, mention.attribute) == mention.value


def read_instruction(instruction: str, before: Scene) -> SceneEdit | None:
    """The one edit of a scene that an instruction asks for, or None if that is not certain.

    Everything mentioned must either be in the scene already or be the one new thing; a thing named as
    the old one must be there. Every word must be known.
    """
    phrases = _phrases_of(instruction) or []
    mentions = _mentions(phrases)
    gone = [m for m in mentions if m.role == "gone"]
    new = {(m.attribute, m.value) for m in mentions if not _holds(before, m)}
    if gone and not new:
        return None if _is_denied(phrases) else _removal(gone, before)
    if len(new) != 1:
        return None
    ((attribute, value),) = new
    if _is_about_something_else(attribute, mentions, phrases):
        return None
    for mention in mentions:
        is_new = (mention.attribute, mention.value) == (attribute, value)
        if is_new and mention.role in ("old", "gone"):
            return None
        if not is_new and mention.role == "new" and mention.attribute == attribute != "extra":
            return None
        if mention.attribute == "extra" and not is_new and mention.role in ("old", "gone"):
            return None
    return _edit_to(before, attribute, value)


def _is_denied(phrases: list[str]) -> bool:
    """Whether "do not remove the kite" or "do not add a kite" is said, rather than that it goes."""
    return "not" in phrases and any(p in NOT_BUT or p in REMOVAL - {"not"} for p in phrases)


def _is_about_something_else(attribute: str, mentions: list[_Mention], phrases: list[str]) -> bool:
    """Whether colour, subject or place are wished for an extra or a part of the picture, or besides what is there."""
    if attribute not in ("colour", "subject", "place"):
        return False
    has_extra = any(m.attribute == "extra" for m in mentions)
    of_scenery = attribute != "place" and not SCENERY.isdisjoint(phrases)
    return has_extra or of_scenery or (attribute == "subject" and "add" in phrases)


def _removal(gone: list[_Mention], before: Scene) -> SceneEdit | None:
    """What is left when something goes: an extra, or rain and snow."""
    extras = {m.value for m in gone if m.attribute == "extra"}
    falling = {m.value for m in gone if m.attribute == "weather"} - {"clear"}
    if len(extras) == 1 and not falling:
        return _edit_to(before, "extra", extras.pop())
    if len(falling) == 1 and not extras:
        return _edit_to(before, "weather", "clear")
    return None


def _edit_to(before: Scene, attribute: str, value: str) -> SceneEdit | None:
    for edit in edits(before):
        if attribute == "extra":
            if value in (edit.old, edit.new) and edit.kind in ("add", "remove"):
                return edit
        elif getattr(edit.after, attribute) == value != getattr(before, attribute):
            return edit
    return None


def triplet_fault(caption: str, instruction: str, edited: str) -> str:
    """Why a triplet is not valid, or "" if the new caption follows from the other two and nothing else changed.

    One of: "input", "output" (no caption of the world), "change" (not one edit apart, or other words
    changed), "instruction" (not understood), "mismatch" (asks for another edit).
    """
    before, after = read_caption(caption), read_caption(edited)
    if before is None or after is None:
        return "input" if before is None else "output"
    change = read_change(before, after)
    if change is None:
        return "change"
    wanted = read_instruction(instruction, replace(before.scene, layout=0))
    if wanted is None:
        return "instruction"
    return "" if wanted.after == change.after else "mismatch"
