"""A training meets kills, damaged pairs and poisoned latents: its earlier work stays whole, and it goes on."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import pair_rows, tiny_backbone
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from ip2p_lib import records
from ip2p_lib.backbone import load_text_to_image
from ip2p_lib.dataset import open_dataset
from ip2p_lib.optimisation import checkpoints
from ip2p_lib.pairs import PAIR_SCHEMA, shard_path, writing_shard
from ip2p_lib.presets import MINIATURE, TrainConfig
from ip2p_lib.training import train_editor
from ip2p_lib.triplets import world_triplets
from ip2p_lib.unet import as_editor_unet

KILLS, SIDE = 20, 16
CONFIG = TrainConfig(
    steps=16, batch_size=2, gradient_accumulation_steps=1, learning_rate=1e-3, ema_decay=0.9, decay_steps=5,
    resolution=SIDE, checkpoint_every=1, seed=3,
)  # fmt: skip


def train(base, data, folder, config=CONFIG):
    """Train to the end, or to the first fault."""
    for _ in train_editor(as_editor_unet(base.unet, base.latent_channels), base, data, config, folder):
        pass


def train_in_a_process(base, data, folder):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            train(base, data, folder)
            code = 0
        finally:
            os._exit(code)
    return pid


def contents(folder):
    """Bytes of all files by name; of the record what does not change with time."""
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    if "run.json" in files:
        files["run.json"] = json.dumps(json.loads(files["run.json"])["config"]).encode()
    return files


def hidden(folder, end=""):
    return [p for p in folder.glob(f".*{end}")]


def left(folder):
    """What a kill left: the newest step, what is half done, and whether every checkpoint can be read."""
    found = checkpoints(folder)
    files = [p for c in found for p in c.glob("*.safetensors")]
    return {
        "step": int(found[-1].name[-8:]) if found else 0,
        "writing": bool(hidden(folder, ".partial")),
        "deleting": bool(hidden(folder, ".old")),
        "whole": len(files) == 3 * len(found) and all(len(load_file(p)) > 0 for p in files),
    }


def ended(pid):
    """Whether a run has come to its end."""
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def struck_down(pid, folder, rng, pace):
    """Kill a run: at any moment, or as soon as it writes or deletes a checkpoint. False if it ended before."""
    wait = time.perf_counter() + 4 * pace * rng.random()
    while time.perf_counter() < wait:
        if ended(pid):
            return False
        time.sleep(pace / 50)
    if rng.random() < 0.6:
        end = rng.choice([".partial", ".partial", ".old"])
        while not hidden(folder, end):
            if ended(pid):
                return False
            time.sleep(pace / 1000)
        time.sleep(pace * rng.random() ** 2 / 10)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def besiege(folder):
    """Train and kill, again and again; a run that got through starts over. Yields what each kill left."""
    torch.set_num_threads(1)
    base, pairs = tiny_backbone(load_text_to_image(MINIATURE).tokenizer, "v_prediction"), folder / "pairs"
    pairs.mkdir()
    with writing_shard(shard_path(pairs, 0)) as shard:
        shard.add(pair_rows(list(world_triplets(4, 77))))
    data, out, rng, killed = open_dataset(pairs, base, resolution=SIDE), folder / "cut", random.Random(5), 0
    began = time.perf_counter()
    os.waitpid(train_in_a_process(base, data, folder / "whole"), 0)
    pace, whole = (time.perf_counter() - began) / CONFIG.steps, contents(folder / "whole")
    while killed < KILLS:
        before = left(out)["step"]
        pid = train_in_a_process(base, data, out)
        if struck_down(pid, out, rng, pace):
            killed += 1
            yield {**left(out), "before": before}
        else:
            yield {"finished": contents(out) == whole}
            shutil.rmtree(out)
    code = os.waitstatus_to_exitcode(os.waitpid(train_in_a_process(base, data, out), 0)[1])
    yield {"exit": code, "finished": contents(out) == whole}


@pytest.mark.slow
def test_twenty_kills_leave_the_bytes_of_an_uninterrupted_run(tmp_path):
    command = [sys.executable, __file__, str(tmp_path)]  # imports once, and forks from there
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout
    *marks, last = map(json.loads, said.splitlines())
    assert last == {"exit": 0, "finished": True}
    assert all(m["finished"] for m in marks if "finished" in m)
    kills = [m for m in marks if "step" in m]
    assert len(kills) == KILLS
    assert all(k["whole"] and k["step"] >= k["before"] for k in kills)
    assert sum(k["writing"] or k["deleting"] for k in kills) >= 4
    assert len({k["step"] for k in kills}) >= 4


FEW = replace(CONFIG, steps=4, decay_steps=0)


@pytest.fixture
def run(pair_folder, base, tmp_path):
    """A run that was stopped after two of four steps, and what it had done by then."""
    data = open_dataset(pair_folder, base, resolution=SIDE)
    begun = train_editor(as_editor_unet(base.unet, 4), base, data, FEW, tmp_path / "run")
    while next(begun).step < 2:
        pass
    begun.close()
    return tmp_path / "run", contents(tmp_path / "run")


def again(pairs, base, folder):
    """What running the same command again does."""
    train(base, open_dataset(pairs, base, resolution=SIDE), folder, FEW)


def damaged(cell):
    """A fault that spoils a cell of the second shard."""

    def spoil(pairs, base):
        rows = pq.read_table(shard_path(pairs, 1)).to_pylist()
        rows[2].update(cell)
        pq.write_table(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA), shard_path(pairs, 1))
        return base

    return spoil


def without_a_shard(pairs, base):
    shard_path(pairs, 1).unlink()
    return base


def with_a_unet(**changes):
    """A fault: under the same name, a model whose UNet is another one."""

    def swap(_pairs, base):
        config = {n: v for n, v in base.unet.config.items() if n != "_use_default_values"}
        with torch.random.fork_rng():
            other = UNet2DConditionModel.from_config({**config, **changes})
        return base.with_unet(other.requires_grad_(False), base.name)

    return swap


FAULTS = {
    "a corrupt picture": (
        damaged({records.EDITED_IMAGE: {"bytes": b"no picture", "path": ""}}),
        r"00001\.parquet row 2: edited_image must hold a picture, but",
    ),
    "a missing caption": (
        damaged({records.EDIT_PROMPT: None}),
        r"00001\.parquet row 2: edit_prompt must be a text, got None",
    ),
    "a vanished shard": (without_a_shard, r"another configuration .*; continue with the pairs, model and"),
    "other channels": (with_a_unet(in_channels=6), r"UNet for the 4 channels .*, has one from 6 to 4"),
    "other widths": (
        with_a_unet(block_out_channels=(32, 96)),
        r"checkpoint-00000002 must hold a checkpoint of this model, but .*shapes differ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_spares_the_earlier_work(run, pair_folder, base, tmp_path, fault):
    (folder, before), (break_it, message) = run, FAULTS[fault]
    shutil.copytree(pair_folder, tmp_path / "kept")
    broken = break_it(pair_folder, base)
    with pytest.raises(ValueError, match=message) as caught:
        again(pair_folder, broken, folder)
    assert "\n" not in str(caught.value)
    assert contents(folder) == before
    again(tmp_path / "kept", base, folder)  # and once it is put right, the run goes on
    again(tmp_path / "kept", base, tmp_path / "whole")
    assert contents(folder) == contents(tmp_path / "whole")


STATES = [b"", b"{", b"[]", b"null", b'{"step": 2}', b'{"step": 2, "config": {"steps": 4, "colour": 1}}']


@pytest.mark.parametrize("state", STATES, ids=range(len(STATES)))
def test_a_damaged_record_of_a_checkpoint_is_one_line(run, pair_folder, base, state):
    folder, before = run
    newest = checkpoints(folder)[-1]
    (newest / "state.json").write_bytes(state)
    with pytest.raises(ValueError, match=r"00000002 must be a whole checkpoint, but state\.json") as caught:
        again(pair_folder, base, folder)
    assert "\n" not in str(caught.value)
    name = "checkpoint-00000002/state.json"
    assert contents(folder) == {**before, name: state}


@pytest.mark.parametrize(
    ("name", "value", "micro_steps"), [("condition", np.inf, 1), ("target_mean", np.nan, 2)]
)
def test_poisoned_latents_stop_the_run_with_step_pairs_and_last_good_checkpoint(
    pair_folder, base, tmp_path, name, value, micro_steps
):
    good, step = 2 // micro_steps, 2 // micro_steps + 1
    config = replace(
        FEW, gradient_accumulation_steps=micro_steps, checkpoint_every=good, conditioning_dropout=0.0
    )
    data = open_dataset(pair_folder, base, resolution=SIDE)
    seen = [data.picks(micro, 2, config.seed, flip=False)[0] for micro in range(4)]
    bad = seen[2][0]  # six prompts, two at a time: nobody saw it before
    array = getattr(data, name)
    number = int(bad >= array.counts[0])
    path = array.files[number]
    kept = path.read_bytes()
    np.load(path, mmap_mode="r+")[bad - number * array.counts[0]] = value
    with pytest.raises(FloatingPointError) as caught:
        train(base, open_dataset(pair_folder, base, resolution=SIDE), tmp_path / "run", config)
    pairs = "; ".join(f"pairs {a}, {b}" for a, b in seen[2 : 2 + micro_steps])
    newest = tmp_path / "run" / f"checkpoint-{good:08d}"
    assert f" at step {step} on {pairs}; start from the last good checkpoint, {newest}, " in str(caught.value)
    assert checkpoints(tmp_path / "run")[-1] == newest
    assert all(w.isfinite().all() for p in newest.glob("*.safetensors") for w in load_file(p).values())
    path.write_bytes(kept)
    for folder in ("run", "whole"):
        train(base, open_dataset(pair_folder, base, resolution=SIDE), tmp_path / folder, config)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


if __name__ == "__main__":
    for mark in besiege(Path(sys.argv[1])):
        sys.stdout.write(json.dumps(mark) + "\n")
        sys.stdout.flush()
