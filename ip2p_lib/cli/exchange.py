"""To and from the formats of others: the released code's folders of pairs, single files of weights."""

from pathlib import Path
from typing import Annotated

import typer

from ip2p_lib.cli.face import app, one_line_errors, quiet, writable

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


@app.command()
@one_line_errors
def export_editor(
    folder: Annotated[str, typer.Argument(help="Editor: diffusers folder, single file or hub id")],
    out: Annotated[Path, typer.Argument(help="File to write; must end in .safetensors")],
    precision: Annotated[str, typer.Option(help="fp16, bf16 or fp32")] = "fp16",
) -> None:
    """Write an editor as one file in the original Stable Diffusion layout."""
    import torch

    from ip2p_lib.backbone import load_editor
    from ip2p_lib.presets import FULL
    from ip2p_lib.single_file import check_name, departures, save_single_file

    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
    if precision not in dtypes:
        raise ValueError(f"--precision must be one of {', '.join(dtypes)}; got {precision!r}")
    check_name(out)
    writable(out.parent)
    quiet()
    editor = load_editor(FULL, folder)
    save_single_file(editor, out, dtype=dtypes[precision])
    typer.echo(f"{editor.name} in {out}")
    if found := departures(editor):
        typer.echo(
            f"diffusers opens it with config={folder}; other programs take it for Stable Diffusion 1.x, but"
            f" {found[0]}" + (f", and {len(found) - 1} more differ" if found[1:] else "")
        )
