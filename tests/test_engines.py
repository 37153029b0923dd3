"""Ray's workers leave the very bytes of one process, and a worker that dies costs no more than its unit."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread

import pytest
import torch

from ip2p_lib import filtering, pairs, storage
from ip2p_lib.backbone import load_backbone, load_clip
from ip2p_lib.engines import Crew, make_pairs
from ip2p_lib.engines.ray import TRIES, counting_deaths, synthesise_with_ray
from ip2p_lib.engines.session import running_ray
from ip2p_lib.presets import MINIATURE, FilterConfig, PairConfig, Preset
from ip2p_lib.records import write_triplets
from ip2p_lib.unet import save_pipeline

ROOT = Path(__file__).resolve().parent.parent
CONFIG = PairConfig(
    candidates_per_triplet=4, num_inference_steps=3, resolution=16, batch_size=3, triplets_per_shard=1, seed=8
)
EARLY = replace(CONFIG, stop_after_hits=2, preview_at=0.4)
EVERYTHING = FilterConfig(min_text=-1, min_direction=-1, min_image=-1)


def start_patiently(stack, attempts=5):
    """On a machine with much else to do, Ray's parts do not always find each other within its 15 seconds."""
    for attempt in range(attempts):
        try:
            return stack.enter_context(running_ray(5, 0, 1))
        except ConnectionError:
            if attempt == attempts - 1:
                raise
    return None


@pytest.fixture(scope="module")
def cluster():
    """Ray with five CPUs and a GPU that it only counts, for all tests of this file: the caller's, so the engine uses it and leaves it running."""
    with ExitStack() as stack:
        yield start_patiently(stack)


@pytest.fixture(scope="module")
def models(base, clip_folder, tmp_path_factory):
    """The tiny models as folders, and how workers load them."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_pipeline(base, folder)
    preset = Preset(name="tiny", text_to_image="", editor="", clip=str(clip_folder))
    return {
        "model": str(folder),
        "clip_mark": load_clip(preset).mark,
        "load_base": partial(load_backbone, str(folder)),
        "load_clip": partial(load_clip, preset),
        "thresholds": EVERYTHING,
    }


def in_process(triplets, config, folder, models):
    """Progress of the other engine, with the torch threads that a worker has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        critic = filtering.ClipCritic(models["load_clip"](), models["thresholds"])
        yield from pairs.synthesise(triplets, models["load_base"](), config, folder, critic=critic)
        list(filtering.score(folder, critic.clip))
    finally:
        torch.set_num_threads(threads)


