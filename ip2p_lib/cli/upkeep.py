"""The course as a whole, and what keeps the shipped models and their numbers up to date."""

from pathlib import Path
from typing import Annotated

import typer

from ip2p_lib.cli.face import Folder, app, one_line_errors, quiet, writable


@app.command()
@one_line_errors
def course(
    out: Folder = Path("out/course"),
    record: Annotated[Path | None, typer.Option(help="Results file; also renews README's sentence")] = None,
) -> None:
    """The main job: the whole pipeline once through on the miniature, in minutes, with a page to look at."""
    from ip2p_lib import storage
    from ip2p_lib.course.whole_game import course_sentence, play

    writable(out)
    quiet()
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
        str | None, typer.Option(help="One stage: vae, clip, judge, text_to_image, writer, pairs, editor")
    ] = None,
) -> None:
    """Train the shipped small models from nothing; resumes where it stopped."""
    from ip2p_lib.miniature.build import build

    writable(work)
    quiet()
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

    writable(out)
    for path in write_cards(models, results, out):
        typer.echo(path)


@app.command()
@one_line_errors
def quality(
    out: Annotated[Path, typer.Option("--out", help="Where results go")] = Path("data/results"),
    only: Annotated[str | None, typer.Option(help="One measure's key")] = None,
    readme: Annotated[Path | None, typer.Option(help="README whose table to renew")] = None,
    page: Annotated[Path | None, typer.Option(help="Page whose table by kind and style to renew")] = None,
) -> None:
    """Measure the shipped models and write quality.json with intervals."""
    from ip2p_lib import storage
    from ip2p_lib.miniature.recipes import BOLD_WRITING
    from ip2p_lib.quality import edits_table, measure_all, quality_table, replace_block

    writable(out)
    quiet()
    for line in measure_all(out, only, bold=BOLD_WRITING):
        typer.echo(line)
    if readme is not None:
        replace_block(readme, "quality", quality_table(storage.read_json(out / "quality.json")))
    if page is not None:
        replace_block(page, "editor_by_kind", edits_table(storage.read_json(out / "editor_by_kind.json")))


@app.command()
@one_line_errors
def study_filter(
    out: Annotated[Path, typer.Option("--out", help="Where filter.json goes")] = Path("data/results"),
    triplets: Annotated[int, typer.Option(help="Held-out triplets, four candidates each")] = 192,
    only: Annotated[str | None, typer.Option(help="One part, the others as they are on file")] = None,
    page: Annotated[Path | None, typer.Option(help="Page whose tables to renew")] = None,
) -> None:
    """Hold the CLIP filter, forks and early stopping against the truth, and write filter.json."""
    from ip2p_lib import storage
    from ip2p_lib.presets import MINIATURE
    from ip2p_lib.quality import filter_tables, replace_block, study_filter

    writable(out)
    quiet()
    for line in study_filter(MINIATURE, out / "filter.json", triplets, only):
        typer.echo(line)
    if page is not None:
        for name, table in filter_tables(storage.read_json(out / "filter.json")).items():
            replace_block(page, name, table)


@app.command()
@one_line_errors
def study_scales(
    out: Annotated[Path, typer.Option("--out", help="Where scales.json goes")] = Path("data/results"),
    edits: Annotated[int, typer.Option(help="Held-out edits at each pair of scales")] = 512,
    page: Annotated[Path | None, typer.Option(help="Page whose table to renew")] = None,
) -> None:
    """Measure pairs of guidance scales on edits that no goal is measured on, and write scales.json."""
    from ip2p_lib import storage
    from ip2p_lib.presets import MINIATURE
    from ip2p_lib.quality import replace_block, scales_table, study_scales

    writable(out)
    quiet()
    for line in study_scales(MINIATURE, out / "scales.json", edits):
        typer.echo(line)
    if page is not None:
        replace_block(page, "scales", scales_table(storage.read_json(out / "scales.json")))


@app.command()
@one_line_errors
def ablations(
    work: Annotated[Path, typer.Option(help="Where `ip2p miniature` left its pairs")] = Path("out/miniature"),
    out: Annotated[Path, typer.Option("--out", help="Where ablations.json goes")] = Path("data/results"),
    only: Annotated[str | None, typer.Option(help="One ablation, again if it is on file")] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the curve of what is on file to this PNG, and train nothing")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Put the table of what is on file on this page, and train nothing")
    ] = None,
) -> None:
    """Train the miniature's editor again with one part changed at a time, and write ablations.json."""
    from ip2p_lib import storage
    from ip2p_lib.evaluation.limit_figures import ablation_curve
    from ip2p_lib.evaluation.limit_tables import ablations_table
    from ip2p_lib.miniature.ablations import run_ablations
    from ip2p_lib.quality import replace_block

    writable(out)
    quiet()
    if figure is not None:
        writable(figure.parent)
        typer.echo(ablation_curve(storage.read_json(out / "ablations.json"), figure))
    if page is not None:
        replace_block(page, "ablations", ablations_table(storage.read_json(out / "ablations.json")))
        typer.echo(page)
    if figure or page:
        return
    for line in run_ablations(work, out / "ablations.json", only):
        typer.echo(line)
