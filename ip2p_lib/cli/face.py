"""What all commands share: the app, options, one line for every mistake."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="ip2p",
    help="InstructPix2Pix, stage by stage: triplets, pairs, filter, train, edit, quality; or the whole course.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

PresetName = Annotated[str, typer.Option("--preset", help="miniature or full")]
Folder = Annotated[Path, typer.Option("--out", help="Output folder; a second run continues it")]


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn expected refusals into one line on stderr and exit code 1; Ctrl-C into exit code 130."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, OSError, FloatingPointError) as error:
            typer.echo("error: " + " ".join(str(error).split()), err=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            typer.echo("stopped; run the same command again to continue", err=True)
            raise typer.Exit(130) from None

    return run


def given(**options: Any) -> dict[str, Any]:
    """The options that were given on the command line; 0 is a value, and is judged by who uses it."""
    return {name: value for name, value in options.items() if value is not None}


def quiet() -> None:
    """Keep third-party progress bars of model loading off the screen."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for log in (diffusers_logging, transformers_logging):
        log.set_verbosity_error()
        log.disable_progress_bar()


def writable(path: Path) -> Path:
    """Make an output folder, or say in one line why not."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may have tried at the same time
    except OSError as error:
        raise ValueError(
            f"the output folder must be writable, but {path} is not: {error.strerror}"
        ) from error
    return path
