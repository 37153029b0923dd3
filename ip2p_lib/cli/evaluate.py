"""Evaluation: systems swept along their dials on held-out edits, the result file and its plots."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ip2p_lib.cli.face import PresetName, app, one_line_errors, quiet, writable

SEED = 906  # held out: no training draws from it
SHOWN_FROM = 64  # edits among which sheets find one of each kind
DEFAULT = "ours,ours-text,sdedit,sdedit-instruction,no-text,text2live,prompt-to-prompt,nothing,truth"


@app.command()
@one_line_errors
def evaluate(
    out: Annotated[
        Path, typer.Option("--out", help="Folder of measured edits; a second run continues it")
    ] = Path("out/evaluate"),
    systems: Annotated[
        str, typer.Option(help="Names, with commas between; a wrong name lists them")
    ] = DEFAULT,
    edits: Annotated[int, typer.Option(help="Held-out edits at each point")] = 128,
    slow_edits: Annotated[int, typer.Option(help="The same for systems that train on every picture")] = 24,
    preset: PresetName = "miniature",
    model: Annotated[str | None, typer.Option(help="Editor: folder, file or hub id")] = None,
    at: Annotated[
        str | None, typer.Option(help="Values of the dial, with commas between; each system has its own")
    ] = None,
    points: Annotated[
        int | None, typer.Option(help="So many of each dial's own values, evenly spread; all by default")
    ] = None,
    results: Annotated[Path, typer.Option(help="Where tradeoff.json goes")] = Path("data/results"),
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

    names = [n.strip() for n in systems.split(",") if n.strip()]
    if not names:
        raise ValueError("--systems must name at least one, got none")
    values = None if at is None else _numbers(at)
    for option, count in (
        ("--edits", edits),
        ("--slow-edits", slow_edits),
        ("--points", 1 if points is None else points),
    ):
        if count < 1:
            raise ValueError(f"{option} must be at least 1, got {count}")
    for folder in (out, results, *(f for f in (figures, sheets) if f)):
        writable(folder)
    quiet()
    study = _Study(preset, model, out, seed, edits, slow_edits, names)
    for name in study.systems:
        study.sweep(name, study.dial(name, values, points))
    own = [n for n, s in study.systems.items() if s.own_sources]
    command = f"ip2p evaluate --systems {','.join(names)} --edits {edits} --slow-edits {slow_edits}"
    command += "".join(
        f" {o} {v}" for o, v in (("--at", at), ("--points", points), ("--model", model)) if v is not None
    )
    head = {"preset": preset, "seed": seed, "command": command, "commit": storage.commit()}
    rows = study.points()
    result = {**head, **report(rows, own), "examples": study.examples(rows)}
    storage.write_json(results / "tradeoff.json", result)
    typer.echo(f"{len(result['points'])} points in {results / 'tradeoff.json'}")
    for line in result["compared"]:
        typer.echo(_sentence(line))
    _show(result, figures, page, captions)
    for told in study.draw(rows, sheets) if sheets else ():
        typer.echo(told)


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


class _Study:
    """What the command holds in its hands: models, instruments, the systems asked for."""

    def __init__(
        self,
        preset: str,
        model: str | None,
        out: Path,
        seed: int,
        edits: int,
        slow_edits: int,
        names: list[str],
    ) -> None:
        from ip2p_lib.backbone import load_judge, pick_device
        from ip2p_lib.baselines import Models, system
        from ip2p_lib.evaluation.cases import world_cases
        from ip2p_lib.evaluation.sweep import Instruments
        from ip2p_lib.presets import preset as find

        chosen, (device, dtype, _) = find(preset), pick_device()
        models = Models(chosen, model=model, device=device, dtype=dtype)
        self.systems = {name: system(name, models) for name in dict.fromkeys(names)}
        self.measured: dict[str, list[float]] = {}
        self.out, self.seed, self.counts = out, seed, (edits, slow_edits)
        judge = load_judge(chosen, device=device) if chosen.manifest else None
        self.instruments = Instruments(models.clip, judge, chosen.edit)
        self.cases = list(world_cases(max(self.counts), seed))

    def dial(self, name: str, values: list[float] | None, points: int | None) -> list[float]:
        """Where a system is measured: what was asked for, or some or all of its own values."""
        own = list(self.systems[name].values)
        if values is not None and len(own) > 1:
            return values
        count = min(points or len(own), len(own))
        return [own[round(i * (len(own) - 1) / max(1, count - 1))] for i in range(count)]

    def sweep(self, name: str, dial: list[float]) -> None:
        """Measure one system, with a bar; what is wrong with an edit is said by name."""
        from tqdm import tqdm

        from ip2p_lib.evaluation.sweep import sweep

        one = self.systems[name]
        cases = self.cases[: self.counts[one.slow]]
        self.measured[name] = dial
        steps = sweep(one, dial, cases, self.out / name, self.instruments, seed=self.seed)
        with tqdm(total=len(dial) * len(cases), desc=name, unit="edit") as bar:
            for done in steps:
                bar.update(done.edits)
                for fault in done.faults:
                    bar.write(f"{name} at {done.dial:g}: {fault}")

    def points(self) -> dict[str, Any]:
        """Rows of what was asked for; the folder may hold more."""
        from ip2p_lib.evaluation.sweep import read_points

        found = {name: read_points(self.out / name) for name in self.measured}
        return {n: {v: found[n][v] for v in sorted(dial)} for n, dial in self.measured.items()}

    def examples(self, points: dict[str, Any]) -> dict[str, Any]:
        """In words, what the sheets of examples show of each system that has a dial and edits to judge."""
        from ip2p_lib.evaluation.side_by_side import examples

        texts = {c.triplet.id: c.triplet.edit for c in self.cases}
        swept = {n: p for n, p in points.items() if len(self.systems[n].values) > 1}
        found = {n: {"of": self.systems[n].about, **examples(p, texts)} for n, p in swept.items()}
        return {n: sheet for n, sheet in found.items() if sheet["edits"]}

    def draw(self, points: dict[str, Any], folder: Path) -> Iterator[str]:
        """Sheets of what was measured, each system at the best of its own points; says which that is."""
        from ip2p_lib.course.sheets import examples_sheet, save_picture, systems_sheet
        from ip2p_lib.evaluation.cases import world_cases
        from ip2p_lib.evaluation.side_by_side import best_dial, good_and_bad, one_of_each_kind
        from ip2p_lib.evaluation.tables import examples_file

        # the same edits and more, or a small study would lack a kind
        self.cases = list(world_cases(max(SHOWN_FROM, len(self.cases)), self.seed))
        places = {c.triplet.id: i for i, c in enumerate(self.cases)}
        best = {n: best_dial(found) for n, found in points.items()}
        columns = [n for n, s in self.systems.items() if not s.own_sources and n != "nothing"]
        shown = one_of_each_kind(self.cases)
        save_picture(systems_sheet([self._made(n, best[n], shown) for n in columns]), folder / "systems.png")
        yield f"{folder / 'systems.png'}: {', '.join(f'{n} at {best[n]:g}' for n in columns)}"
        for name in (n for n, s in self.systems.items() if len(s.values) > 1):
            both = good_and_bad(points[name][best[name]])
            made = [self._made(name, best[name], [places[i] for i in ids]) for ids in both]
            if not any(made):
                yield f"{name}: no edit could be judged, so no examples"
                continue
            path = folder / f"{examples_file(name)}.png"
            save_picture(examples_sheet(*made), path)
            yield f"{path}: {len(made[0])} exact, {len(made[1])} not, at {best[name]:g}"

    def _made(self, name: str, dial: float, chosen: list[int]) -> list[Any]:
        """Some edits again, with their pictures."""
        from ip2p_lib.evaluation.side_by_side import make

        if not chosen:
            return []
        return make(self.systems[name], dial, self.cases, chosen, self.instruments, seed=self.seed)
