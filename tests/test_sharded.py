"""Two processes that hold the network in parts train as one that holds it whole; each continues the other's run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from ip2p_lib.cli import app
from ip2p_lib.optimisation import loop
from ip2p_lib.unet import save_pipeline

ROOT = Path(__file__).resolve().parent.parent
OWN = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
OPTIONS = (
    "--steps", "2", "--batch-size", "4", "--accumulate", "2", "--precision", "no", "--checkpoint-every", "1",
    "--sheet-every", "2", "--held-out", "0.2", "--decay-steps", "0", "--max-grad-norm", "1", "--resolution", "16",
)  # fmt: skip


def as_launched():
    """The environment in which `accelerate launch --config_file configs/fsdp.yaml` starts its processes."""
    asked = ["--config_file", str(ROOT / "configs" / "fsdp.yaml"), "script.py"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(asked))
    return prepare_multi_gpu_env(arguments)


def run(*command, environment=os.environ, **own):
    """What a Python command says, without a GPU."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**environment, **OWN, **own},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    return done.stdout + done.stderr


def whole_train(*options):
    """`ip2p train` in one process."""
    return run("-m", "ip2p_lib.cli", "train", *options)


def sharded_train(*options):
    """`ip2p train` in two processes that share the network."""
    said = run(*TWO, __file__, "train", *options, environment=as_launched())
    assert "2 processes hold the network in parts" in said
    return said


def alike(first, second, step):
    """Whether two runs have the same weights and averages after a step, up to sums in another order."""
    for name in ("model", "ema"):
        one, two = (
            load_file(run / "run" / f"checkpoint-{step:08d}" / f"{name}.safetensors")
            for run in (first, second)
        )
        assert one.keys() == two.keys()
        for key in one:
            torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=3e-5)


@pytest.mark.slow
def test_a_sharded_run_gives_the_result_of_a_whole_one_and_each_continues_the_other(
    pair_folder, base, tmp_path
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    save_pipeline(base, tmp_path / "base")
    given = ("--data", pair_folder, "--model", tmp_path / "base", *OPTIONS)
    whole_train(*given, "--out", whole)
    sharded_train(*given, "--out", parts)
    alike(whole, parts, 2)
    assert list((parts / "log").iterdir())
    editor = load_file(parts / "editor" / "unet" / "diffusion_pytorch_model.safetensors")
    average = load_file(parts / "run" / "checkpoint-00000002" / "ema.safetensors")
    assert all(torch.equal(editor[n], t.half()) for n, t in average.items())
    sharded_train(*given, "--out", whole, "--steps", "3")
    whole_train(*given, "--out", parts, "--steps", "3")
    alike(whole, parts, 3)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["true", "false"])
def test_processes_without_a_gpu_know_of_each_other(flag):
    look = (
        "import sys; from ip2p_lib.optimisation import processes; p = processes();"
        r"sys.stdout.write(f'{p.num_processes} {p.process_index}\n');"  # at once, since two write
        "p.destroy_process_group()"
    )
    said = run(*TWO, "--no-python", sys.executable, "-c", look, ACCELERATE_USE_CPU=flag)
    assert {"2 0", "2 1"} <= set(said.splitlines())


def sharding(make):
    """Accelerate chooses to shard on GPUs alone; what it does then works on CPUs too."""

    def made(mixed_precision):
        accelerator = make(mixed_precision)
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        accelerator.state.distributed_type = DistributedType.FSDP
        if accelerator.is_main_process and accelerator.is_fsdp2:
            sys.stderr.write(f"{accelerator.num_processes} processes hold the network in parts\n")
        return accelerator

    return made


if __name__ == "__main__":
    loop.make_accelerator = sharding(loop.make_accelerator)
    app()
