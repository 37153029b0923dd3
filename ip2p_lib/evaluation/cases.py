"""What is edited and what it should become: scenes of the world, or pictures of files and datasets."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ip2p_lib import images, storage
from ip2p_lib.dataset import Pair, is_held_out, read_pairs
from ip2p_lib.presets import EditConfig
from ip2p_lib.records import EDITED_PROMPT, ORIGINAL_PROMPT, Triplet
from ip2p_lib.scenes import edit_mask, render
from ip2p_lib.scenes.world import SceneEdit
from ip2p_lib.triplets import edit_of, world_triplets

HOPELESS = 100  # unusable pairs without a usable one, after which a dataset is read no further


@dataclass(frozen=True, slots=True)
class Case:
    """One edit to make. Pictures are files, or drawn from `scenes` when they are needed."""

    triplet: Triplet
    picture: Path | None = None  # None: drawn
    truth: Path | None = None  # None without scenes: no answer is known
    mask: Path | None = None  # black-and-white, white where the answer may differ
    scenes: SceneEdit | None = None  # what the judge can be asked about

    @property
    def kind(self) -> str:
        """Kind of edit; "any" where nobody said."""
        return self.scenes.kind if self.scenes else str(self.triplet.source.get("kind", "any"))


@dataclass(frozen=True, slots=True)
class Opened:
    """A case's pictures, of one size."""

    case: Case
    picture: Image.Image
    truth: Image.Image | None
    mask: NDArray[np.bool_] | None  # (H, W), True where the answer differs from the picture
    faults: tuple[str, ...] = ()  # what could not be opened, though the edit can be made


def world_cases(count: int, seed: int) -> Iterator[Case]:
    """Edits of held-out scenes in held-out phrasings, the first `count` of a seed."""
    for triplet in world_triplets(count, seed, held_out=True):
        yield Case(triplet, scenes=edit_of(triplet))


def pair_cases(
    folder: Path, count: int, pictures: Path, faults: list[str], *, held_out: float = 1.0
) -> Iterator[Case]:
    """Edits of any pair dataset with captions, one of each prompt, the first `count` of them.

    The dataset's own edited picture stands in for the answer. Nobody can be asked whether an edit is exact.

    Args:
        folder: as `dataset.open_dataset` takes it.
        pictures: folder that their pictures are written to.
        faults: what is wrong with rows that cannot be used is added here.
        held_out: only prompts that a training keeps back at this share; 1 for any.

    Raises:
        FileNotFoundError: the folder holds no pairs.
        ValueError: the share is none, or no usable pair is among its prompts.
    """
    if not 0 < held_out <= 1:  # also refuses NaN
        raise ValueError(f"held_out must be a share above 0 and up to 1, got {held_out}")
    seen = set[str]()
    for pair in read_pairs(
        folder, lambda prompt: prompt not in seen and is_held_out(prompt, held_out), faults
    ):
        if pair.caption.strip() and pair.edited_caption.strip():
            seen.add(pair.prompt)
            yield _kept_case(pair, pictures)
        else:
            faults.append(
                f"the pair {pair.instruction!r} must have texts in {ORIGINAL_PROMPT} and {EDITED_PROMPT}, since CLIP's"
                " direction compares captions, but has none"
            )
        if len(seen) == count or (not seen and len(faults) == HOPELESS):
            break
    if not seen:
        why = f"; {faults[0]}" if faults else ""
        raise ValueError(f"{folder} must hold a usable pair whose prompt is held out, found none{why}")


def _kept_case(pair: Pair, pictures: Path) -> Case:
    """The edit that a pair shows, its pictures as files."""
    mark = storage.fingerprint([pair.prompt, *(images.digest(p) for p in (pair.before, pair.after))])
    before, after = (pictures / f"{mark}-{part}.png" for part in ("input", "answer"))
    for path, picture in ((before, pair.before), (after, images.fit(pair.after, pair.before.size))):
        with storage.atomic_file(path) as partial:
            picture.save(partial, "PNG")
    return Case(Triplet(mark, pair.caption, pair.instruction, pair.edited_caption), before, after)


def open_case(case: Case, config: EditConfig) -> Opened:
    """The pictures at the size at which they are edited.

    A picture that cannot be opened ends the case; a truth or mask that cannot be used is left out, with the
    reason among the faults.

    Raises:
        ValueError: the picture is not readable.
        FileNotFoundError: there is no such file.
    """
    if case.picture is None and case.scenes is not None:
        size = config.resolution
        before, after = (render(s, size) for s in (case.scenes.before, case.scenes.after))
        return Opened(case, before, after, edit_mask(case.scenes.before, case.scenes.after, size))
    if case.picture is None:
        raise ValueError(f"case {case.triplet.id} must have a picture or scenes, has neither")
    picture, faults = images.open_picture(case.picture), []
    side = images.edit_size(*picture.size, config.resolution, config.multiple)
    beside: dict[str, Image.Image | None] = {}
    for name, path in (("truth", case.truth), ("mask", case.mask)):
        beside[name], fault = _beside(name, path, picture.size)
        faults += [fault] if fault else []
    truth, mask = (None if p is None else images.fit(p, side) for p in (beside["truth"], beside["mask"]))
    where = None if mask is None else np.asarray(mask.convert("L")) > 127
    return Opened(case, images.fit(picture, side), truth, where, tuple(faults))


def _beside(name: str, path: Path | None, size: tuple[int, int]) -> tuple[Image.Image | None, str]:
    """A picture that must have its input's size, or None and why not."""
    if path is None:
        return None, "no truth is known" if name == "truth" else ""
    try:
        picture = images.open_picture(path)
    except (ValueError, OSError) as error:
        return None, f"{name}: {error}"
    if picture.size != size:
        return None, f"{name} must have the picture's size {size}, has {picture.size}"
    return picture, ""
