"""The measures themselves: what the judge, the exact answer and CLIP say."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ip2p_lib import images
from ip2p_lib.backbone import Backbone, ClipEncoder
from ip2p_lib.baselines.sdedit import guided
from ip2p_lib.diffusion import euler_ancestral
from ip2p_lib.editing import edit
from ip2p_lib.evaluation.intervals import Measure, bootstrap_ratio, shares_by, shares_by_kind
from ip2p_lib.judge import Judge, Verdict, read_attributes
from ip2p_lib.presets import EditConfig
from ip2p_lib.records import Triplet
from ip2p_lib.scenes.language import caption
from ip2p_lib.scenes.render import render
from ip2p_lib.scenes.world import EXTRAS, KIND_OF_ATTRIBUTE, STYLES, Scene, SceneEdit
from ip2p_lib.similarity import image_features, score_edits, text_features
from ip2p_lib.triplets import edit_of

ATTRIBUTE_OF_KIND = {kind: name for name, kind in KIND_OF_ATTRIBUTE.items()}


def scene_pixels(scenes: Sequence[Scene], size: int = 64) -> Tensor:
    """True renders (N, 3, size, size) in [-1, 1]."""
    return images.to_tensor([render(s, size) for s in scenes])


def all_attributes_right(judge: Judge, pixels: Tensor, scenes: Sequence[Scene]) -> list[float]:
    """1 for each picture on which the judge reads every attribute and extra as its scene has it."""
    return [float(v.agrees(s)) for v, s in zip(read_attributes(judge, pixels), scenes, strict=True)]


def reconstruct(model: Backbone, pixels: Tensor, *, batch_size: int = 64) -> Tensor:
    """Pictures through the autoencoder and back, (N, 3, H, W) in [-1, 1]."""
    return torch.cat([model.decode_latents(model.latent_moments(b)[0]) for b in pixels.split(batch_size)])


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture, (N,), for values in [-1, 1]."""
    return -10 * (((a - b) / 2) ** 2).flatten(1).mean(1).clamp_min(1e-10).log10()


@torch.no_grad()
def sample_captions(
    model: Backbone,
    captions: Sequence[str],
    *,
    guidance_scale: float,
    num_inference_steps: int,
    resolution: int,
    seed: int = 0,
    batch_size: int = 64,
) -> Tensor:
    """Text-to-image: pictures (N, 3, H, W) in [-1, 1]; picture i has the seed `seed + i`."""
    side, out = resolution // model.factor, []
    for start in range(0, len(captions), batch_size):
        texts = captions[start : start + batch_size]
        *_, last = euler_ancestral(
            guided(model, texts, guidance_scale),
            model.scheduler,
            seeds=[seed + start + i for i in range(len(texts))],
            shape=(model.latent_channels, side, side),
            num_inference_steps=num_inference_steps,
            device=model.device,
        )
        out.append(model.decode_latents(last.latents).cpu())
    return torch.cat(out)


def recall_at_1(clip: ClipEncoder, pixels: Tensor, captions: Sequence[str]) -> list[float]:
    """1 for each picture whose own caption is the nearest of all given captions.

    Args:
        pixels: (N, 3, H, W) in [-1, 1].
        captions: N different captions.

    Raises:
        ValueError: two captions are equal.
    """
    if len(set(captions)) != len(captions):
        raise ValueError("retrieval needs different captions, but some are equal")
    scores = image_features(clip, images.to_unit(pixels)) @ text_features(clip, captions).T
    return (scores.argmax(1) == torch.arange(len(captions), device=scores.device)).float().tolist()


def changed_exactly(before: Verdict, after: Verdict, edit: SceneEdit) -> bool:
    """Whether a pair, as the judge reads it, shows the requested change and no other.

    The pictures are compared with each other: what the source got wrong of its caption is no fault
    of the edit.
    """
    if edit.kind in ("add", "remove"):
        changed = [e for e in EXTRAS if (e in edit.before.extras) != (e in edit.after.extras)]
        wanted = before.extras | set(changed) if edit.kind == "add" else before.extras - set(changed)
        is_new = all((e in before.extras) != (edit.kind == "add") for e in changed)
        return is_new and after.extras == wanted and after.attributes == before.attributes
    name = ATTRIBUTE_OF_KIND[edit.kind]
    if before.attributes[name] == after.attributes[name]:
        return False
    wanted_attributes = {**before.attributes, name: getattr(edit.after, name)}
    return after.attributes == wanted_attributes and after.extras == before.extras


