"""`ip2p`: each stage of the pipeline as a subcommand, a thin face of one library function."""

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


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given on the command line; 0 is a value, and is judged by who uses it."""
    return {name: value for name, value in options.items() if value is not None}


def _quiet() -> None:
    """Keep third-party progress bars of model loading off the screen."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for log in (diffusers_logging, transformers_logging):
        log.set_verbosity_error()
        log.disable_progress_bar()


def _writable(path: Path) -> Path:
    """Make an output folder, or say in one line why not."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"the output folder must be writable, but {path} is not: {error.strerror}"
        ) from error
    return path


@app.command()
@one_line_errors
def scenes(out: Folder, count: int = 64, seed: int = 0, size: int = 64) -> None:
    """Draw pictures of the world with their captions."""
    import json

    from ip2p_lib import storage
    from ip2p_lib.scenes import caption, render, sample_scenes

    if count < 1:
        raise ValueError(f"--count must be at least 1, got {count}")
    _writable(out)
    with storage.atomic_file(out / "captions.jsonl") as partial, partial.open("w", encoding="utf-8") as file:
        for i, scene in enumerate(sample_scenes(count, seed)):
            render(scene, size).save(out / f"{i:07d}.png")
            file.write(json.dumps({"file_name": f"{i:07d}.png", "text": caption(scene, i)}) + "\n")
    typer.echo(f"{count} pictures in {out}")


@app.command()
@one_line_errors
def triplets(
    out: Annotated[Path, typer.Option("--out", help="JSONL file to write")],
    count: int = 1000,
    seed: int = 50,
    held_out: Annotated[bool, typer.Option(help="Use phrasings no training text contains")] = False,
) -> None:
    """Write caption triplets of the picture world."""
    from ip2p_lib.records import write_triplets
    from ip2p_lib.triplets import world_triplets

    if count < 1:
        raise ValueError(f"--count must be at least 1, got {count}")
    _writable(out.parent)
    typer.echo(f"{write_triplets(out, world_triplets(count, seed, held_out=held_out))} triplets in {out}")


@app.command()
@one_line_errors
def pairs(
    triplets: Annotated[Path, typer.Option("--triplets", help="JSONL file of triplets")],
    out: Folder,
    preset: PresetName = "miniature",
    model: Annotated[str | None, typer.Option(help="Text-to-image model: folder or hub id")] = None,
    candidates: Annotated[int | None, typer.Option(help="Candidates per triplet")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampler steps")] = None,
    seed: int = 0,
) -> None:
    """Make candidate picture pairs by prompt-to-prompt."""
    from dataclasses import replace

    from tqdm import tqdm

    from ip2p_lib import backbone as models
    from ip2p_lib.pairs import synthesise
    from ip2p_lib.presets import preset as find
    from ip2p_lib.records import read_triplets

    chosen = find(preset)
    config = replace(
        chosen.pairs, seed=seed, **_given(candidates_per_triplet=candidates, num_inference_steps=steps)
    )
    rows = list(read_triplets(triplets))
    _writable(out)
    _quiet()
    device, dtype, _ = models.pick_device()
    manifest = "" if model else chosen.manifest
    base = models.load_backbone(model or chosen.text_to_image, manifest=manifest, device=device, dtype=dtype)
    with tqdm(total=len(rows) * config.candidates_per_triplet, unit="pair") as bar:
        for progress in synthesise(rows, base, config, out):
            bar.update(progress.candidates - bar.n)
    typer.echo(f"candidates in {out}")


@app.command(name="filter")
@one_line_errors
def filter_(
    candidates: Annotated[Path, typer.Option("--candidates", help="Folder written by `ip2p pairs`")],
    out: Folder,
    preset: PresetName = "miniature",
    min_text: float | None = None,
    min_direction: float | None = None,
    min_image: float | None = None,
    keep: Annotated[int | None, typer.Option(help="At most this many pairs per triplet")] = None,
) -> None:
    """Score candidates with CLIP and write the kept ones as a dataset."""
    from dataclasses import replace

    from tqdm import tqdm

    from ip2p_lib import filtering
    from ip2p_lib.backbone import load_clip, pick_device
    from ip2p_lib.presets import preset as find

    chosen = find(preset)
    given = _given(min_text=min_text, min_direction=min_direction, min_image=min_image, max_per_triplet=keep)
    config = replace(chosen.filter, **given)
    shards = filtering.candidate_shards(candidates)
    _writable(out.parent)
    _quiet()
    scoring = filtering.score(candidates, load_clip(chosen, device=pick_device()[0]))
    for _ in tqdm(scoring, total=len(shards), unit="shard"):
        pass
    scores = filtering.read_scores(candidates)
    count = filtering.export_kept(candidates, filtering.select(scores, config), out, config)
    typer.echo(f"kept {count} of {len(scores)} candidates in {out}")


@app.command()
@one_line_errors
def train(
    data: Annotated[
        Path, typer.Option("--data", help="Folder of pairs: ours, the released set's, or diffusers'")
    ],
    out: Folder,
    preset: PresetName = "miniature",
    model: Annotated[
        str | None, typer.Option(help="Text-to-image model to start from: folder or hub id")
    ] = None,
    steps: int | None = None,
    batch_size: int | None = None,
) -> None:
    """Fine-tune a text-to-image model into an editor."""
    from dataclasses import replace

    from tqdm import tqdm

    from ip2p_lib import backbone as models
    from ip2p_lib.dataset import open_dataset
    from ip2p_lib.presets import preset as find
    from ip2p_lib.training import train_editor
    from ip2p_lib.unet import save_pipeline, widen_unet

    chosen = find(preset)
    config = replace(chosen.train, **_given(steps=steps, batch_size=batch_size))
    _writable(out)
    _quiet()
    device = models.pick_device()[0]
    manifest = "" if model else chosen.manifest
    base = models.load_backbone(model or chosen.text_to_image, manifest=manifest, device=device)
    dataset = open_dataset(data, base, resolution=config.resolution)
    unet = widen_unet(base.unet, base.latent_channels)
    last: Any = None
    with tqdm(train_editor(unet, base, dataset, config, out / "run"), total=config.steps, unit="step") as bar:
        for last in bar:
            if last.step % 20 == 0:
                bar.set_postfix(loss=f"{last.loss.item():.4f}")
    last.ema.swap()
    save_pipeline(base.with_unet(unet.eval(), "editor"), out / "editor")
    typer.echo(f"editor in {out / 'editor'}")


@app.command()
@one_line_errors
def edit(
    picture: Annotated[Path, typer.Argument(help="Any picture file")],
    instruction: Annotated[str, typer.Argument(help="What to change, e.g. 'make it night'")],
    out: Annotated[Path, typer.Option("--out", help="PNG to write")] = Path("out/edit.png"),
    preset: PresetName = "miniature",
    model: Annotated[str | None, typer.Option(help="Editor: folder or hub id")] = None,
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance-scale", "-t", help="s_T, weight of the text")
    ] = None,
    image_guidance_scale: Annotated[
        float | None, typer.Option("--image-guidance-scale", "-i", help="s_I, weight of the picture")
    ] = None,
    steps: int | None = None,
    seed: int = 0,
) -> None:
    """Edit one picture; the PNG carries its recipe."""
    from ip2p_lib import backbone as models
    from ip2p_lib import editing, images
    from ip2p_lib.presets import preset as find

    chosen = find(preset)
    source = images.open_picture(picture)
    _writable(out.parent)
    _quiet()
    device, dtype, _ = models.pick_device()
    editor = models.load_editor(chosen, model, device=device, dtype=dtype)
    result = editing.edit(
        editor,
        source,
        instruction,
        config=chosen.edit,
        guidance_scale=guidance_scale,
        image_guidance_scale=image_guidance_scale,
        num_inference_steps=steps,
        seed=seed,
    )[0]
    result.save(out)
    typer.echo(f"{out}: {result.recipe}")


@app.command()
@one_line_errors
def course(
    out: Folder = Path("out/course"),
    record: Annotated[Path | None, typer.Option(help="Results file; also renews README's sentence")] = None,
) -> None:
    """The main job: the whole pipeline once through on the miniature, in minutes, with a page to look at."""
    from ip2p_lib import storage
    from ip2p_lib.course.whole_game import course_sentence, play

    _writable(out)
    _quiet()
    page = play(out)
    if record is not None:
        from ip2p_lib.quality import replace_block

        metrics = storage.read_json(out / "metrics.json")
        storage.write_json(record, metrics)
        replace_block(Path("README.md"), "course", course_sentence(metrics))
    typer.echo(f"open {page} in a browser")


@app.command()
@one_line_errors
def miniature(
    out: Annotated[Path, typer.Option("--out", help="Where shipped weights go")] = Path("data/miniature"),
    work: Annotated[Path, typer.Option(help="Checkpoints, drawn pictures, sample sheets")] = Path(
        "out/miniature"
    ),
    only: Annotated[
        str | None, typer.Option(help="One stage: vae, clip, judge, text_to_image, pairs, editor")
    ] = None,
) -> None:
    """Train the shipped small models from nothing; resumes where it stopped."""
    from ip2p_lib.miniature.build import build

    _writable(work)
    _quiet()
    for stage in build(out, work, only):
        typer.echo(f"{stage} done")


@app.command()
@one_line_errors
def cards(
    models: Annotated[Path, typer.Option(help="Shipped weights")] = Path("data/miniature"),
    results: Annotated[Path, typer.Option(help="Measured results")] = Path("data/results"),
    out: Annotated[Path, typer.Option("--out", help="Where cards go")] = Path("docs/cards"),
) -> None:
    """Write the model cards from the trainings' records and the results."""
    from ip2p_lib.miniature.cards import write_cards

    _writable(out)
    for path in write_cards(models, results, out):
        typer.echo(path)


@app.command()
@one_line_errors
def quality(
    out: Annotated[Path, typer.Option("--out", help="Where results go")] = Path("data/results"),
    only: Annotated[str | None, typer.Option(help="One measure's key")] = None,
    readme: Annotated[Path | None, typer.Option(help="README whose table to renew")] = None,
) -> None:
    """Measure the shipped models and write quality.json with intervals."""
    from ip2p_lib import storage
    from ip2p_lib.quality import measure_all, quality_table, replace_block

    _writable(out)
    _quiet()
    for line in measure_all(out, only):
        typer.echo(line)
    if readme is not None:
        replace_block(readme, "quality", quality_table(storage.read_json(out / "quality.json")))


def main() -> None:
    """Console entry."""
    app()


if __name__ == "__main__":
    main()
