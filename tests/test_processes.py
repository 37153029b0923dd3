"""Several processes train as one would: the same rows, the same noise, averaged gradients, one checkpoint."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ("model", "ema")


def train(pairs, out, *options, processes=1):
    """`ip2p train` of the shipped base model on a few pairs, in so many processes."""
    command = ["-m", "ip2p_lib.cli", "train", "--data", str(pairs), "--out", str(out), *options]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [*launcher, *command]
    cpu = {**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=cpu,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    return done


OPTIONS = (
    "--steps", "3", "--batch-size", "4", "--accumulate", "2", "--precision", "no", "--checkpoint-every", "3",
    "--sheet-every", "0", "--held-out", "0.2", "--decay-steps", "0",
)  # fmt: skip


def test_two_processes_give_the_result_of_one(pair_folder, tmp_path):
    for count in (1, 2):
        cache = ("--cache", str(tmp_path / f"latents-{count}"))
        train(pair_folder, tmp_path / str(count), *OPTIONS, *cache, processes=count)
    for name in WEIGHTS:
        one, two = (
            load_file(tmp_path / str(n) / "run" / "checkpoint-00000003" / f"{name}.safetensors")
            for n in (1, 2)
        )
        assert one.keys() == two.keys()
        for key in one:
            torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=3e-5)
    assert len(list((tmp_path / "2" / "run").glob("checkpoint-*"))) == 1
    found = [p.relative_to(tmp_path / "latents-2") for p in (tmp_path / "latents-2").glob("*/*/index.json")]
    assert len(found) == 2
    assert all((tmp_path / "latents-1" / p).is_file() for p in found)
    assert (tmp_path / "2" / "editor" / "README.md").is_file()


def test_a_run_of_two_processes_is_continued_by_one(pair_folder, tmp_path):
    train(pair_folder, tmp_path / "a", *OPTIONS, processes=2)
    longer = [*OPTIONS]
    longer[longer.index("--steps") + 1] = "5"
    done = train(pair_folder, tmp_path / "a", *longer)
    assert "/editor" in done.stdout
    assert (tmp_path / "a" / "run" / "checkpoint-00000005" / "state.json").is_file()
