"""The doctor: one line for each check of the installation, with a remedy for whatever is not well."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from ip2p_lib.cli.face import app, one_line_errors


@app.command()
@one_line_errors
def doctor(
    out: Annotated[Path, typer.Option("--out", help="Folder that the course would write to")] = Path("out"),
    models: Annotated[Path | None, typer.Option(help="Shipped weights; by default the checkout's")] = None,
    widgets: Annotated[
        bool, typer.Option("--widgets", help="Also start a kernel and move a slider in it")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Findings as JSON, to send to somebody")] = False,
) -> None:
    """Say whether this machine is ready: ok, look or broken, a line each; exit code 1 if something is broken."""
    import json
    from dataclasses import asdict

    from ip2p_lib.course.doctor import examine
    from ip2p_lib.presets import DATA

    found = []
    for finding in examine(out, models or DATA / "miniature", widgets=widgets):
        found.append(finding)
        if finding.check == "kernel":  # next come the models, and with them everything heavy
            _quiet()
        if not as_json:
            typer.echo(f"{finding.state:<7} {finding.check:<10} {finding.said}")
            if finding.remedy:
                typer.echo(f"{'':<18} do: {finding.remedy} ({finding.anchor})")
    broken = sum(f.state == "broken" for f in found)
    if as_json:
        typer.echo(json.dumps({"broken": broken, "findings": [asdict(f) for f in found]}, indent=2))
    else:
        typer.echo(f"{broken} broken" if broken else "nothing is broken")
    if broken:
        raise typer.Exit(1)


def _quiet() -> None:
    """No progress bars; where the libraries that draw them are broken, the next check says so."""
    from ip2p_lib.cli.face import quiet
    from ip2p_lib.course.findings import TROUBLE

    with suppress(*TROUBLE):
        quiet()
