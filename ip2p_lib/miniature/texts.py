"""What the miniature's text models read: captions, instructions, and plain statements about scenes.

The full text encoder has seen general English; this one sees enough of it that "make", "turn into"
or "should be" are words it knows. Held-out instruction phrasings are never among these texts.
"""

import numpy as np

from ip2p_lib.scenes.language import EXTRA_NOUNS, INSTRUCTION_WORDS, caption, instruction, noun, with_articles
from ip2p_lib.scenes.world import Scene, sample_edit

STATEMENTS = (
    "there is a {colour} {subject} in the picture", "the {subject} is {colour}", "this is a {style}",
    "the weather is {weather}", "the weather is {weather} and it is {time}", "it is {time} in {place}",
    "the scene is set in {place}", "the background is {place}", "we see {place} there",
    "the picture shows a {subject} in {place}", "the colour of the {subject} is {colour}",
    "a {subject} of {colour} colour", "the {subject} from the picture is in {place}",
    "there is {extra} in the scene", "one can see {extra} away from the {subject}",
    "somebody took {extra} to {place}", "let us go to {place} at {time}", "the time is {time}",
    "i would like to see a {style} of a {subject}", "what should the {subject} be", "it is a {style}",
    "in place of a {subject} there is {extra}", "he gives the {subject} a {colour} colour",
    "the {weather} weather should not last", "they put {extra} in the scene at {time}",
)  # fmt: skip


def statement(scene: Scene, rng: np.random.Generator) -> str:
    """A plain sentence that tells some of what a scene holds."""
    words = INSTRUCTION_WORDS
    extra = scene.extras[0] if scene.extras else list(EXTRA_NOUNS)[rng.integers(len(EXTRA_NOUNS))]

    def pick(options: tuple[str, ...]) -> str:
        return options[rng.integers(len(options))]

    text = STATEMENTS[rng.integers(len(STATEMENTS))].format(
        colour=scene.colour,
        subject=noun(scene.subject, rng),
        place=pick(words["place"][scene.place]),
        time=pick(words["time"][scene.time]),
        weather=pick(words["weather"][scene.weather]),
        style=pick(words["style"][scene.style]),
        extra=EXTRA_NOUNS[extra],
    )
    return with_articles(text)


def ordinary_text(scene: Scene, seed: int) -> str:
    """A statement, an instruction or a caption, half of them instructions."""
    rng = np.random.default_rng((seed, 31))
    draw = rng.random()
    if draw < 0.5:
        return instruction(sample_edit(scene, rng), seed)
    return statement(scene, rng) if draw < 0.85 else caption(scene, seed)
