"""What a learner has solved, for a teacher: progress as JSON."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ip2p_lib.cli.face import app, one_line_errors


@app.command()
@one_line_errors
def grade(
    progress: Annotated[
        Path | None, typer.Option(help="Folder that holds .ip2p; default: IP2P_PROGRESS, or the notebooks'")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to write instead of the screen")] = None,
) -> None:
    """Say as JSON which exercises of the notebooks are solved, in how many attempts, with how many hints."""
    from ip2p_lib import storage
    from ip2p_lib.course.exercises.progress import progress_file, read_progress

    if progress is not None and not progress.is_dir():
        raise ValueError(f"--progress must be a folder, there is none at {progress}")
    path = progress / ".ip2p" / "progress.json" if progress else progress_file()
    if progress and not path.exists():
        raise ValueError(
            f"--progress must hold .ip2p/progress.json, which notebooks leave there; none in {progress}"
        )
    report = _report(read_progress(path))
    if out is None:
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        storage.write_json(out, report)
        typer.echo(out)


def _report(records: dict[str, Any]) -> dict[str, Any]:
    """Every exercise in order, then the sums."""
    from dataclasses import asdict

    from ip2p_lib.course.exercises import all_exercises
    from ip2p_lib.course.exercises.progress import Record

    rows = [
        {"id": e.id, "title": e.title, **asdict(records.get(e.id, Record()))}
        for e in all_exercises().values()
    ]
    totals = {
        "exercises": len(rows),
        "attempted": sum(r["attempts"] > 0 for r in rows),
        **{name: sum(r[name] for r in rows) for name in ("solved", "attempts", "hints")},
    }
    return {"exercises": rows, "totals": totals}
