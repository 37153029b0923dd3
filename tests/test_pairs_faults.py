"""Thirty kills while pairs are made and scored: what is left is whole, and the end is as without them."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ip2p_lib import filtering
from ip2p_lib.backbone import load_clip, load_text_to_image
from ip2p_lib.pairs import candidate_shards, is_whole, synthesise
from ip2p_lib.presets import MINIATURE
from ip2p_lib.triplets import world_triplets

KILLS, SHARDS = 30, 5
RECORDS = ("run.json", "scores.json")
CONFIG = replace(
    MINIATURE.pairs, candidates_per_triplet=2, num_inference_steps=2, batch_size=2, triplets_per_shard=1
)


def start_in_a_process(folder, triplets, base, clip):
    pid = os.fork()
    if pid == 0:
        try:
            list(synthesise(triplets, base, CONFIG, folder))
            list(filtering.score(folder, clip))
        finally:
            os._exit(not (folder / f"scores-{SHARDS - 1:05d}.parquet").exists())
    return pid


def contents(folder):
    """Bytes of all files that are no leftovers of killed writers; of records what does not change with time."""
    files = {p.name: p.read_bytes() for p in sorted(folder.glob("[!.]*"))}
    records = {n: json.dumps(json.loads(files[n])["config"]).encode() for n in files if n in RECORDS}
    return files | records


def left(folder, whole):
    """What a kill left: how many shards and scores, what is not as it should be, and what reading says."""
    found = contents(folder) if folder.exists() else {}
    names = [f"{number:05d}" for number in range(SHARDS)]
    try:
        said = f"{len(candidate_shards(folder))} shards"
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
    return {
        "shards": sum(is_whole(folder / f"candidates-{n}.parquet") for n in names),
        "scores": sum(f"scores-{n}.parquet" in found for n in names),
        "torn": any(folder.glob(".*.partial")),
        "wrong": [name for name, data in found.items() if whole.get(name) != data],
        "said": said,
    }


def struck_down(pid, folder, rng, pace):
    """Kill a run some time after it has made up to three more files; false if it got through before."""
    wanted, end = len(list(folder.glob("*.parquet"))) + rng.randint(0, 3), 0
    while len(list(folder.glob("*.parquet"))) < wanted and not end:
        time.sleep(pace / 100)
        end, _ = os.waitpid(pid, os.WNOHANG)
    if end:
        return False
    time.sleep(pace * rng.random() ** 3 * (0.1 if wanted > SHARDS else 1))  # scoring goes faster
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def besiege(folder):
    """Run and kill, again and again; a run that got through starts over. Yields what each kill left."""
    torch.set_num_threads(1)
    work = list(world_triplets(SHARDS, 5)), load_text_to_image(MINIATURE), load_clip(MINIATURE)
    out, rng, killed = folder / "cut", random.Random(11), 0
    began = time.perf_counter()
    os.waitpid(start_in_a_process(folder / "whole", *work), 0)
    pace, whole = (time.perf_counter() - began) / SHARDS, contents(folder / "whole")
    while killed < KILLS:
        pid = start_in_a_process(out, *work)
        if struck_down(pid, out, rng, pace):
            killed += 1
            yield left(out, whole)
        else:
            yield {"finished": contents(out) == whole}
            shutil.rmtree(out)
    code = os.waitstatus_to_exitcode(os.waitpid(start_in_a_process(out, *work), 0)[1])
    yield {"exit": code, "finished": contents(out) == whole}


@pytest.mark.slow
def test_thirty_kills_leave_the_bytes_of_an_uninterrupted_run(tmp_path):
    command = [sys.executable, __file__, str(tmp_path)]  # imports once, and forks from there
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900).stdout
    *marks, last = map(json.loads, said.splitlines())
    assert last == {"exit": 0, "finished": True}
    assert all(m["finished"] for m in marks if "finished" in m)
    kills = [m for m in marks if "shards" in m]
    assert len(kills) == KILLS
    assert [k["wrong"] for k in kills if k["wrong"]] == []
    for kill in kills:
        expected = f"^{kill['shards']} shards$|found none|has no mark that it is whole"
        assert re.search(expected, kill["said"])
    assert len({k["shards"] for k in kills}) >= 4
    assert any(0 < k["scores"] < SHARDS for k in kills)
    assert any(k["torn"] for k in kills)


if __name__ == "__main__":
    for mark in besiege(Path(sys.argv[1])):
        sys.stdout.write(json.dumps(mark) + "\n")
        sys.stdout.flush()
