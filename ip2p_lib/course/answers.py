"""What the world knows about an edit: the exact answer, the exact mask, and how the edit compares, in words."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops

from ip2p_lib import images
from ip2p_lib.course.history import Entry
from ip2p_lib.judge import Judge, read_attributes
from ip2p_lib.scenes import Scene, render
from ip2p_lib.scenes.reading import read_instruction
from ip2p_lib.scenes.world import SceneEdit

VISIBLE = 24  # of 255: a difference that one notices


@dataclass(frozen=True, slots=True)
class Answer:
    """The exact answer to an instruction, drawn by the world."""

    edit: SceneEdit
    picture: Image.Image
    mask: Image.Image  # white where the answer differs from the picture as the world draws it


def answer_to(scene: Scene | None, instruction: str, size: tuple[int, int]) -> Answer | None:
    """The answer, where the scene is known and the instruction certain; else None."""
    edit = read_instruction(instruction, scene) if scene is not None else None
    if edit is None or size[0] != size[1]:
        return None
    before, after = (render(s, size[0]) for s in (edit.before, edit.after))
    return Answer(edit, after, changed(before, after))


def changed(before: Image.Image, after: Image.Image) -> Image.Image:
    """White where two pictures of one size differ visibly, else black."""
    difference = np.asarray(ImageChops.difference(before, after)).max(axis=-1)
    return Image.fromarray(np.where(difference > VISIBLE, 255, 0).astype(np.uint8))


def in_words(entry: Entry, judge: Judge | None = None) -> str:
    """How much has changed, where, and what the judge reads; for people who do not see the pictures too."""
    before, after = entry.source.picture, entry.result.picture
    touched = np.asarray(changed(before, after)) > 0
    text = f"{touched.mean():.0%} of the picture changed visibly"
    answer = answer_to(entry.source.scene, entry.settings.instruction, after.size)
    if answer is None:
        return f"{text}."
    mask = np.asarray(answer.mask) > 0
    asked = touched[mask].mean() if mask.any() else 0.0
    kept = touched[~mask].mean() if (~mask).any() else 0.0
    text += f": {asked:.0%} of what should, {kept:.0%} of what should not"
    return f"{text}. {_verdict(judge, answer, after)}" if judge is not None else f"{text}."


def _verdict(judge: Judge, answer: Answer, picture: Image.Image) -> str:
    verdict = read_attributes(judge, images.to_tensor([picture]))[0]
    wrong = verdict.differs(answer.edit.after)
    if not wrong:
        return "The judge reads exactly what was asked for."
    return f"The judge misses: {', '.join(wrong)}."
