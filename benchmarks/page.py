"""The tables of docs/benchmarks.md, made from the files in benchmarks/results.

Run: `python benchmarks/page.py` after any benchmark; a test fails while page and files differ.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ip2p_lib.evaluation.tables import markdown_table
from ip2p_lib.quality.goals import Goal, replace_block

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results", HERE.parent / "docs" / "benchmarks.md"
Row = Mapping[str, Any]

PIPELINE, SCRIPT, COPIES = "diffusers' pipeline", "the loop of diffusers' script", "copying score matrices"
GOALS: dict[str, tuple[str, str, Goal]] = {
    "edit_generic_cpu": ("an edit, general scales", PIPELINE, Goal(1.05)),
    "edit_zero_branch_cpu": ("an edit, s_I = 1", PIPELINE, Goal(1.35)),
    "edit_zero_branch_equal_scales_cpu": ("an edit, s_T = s_I", PIPELINE, Goal(1.35)),
    "edit_512_gpu": ("an edit of 512 pixels, one at a time", PIPELINE, Goal(2)),
    "p2p_injection_cpu": ("a UNet call with shared self-attention", COPIES, Goal(1.8)),
    "p2p_forked_rows": ("UNet rows, thresholds forked off one source", "each with its own source", Goal(2.4)),
    "p2p_candidates_gpu": ("candidates of 512 pixels per minute", COPIES, Goal()),
    "filter_cpu": ("scoring of candidates", "one candidate per call", Goal(5)),
    "filter_gpu": ("scoring of candidates, CLIP ViT-L/14", "one candidate per call", Goal()),
    "training_step_cpu": ("a training step, in float32 (the goal was set for bf16)", SCRIPT, Goal(1.45)),
    "training_step_gpu": ("a training step at 256 pixels", SCRIPT, Goal(2.5)),
    "training_share_of_peak_gpu": ("its share of the GPU's measured peak", "large products of matrices", Goal(0.35)),
    "slider_seconds": ("slider to picture in the browser, seconds", "–", Goal(at_most=0.5)),
}  # fmt: skip
ABOUT = ("machine", "versions", "commit", "date", "command")
COLUMNS = ("name", "ratio", "lowest", "highest", "ours", "theirs", "unit", "equal_within", *ABOUT)


def read_results(folder: Path = RESULTS) -> dict[str, list[Row]]:
    """Rows by file name; a file holds one row or a list."""
    found = {p.name: json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))}
    return {name: rows if isinstance(rows, list) else [rows] for name, rows in found.items()}


def goal_table(results: Mapping[str, Iterable[Row]]) -> str:
    """What was promised beside what was measured, and plainly what never was."""
    rows = {row["name"]: row for rows in results.values() for row in rows}
    lines = []
    for name, (what, against, goal) in GOALS.items():
        wanted = f"at least {goal.at_least:g}" if goal.at_least is not None else "none set"
        wanted = f"at most {goal.at_most:g}" if goal.at_most is not None else wanted
        row = rows.get(name)
        reached = _reached(row, goal) if row else "never measured"
        lines.append(
            (what, f"`{name}`", against, wanted, _measured(row) if row else "never measured", reached)
        )
    table = markdown_table(("what", "name", "against", "goal", "measured", "reached"), lines)
    gaps = sum(name not in rows for name in GOALS)
    return table + (f"\n\n{gaps} of {len(GOALS)} were **never measured**." if gaps else "")


def _value(row: Row) -> float | None:
    return row.get("ratio", row.get("value"))


def _measured(row: Row) -> str:
    earlier = row.get("earlier_run")
    return _ratio(row) + (f"; another run {_ratio(earlier)}" if earlier else "")


def _ratio(row: Row) -> str:
    value = _value(row)
    if value is None:
        return "–"
    span = f" ({row['lowest']:g} to {row['highest']:g})" if "lowest" in row else ""
    return f"{value:g}{span}"


def _reached(row: Row, goal: Goal) -> str:
    if goal == Goal():
        return "–"
    return "yes" if goal.met_by(float(_value(row) or 0)) else "**no**"


def file_table(rows: Iterable[Row]) -> str:
    """All rows of one file; what has no column of its own stands in the last."""
    heads = ("name", "ratio", "ours", "theirs", "unit", "equal within", "beside")
    lines = [
        (
            f"`{r['name']}`",
            _ratio(r) if "ratio" in r else "–",
            _told(r.get("ours", r.get("value"))),
            *(_told(r.get(n)) for n in ("theirs", "unit", "equal_within")),
            _beside(r),
        )
        for r in rows
    ]
    return markdown_table(heads, lines)


def _told(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_told(v)}" for k, v in value.items())
    if isinstance(value, list):
        return " to ".join(_told(v) for v in value)
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _beside(row: Row) -> str:
    rest = {n: v for n, v in row.items() if n not in (*COLUMNS, "value", "earlier_run", "gains", "seconds")}
    return "; ".join(f"{n.replace('_', ' ')} {_told(v)}" for n, v in rest.items()) or "–"


def machine_table(results: Mapping[str, Iterable[Row]]) -> str:
    """Where, when and how each row came about; rows of a file that have it all in common stand together."""
    together: dict[tuple[str, ...], list[str]] = {}
    for name, rows in results.items():
        for row in rows:
            about = tuple(_told(row.get(n)) for n in ABOUT)
            together.setdefault((name, *about), []).append(f"`{row['name']}`")
    lines = [
        (f"`benchmarks/results/{file}`", ", ".join(names), machine, versions, commit, date, f"`{command}`")
        for (file, machine, versions, commit, date, command), names in together.items()
    ]
    return markdown_table(("file", "rows", "machine", "versions", "commit", "date", "command"), lines)


def blocks(results: Mapping[str, list[Row]]) -> dict[str, str]:
    """The page's tables by the name of their marks."""
    files = [f"### `{name}`\n\n{file_table(rows)}" for name, rows in results.items()]
    return {"goals": goal_table(results), "files": "\n\n".join(files), "machines": machine_table(results)}


if __name__ == "__main__":
    for mark, text in blocks(read_results()).items():
        replace_block(PAGE, mark, text)
