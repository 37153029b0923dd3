"""Pairs to and from the folder layout of the released code."""

from pathlib import Path
from typing import Annotated

import typer

from ip2p_lib.cli.face import app, one_line_errors, writable

Whole = Annotated[Path, typer.Option("--out", help="Output folder; appears whole or not at all")]


@app.command()
@one_line_errors
def export_original(
    kept: Annotated[Path, typer.Option("--kept", help="Folder written by `ip2p filter`")], out: Whole
) -> None:
    """Write kept pairs in the folder layout of the released code, for its training and its loaders."""
    from functools import partial

    from tqdm import tqdm

    from ip2p_lib.filtering import write_original

    writable(out.parent)
    typer.echo(f"{write_original(kept, out, partial(tqdm, unit='shard'))} pairs in {out}")


@app.command()
@one_line_errors
def import_original(
    folder: Annotated[
        Path, typer.Option("--folder", help="The released dataset, or what the released script made")
    ],
    out: Whole,
) -> None:
    """Read a folder in the released code's layout into kept pairs, for `ip2p train`."""
    from functools import partial

    from tqdm import tqdm

    from ip2p_lib.filtering import read_original

    writable(out.parent)
    typer.echo(f"{read_original(folder, out, partial(tqdm, unit='shard'))} pairs in {out}")
