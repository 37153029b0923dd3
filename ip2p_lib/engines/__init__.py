"""Engines: who makes the pairs. What comes out is the same; how many make it, and where, is not."""

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from ip2p_lib import pairs
from ip2p_lib.backbone import Backbone, ClipEncoder, load_clip, load_text_to_image, pick_device
from ip2p_lib.filtering import ClipCritic
from ip2p_lib.presets import PairConfig, Preset
from ip2p_lib.records import Triplet

ENGINES = ("in-process", "ray")
SCORERS_PART = 1 / 8  # of a GPU; in eighths, worker and scorer add up to exactly one


@dataclass(frozen=True, slots=True)
class Crew:
    """Processes of the Ray engine and their GPUs, of which None leaves the choice to `settled`.

    Args:
        workers: that make pairs.
        scorers: that score what the workers made.
        gpus_per_worker, gpus_per_scorer: GPUs, or a part of one, for each; 0 for the CPU.
    """

    workers: int = 1
    scorers: int | None = None
    gpus_per_worker: float | None = None
    gpus_per_scorer: float | None = None

    def settled(self, has_gpu: bool) -> "Crew":
        """The same with every choice made.

        With GPUs, a scorer beside each worker on its GPU, since CLIP on one processor cannot keep up with a GPU that
        makes pairs. Without, or where workers are given whole GPUs, one scorer on a processor.
        """
        scoring, making = self.gpus_per_scorer, self.gpus_per_worker
        if scoring is None:
            scoring = SCORERS_PART if has_gpu and making is None else 0.0
        if making is None:
            making = 1 - scoring if has_gpu and scoring < 1 else float(has_gpu)
        scorers = (self.workers if scoring else 1) if self.scorers is None else self.scorers
        return replace(self, scorers=scorers, gpus_per_worker=making, gpus_per_scorer=scoring)


IN_PROCESS = Crew()


def base_here(preset: Preset, model: str | None = None) -> Backbone:
    """The preset's text-to-image model, or another by folder or hub id, on what this process can see."""
    device, dtype, _ = pick_device()
    return load_text_to_image(preset, model, device=device, dtype=dtype)


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
    crew: Crew = IN_PROCESS,
) -> Generator[pairs.Progress, None, None]:
    """Make every candidate of every triplet with an engine by name; a folder that one began another continues.

    Args:
        model: text-to-image model, folder or hub id; the preset's own if not given.
        crew: processes of the Ray engine, which also scores what they make, and the GPUs they take.

    Raises:
        ValueError: there is no such engine; workers for the one that is this process; or as
            `pairs.synthesise` and `engines.ray.synthesise_with_ray`.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}; got {engine!r}")
    if engine == "ray":
        return _with_ray(triplets, config, folder, preset, model, crew)
    if crew != IN_PROCESS:
        raise ValueError("the in-process engine has one worker, this process; more need engine ray")
    critic = ClipCritic(clip_here(preset), preset.filter) if config.stops_early else None
    return pairs.synthesise(triplets, base_here(preset, model), config, folder, critic=critic)


def _with_ray(
    triplets: Sequence[Triplet],
    config: PairConfig,
    folder: Path,
    preset: Preset,
    model: str | None,
    crew: Crew,
) -> Generator[pairs.Progress, None, None]:
    from ip2p_lib.engines.ray import synthesise_with_ray

    if model and Path(model).exists():
        model = str(Path(model).absolute())  # workers may start elsewhere
    crew = crew.settled(pick_device()[0].type == "cuda")
    return synthesise_with_ray(
        triplets,
        config,
        folder,
        model=model or preset.text_to_image,
        clip_mark=load_clip(preset).mark,  # on the CPU: GPUs are the workers'
        load_base=partial(base_here, preset, model),
        load_clip=partial(clip_here, preset),
        thresholds=preset.filter,
        **asdict(crew),
    )
