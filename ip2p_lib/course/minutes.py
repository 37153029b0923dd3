"""Every notebook executed as it lies there or with its solutions put in, and how long it took."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ip2p_lib import storage
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


def numbered_notebooks() -> list[Path]:
    """The workbook's notebooks in order.

    Raises:
        FileNotFoundError: there are none; they come with a clone of the repository, not with the package.
    """
    if found := sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        return found
    raise FileNotFoundError(f"the notebooks must lie in {NOTEBOOKS}, found none; clone the repository")


def put_in_solutions(notebook: Any) -> int:
    """Replace each exercise's stub by the solution folded away in the cell above it; returns how many."""
    count = 0
    for above, cell in zip(notebook.cells, notebook.cells[1:], strict=False):
        if any(tag.startswith("exercise:") for tag in cell.metadata.get("tags", ())):
            (cell.source,) = SOLUTION.findall(above.source)
            count += 1
    return count


def run(path: Path, *, solved: bool = False) -> float:
    """Execute a notebook in its folder, write nothing back, and return the seconds it took.

    Raises:
        RuntimeError: a cell failed; the line names notebook and error.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(path, as_version=4)
    if solved:
        put_in_solutions(notebook)
    client = NotebookClient(
        notebook, timeout=ONE_CELL, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    begun = time.perf_counter()
    try:
        client.execute()
    except CellExecutionError as error:
        raise RuntimeError(
            f"{path.name} must run from top to bottom, but {error.ename}: {error.evalue}"
        ) from error
    return time.perf_counter() - begun


def run_all(record: Path | None = None, *, solved: bool = False) -> Iterator[tuple[str, float]]:
    """Run the notebooks one after the other and yield name and seconds; `record` gets the minutes at the end."""
    seconds = {}
    for path in numbered_notebooks():
        seconds[path.stem] = run(path, solved=solved)
        yield path.stem, seconds[path.stem]
    if record is not None:
        minutes = {name: round(s / 60, 1) for name, s in seconds.items()}
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
