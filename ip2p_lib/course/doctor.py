"""Is this machine ready for the course? Small checks, each of which says what it found and what helps.

Nothing heavy is imported before its own check: the doctor must also work where the rest does not.
"""

import os
import platform
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from time import perf_counter

from ip2p_lib import storage
from ip2p_lib.course import jupyter
from ip2p_lib.course.findings import TROUBLE, Finding, in_one_line
from ip2p_lib.presets import DATA, MINIATURE, Preset

OLDEST = (3, 11)
PROJECT = DATA.parent / "pyproject.toml"
REINSTALL = "delete .venv and run `make course`, or `pip install -e '.[dev]'` in the environment that you use"
GB = 1e9
MEMORY, DISK = (
    2 * GB,
    1 * GB,
)  # the main job's peak is in data/results/course.json; this leaves room beside it


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    """The interpreter against the oldest that is supported."""
    said = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.prefix}"
    if version >= OLDEST:
        return Finding("python", "ok", said)
    remedy = "install Python 3.11 or newer, delete .venv, and run `make PYTHON=python3.11`"
    return Finding("python", "broken", f"{'.'.join(map(str, version))} is older than 3.11", remedy)


def ranges(project: Path = PROJECT) -> list[str]:
    """The version ranges that the course needs to run, as pyproject.toml or the installed package spells them."""
    if project.is_file():
        return list(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"])
    return [line for line in metadata.requires("ip2p-lib") or () if "extra ==" not in line]


def check_packages(wanted: Sequence[str]) -> Finding:
    """Installed versions against ranges such as `numpy>=2.2,<3`."""
    try:
        wrong = jupyter.unmet(wanted)
    except ImportError as error:
        return Finding("packages", "broken", in_one_line(error), REINSTALL)
    if wrong:
        return Finding("packages", "broken", "; ".join(wrong), REINSTALL)
    return Finding("packages", "ok", f"all {len(wanted)} lie in the ranges of pyproject.toml")


def check_torch() -> Finding:
    """PyTorch loads and computes; which device the course will use."""
    try:
        import torch

        product = torch.ones(4, 4) @ torch.ones(4, 4)
        if product.sum().item() != 64:
            return Finding("torch", "broken", "a product of matrices comes out wrong", REINSTALL)
        return check_device(torch.__version__, torch.cuda.is_available(), torch.backends.mps.is_available())
    except TROUBLE as error:
        return Finding("torch", "broken", in_one_line(error), REINSTALL)


def check_device(version: str, has_cuda: bool, has_mps: bool) -> Finding:
    """What PyTorch will compute on, given what it says of itself."""
    if has_cuda:
        import torch

        return Finding("torch", "ok", f"{version} on CUDA: {torch.cuda.get_device_name()}")
    if shutil.which("nvidia-smi"):
        remedy = "fine for the miniature; for full size install a PyTorch built for this machine's driver"
        return Finding("torch", "look", f"{version} on the CPU, though an NVIDIA driver is installed", remedy)
    if has_mps:
        return Finding(
            "torch", "ok", f"{version} on the CPU; MPS is there, but is not the reference: not used"
        )
    return Finding("torch", "ok", f"{version} on the CPU, which the miniature is made for")


def check_processor(count: int | None = None) -> Finding:
    """Cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    count = usable or 1 if count is None else count
    if count >= 2:
        return Finding("processor", "ok", f"{count} cores")
    return Finding(
        "processor",
        "look",
        f"{count} core",
        "nothing to repair, but all takes longer than the stated minutes",
    )


def free_memory() -> float:
    """Bytes that are free, in a container at most what it leaves; infinite where nothing tells."""
    try:
        import psutil

        free = float(psutil.virtual_memory().available)
    except TROUBLE:
        free = float("inf")
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    try:
        return min(free, float(limit.read_text()) - float(used.read_text()))
    except (OSError, ValueError):  # no container, or "max": no limit
        return free


def check_memory(free: float) -> Finding:
    """Free memory in bytes against what the main job takes."""
    if free == float("inf"):
        return Finding("memory", "look", "unknown", f"make sure that {MEMORY / GB:g} GB are free")
    if free >= MEMORY:
        return Finding("memory", "ok", f"{free / GB:.1f} GB free")
    remedy = "close other programs and other notebooks' kernels; in a container raise its limit"
    return Finding("memory", "look", f"{free / GB:.1f} GB free, {MEMORY / GB:g} are wanted", remedy)


def check_disk(free: float) -> Finding:
    """Free disk in bytes, where the course writes."""
    if free >= DISK:
        return Finding("disk", "ok", f"{free / GB:.1f} GB free")
    remedy = "delete old runs with `make clean`, or give another folder with --out"
    return Finding("disk", "look", f"{free / GB:.2f} GB free, {DISK / GB:g} is wanted", remedy)


def check_weights(models: Path) -> Finding:
    """The shipped models against the checksums in their manifest.json."""
    try:
        storage.check_manifest(models)
    except (OSError, ValueError) as error:
        remedy = "`git checkout -- data`, or copy data/ again, as bytes, from a checkout that is whole"
        return Finding("weights", "broken", str(error), remedy)
    return Finding("weights", "ok", f"all files in {models} are those that were shipped")


def check_folder(folder: Path) -> Finding:
    """Whether files can be made where the course writes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        said, remedy = (
            f"{folder} cannot be written: {error.strerror}",
            "work in a folder of your own, or give one with --out",
        )
        return Finding("folder", "broken", said, remedy)
    return Finding("folder", "ok", f"{folder} can be written")


def check_offline(variables: Mapping[str, str]) -> Finding:
    """The switches that keep libraries from asking the hub; both or none."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    on = [n for n in names if variables.get(n, "").upper() in ("1", "ON", "YES", "TRUE")]
    if len(on) == 1:
        remedy = f"set both to 1, or neither: {' and '.join(names)}"
        return Finding("offline", "look", f"{on[0]} is set alone", remedy)
    if on:
        return Finding(
            "offline", "ok", "switched on: nothing can be downloaded, so no preset `full` by hub id"
        )
    return Finding("offline", "ok", "not switched on; the miniature downloads nothing either way")


def check_edit(preset: Preset = MINIATURE) -> Finding:
    """Two steps of an edit with the shipped editor."""
    start = perf_counter()
    try:
        import numpy as np

        from ip2p_lib import images
        from ip2p_lib.backbone import load_editor
        from ip2p_lib.editing import edit

        picture = images.open_picture(DATA / "gallery" / "castle.png")
        result = edit(
            load_editor(preset), picture, "make it night", config=preset.edit, num_inference_steps=2
        )[0]
    except TROUBLE as error:
        return Finding(
            "edit", "broken", in_one_line(error), "see to the findings above first; then " + REINSTALL
        )
    if np.asarray(result.picture).std() < 1:
        return Finding("edit", "broken", "the edit is one flat colour", "report it with `ip2p doctor --json`")
    return Finding("edit", "ok", f"loaded, and two steps done, in {perf_counter() - start:.1f} s")


def examine(folder: Path, models: Path = DATA / "miniature", *, widgets: bool = False) -> Iterator[Finding]:
    """Every check in turn, each when it is asked for.

    Args:
        folder: where the course would write; made if need be.
        models: the shipped weights.
        widgets: also start a kernel and move a slider in it, which takes seconds.
    """
    yield check_python()
    yield check_packages(ranges())
    yield check_torch()
    yield check_processor()
    yield check_memory(free_memory())
    yield check_folder(folder)
    yield check_disk(shutil.disk_usage(folder if folder.is_dir() else Path.cwd()).free)
    yield check_weights(models)
    yield check_offline(os.environ)
    yield jupyter.check_jupyter()
    yield jupyter.check_kernel()
    yield check_edit()
    if widgets:
        yield jupyter.check_widgets()
