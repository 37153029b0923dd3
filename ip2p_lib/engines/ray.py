"""Pairs and their scores by many workers: Ray Data over the units of a run, on one machine or a cluster.

    ip2p pairs --triplets t.jsonl --out out/pairs --engine ray --workers 4 --gpus-per-worker 1

Workers make units, scorers score each shard as it appears; each loads its model once, with its first unit.
A shard is a function of its unit, so any number of workers leaves the same bytes, and so does the in-process
engine with as many torch threads (another number shifts a few pixels by one level). A folder that one engine
began the other continues; one run at a time, since a run clears away what dead ones left half written.

A worker that dies is replaced, and only its unit is made again. Ray is the caller's where `ray.init` was
called, else the cluster that RAY_ADDRESS names, else a local one that ends with the run; while it runs, its
ports are open to the network. On a cluster, folder and models must have the same paths on all nodes.
"""

import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ip2p_lib import filtering, pairs
from ip2p_lib.backbone import Backbone, ClipEncoder, files_mark, model_name
from ip2p_lib.engines.session import one_line, reporting, running_ray
from ip2p_lib.filtering.scoring import is_scored
from ip2p_lib.presets import FilterConfig, PairConfig
from ip2p_lib.records import Triplet

TRIES = 5  # workers that may die over one shard before the run is given up
Batch = dict[str, Any]  # Ray Data's: a column of one value under each name
Stages = Sequence[tuple[type, "Job", int]]  # worker, what it is sent, how many of them


@dataclass(frozen=True)
class Job:
    """What every worker is sent, and what it loads on first use."""

    folder: Path
    config: PairConfig
    thresholds: FilterConfig
    model: str
    files: str
    clip_mark: str
    load_base: Callable[[], Backbone]
    load_clip: Callable[[], ClipEncoder]
    threads: int
    gpus: float

    @cached_property
    def base(self) -> Backbone:
        """The text-to-image model."""
        self._settle()
        base = self.load_base()
        if (base.name, base.files) != (self.model, self.files):
            raise ValueError(
                f"workers must load the model {self.model!r} of weights {self.files!r}, but loaded {base.name!r} of"
                f" {base.files!r}"
            )
        return base

    @cached_property
    def critic(self) -> filtering.ClipCritic:
        """CLIP, with the thresholds that early stopping asks for."""
        self._settle()
        clip = self.load_clip()
        if clip.mark != self.clip_mark:
            raise ValueError(f"workers must load the CLIP of mark {self.clip_mark}, but loaded {clip.mark}")
        return filtering.ClipCritic(clip, self.thresholds)

    def _settle(self) -> None:
        torch.set_num_threads(self.threads)
        if not self.gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what Ray has not counted, nobody uses


class PairWorker:
    """Makes units. Ray Data keeps one in each of its processes."""

    def __init__(self, job: Job) -> None:
        self.job = job

    @reporting()
    def __call__(self, batch: Batch) -> Batch:
        """Make one unit, unless its shard is whole."""
        job, number = self.job, int(batch["number"][0])
        rows = json.loads(batch["triplets"][0])
        unit = pairs.Unit(number, [Triplet.from_row(row, "") for row in rows])
        shard = pairs.shard_path(job.folder, number)
        if not pairs.is_whole(shard):
            with counting_deaths(shard):
                critic = job.critic if job.config.stops_early else None
                for _ in pairs.make_unit(unit, job.base, job.config, job.folder, critic):
                    pass
        return {"number": batch["number"]}


class ScoreWorker:
    """Scores shards."""

    def __init__(self, job: Job) -> None:
        self.job = job

    @reporting()
    def __call__(self, batch: Batch) -> Batch:
        """Score one shard, unless it has scores."""
        shard = pairs.shard_path(self.job.folder, int(batch["number"][0]))
        if not is_scored(shard):
            with counting_deaths(filtering.scores_path(shard)):
                filtering.score_shard(shard, self.job.critic.clip)
        return batch


@contextmanager
def counting_deaths(path: Path) -> Iterator[None]:
    """Clear away what a dead worker left of a file, and count in a file beside it how many have died over it.

    Ray tries again for ever, and a worker that runs out of memory once will do so again.

    Raises:
        ValueError: too many have.
    """
    for leftover in path.parent.glob(f".{path.stem}.*.partial"):
        leftover.unlink(missing_ok=True)
    count = path.with_name(f".{path.stem}.tries")
    try:
        if count.exists() and count.stat().st_size >= TRIES:
            raise ValueError(
                f"a worker must live to finish {path.name}, but {TRIES} died over it, for want of memory"
                " perhaps; give each more, or run fewer on a machine"
            )
        with count.open("a") as file:
            file.write(".")
        yield
    finally:  # which a killed worker never reaches
        count.unlink(missing_ok=True)


