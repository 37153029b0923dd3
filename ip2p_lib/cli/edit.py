"""Editing: a picture or a folder of them, the grid of both scales, the film of the sampler."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ip2p_lib.cli.face import PresetName, app, given, one_line_errors, quiet, writable
from ip2p_lib.cli.plan import tell_memory

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
UNREAD = (".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".nef", ".arw")  # what cameras also write
GRID_TEXT, GRID_IMAGE = (0.5, 1.0, 1.5, 2.0), (0.8, 1.5, 2.2, 3.0)  # times the preset's own scales


@app.command()
@one_line_errors
def edit(
    source: Annotated[Path, typer.Argument(metavar="PICTURE", help="Picture file, or a folder of them")],
    instruction: Annotated[str | None, typer.Argument(help="What to change, e.g. 'make it night'")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="PNG to write, or a folder for a folder's edits")
    ] = None,
    preset: PresetName = "miniature",
    model: Annotated[str | None, typer.Option(help="Editor: folder, file or hub id")] = None,
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance-scale", "-t", help="s_T, weight of the text")
    ] = None,
    image_guidance_scale: Annotated[
        float | None, typer.Option("--image-guidance-scale", "-i", help="s_I, weight of the picture")
    ] = None,
    steps: int | None = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="euler_ancestral, euler, ddim, dpm++ or unipc; dpm++ needs fewest steps"),
    ] = None,
    seed: int | None = None,
    recipe: Annotated[
        Path | None, typer.Option(help="PNG of an earlier edit: repeat it; other options change it")
    ] = None,
    restore_detail: Annotated[
        bool | None,
        typer.Option(help="Put back what the autoencoder loses, where the edit changes nothing"),
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Pixels of the longer side while it is edited; best as in training")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="no for float32, bf16 or fp16; by default what suits the device")
    ] = None,
    full_size: Annotated[
        bool, typer.Option("--full-size", help="Put the result back at the picture's own size")
    ] = False,
    grid: Annotated[
        bool, typer.Option("--grid", help="Also OUT-grid.png: four values of each scale")
    ] = False,
    strip: Annotated[
        int,
        typer.Option(
            "--strip",
            "--steps-strip",
            min=0,
            metavar="FRAMES",
            help="Also OUT-strip.png: so many moments of the sampler",
        ),
    ] = 0,
) -> None:
    """Edit pictures by instruction; each PNG carries its recipe. A folder's finished edits are not made again."""
    from dataclasses import replace

    from ip2p_lib import backbone as models
    from ip2p_lib.optimisation import compute_dtype
    from ip2p_lib.presets import preset as find

    chosen = find(preset)
    options = given(
        guidance_scale=guidance_scale, image_guidance_scale=image_guidance_scale,
        num_inference_steps=steps, sampler=sampler, restore_detail=restore_detail, seed=seed,
    )  # fmt: skip
    if recipe is not None:
        instruction, options, side = _repeated(recipe, instruction, options)
        resolution = resolution or side
    if instruction is None:
        raise ValueError("say what to change, e.g. ip2p edit photo.png 'make it night', or give a --recipe")
    config = replace(chosen.edit, **given(resolution=resolution))
    pictures = _pictures(source)
    target = out or Path("out/edits" if source.is_dir() else "out/edit.png")
    if target.is_dir() and not source.is_dir():
        target = target / f"{source.stem}.png"
    writable(target if source.is_dir() else target.parent)
    if not source.is_dir():
        _check_free(source, target)
    quiet()
    tell_memory("edit", chosen, precision or "", resolution=config.resolution)
    device, dtype, _ = models.pick_device()
    if precision:
        dtype = compute_dtype(precision)
    editor = models.load_editor(chosen, model, device=device, dtype=dtype)
    job = _Job(editor, config, instruction, options, full_size)
    if recipe is not None:
        job.check_model(recipe)
    if not source.is_dir():
        job.one(source, target, grid, strip)
        return
    failed = [
        line for path in pictures if (line := job.tried(path, target / f"{path.stem}.png", grid, strip))
    ]
    if failed:
        raise ValueError(f"{len(failed)} of {len(pictures)} pictures were not edited, the first: {failed[0]}")


