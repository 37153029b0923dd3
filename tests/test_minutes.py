"""The minutes of the notebooks: measured, said in their first cells, and shown in README."""

import re
from pathlib import Path

import nbformat
import pytest

from ip2p_lib import storage
from ip2p_lib.course import minutes
from ip2p_lib.course.exercises import all_exercises
from ip2p_lib.course.minutes import (
    ABOUT,
    notebooks_table,
    numbered_notebooks,
    put_in_solutions,
    run,
    run_all,
)
from ip2p_lib.presets import DATA

WORDS = {"half a": 0.5, "a": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
MEASURED = DATA / "results" / "notebooks.json"


def stated_minutes(text: str) -> float:
    """What a first cell promises, for example "takes about a minute and a half"."""
    number, half = re.search(r"takes about (half a|\w+) minutes?( and a half)?", text).groups()
    return WORDS[number] + 0.5 * bool(half)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("On two CPU cores it takes about a minute.", 1),
        ("it takes about a minute and a half.", 1.5),
        ("takes about half a minute", 0.5),
        ("It takes about three minutes.", 3),
    ],
)
def test_minutes_are_read(text, expected):
    assert stated_minutes(text) == expected


measured = pytest.mark.skipif(not MEASURED.exists(), reason="not measured yet: run `ip2p notebooks --record`")


@measured
@pytest.mark.parametrize("path", numbered_notebooks(), ids=lambda p: p.stem[:2])
def test_stated_minutes_are_the_measured_ones(path):
    """Within a factor of 1.5, and a quarter of a minute for the starting of a kernel."""
    took = storage.read_json(MEASURED)["minutes"][path.stem]
    stated = stated_minutes(nbformat.read(path, as_version=4).cells[0].source)
    assert took / 1.5 - 0.25 <= stated <= took * 1.5 + 0.25, f"measured {took}, stated {stated}"


@measured
def test_readme_shows_what_was_measured():
    readme = (DATA.parent / "README.md").read_text(encoding="utf-8")
    assert notebooks_table(storage.read_json(MEASURED)) in readme


def test_every_notebook_has_its_line():
    assert [p.stem[:2] for p in numbered_notebooks()] == list(ABOUT)


@pytest.mark.parametrize("path", numbered_notebooks(), ids=lambda p: p.stem[:2])
def test_every_stub_has_a_solution_to_put_in(path):
    notebook = nbformat.read(path, as_version=4)
    ids = [i for i in all_exercises() if i.startswith(path.stem[:2])]
    stubs = [c for c in notebook.cells if any(t.startswith("exercise:") for t in c.metadata.get("tags", ()))]
    before = [c.source for c in stubs]
    assert put_in_solutions(notebook) == len(ids)
    assert all(old != c.source for old, c in zip(before, stubs, strict=True))


def notebook_of(folder: Path, *cells: str) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbformat.write(notebook, folder / "tried.ipynb")
    return folder / "tried.ipynb"


@pytest.mark.slow
def test_a_notebook_runs_in_its_folder_and_is_left_as_it_was(tmp_path):
    path = notebook_of(tmp_path, "from pathlib import Path", "Path('here').write_text('')")
    before = path.read_bytes()
    assert 0 < run(path) < 60
    assert (tmp_path / "here").exists()
    assert path.read_bytes() == before


@pytest.mark.slow
def test_notebooks_that_run_together_share_the_cores(tmp_path, monkeypatch):
    """Each waits for a file of the other's, so that one after the other would never end."""
    wait = """
import os, time
from pathlib import Path
assert int(os.environ["OMP_NUM_THREADS"]) == max(1, os.cpu_count() // 2)
Path("{mine}").touch()
while not Path("{theirs}").exists():
    time.sleep(0.1)
"""
    for name, mine, theirs in (("00_a", "a", "b"), ("01_b", "b", "a")):
        notebook_of(tmp_path, wait.format(mine=mine, theirs=theirs)).rename(tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(minutes, "NOTEBOOKS", tmp_path)
    assert {name for name, _ in run_all(jobs=2)} == {"00_a", "01_b"}


def test_minutes_are_kept_of_one_notebook_at_a_time(tmp_path):
    with pytest.raises(ValueError, match="one at a time; leave out --solved, --jobs and numbers"):
        next(run_all(tmp_path / "minutes.json", jobs=2))


@pytest.mark.slow
def test_a_failing_notebook_is_named(tmp_path):
    path = notebook_of(tmp_path, "assert 1 + 1 == 3, 'sums are off'")
    with pytest.raises(
        RuntimeError, match=r"tried\.ipynb must run from top to bottom, but AssertionError: sums are off"
    ):
        run(path)
