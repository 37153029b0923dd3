"""The workbook run from top to bottom: the minutes that it takes, and the outputs that are committed with it."""

from pathlib import Path
from typing import Annotated

import typer

from ip2p_lib.cli.face import app, one_line_errors


@app.command()
@one_line_errors
def notebooks(
    numbers: Annotated[
        list[str] | None, typer.Argument(help="Which, for example 02 05; all if none is named")
    ] = None,
    solved: Annotated[
        bool, typer.Option(help="Put the folded solutions in place of the stubs first")
    ] = False,
    save: Annotated[bool, typer.Option(help="Write the notebooks back with small, clean outputs")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="How many run at a time, sharing the cores")] = 1,
    record: Annotated[Path | None, typer.Option(help="Results file; also renews README's table")] = None,
) -> None:
    """Execute notebooks from top to bottom and say how long each took. Without --save nothing is written back."""
    from ip2p_lib.course.minutes import notebooks_table, run_all

    for name, seconds in run_all(record, numbers=numbers or (), solved=solved, save=save, jobs=jobs):
        typer.echo(f"{name}: {seconds:.0f} s")
    if record is not None:
        from ip2p_lib import storage
        from ip2p_lib.quality import replace_block

        replace_block(Path("README.md"), "notebooks", notebooks_table(storage.read_json(record)))
