"""Every notebook executed as it lies there or with its solutions put in, how long it took, and its outputs kept."""

import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ip2p_lib import storage
from ip2p_lib.course import outputs
from ip2p_lib.course.exercises import all_exercises
from ip2p_lib.evaluation.tables import markdown_table
from ip2p_lib.presets import DATA

NOTEBOOKS = DATA.parent / "notebooks"
ABOUT = {
    "00": "every stage once, with what to look for",
    "01": "a language model learns to invent edits",
    "02": "two captions become two pictures that differ only where the captions do",
    "03": "CLIP chooses the good pairs, and the world tells how well it chose",
    "04": "a network grows four channels, and learns first to copy, then to edit",
    "05": "two guidance scales, derived, built, and turned by hand",
    "06": "the paper's curves, the truth beside them, and when CLIP misleads",
    "07": "Stable Diffusion v1.5 through the same functions: shapes, memory, a plan",
}
SOLUTION = re.compile(r"<details>\s*<summary>Solution</summary>\s*```python\n(.*?)```", re.DOTALL)
ONE_CELL = 1_200  # seconds


def numbered_notebooks(numbers: Sequence[str] = ()) -> list[Path]:
    """The workbook's notebooks in order, all or those with these two-digit numbers.

    Raises:
        FileNotFoundError: there are none; they come with a clone of the repository, not with the package.
        ValueError: there is no notebook of that number.
    """
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise FileNotFoundError(f"the notebooks must lie in {NOTEBOOKS}, found none; clone the repository")
    for number in numbers:
        if number not in ABOUT:
            raise ValueError(f"a notebook's number must be one of {', '.join(ABOUT)}; got {number!r}")
    return [p for p in found if not numbers or p.name[:2] in numbers]


def put_in_solutions(notebook: Any) -> int:
    """Replace each exercise's stub by the solution folded away in the cell above it; returns how many."""
    count = 0
    for above, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if any(tag.startswith("exercise:") for tag in cell.metadata.get("tags", ())):
            (cell.source,) = SOLUTION.findall(above.source)
            count += 1
    return count


def run(
    path: Path, *, solved: bool = False, save: bool = False, folder: Path | None = None, threads: int = 0
) -> float:
    """Execute a notebook and return the seconds it took. A learner's own progress is not touched.

    Args:
        solved: put the solutions in first.
        save: write the notebook back with its outputs, cleaned as `outputs.clean` does it.
        folder: where it runs; the notebook's own if None.
        threads: how many it may compute with; 0 leaves that to PyTorch.

    Raises:
        RuntimeError: a cell failed; the line names notebook and error.
        ValueError: the notebook with its outputs is too large, or solutions would be saved.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    if solved and save:
        raise ValueError("notebooks are saved as a learner finds them, without solutions; got both")
    notebook = nbformat.read(path, as_version=4)
    if solved:
        put_in_solutions(notebook)
    where = {"metadata": {"path": str(folder or path.parent)}}
    client = NotebookClient(notebook, timeout=ONE_CELL, kernel_name="python3", resources=where)
    limit = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    begun = time.perf_counter()
    with TemporaryDirectory() as progress:
        try:
            client.execute(env={**os.environ, **limit, "IP2P_PROGRESS": progress, "IP2P_TESTING": "1"})
        except CellExecutionError as error:
            raise RuntimeError(
                f"{path.name} must run from top to bottom, but {error.ename}: {error.evalue}"
            ) from error
    seconds = time.perf_counter() - begun
    if save:
        write_back(path, notebook)
    return seconds


def write_back(path: Path, notebook: Any) -> None:
    """Write an executed notebook over the one it was read from, its outputs cleaned; whole or not at all.

    Raises:
        ValueError: it would be too large, or its outputs cannot be cleaned.
    """
    import nbformat

    outputs.clean(notebook)
    text = nbformat.writes(notebook) + "\n"
    if (size := len(text.encode())) >= outputs.MOST_BYTES:
        raise ValueError(
            f"{path.name} must stay below {outputs.MOST_BYTES} bytes with its outputs, got {size}"
        )
    with storage.atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def _one_by_one(paths: Sequence[Path], solved: bool, save: bool) -> Iterator[tuple[str, float]]:
    for path in paths:
        yield path.stem, run(path, solved=solved, save=save)


def _together(paths: Sequence[Path], solved: bool, save: bool, jobs: int) -> Iterator[tuple[str, float]]:
    """Each in a process of its own, where a key press can stop it, with its part of the cores."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(run, p, solved=solved, save=save, threads=threads): p.stem for p in paths}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def run_all(
    record: Path | None = None,
    *,
    numbers: Sequence[str] = (),
    solved: bool = False,
    save: bool = False,
    jobs: int = 1,
) -> Iterator[tuple[str, float]]:
    """Run notebooks and yield name and seconds of each as it ends; `record` gets the minutes at the end.

    Args:
        record: results file; its minutes are measured one notebook after the other.
        numbers: two digits each; empty runs all.
        solved: put the solutions in first.
        save: write the notebooks back with their outputs.
        jobs: how many run at a time, sharing the cores.

    Raises:
        ValueError: `record` is asked for, but not all notebooks as a learner finds them, one at a time.
    """
    if record is not None and (solved or numbers or jobs > 1):
        raise ValueError(
            "minutes are kept of all notebooks, unsolved, one at a time; leave out --solved, --jobs and numbers"
        )
    seconds, paths = {}, numbered_notebooks(numbers)
    for name, took in _one_by_one(paths, solved, save) if jobs == 1 else _together(paths, solved, save, jobs):
        seconds[name] = took
        yield name, took
    if record is not None:
        minutes = {name: round(seconds[name] / 60, 1) for name in sorted(seconds)}
        total = round(sum(seconds.values()) / 60, 1)
        storage.write_json(record, {"minutes": minutes, "notebooks_minutes": total, **storage.environment()})


def notebooks_table(result: dict[str, Any]) -> str:
    """README's table of the workbook: what one builds, exercises, measured minutes."""
    exercises = [e.id.split(".")[0] for e in all_exercises().values()]
    rows = [
        (f"[`{name}`](notebooks/{name}.ipynb)", ABOUT[name[:2]], exercises.count(name[:2]), minutes)
        for name, minutes in result["minutes"].items()
    ]
    table = markdown_table(("notebook", "in it", "exercises", "minutes"), rows)
    return f"{table}\n\nRun unsolved on {result['machine']}: {result['notebooks_minutes']} minutes in all."