def _pictures(source: Path) -> list[Path]:
    """The pictures of a folder, no two of which would be written to one file."""
    if not source.is_dir():
        return [source]
    found = sorted(p for p in source.iterdir() if p.suffix.lower() in SUFFIXES)
    unread = sorted(p for p in source.iterdir() if p.suffix.lower() in UNREAD)
    if unread:
        typer.echo(
            f"{len(unread)} files of kinds that are not read, first {unread[0].name}; convert to JPEG",
            err=True,
        )
    if not found:
        raise ValueError(f"{source} must hold pictures ({', '.join(SUFFIXES)}), found none")
    stems = [p.stem for p in found]
    if twice := next((s for s in stems if stems.count(s) > 1), None):
        raise ValueError(f"{source} must hold pictures of different names, but {twice} occurs more than once")
    return found


def _check_free(source: Path, out: Path) -> None:
    """Refuse to write over what is not an edit of ours, and over the very picture that is edited."""
    from ip2p_lib import images

    if out.suffix.lower() != ".png":
        raise ValueError(f"--out must end in .png, which can carry the recipe, got {out}")
    if not out.exists():
        return
    if source.exists() and out.samefile(source):
        raise ValueError(f"--out must be another file than the picture, but both are {out}")
    try:
        images.read_recipe(out)
    except ValueError as error:
        raise ValueError(f"{out} holds what `ip2p edit` did not make; choose another --out") from error


def _repeated(
    path: Path, instruction: str | None, options: dict[str, Any]
) -> tuple[str, dict[str, Any], int | None]:
    """An earlier edit's instruction and settings, changed by what was given now, and its resolution if told."""
    from ip2p_lib import images

    found = images.read_recipe(path)
    names = ("guidance_scale", "image_guidance_scale", "num_inference_steps", "seed")
    if missing := [n for n in ("instruction", *names) if n not in found]:
        raise ValueError(f"{path} must carry a whole recipe, but it lacks {', '.join(missing)}")
    known = {n: found[n] for n in (*names, "sampler", "restore_detail") if n in found}
    return instruction or found["instruction"], {**known, **options}, found.get("resolution") or None


def _beside(out: Path, figure: str) -> Path:
    """Where a figure of an edit lies."""
    return out.with_name(f"{out.stem}-{figure}.png")


def _of_grid() -> dict[str, Any]:
    """What the recipe of a grid has beside the edit's."""
    return {"figure": "grid"}


def _of_strip(frames: int) -> dict[str, Any]:
    """The same of a strip."""
    return {"figure": "strip", "frames": frames}


