"""Evaluation: systems swept along their dials on held-out edits, the result file and its plots."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ip2p_lib.cli.face import PresetName, app, one_line_errors, quiet, writable

if TYPE_CHECKING:
    from ip2p_lib.evaluation.study import Study

SEED = 906  # held out: no training draws from it
SHOWN_FROM = 64  # edits among which sheets find one of each kind
TOLD = 10  # faults of a dataset told one by one
DEFAULT = "ours,ours-text,sdedit,sdedit-instruction,no-text,text2live,prompt-to-prompt,nothing,truth"
OF_PAIRS = [n for n in DEFAULT.split(",") if n not in ("truth", "prompt-to-prompt")]


@app.command()
@one_line_errors
def evaluate(
    out: Annotated[
        Path, typer.Option("--out", help="Folder of measured edits; a second run continues it")
    ] = Path("out/evaluate"),
    systems: Annotated[
        str | None,
        typer.Option(help=f"Names, with commas between; a wrong name lists them  [default: {DEFAULT}]"),
    ] = None,
    edits: Annotated[int, typer.Option(help="Held-out edits at each point")] = 128,
    slow_edits: Annotated[int, typer.Option(help="The same for systems that train on every picture")] = 24,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Pairs with captions to edit, in any format that `train` reads; the picture world if not given"
        ),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            help="Of --pairs, only prompts that `train --held-out` kept back at this share; all if not given"
        ),
    ] = None,
    preset: PresetName = "miniature",
    model: Annotated[str | None, typer.Option(help="Editor: folder, file or hub id")] = None,
    at: Annotated[
        str | None, typer.Option(help="Values of the dial, with commas between; each system has its own")
    ] = None,
    points: Annotated[
        int | None, typer.Option(help="So many of each dial's own values, evenly spread; all by default")
    ] = None,
    results: Annotated[Path | None, typer.Option(help="Where tradeoff.json goes  [default: --out]")] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for the plots, as PNG")] = None,
    sheets: Annotated[
        Path | None, typer.Option(help="Folder for pictures: all systems side by side, and examples of each")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Page whose tables to renew")] = None,
    captions: Annotated[
        Path | None, typer.Option(help="Page that shows the examples, whose words about them to renew")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of scenes, phrasings and noise")] = SEED,
) -> None:
    """Measure the trade-off between the wanted change and what is kept, for our editor and its baselines."""
    from ip2p_lib import storage
    from ip2p_lib.evaluation.report import report
    from ip2p_lib.evaluation.study import dial_values

    names = _names(systems, pairs)
    if held_out is not None and pairs is None:
        raise ValueError("--held-out is a share of the prompts of --pairs, which is not given")
    values = None if at is None else _numbers(at)
    for option, count in (
        ("--edits", edits),
        ("--slow-edits", slow_edits),
        ("--points", 1 if points is None else points),
    ):
        if count < 1:
            raise ValueError(f"{option} must be at least 1, got {count}")
    results = results or out
    for folder in (out, results, *(f for f in (figures, sheets) if f)):
        writable(folder)
    quiet()
    study = _study(
        names, preset, model, out, seed, (edits, slow_edits), pairs, 1.0 if held_out is None else held_out
    )
    for name, system in study.systems.items():
        _sweep(study, name, dial_values(system, values, points))
    own = [n for n, s in study.systems.items() if s.own_sources]
    command = f"ip2p evaluate --systems {','.join(names)} --edits {edits} --slow-edits {slow_edits}"
    told = (
        ("--pairs", pairs and pairs.name), ("--held-out", held_out), ("--at", at), ("--points", points), ("--model", model),
    )  # fmt: skip
    command += "".join(f" {option} {value}" for option, value in told if value is not None)
    head = {"preset": preset, "seed": seed, "command": command, "commit": storage.commit()}
    rows = study.points()
    result = {**head, **report(rows, own), "examples": study.examples(rows)}
    storage.write_json(results / "tradeoff.json", result)
    typer.echo(f"{len(result['points'])} points in {results / 'tradeoff.json'}")
    for line in result["compared"]:
        typer.echo(_sentence(line))
    _show(result, figures, page, captions)
    for done in _draw(study, rows, sheets, is_world=pairs is None) if sheets else ():
        typer.echo(done)


def _show(result: dict[str, Any], figures: Path | None, page: Path | None, captions: Path | None) -> None:
    """Draw the plots and renew the tables and captions that were asked for."""
    from ip2p_lib.evaluation import tables
    from ip2p_lib.quality import replace_block

    if figures is not None:
        from ip2p_lib.evaluation.figures import draw

        for path in draw(result, figures):
            typer.echo(path)
    for shown, blocks in ((page, tables.tables), (captions, tables.captions)):
        if shown is not None:
            for name, text in blocks(result).items():
                replace_block(shown, name, text)


def _numbers(text: str) -> list[float]:
    try:
        found = [float(v) for v in text.split(",") if v.strip()]
    except ValueError as error:
        raise ValueError(f"--at must be numbers with commas between, got {text!r}") from error
    if not found or not all(map(math.isfinite, found)):
        raise ValueError(f"--at must be finite numbers, at least one, got {text!r}")
    return found


def _sentence(line: dict[str, Any]) -> str:
    if "fault" in line:
        return f"{line['against']}: not compared; {line['fault']}"
    if not line["points"]:
        ours, theirs = line["our_reach"], line["their_reach"]
        return f"{line['against']}: no direction in common; ours {ours}, theirs {theirs}"
    above = sum(p["above"] for p in line["points"])
    return f"ours against {line['against']}: above with intervals apart at {above} of {len(line['points'])} directions"


def _names(systems: str | None, pairs: Path | None) -> list[str]:
    """The systems asked for; on pairs not the exact answer, which nobody knows, nor what paints square inputs itself."""
    asked = systems if systems is not None else DEFAULT if pairs is None else ",".join(OF_PAIRS)
    names = list(dict.fromkeys(n.strip() for n in asked.split(",") if n.strip()))
    if not names:
        raise ValueError("--systems must name at least one, got none")
    if pairs is not None and "truth" in names:
        raise ValueError(
            "the system 'truth' draws the exact answer, which only the picture world knows; leave it out with --pairs"
        )
    return names


def _study(
    names: list[str],
    preset: str,
    model: str | None,
    out: Path,
    seed: int,
    counts: tuple[int, int],
    pairs: Path | None,
    held_out: float,
) -> "Study":
    """Models, instruments and edits of what was asked for."""
    from ip2p_lib.backbone import load_judge, pick_device
    from ip2p_lib.baselines import Models, system
    from ip2p_lib.evaluation.cases import pair_cases, world_cases
    from ip2p_lib.evaluation.study import Study
    from ip2p_lib.evaluation.sweep import Instruments
    from ip2p_lib.presets import preset as find

    chosen, (device, dtype, _) = find(preset), pick_device()
    models = Models(chosen, model=model, device=device, dtype=dtype)
    found = {name: system(name, models) for name in names}
    most = max(counts[s.slow] for s in found.values())
    if pairs is None:
        cases = list(world_cases(most, seed))
    else:
        faults: list[str] = []
        cases = list(pair_cases(pairs, most, out / "pictures", faults, held_out=held_out))
        for fault in faults[:TOLD]:
            typer.echo(f"left out: {fault}")
        if len(faults) > TOLD:
            typer.echo(f"left out: {len(faults) - TOLD} more")
        typer.echo(f"{len(cases)} edits of {pairs}; its edited pictures stand in for the answers")
    judge = load_judge(chosen, device=device) if chosen.manifest and pairs is None else None
    instruments = Instruments(models.clip, judge, chosen.edit)
    return Study(found, cases, instruments, out, seed=seed, counts=counts)


def _sweep(study: "Study", name: str, dial: list[float]) -> None:
    """Measure one system, with a bar; what is wrong with an edit is said by name."""
    from tqdm import tqdm

    with tqdm(total=len(dial) * len(study.cases_of(name)), desc=name, unit="edit") as bar:
        for done in study.sweep(name, dial):
            bar.update(done.edits)
            for fault in done.faults:
                bar.write(f"{name} at {done.dial:g}: {fault}")


def _draw(study: "Study", points: dict[str, Any], folder: Path, *, is_world: bool) -> Iterator[str]:
    """Sheets of what was measured, each system at the best of its own points; says which that is."""
    from ip2p_lib.course.sheets import examples_sheet, save_picture, systems_sheet
    from ip2p_lib.evaluation.cases import world_cases
    from ip2p_lib.evaluation.side_by_side import best_dial
    from ip2p_lib.evaluation.tables import examples_file

    # the same edits and more, or a small study of the world would lack a kind
    more = list(world_cases(max(SHOWN_FROM, len(study.cases)), study.seed)) if is_world else study.cases
    made = study.side_by_side(points, more)
    save_picture(systems_sheet(list(made.values())), folder / "systems.png")
    told = (f"{n} at {best_dial(points[n]):g}" for n in made)
    yield f"{folder / 'systems.png'}: {', '.join(told)}"
    for name in (n for n, s in study.systems.items() if len(s.values) > 1):
        both = study.good_and_bad(name, points[name])
        if not any(both):
            yield f"{name}: no edit could be judged, so no examples"
            continue
        path = folder / f"{examples_file(name)}.png"
        save_picture(examples_sheet(*both), path)
        yield f"{path}: {len(both[0])} exact, {len(both[1])} not, at {best_dial(points[name]):g}"
