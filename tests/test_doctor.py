"""The doctor: what is whole is found whole, and each kind of breakage is named with a remedy."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ip2p_lib import cli, storage
from ip2p_lib.course import doctor, jupyter
from ip2p_lib.course.findings import CHECKS, Finding
from ip2p_lib.presets import MINIATURE
from ip2p_lib.unet import save_pipeline

ROOT = Path(__file__).resolve().parent.parent


def is_named(finding: Finding, state: str, *words: str) -> bool:
    """The state is this one, the line names these, and trouble comes with a remedy."""
    return (
        finding.state == state
        and all(w in finding.said for w in words)
        and bool(finding.remedy) == (state != "ok")
        and "\n" not in finding.said + finding.remedy
    )


def unwritable(tmp_path: Path) -> Path:
    """A folder that not even an administrator can write to, or an ordinary read-only one."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        if not Path("/proc/self").is_dir():
            pytest.skip("an administrator may write everywhere here")
        return Path("/proc/self")
    if os.name == "nt":
        pytest.skip("folders have other permissions here")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    return closed


def test_a_whole_checkout_is_found_whole(tmp_path):
    quick = (
        doctor.check_python(),
        doctor.check_packages(doctor.ranges()),
        doctor.check_torch(),
        doctor.check_folder(tmp_path / "new" / "folder"),
        doctor.check_weights(Path(MINIATURE.manifest)),
        jupyter.check_jupyter(),
    )
    assert [f for f in quick if f.state == "broken"] == []
    assert list(tmp_path.rglob("*")) == [tmp_path / "new", tmp_path / "new" / "folder"]  # no file is left


def test_an_old_python_is_named():
    assert is_named(doctor.check_python((3, 10)), "broken", "3.10", "3.11")
    assert doctor.check_python((3, 11)).state == doctor.check_python((4, 0)).state == "ok"


def test_a_version_outside_its_range_is_named():
    there = metadata.version("numpy")
    wanted = [
        "numpy>=9000,<9001",
        "pillow>=1",
        "no-such-package-of-ours>=1,<2",
        "torch; python_version < '3'",
    ]
    finding = doctor.check_packages(wanted)
    assert is_named(finding, "broken", f"numpy {there}", "no-such-package-of-ours is not installed")
    assert "pillow" not in finding.said
    assert "torch" not in finding.said