def pairs_exact(
    judge: Judge, before: Tensor, after: Tensor, edits: Sequence[SceneEdit | None]
) -> list[float]:
    """1 for each generated pair that does exactly what its instruction says; pixels in [-1, 1].

    A pair of a triplet with a fault (None) cannot be right.
    """
    read = zip(read_attributes(judge, before), read_attributes(judge, after), edits, strict=True)
    return [float(e is not None and changed_exactly(a, b, e)) for a, b, e in read]


@dataclass(frozen=True, slots=True)
class EditScore:
    """How one edit of a true render turned out."""

    kind: str
    exact: float  # the judge reads the target scene, all of it
    requested: float  # the judge reads the requested attribute
    l1: float  # mean absolute distance to the exact answer, in [0, 2]
    unedited_l1: float  # the same for the unedited input
    clip_sim_dir: float
    clip_sim_image: float
    style: str  # of the input


def changed_requested(verdict: Verdict, edit: SceneEdit) -> bool:
    """Whether the judge reads the requested attribute or extra as the edit wants it, whatever else it reads."""
    wrong = verdict.differs(edit.after)
    if edit.kind in ("add", "remove"):
        return not set(wrong) & {e for e in EXTRAS if (e in edit.before.extras) != (e in edit.after.extras)}
    return ATTRIBUTE_OF_KIND[edit.kind] not in wrong


def evaluate_edits(
    editor: Backbone,
    judge: Judge,
    clip: ClipEncoder,
    triplets: Sequence[Triplet],
    config: EditConfig,
    *,
    seed: int = 0,
    batch_size: int = 64,
) -> Iterator[tuple[EditScore, Image.Image, Image.Image, Image.Image]]:
    """Edit true renders and compare with the exact answers.

    Yields, in order: the score, the input, the edit, the truth.
    """
    for start in range(0, len(triplets), batch_size):
        group = list(triplets[start : start + batch_size])
        edits = [edit_of(t) for t in group]
        inputs = [render(e.before, config.resolution) for e in edits]
        truths = [render(e.after, config.resolution) for e in edits]
        seeds = [seed + start + i for i in range(len(group))]
        results = edit(
            editor, inputs, [t.edit for t in group], config=config, seed=seeds, batch_size=batch_size
        )
        pictures = [r.picture for r in results]
        yield from zip(
            _score_group(judge, clip, group, edits, inputs, pictures, truths),
            inputs,
            pictures,
            truths,
            strict=True,
        )


def _score_group(
    judge: Judge, clip: ClipEncoder, group: Sequence[Triplet], edits: Sequence[SceneEdit], *pictures: Any
) -> list[EditScore]:
    before, after, truth = (images.to_tensor(p) for p in pictures)
    verdicts = read_attributes(judge, after)
    cosines = score_edits(
        clip,
        images.to_unit(before),
        images.to_unit(after),
        [t.input for t in group],
        [t.output for t in group],
    )
    distance, unedited = ((x - truth).abs().flatten(1).mean(1).tolist() for x in (after, before))
    return [
        EditScore(
            e.kind,
            float(v.agrees(e.after)),
            float(changed_requested(v, e)),
            d,
            u,
            c.clip_sim_dir,
            c.clip_sim_image,
            e.before.style,
        )
        for e, v, d, u, c in zip(edits, verdicts, distance, unedited, cosines, strict=True)
    ]


def by_kind(scores: Sequence[EditScore]) -> dict[str, Measure]:
    """Exact edits by kind of edit, for the kinds that occur."""
    return shares_by_kind([s.kind for s in scores], [s.exact for s in scores])


def by_style(scores: Sequence[EditScore]) -> dict[str, Measure]:
    """Exact edits by the style of the input, for the styles that occur."""
    return shares_by(STYLES, [s.style for s in scores], [s.exact for s in scores])


def distance_ratio(scores: Sequence[EditScore]) -> Measure:
    """Mean distance to the exact answer over that of the unedited picture."""
    return bootstrap_ratio([s.l1 for s in scores], [s.unedited_l1 for s in scores])


def different_captions(scenes: Sequence[Scene], count: int) -> tuple[list[Scene], list[str]]:
    """The first `count` scenes whose attributes differ, with their captions."""
    seen: dict[Scene, Scene] = {}
    for scene in scenes:
        seen.setdefault(replace(scene, layout=0), scene)
    chosen = list(seen.values())[:count]
    return chosen, [caption(s, i) for i, s in enumerate(chosen)]
