"""Known by heart, or understood: edits of what an editor was trained on beside edits of what is new to it.

A step down from one line to the next names what is missing. From training pictures to drawn ones of the same scenes:
the pictures' origin. From known scenes and instructions to new ones: how many there were. From generated pictures of
new scenes to drawn ones: the origin again, and now without anything learned by heart.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from ip2p_lib import images, records
from ip2p_lib.backbone import Backbone, check_instruction
from ip2p_lib.dataset import pair_files
from ip2p_lib.editing import edit
from ip2p_lib.evaluation.intervals import share, shares_by_kind
from ip2p_lib.evaluation.measures import pairs_exact, sample_captions
from ip2p_lib.evaluation.report import plain
from ip2p_lib.judge import Judge
from ip2p_lib.pairs import shard_groups
from ip2p_lib.presets import EditConfig, PairConfig
from ip2p_lib.records import Triplet
from ip2p_lib.scenes import render
from ip2p_lib.scenes.world import SceneEdit
from ip2p_lib.triplets import edit_of, understood, world_triplets


@dataclass(frozen=True, slots=True)
class Asked:
    """An instruction for a picture, and what it means."""

    picture: Image.Image
    instruction: str
    scenes: SceneEdit
    answer: Image.Image | None = None  # of a training pair, its second picture


def learned(folder: Path, count: int, editor: Backbone) -> list[Asked]:
    """Training pairs of `count` triplets spread over a folder of kept pairs, the first pair of each.

    Left out are those in which the world finds a fault, and instructions that the editor's tokenizer does not know.

    Raises:
        FileNotFoundError: the folder holds no pairs.
        ValueError: so many are not there, or a file is damaged.
    """
    found: dict[str, Asked] = {}
    files = pair_files(folder)
    for path in files:
        rows = (row for group in shard_groups(path) for row in group)
        fresh = (r for r in rows if r[records.TRIPLET_ID] not in found)
        known = ((r[records.TRIPLET_ID], a) for r in fresh if (a := _asked(r, editor, path)))
        found.update(islice(known, -(-count // len(files))))  # so that no file is left out
    if len(found) < count:
        raise ValueError(
            f"{folder} must hold pairs of {count} triplets that can be judged, but has {len(found)}"
        )
    return list(found.values())[:count]


def _asked(row: Mapping[str, Any], editor: Backbone, path: Path) -> Asked | None:
    names = (records.ORIGINAL_PROMPT, records.EDIT_PROMPT, records.EDITED_PROMPT)
    triplet = Triplet(row[records.TRIPLET_ID], *(row[n] for n in names))
    scenes = understood(triplet)
    if scenes is None or not _is_known(editor, triplet.edit):
        return None
    cells = (row[n]["bytes"] for n in (records.ORIGINAL_IMAGE, records.EDITED_IMAGE))
    before, after = (images.from_bytes(c, f"{path}: {triplet.id}") for c in cells)
    return Asked(before, triplet.edit, scenes, after)


def _is_known(editor: Backbone, instruction: str) -> bool:
    try:
        check_instruction(editor, instruction)
    except ValueError:
        return False
    return True


def drawn(asked: Sequence[Asked], size: int, seed: int) -> list[Asked]:
    """The same scenes and instructions with pictures that the world draws, each with a layout of its own."""
    moved = [a.scenes.laid_out(seed + i) for i, a in enumerate(asked)]
    return [Asked(render(s.before, size), a.instruction, s) for a, s in zip(asked, moved, strict=True)]


def unheard(count: int, size: int, seed: int) -> tuple[list[Asked], list[str]]:
    """New scenes, drawn, with new instructions in the forms that training knows; and the scenes' captions."""
    triplets = list(world_triplets(count, seed))
    scenes = [edit_of(t) for t in triplets]
    asked = [Asked(render(s.before, size), t.edit, s) for t, s in zip(triplets, scenes, strict=True)]
    return asked, [t.input for t in triplets]


def painted(
    asked: Sequence[Asked], captions: Sequence[str], base: Backbone, config: PairConfig, seed: int
) -> list[Asked]:
    """The same, with pictures that the text-to-image model makes of the captions."""
    pixels = sample_captions(
        base, captions, guidance_scale=sum(config.cfg_scale_range) / 2,
        num_inference_steps=config.num_inference_steps, resolution=config.resolution, seed=seed,
    )  # fmt: skip
    return [replace(a, picture=p) for a, p in zip(asked, images.to_pictures(pixels), strict=True)]


def exactness(judge: Judge, asked: Sequence[Asked], results: Sequence[Image.Image]) -> dict[str, Any]:
    """Share of results that differ from their picture as was asked and in nothing else, over all and by kind."""
    before, after = images.to_tensor([a.picture for a in asked]), images.to_tensor(results)
    values = pairs_exact(judge, before, after, [a.scenes for a in asked])
    by_kind = shares_by_kind([a.scenes.kind for a in asked], values)
    return {"exact": plain(share(values)), "by_kind": {k: plain(m) for k, m in by_kind.items()}}


def edited(editor: Backbone, asked: Sequence[Asked], config: EditConfig, seed: int) -> list[Image.Image]:
    """Results of the editor; edit i has the seed `seed + i`."""
    pictures, texts = [a.picture for a in asked], [a.instruction for a in asked]
    seeds = list(range(seed, seed + len(asked)))
    return [r.picture for r in edit(editor, pictures, texts, config=config, seed=seeds, batch_size=64)]


def measure(
    editor: Backbone,
    base: Backbone,
    judge: Judge,
    known: Sequence[Asked],
    config: EditConfig,
    pairs: PairConfig,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """The lines of the comparison, from what is best known to what is new, each with its name.

    Args:
        known: training pairs, of `learned`.
        pairs: how training pairs are sampled, so that new pictures are made alike.
    """
    answers = [a.answer for a in known if a.answer is not None]
    yield {"name": "training pairs themselves", **exactness(judge, known, answers)}
    new, captions = unheard(len(known), config.resolution, seed)
    for name, asked in (
        ("training pictures, their own instructions", known),
        ("drawn pictures of the same scenes, same instructions", drawn(known, config.resolution, seed)),
        ("generated pictures of new scenes, new instructions", painted(new, captions, base, pairs, seed)),
        ("drawn pictures of new scenes, new instructions", new),
    ):
        yield {"name": name, **exactness(judge, asked, edited(editor, asked, config, seed))}
