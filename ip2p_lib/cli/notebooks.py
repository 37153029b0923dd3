"""The workbook run from top to bottom, and the minutes that it takes."""

from pathlib import Path
from typing import Annotated

import typer

from ip2p_lib.cli.face import app, one_line_errors


@app.command()
@one_line_errors
def notebooks(
    solved: Annotated[
        bool, typer.Option(help="Put the folded solutions in place of the stubs first")
    ] = False,
    record: Annotated[Path | None, typer.Option(help="Results file; also renews README's table")] = None,
) -> None:
    """Execute every notebook from top to bottom, writing nothing back, and say how long each took."""
    from ip2p_lib.course.minutes import notebooks_table, run_all

    if solved and record is not None:
        raise ValueError(
            "--record keeps the minutes of the notebooks as a learner finds them; leave out --solved"
        )
    for name, seconds in run_all(record, solved=solved):
        typer.echo(f"{name}: {seconds:.0f} s")
    if record is not None:
        from ip2p_lib import storage
        from ip2p_lib.quality import replace_block

        replace_block(Path("README.md"), "notebooks", notebooks_table(storage.read_json(record)))
