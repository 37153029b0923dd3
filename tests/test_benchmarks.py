"""The benchmarks' page is what the result files say, goals and gaps included."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks"


def script(name):
    """A benchmark script as a module; scripts import each other as neighbours."""
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


page = script("page")
RESULTS = page.read_results()


def test_the_page_shows_what_the_files_say():
    text = page.PAGE.read_text(encoding="utf-8")
    for name, block in page.blocks(RESULTS).items():
        assert f"<!-- {name} -->\n\n{block}\n\n<!-- /{name} -->" in text, "run `python benchmarks/page.py`"


@pytest.mark.parametrize("file", RESULTS)
def test_every_row_says_where_it_comes_from(file):
    for row in RESULTS[file]:
        assert {"name", "unit", "machine", "versions", "commit", "command"} <= row.keys()
        assert row["command"].startswith("python benchmarks/")
        assert (FOLDER / row["command"].split()[1].removeprefix("benchmarks/")).is_file()


def test_what_was_never_measured_is_said_to_be_so():
    (line,) = [row for row in page.goal_table({}).splitlines() if "`training_step_gpu`" in row]
    assert line.endswith("| at least 2.5 | never measured | never measured |")


@pytest.mark.parametrize(("ratio", "said"), [(1.06, "yes"), (1.05, "yes"), (1.04, "**no**")])
def test_a_goal_that_is_missed_is_marked(ratio, said):
    row = {"name": "edit_generic_cpu", "ratio": ratio, "lowest": 1.0, "highest": 1.5}
    table = page.goal_table({"edit_cpu.json": [row]})
    (line,) = [row for row in table.splitlines() if "`edit_generic_cpu`" in row]
    assert line.endswith(f"| at least 1.05 | {ratio:g} (1 to 1.5) | {said} |")


def test_a_row_shows_all_that_it_holds():
    row = {
        "name": "x",
        "ratio": 2.0,
        "ours": 1,
        "theirs": 2,
        "unit": "s",
        "equal_within": 1e-6,
        "peaks": {"1": 3},
    }
    assert page.file_table([row]).splitlines()[-1] == "| `x` | 2 | 1 | 2 | s | 1e-06 | peaks 1: 3 |"


@pytest.mark.slow
def test_the_gpu_script_measures_every_part_in_its_own_trial():
    command = [sys.executable, str(FOLDER / "gpu.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    names = {row["name"] for rows in found.values() for row in rows}
    needing_a_peak = {"training_share_of_peak_gpu"}
    assert names >= {name for name in page.GOALS if name.endswith("_gpu")} - needing_a_peak
    for part, rows in found.items():
        assert all(row["equal_within"] < 1e-3 for row in rows), part


def test_without_a_gpu_the_script_says_so_in_one_line():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [sys.executable, str(FOLDER / "gpu.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "needs a CUDA device, found none" in done.stderr.splitlines()[-1]


def test_the_largest_batch_is_the_last_that_fits_and_a_part_that_takes_too_long_is_stopped():
    parts = script("gpu_parts")

    def attempt(size):
        if size > 4:
            raise torch.cuda.OutOfMemoryError("no room")

    found = parts.largest(attempt, (2, 4, 8, 16), parts.Deadline(60))
    assert (found["value"], found["does_not_fit"]) == (4, 8)
    assert "want of time" in parts.largest(attempt, (2, 4), parts.Deadline(-1))["stopped"]
    with pytest.raises(TimeoutError, match="more than 0 s"), parts.stopped_after(0.05):
        time.sleep(5)
