"""The scaling page follows from its rates, the rates that are counted are right, and what the pages show exists."""

import importlib.util
import json
import re
import shlex
import subprocess
from pathlib import Path

import open_clip
import pytest
import torch
import typer
import yaml
from torch.utils.flop_counter import FlopCounterMode

from ip2p_lib.backbone import build_clip
from ip2p_lib.cli import app
from ip2p_lib.single_file.architecture import empty_networks

ROOT = Path(__file__).resolve().parent.parent
SPEC = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks" / "scaling.py")
scaling = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(scaling)
RATES = scaling.read_rates()
PAGES = [ROOT / "docs" / name for name in ("full_size.md", "scaling.md")]
JOBS = sorted((ROOT / "configs" / "slurm").glob("*.sbatch"))
MANIFESTS = sorted((ROOT / "configs" / "kubernetes").glob("*.yaml"))
COMMANDS = typer.main.get_command(app).commands


def test_the_pages_tables_are_those_of_the_rates():
    page = scaling.PAGE.read_text(encoding="utf-8")
    for name, text in scaling.blocks().items():
        assert f"<!-- {name} -->\n\n{text}\n\n<!-- /{name} -->" in page, "run benchmarks/scaling.py"


def test_every_rate_says_where_it_comes_from():
    for entry in json.loads(scaling.INPUTS.read_text(encoding="utf-8")).values():
        assert set(entry) == {"value", "unit", "source"}
        assert entry["value"] > 0
        assert len(entry["source"]) >= len("assumed")


def flop(network, *shapes, call=None):
    given = [torch.empty(s, device="meta") for s in shapes]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        (call or network)(*given)
    return counter.get_total_flops()


@pytest.mark.slow
def test_the_counted_rates_are_counted_again():
    networks = empty_networks(8)
    for name, side in (("unet_256", 32), ("unet_512", 64)):
        found = flop(networks["unet"], (1, 8, side, side), (1,), (1, 77, 768))
        assert found == pytest.approx(RATES[name], rel=2e-3)
    vae = networks["vae"]
    assert flop(vae, (1, 4, 64, 64), call=vae.decode) == pytest.approx(RATES["decode_512"], rel=2e-3)
    assert flop(vae, (1, 3, 256, 256), call=vae.encode) == pytest.approx(RATES["encode_256"], rel=2e-3)
    with torch.device("meta"):
        clip = build_clip(open_clip.get_model_config("ViT-L-14"))
    found = flop(clip, (1, 3, 224, 224), call=clip.encode_image)
    assert found == pytest.approx(RATES["clip_picture"], rel=0.05)


def test_forks_take_the_rows_that_drawing_them_takes():
    draws = 0.1 + 0.8 * torch.rand(20_000, 10, generator=torch.Generator().manual_seed(0)).double()
    for forks in (2, 10):
        chosen = draws[:, :forks]
        rows = (1 + chosen.max(1).values + (1 - chosen).sum(1)) / forks
        assert scaling.rows_a_candidate(forks, 0.1, 0.9) == pytest.approx(rows.mean().item(), rel=0.01)
    assert scaling.rows_a_candidate(1, 0.1, 0.9) == 2


def test_ten_times_the_run_takes_ten_times_the_hours_and_faster_gpus_take_fewer():
    once, ten = scaling.gpu_hours(RATES), scaling.gpu_hours(RATES, 10)
    assert all(ten[n] == pytest.approx(10 * h) for n, h in once.items())
    faster = scaling.gpu_hours({**RATES, "peak": 2 * RATES["peak"]})
    assert all(faster[n] == pytest.approx(h / 2) for n, h in once.items())


def test_more_failures_and_larger_units_lose_more():
    lost = [scaling.failures(RATES, 1000, 8, 100, unit, False)["lost"] for unit in (1, 2, 4)]
    assert lost == [0.005, 0.01, 0.02]
    assert scaling.failures(RATES, 1000, 8, 100, 1, True)["lost"] == 8 * lost[0]


def commands_in(text):
    """Shell lines with continuations joined, that call us."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [line for line in joined.splitlines() if re.search(r"\bip2p |ip2p_lib\.cli ", line)]


def check(line):
    """Command and options of a shell line exist; returns the command's name."""
    words = shlex.split(
        re.split(r"ip2p_lib\.cli |\bip2p ", line, maxsplit=1)[1].replace("'", ""), comments=True
    )
    options = {o for p in COMMANDS[words[0]].params for o in (*p.opts, *p.secondary_opts)}
    used = {w for w in words[1:] if re.match(r"--?[a-z]", w)}
    assert used <= options, line
    return words[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_on_the_pages_exist(page):
    text = page.read_text(encoding="utf-8")
    lines = [
        s for b in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for s in commands_in(b)
    ]
    used = {check(line) for line in lines}
    if page.name == "full_size.md":
        assert used >= {
            "tune-writer",
            "triplets",
            "pairs",
            "filter",
            "train",
            "edit",
            "export-editor",
            "plan",
        }
    text = text.split("## Rates")[0]  # whose sources name files of others
    for path in re.findall(r"(?:configs|docs|benchmarks|data/triplets)/[\w./-]+\w", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("job", JOBS, ids=lambda p: p.name)
def test_slurm_jobs_are_shell_with_commands_that_exist(job):
    subprocess.run(["bash", "-n", job], check=True)
    text = job.read_text(encoding="utf-8")
    assert text.startswith("#!/bin/bash\n#SBATCH ")
    assert [check(line) for line in commands_in(text)]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda p: p.name)
def test_kubernetes_jobs_are_yaml_with_commands_that_exist(manifest):
    job = yaml.safe_load(manifest.read_text(encoding="utf-8"))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (script,) = container["args"]
    subprocess.run(["bash", "-n", "-c", script], check=True)
    assert [check(part) for part in re.split(r"&&|;", script) if commands_in(part)]
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert container["resources"]["limits"]["nvidia.com/gpu"] >= 1


def test_a_command_that_does_not_exist_would_be_found():
    with pytest.raises(KeyError):
        check("ip2p dream --out x")
    with pytest.raises(AssertionError):
        check("ip2p edit photo.png --no-such-option 3")


def test_the_table_of_cards_is_what_the_plan_says():
    from ip2p_lib.memory_plan import plan

    text = PAGES[0].read_text(encoding="utf-8")
    for memory, micro in ((8, 8), (12, 16), (24, 8), (40, 32), (80, 128)):
        found = plan("train", memory, resolution=256, batch=1024)
        assert found.fits
        assert f"--batch-size {micro}" in found.options
        assert re.search(rf"^\| {memory} \| .*micro-steps of {micro} \|$", text, re.MULTILINE)
    assert all(plan(s, 8, resolution=512, batch=b).fits for s, b in (("edit", 1), ("pairs", 4)))
