"""Engines: who makes the pairs. What comes out is the same; how many make it, and where, is not."""

from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path

from ip2p_lib import pairs
from ip2p_lib.backbone import Backbone, ClipEncoder, load_backbone, load_clip, pick_device
from ip2p_lib.filtering import ClipCritic
from ip2p_lib.presets import PairConfig, Preset
from ip2p_lib.records import Triplet

ENGINES = ("in-process", "ray")


def base_here(preset: Preset, model: str | None = None) -> Backbone:
    """The preset's text-to-image model, or another by folder or hub id, on what this process can see."""
    device, dtype, _ = pick_device()
    manifest = "" if model else preset.manifest
    return load_backbone(model or preset.text_to_image, manifest=manifest, device=device, dtype=dtype)


def clip_here(preset: Preset) -> ClipEncoder:
    """The preset's CLIP, on what this process can see."""
    return load_clip(preset, device=pick_device()[0])


def make_pairs(
    triplets: Sequence[Triplet],
    config: PairConfig,
    folder: Path,
    preset: Preset,
    model: str | None = None,
    *,
    engine: str = "in-process",
    workers: int = 1,
    gpus_per_worker: float | None = None,
) -> Generator[pairs.Progress, None, None]:
    """Make every candidate of every triplet with an engine by name; a folder that one began another continues.

    Args:
        model: text-to-image model, folder or hub id; the preset's own if not given.
        workers: processes of the Ray engine, which also scores what they make.
        gpus_per_worker: what each of them takes; if not given, one where this process sees a GPU, else none.

    Raises:
        ValueError: there is no such engine; workers for the one that is this process; or as
            `pairs.synthesise` and `engines.ray.synthesise_with_ray`.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}; got {engine!r}")
    if engine == "ray":
        return _with_ray(triplets, config, folder, preset, model, workers, gpus_per_worker)
    if workers != 1 or gpus_per_worker is not None:
        raise ValueError("the in-process engine has one worker, this process; more need engine ray")
    critic = ClipCritic(clip_here(preset), preset.filter) if config.stops_early else None
    return pairs.synthesise(triplets, base_here(preset, model), config, folder, critic=critic)


def _with_ray(
    triplets: Sequence[Triplet],
    config: PairConfig,
    folder: Path,
    preset: Preset,
    model: str | None,
    workers: int,
    gpus_per_worker: float | None,
) -> Generator[pairs.Progress, None, None]:
    from ip2p_lib.engines.ray import synthesise_with_ray

    if model and Path(model).exists():
        model = str(Path(model).absolute())  # workers may start elsewhere
    if gpus_per_worker is None:
        gpus_per_worker = float(pick_device()[0].type == "cuda")
    return synthesise_with_ray(
        triplets,
        config,
        folder,
        model=model or preset.text_to_image,
        clip_mark=load_clip(preset).mark,  # on the CPU: GPUs are the workers'
        load_base=partial(base_here, preset, model),
        load_clip=partial(clip_here, preset),
        thresholds=preset.filter,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
    )