def test_the_ranges_are_those_of_the_project_file(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["numpy>=9000"]\n')
    assert doctor.ranges(tmp_path / "pyproject.toml") == ["numpy>=9000"]
    installed = doctor.ranges(tmp_path / "absent.toml")  # no checkout: what the installed package says
    assert {re.split(r"[<>=]", r)[0] for r in installed} >= {"torch", "diffusers"}
    assert not any("extra" in r for r in installed)


@pytest.mark.parametrize("harm", ["a byte", "a missing file", "no manifest", "a pointer in place of a file"])
def test_tampered_weights_are_named(clip_folder, tmp_path, harm):
    models = tmp_path / "models"
    shutil.copytree(clip_folder, models / "clip")
    storage.write_manifest(models)
    weights = models / "clip" / "open_clip_model.safetensors"
    assert doctor.check_weights(models).state == "ok"
    if harm == "a byte":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif harm == "a missing file":
        weights.unlink()
    elif harm == "no manifest":
        (models / storage.MANIFEST).unlink()
    else:
        weights.write_text("version 1\noid sha256:0\nsize 1\n")
    name = storage.MANIFEST if harm == "no manifest" else weights.name
    assert is_named(doctor.check_weights(models), "broken", name)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    assert is_named(doctor.check_folder(tmp_path / "file"), "broken", "file")
    closed = unwritable(tmp_path)
    assert is_named(doctor.check_folder(closed), "broken", str(closed))


def test_a_mac_is_told_that_its_gpu_is_not_used_and_a_driver_that_torch_ignores_is_named(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert is_named(doctor.check_device("2.15", False, False), "ok", "CPU")
    assert is_named(doctor.check_device("2.15", False, True), "ok", "MPS", "not the reference", "not used")
    program = tmp_path / ("nvidia-smi.exe" if os.name == "nt" else "nvidia-smi")
    program.touch(mode=0o755)
    assert is_named(doctor.check_device("2.15", False, False), "look", "NVIDIA")


def test_too_little_of_a_machine_is_worth_a_look():
    assert is_named(doctor.check_processor(1), "look", "1 core")
    assert is_named(doctor.check_memory(0.7e9), "look", "0.7 GB")
    assert is_named(doctor.check_memory(float("inf")), "look", "unknown")
    assert is_named(doctor.check_disk(2e7), "look", "0.02 GB")
    assert {
        doctor.check_processor(2).state,
        doctor.check_memory(8e9).state,
        doctor.check_disk(8e9).state,
    } == {"ok"}
    assert 0 < doctor.free_memory() < 1e15


@pytest.mark.parametrize(
    ("variables", "state"),
    [
        ({}, "ok"),
        ({"HF_HUB_OFFLINE": "0"}, "ok"),
        ({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}, "ok"),
        ({"HF_HUB_OFFLINE": "1"}, "look"),
        ({"TRANSFORMERS_OFFLINE": "true", "HF_HUB_OFFLINE": ""}, "look"),
    ],
)
def test_one_offline_switch_without_the_other_is_worth_a_look(variables, state):
    assert is_named(doctor.check_offline(variables), state)


def test_widgets_whose_half_in_the_page_is_missing_are_named(tmp_path):
    assert is_named(jupyter.check_jupyter(paths=[str(tmp_path)]), "broken", "page")
    assert is_named(jupyter.check_jupyter(["no-such-package-of-ours"]), "broken", "no-such-package-of-ours")


def test_a_kernel_of_another_environment_is_worth_a_look(tmp_path, monkeypatch):
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    for program, state in (("/elsewhere/bin/python", "look"), (sys.executable, "ok"), ("python", "ok")):
        storage.write_json(
            folder / "kernel.json", {"argv": [program, "-m", "x"], "display_name": "P", "language": "python"}
        )
        assert is_named(jupyter.check_kernel([str(folder.parent)]), state)
    shutil.rmtree(folder)
    assert is_named(jupyter.check_kernel([str(folder.parent)]), "ok")  # ipykernel brings one
    monkeypatch.setitem(sys.modules, "ipykernel.kernelspec", None)  # as if it were not installed
    assert is_named(jupyter.check_kernel([str(folder.parent)]), "broken", "python3")


def test_the_smoke_edit_passes_with_a_whole_editor_and_names_a_damaged_one(editor, tmp_path):
    save_pipeline(editor, tmp_path / "editor")
    preset = replace(MINIATURE, editor=str(tmp_path / "editor"), manifest="")
    assert doctor.check_edit(preset).state == "ok"
    weights = tmp_path / "editor" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert is_named(doctor.check_edit(preset), "broken", "unet")


def test_a_finding_is_one_of_the_known_ones_and_trouble_has_a_remedy():
    with pytest.raises(ValueError, match="must be one of"):
        Finding("weather", "ok", "fine")
    with pytest.raises(ValueError, match="its state one of"):
        Finding("disk", "bad", "full", "delete")
    with pytest.raises(ValueError, match="must have a remedy"):
        Finding("disk", "broken", "full")


def test_every_finding_has_its_place_on_the_page_and_the_page_no_other():
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    checks = page.split("\n# ")[0].split("## What the doctor looks at")[1].split("\n## ")[0]
    assert re.findall(r"(?m)^### (\w+)$", checks) == list(CHECKS)


@pytest.mark.slow
def test_a_slider_in_a_real_kernel_answers():
    assert is_named(jupyter.check_widgets(seconds=60), "ok")


@pytest.mark.slow
def test_a_kernel_without_widgets_and_a_silent_one_are_named(tmp_path):
    (tmp_path / "ipywidgets.py").write_text("raise ImportError('ipywidgets is for another Python')\n")
    variables = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert is_named(jupyter.check_widgets(60, variables), "broken", "ImportError", "another Python")
    assert is_named(jupyter.check_widgets(0.5), "broken")


@pytest.mark.slow
def test_the_doctor_works_where_torch_does_not(tmp_path):
    (tmp_path / "torch.py").write_text(
        "raise ImportError('libsomething.so: cannot open shared object file')\n"
    )
    command = [sys.executable, "-m", "ip2p_lib.cli", "doctor", "--json", "--out", str(tmp_path / "out")]
    variables = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    told = {f["check"]: f for f in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert {name for name, f in told.items() if f["state"] == "broken"} == {"torch", "edit"}
    assert "libsomething.so" in told["torch"]["said"]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_command_says_each_finding_and_exits_by_the_worst(tmp_path):
    def run(*more):
        done = CliRunner().invoke(cli.app, ["doctor", "--out", str(tmp_path / "out"), *more])
        return done.exit_code, done.stdout

    code, said = run()
    assert (code, "nothing is broken" in said) == (0, True)
    assert [line.split()[1] for line in said.splitlines()[:-1] if line[0] != " "] == list(CHECKS[:-1])
    code, said = run("--json", "--models", str(tmp_path))
    told = json.loads(said)
    assert (code, told["broken"]) == (1, 1)
    (weights,) = [f for f in told["findings"] if f["state"] == "broken"]
    assert weights["check"] == "weights"
    assert "git checkout" in weights["remedy"]
