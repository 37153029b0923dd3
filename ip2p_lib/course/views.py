"""Before and after in one picture: side by side, wiped, flickered by hand, as a difference, against the answer."""

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from ip2p_lib import images
from ip2p_lib.course.answers import Answer

WIPE_LINE = (213, 94, 0)


def wipe(before: Image.Image, after: Image.Image, share: float) -> Image.Image:
    """The edit over its left `share`, in [0, 1], of the picture, with a line where they meet.

    Raises:
        ValueError: the share lies outside [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share must lie in [0, 1], got {share}")
    edge = round(share * before.width)
    out = before.copy()
    out.paste(after.crop((0, 0, edge, after.height)), (0, 0))
    if 0 < edge < out.width:
        ImageDraw.Draw(out).line([(edge, 0), (edge, out.height)], WIPE_LINE)
    return out


def difference(before: Image.Image, after: Image.Image, gain: int = 4) -> Image.Image:
    """Absolute difference, `gain` times enhanced: black where nothing changed."""
    values = np.asarray(ImageChops.difference(before, after)).astype(np.int64) * gain
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def beside(*pictures: Image.Image) -> Image.Image:
    """Pictures of one size in a row."""
    return images.grid(pictures, len(pictures), gap=max(2, pictures[0].width // 32))


VIEWS = ("side by side", "wipe", "difference", "with the answer")


def compose(
    view: str, before: Image.Image, after: Image.Image, answer: Answer | None, share: float
) -> tuple[Image.Image, str]:
    """One of `VIEWS` with the words for it.

    Raises:
        ValueError: there is no view of that name.
    """
    if view == "side by side":
        return beside(before, after), "before on the left, the edit on the right"
    if view == "wipe":
        return wipe(
            before, after, share
        ), f"the edit over the left {share:.0%} of the picture, before on the right"
    if view == "difference":
        return beside(
            after, difference(before, after)
        ), "the edit, and its difference from before, four times enhanced"
    if view == "with the answer":
        if answer is None:
            return beside(before, after), "before and edit; the world does not know the answer here"
        mask = answer.mask.convert("RGB")
        return beside(
            before, after, answer.picture, mask
        ), "before, the edit, the exact answer, where it should change"
    raise ValueError(f"view must be one of {', '.join(VIEWS)}; got {view!r}")