def _claim(triplets: Sequence[Triplet], job: Job) -> list[pairs.Unit]:
    """Claim the folder for pairs and scores, as the in-process engine and `filtering.score` do."""
    seen: Any = SimpleNamespace(mark=job.clip_mark)  # the driver judges nothing, it only records who will
    critic = filtering.ClipCritic(seen, job.thresholds)
    units = pairs.claim_run(triplets, job.model, job.config, job.folder, critic, job.files)
    filtering.claim_scores(job.folder, job.clip_mark)
    return units


def _sweep(folder: Path) -> None:
    """Clear away what workers left that were stopped with their run."""
    for pattern in (".candidates-*", ".scores-*"):
        for leftover in folder.glob(pattern):
            leftover.unlink(missing_ok=True)


def synthesise_with_ray(
    triplets: Sequence[Triplet],
    config: PairConfig,
    folder: Path,
    *,
    model: str,
    clip_mark: str,
    load_base: Callable[[], Backbone],
    load_clip: Callable[[], ClipEncoder],
    thresholds: FilterConfig,
    workers: int = 1,
    scorers: int = 1,
    gpus_per_worker: float = 0.0,
    gpus_per_scorer: float = 0.0,
    threads: int = 1,
) -> Generator[pairs.Progress, None, None]:
    """Make and score every candidate of every triplet; yields after each shard.

    Whole shards are not made again and scored ones not scored again, so a killed run continues.

    Args:
        model, clip_mark: what goes on record, folder or hub id of the one and `mark` of the other; workers
            compare them with what they load.
        load_base, load_clip: called in the workers, so they must pickle, and choose the device there.
        thresholds: by which CLIP judges pairs in the making, for the options of `config` that stop early.
        gpus_per_worker, gpus_per_scorer: 0 for the CPU; a part of 1 lets workers share a GPU.
        threads: torch's in each process, and the CPUs that it counts for.

    Raises:
        ValueError: as `pairs.synthesise`; the folder's scores are another CLIP's; Ray is missing or has too
            little; another model or CLIP was loaded than announced.
        ChildProcessError: Ray could not run its workers.
    """
    if min(workers, scorers, threads) < 1 or min(gpus_per_worker, gpus_per_scorer) < 0:
        raise ValueError(
            "workers, scorers and threads must be at least 1 and GPUs at least 0, got"
            f" {workers}, {scorers}, {threads} and {gpus_per_worker}, {gpus_per_scorer}"
        )
    job = Job(
        folder.absolute(),
        config,
        thresholds,
        model_name(model),
        files_mark(model),
        clip_mark,
        load_base,
        load_clip,
        threads,
        gpus_per_worker,
    )
    stages = ((PairWorker, job, workers), (ScoreWorker, replace(job, gpus=gpus_per_scorer), scorers))
    yield from _progress(_claim(triplets, job), job, stages)


def _progress(units: Sequence[pairs.Unit], job: Job, stages: Stages) -> Generator[pairs.Progress, None, None]:
    counts = {u.number: len(u.triplets) * job.config.candidates_per_triplet for u in units}
    shards = {u.number: pairs.shard_path(job.folder, u.number) for u in units}
    found = {n for n, shard in shards.items() if pairs.is_whole(shard)}
    whole = {n for n in found if is_scored(shards[n])}
    done = reused = sum(counts[n] for n in whole)
    if whole:
        yield pairs.Progress(done, sum(counts.values()), reused)
    if rest := [u for u in units if u.number not in whole]:
        _sweep(job.folder)
        try:
            for number in _run(rest, stages):
                done, reused = done + counts[number], reused + counts[number] * (number in found)
                yield pairs.Progress(done, sum(counts.values()), reused)
        finally:
            _sweep(job.folder)


def _run(units: Sequence[pairs.Unit], stages: Stages) -> Iterator[int]:
    """Send units through pools of workers, one pool after another; yields their numbers as they come out."""
    cpus, gpus = (sum(getattr(j, n) * count for _, j, count in stages) for n in ("threads", "gpus"))
    # As JSON: in a table of rows, provenance of different shapes would not come out as it went in.
    rows = [{"number": u.number, "triplets": json.dumps([t.as_row() for t in u.triplets])} for u in units]
    with running_ray(cpus, gpus) as ray, one_line():
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        for worker, job, count in stages:
            dataset = dataset.map_batches(
                worker,
                fn_constructor_args=(job,),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1),
                num_cpus=job.threads,
                num_gpus=job.gpus or None,
            )
        context = dataset.context
        context.enable_progress_bars = context.print_on_execution_start = False
        context.raise_original_map_exception = True
        context.execution_no_progress_timeout_s = -1  # a unit may take hours
        for row in dataset.iter_rows():
            yield int(row["number"])