class _Job:
    """One instruction and its settings, for as many pictures as there are."""

    def __init__(
        self, editor: Any, config: Any, instruction: str, options: dict[str, Any], full_size: bool
    ) -> None:
        self.editor, self.config, self.instruction = editor, config, instruction
        self.options, self.full_size = options, full_size

    def check_model(self, recipe: Path) -> None:
        """A recipe repeats an edit with the editor that made it."""
        from ip2p_lib import images

        found = images.read_recipe(recipe)
        made_by, weights = found.get("model"), found.get("weights", "")
        if made_by != self.editor.name:
            raise ValueError(
                f"{recipe} was made by editor {made_by}, this is {self.editor.name}; see --model"
            )
        if weights and self.editor.files and weights != self.editor.files:
            raise ValueError(f"{recipe} was made by an editor {made_by} of other weights; see --model")

    def tried(self, path: Path, out: Path, grid: bool, strip: int) -> str:
        """Edit one of many; what went wrong with it is told and returned, and the others go on."""
        try:
            if self._is_done(path, out, grid, strip):
                typer.echo(f"{out}: is there already")
            else:
                _check_free(path, out)
                self.one(path, out, grid, strip)
        except (ValueError, OSError) as error:
            typer.echo(f"error: {error}", err=True)
            return str(error)
        return ""

    def _is_done(self, path: Path, out: Path, grid: bool, strip: int) -> bool:
        """Whether a file holds this very edit of this very picture, and those beside it the figures wanted."""
        from ip2p_lib import images

        if not out.is_file():
            return False
        source, config = images.open_picture(path), self.config
        recipe = self._recipe(source)
        wanted = {out: recipe}
        if grid:
            wanted[_beside(out, "grid")] = recipe | _of_grid()
        if strip:
            wanted[_beside(out, "strip")] = recipe | _of_strip(strip)
        older = {"restore_detail": False, "weights": ""}  # not in all files
        try:
            is_same = all(older | images.read_recipe(file) == recipe for file, recipe in wanted.items())
        except ValueError:
            return False
        edited = images.edit_size(*source.size, config.resolution, config.multiple)
        return is_same and images.open_picture(out).size == (source.size if self.full_size else edited)

    def _recipe(self, source: Any) -> dict[str, Any]:
        """What the edit of a picture carries; a figure carries more."""
        from dataclasses import asdict

        from ip2p_lib import images
        from ip2p_lib.editing import recipe_of

        mark = images.digest(source)
        return asdict(recipe_of(self.editor, mark, self.instruction, self.config, **self.options))

    def one(self, path: Path, out: Path, grid: bool, strip: int) -> None:
        """Edit a picture, with its figures if asked."""
        from dataclasses import asdict, replace

        from ip2p_lib import images
        from ip2p_lib.editing import edit as make

        source = images.open_picture(path)
        result = make(self.editor, source, self.instruction, config=self.config, **self.options)[0]
        if self.full_size:
            result = replace(result, picture=images.paste_back(source, result.picture))
        result.save(out)
        typer.echo(f"{out}: {asdict(result.recipe)}")
        if grid:
            self._grid(source, _beside(out, "grid"))
        if strip:
            self._strip(source, _beside(out, "strip"), strip)

    def _grid(self, source: Any, out: Path) -> None:
        """Rows of growing s_T, columns of growing s_I, one noise: the paper's figure."""
        from ip2p_lib import images
        from ip2p_lib.course.figures import Cell, contact_sheet
        from ip2p_lib.editing import edit as make

        texts = [round(self.config.guidance_scale * f, 2) for f in GRID_TEXT]
        pictures = [round(self.config.image_guidance_scale * f, 2) for f in GRID_IMAGE]
        points = [(t, i) for t in texts for i in pictures]
        options = {
            **self.options,
            "guidance_scale": [t for t, _ in points],
            "image_guidance_scale": [i for _, i in points],
        }
        made = make(self.editor, source, self.instruction, config=self.config, **options)
        cells = [Cell(m.picture, f"s_T {t:g}, s_I {i:g}") for m, (t, i) in zip(made, points, strict=True)]
        rows = [cells[r : r + len(pictures)] for r in range(0, len(cells), len(pictures))]
        side = min(256, max(112, max(made[0].picture.size)))
        sheet = contact_sheet(rows, heads=[f"s_I {i:g}" for i in pictures], side=side, lines=1)
        images.save_with_recipe(sheet, out, self._recipe(source) | _of_grid())
        typer.echo(f"{out}: s_T from top to bottom, s_I from left to right")

    def _strip(self, source: Any, out: Path, frames: int) -> None:
        """What the sampler takes the result for, from the first step to the last."""
        from ip2p_lib import images
        from ip2p_lib.course.figures import Cell, contact_sheet
        from ip2p_lib.editing import film

        moments = list(film(self.editor, source, self.instruction, config=self.config, **self.options))
        count = min(frames, len(moments))
        chosen = [moments[round(i * (len(moments) - 1) / max(1, count - 1))] for i in range(count)]
        cells = [Cell(picture, f"step {step.index + 1} of {step.count}") for step, picture in chosen]
        recipe = self._recipe(source) | _of_strip(frames)
        images.save_with_recipe(contact_sheet([cells], lines=1), out, recipe)
        typer.echo(f"{out}: {count} of {len(moments)} steps")