def contents(folder):
    """All files, hidden ones too, but for the records that name a run's command."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in ("run.json", "scores.json")}


@pytest.fixture(scope="module")
def whole(triplets, models, tmp_path_factory):
    """What one process leaves, without and with early stopping."""
    folders = {config: tmp_path_factory.mktemp("whole") for config in (CONFIG, EARLY)}
    for config, folder in folders.items():
        list(in_process(triplets, config, folder, models))
    return {config: contents(folder) for config, folder in folders.items()}


def kill_the_first_worker(folder, killed):
    """Wait until a worker writes a shard, whose name tells its process, and kill it."""
    while not killed:
        for path in folder.glob(".candidates-*.parquet.*.partial"):
            os.kill(pid := int(path.name.split(".")[-2]), signal.SIGKILL)
            killed.append(pid)
            return
        time.sleep(0.001)


@pytest.mark.slow
def test_four_workers_leave_the_bytes_of_one_process_though_one_is_killed(
    tmp_path, triplets, models, whole, cluster
):
    killed = []
    killer = Thread(target=kill_the_first_worker, args=(tmp_path, killed), daemon=True)
    killer.start()
    *_, last = synthesise_with_ray(triplets, CONFIG, tmp_path, workers=4, **models)
    killer.join(timeout=1)
    assert killed
    assert contents(tmp_path) == whole[CONFIG]
    assert (last.candidates, last.total, last.reused) == (24, 24, 0)
    assert cluster.is_initialized()


@pytest.mark.slow
def test_each_engine_continues_what_the_other_began_and_tells_its_error_in_one_line(
    tmp_path, triplets, models, whole, cluster
):
    begun = in_process(triplets, EARLY, tmp_path, models)
    while not pairs.is_whole(pairs.shard_path(tmp_path, 0)):
        next(begun)
    begun.close()
    (blocked := pairs.shard_path(tmp_path, 3)).mkdir()
    first = pairs.shard_path(tmp_path, 0).stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"must have room and be writable, but candidates-00003") as refusal:
        list(synthesise_with_ray(triplets, EARLY, tmp_path, **models))
    assert len(str(refusal.value).splitlines()) == 1
    assert "make_unit" in refusal.value.__notes__[0]
    assert pairs.is_whole(pairs.shard_path(tmp_path, 2))
    blocked.rmdir()
    progress = list(synthesise_with_ray(triplets, EARLY, tmp_path, workers=2, **models))
    assert contents(tmp_path) == whole[EARLY]
    assert progress[-1].reused >= 12
    assert pairs.shard_path(tmp_path, 0).stat().st_mtime_ns == first
    *_, last = in_process(triplets, EARLY, tmp_path, models)
    assert [last] == list(synthesise_with_ray(triplets, EARLY, tmp_path, workers=99, **models))
    assert last == pairs.Progress(24, 24, 24)


@pytest.mark.slow
def test_more_workers_than_ray_has_processors_are_refused(tmp_path, triplets, models, cluster):
    with pytest.raises(ValueError, match="all workers together need 10 CPUs, but Ray has 5; ask for fewer"):
        next(synthesise_with_ray(triplets, CONFIG, tmp_path, workers=9, **models))


@pytest.mark.slow
def test_the_command_line_uses_a_running_ray_and_is_quiet(tmp_path, triplets, models, cluster):
    write_triplets(tmp_path / "t.jsonl", triplets[:1])
    command = (
        "pairs --triplets t.jsonl --out out --engine ray --candidates 3 --steps 2 --model tiny"
        " --thresholds-per-seed 3 --stop-after-hits 1 --give-up-after 2 --preview-at 0.5"
    )
    (tmp_path / "tiny").symlink_to(models["model"])
    address = cluster.get_runtime_context().gcs_address
    said = subprocess.run(
        [sys.executable, "-m", "ip2p_lib.cli", *command.split()], cwd=tmp_path, capture_output=True, text=True,
        check=False, env={**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (said.returncode, said.stdout) == (0, "candidates in out\n"), said.stderr
    assert all("pair" in line for line in said.stderr.split("\n") if line.strip())  # a bar and nothing else
    assert storage.read_json(tmp_path / "out" / "run.json")["config"]["model"] == "tiny"
    assert filtering.read_scores(tmp_path / "out") is not None
    assert cluster.is_initialized()


def test_an_unknown_engine_is_refused(tmp_path):
    with pytest.raises(ValueError, match="engine must be one of in-process, ray; got 'spark'"):
        make_pairs([], CONFIG, tmp_path, MINIATURE, engine="spark")


@pytest.mark.parametrize(
    "options", [{"workers": 2}, {"gpus_per_worker": 0.0}, {"scorers": 1}, {"gpus_per_scorer": 1}]
)
def test_workers_are_refused_where_this_process_is_the_one(tmp_path, options):
    with pytest.raises(ValueError, match="one worker, this process; more need engine ray"):
        make_pairs([], CONFIG, tmp_path, MINIATURE, crew=Crew(**options))


@pytest.mark.parametrize(
    ("given", "has_gpu", "settled"),
    [
        ({}, False, (1, 1, 0, 0)),
        ({"workers": 4}, False, (4, 1, 0, 0)),
        ({"workers": 8}, True, (8, 8, 7 / 8, 1 / 8)),
        ({"workers": 8, "scorers": 2}, True, (8, 2, 7 / 8, 1 / 8)),
        ({"workers": 8, "gpus_per_worker": 1}, True, (8, 1, 1, 0)),
        ({"workers": 8, "gpus_per_scorer": 0}, True, (8, 1, 1, 0)),
        ({"workers": 2, "gpus_per_scorer": 0.5}, True, (2, 2, 0.5, 0.5)),
        ({"workers": 3, "scorers": 1, "gpus_per_scorer": 1}, True, (3, 1, 1, 1)),
        ({"workers": 2, "gpus_per_worker": 0.25, "gpus_per_scorer": 0.25}, False, (2, 2, 0.25, 0.25)),
    ],
)
def test_who_gets_which_part_of_a_gpu(given, has_gpu, settled):
    crew = Crew(**given).settled(has_gpu)
    assert (crew.workers, crew.scorers, crew.gpus_per_worker, crew.gpus_per_scorer) == settled
    assert crew.settled(not has_gpu) == crew


@pytest.mark.slow
def test_workers_and_scorers_share_a_gpu_by_parts(tmp_path, triplets, models, whole, cluster):
    shared = {"workers": 1, "scorers": 2, "gpus_per_worker": 0.5, "gpus_per_scorer": 0.25}
    with pytest.raises(ValueError, match=r"together need 1\.5 GPUs, but Ray has 1; ask for fewer"):
        next(synthesise_with_ray(triplets, CONFIG, tmp_path, **{**shared, "gpus_per_scorer": 0.5}, **models))
    *_, last = synthesise_with_ray(triplets, CONFIG, tmp_path, **shared, **models)
    assert (last.candidates, last.reused) == (24, 0)
    assert contents(tmp_path) == whole[CONFIG]


def test_missing_ray_is_told_with_the_remedy(tmp_path, triplets, models, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"the Ray engine needs Ray: pip install 'ip2p-lib\[ray\]'"):
        next(synthesise_with_ray(triplets, CONFIG, tmp_path, **models))


@pytest.mark.parametrize("options", [{"workers": 0}, {"scorers": 0}, {"threads": 0}, {"gpus_per_worker": -1}])
def test_numbers_of_workers_out_of_range_are_refused(tmp_path, triplets, models, options):
    with pytest.raises(ValueError, match="must be at least 1 and GPUs at least 0"):
        next(synthesise_with_ray(triplets, CONFIG, tmp_path, **models, **options))


def die_over(path):
    """In a process of its own: begin a file and be killed, as for want of memory."""
    if (pid := os.fork()) == 0:
        with counting_deaths(path):
            path.with_name(f".{path.name}.{os.getpid()}.partial").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_file_over_which_workers_keep_dying_is_given_up(tmp_path):
    path = pairs.shard_path(tmp_path, 0)
    for _ in range(TRIES):
        die_over(path)
        assert len(list(tmp_path.iterdir())) == 2  # the count, and no leftover but the last
    with (
        pytest.raises(ValueError, match=rf"to finish {path.name}, but {TRIES} died over it"),
        counting_deaths(path),
    ):
        pytest.fail("one more was let in")
    assert not any(tmp_path.iterdir())
