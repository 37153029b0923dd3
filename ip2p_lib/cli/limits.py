"""What the editor cannot do, measured: larger pictures, wishes beyond its reach, changes nobody asked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ip2p_lib.cli.face import PresetName, app, one_line_errors, quiet, writable

SEED = 910  # held out: no training draws from it
PARTS = {
    "sizes": ("edits",),
    "failures": ("wishes",),
    "side_effects": ("probes", "pairs"),
    "familiar": ("known",),
}  # and their counts
COUNTS = {"edits": 128, "wishes": 48, "probes": 256, "pairs": 64, "known": 256}


@app.command()
@one_line_errors
def limits(
    out: Annotated[Path, typer.Option("--out", help="Where the result files go")] = Path("out/limits"),
    work: Annotated[Path, typer.Option(help="Folder of measured edits; a second run continues it")] = Path(
        "out/limits"
    ),
    only: Annotated[str | None, typer.Option(help=f"One of {', '.join(PARTS)}")] = None,
    edits: Annotated[int, typer.Option(help="Held-out edits at each size")] = COUNTS["edits"],
    wishes: Annotated[int, typer.Option(help="Pictures that every impossible wish is made of")] = COUNTS[
        "wishes"
    ],
    probes: Annotated[int, typer.Option(help="Edits looked at for side effects")] = COUNTS["probes"],
    pairs: Annotated[int, typer.Option(help="Fresh pairs looked at for the same; slow")] = COUNTS["pairs"],
    known: Annotated[int, typer.Option(help="Triplets of its training, and as many new ones")] = COUNTS[
        "known"
    ],
    learned: Annotated[
        Path | None, typer.Option(help="Kept pairs the editor was trained on; the part familiar needs them")
    ] = None,
    preset: PresetName = "miniature",
    model: Annotated[str | None, typer.Option(help="Editor: folder, file or hub id")] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for the figures, as PNG")] = None,
    page: Annotated[Path | None, typer.Option(help="Page whose tables and captions to renew")] = None,
    seed: Annotated[int, typer.Option(help="Of scenes, phrasings and noise")] = SEED,
) -> None:
    """Measure an editor beyond its size, on wishes it cannot grant, and for what it changes unasked."""
    if only is not None and only not in PARTS:
        raise ValueError(f"--only must be one of {', '.join(PARTS)}; got {only!r}")
    if only == "familiar" and learned is None:
        raise ValueError(
            "--only familiar needs --learned FOLDER, the kept pairs that the editor was trained on"
        )
    counts = {"edits": edits, "wishes": wishes, "probes": probes, "pairs": pairs, "known": known}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"--{name} must be at least 1, got {count}")
    for folder in (out, work, *([figures] if figures else [])):
        writable(folder)
    quiet()
    study = _Study(preset, model, work, seed, counts, figures, learned)
    for part in PARTS if only is None else (only,):
        if part != "familiar" or learned is not None:
            _record(study, part, out)
    if page is not None:
        _renew(page, out)


def _record(study: "_Study", part: str, out: Path) -> None:
    """Measure one part, write its file, draw its figure."""
    from ip2p_lib import storage

    measure: Callable[[], dict[str, Any]] = getattr(study, part)
    head = {
        "command": f"ip2p limits --only {part}{study.options(part)}",
        "commit": storage.commit(),
        "seed": study.seed,
    }
    storage.write_json(out / f"{part}.json", {**head, **measure()})
    typer.echo(out / f"{part}.json")


def _renew(page: Path, out: Path) -> None:
    from ip2p_lib import storage
    from ip2p_lib.evaluation.limit_tables import blocks
    from ip2p_lib.quality import replace_block

    for part in PARTS:
        if (out / f"{part}.json").is_file():
            for name, text in blocks(part, storage.read_json(out / f"{part}.json")).items():
                replace_block(page, name, text)


class _Study:
    """What the command holds in its hands: models, judge, how much to measure, and where figures go."""

    def __init__(
        self,
        preset: str,
        model: str | None,
        work: Path,
        seed: int,
        counts: dict[str, int],
        figures: Path | None,
        learned: Path | None,
    ) -> None:
        from ip2p_lib.backbone import load_judge, pick_device
        from ip2p_lib.baselines import Models
        from ip2p_lib.evaluation.sweep import Instruments
        from ip2p_lib.presets import preset as find

        chosen, (device, dtype, _) = find(preset), pick_device()
        if not chosen.manifest:
            raise ValueError(
                f"limits are measured by exact answers and a judge, and preset {preset} has none"
            )
        self.learned = learned
        self.models = Models(chosen, model=model, device=device, dtype=dtype)
        self.config = chosen.edit
        self.judge = load_judge(chosen, device=device)
        self.instruments = Instruments(self.models.clip, self.judge, chosen.edit)
        self.work, self.seed, self.counts, self.figures = work, seed, counts, figures
        self.model = model

    def options(self, part: str) -> str:
        """What else the part's result depends on, as on the command line."""
        given = [(name, self.counts[name]) for name in PARTS[part] if self.counts[name] != COUNTS[name]]
        learned = self.learned if part == "familiar" else None
        told = [*given, *((n, v) for n, v in (("learned", learned), ("model", self.model)) if v)]
        return "".join(f" --{name} {value}" for name, value in told)

    def cases(self, count: int) -> list[Any]:
        """Held-out edits of the world."""
        from ip2p_lib.evaluation.cases import world_cases

        return list(world_cases(count, self.seed))

    def sizes(self) -> dict[str, Any]:
        """The same edits at several sizes."""
        from tqdm import tqdm

        from ip2p_lib.evaluation.sizes import measure_sizes, shown, ways

        cases = self.cases(self.counts["edits"])
        parts = (self.models.editor, self.config, self.models.clip, self.judge)
        steps = measure_sizes(*parts, cases, self.work / "sizes", seed=self.seed)
        found = list(tqdm(steps, total=len(ways(self.config)), desc="sizes", unit="size"))
        if self.figures is not None:
            from ip2p_lib.course.sheets import save_picture, sizes_sheet

            sheet = sizes_sheet(self.models.editor, self.config, self.instruments, cases, self.seed)
            save_picture(sheet, self.figures / "sizes.png")
        texts = [cases[i].triplet.edit for i in shown(cases)]
        return {"edits": len(cases), "shown": texts, "sizes": found}

    def failures(self) -> dict[str, Any]:
        """Wishes that are not granted."""
        from ip2p_lib.evaluation.beyond import grant, told, wishes

        wished = list(wishes(self.counts["wishes"], self.seed))
        found = grant(self.models.editor, self.judge, wished, self.config, seed=self.seed)
        if self.figures is not None:
            from ip2p_lib.course.sheets import failures_sheet, save_picture

            save_picture(failures_sheet(found), self.figures / "failures.png")
        return {"pictures": self.counts["wishes"], "wishes": told(found)}

    def side_effects(self) -> dict[str, Any]:
        """What changes unasked: in edits, in pairs such as the editor learned from, and by judge and autoencoder alone."""
        from tqdm import tqdm

        from ip2p_lib.baselines import prompt_to_prompt, system
        from ip2p_lib.evaluation import side_effects as probe
        from ip2p_lib.miniature.recipes import EDITOR_FILTER
        from ip2p_lib.miniature.recipes import EDITOR_PAIRS as RECIPE

        cases, found = self.cases(max(self.counts["probes"], self.counts["pairs"])), {}
        threshold, scale = (sum(r) / 2 for r in (RECIPE.p2p_threshold_range, RECIPE.cfg_scale_range))
        steps = RECIPE.num_inference_steps
        pairs = prompt_to_prompt(self.models.base, guidance_scale=scale, num_inference_steps=steps)
        for name, one, dial, count, bound in (
            ("editor", system("ours", self.models), self.config.image_guidance_scale, "probes", None),
            ("kept_pairs", pairs, threshold, "pairs", EDITOR_FILTER),
            ("floor", probe.rebuilt_answer(self.models.editor), 0.0, "probes", None),
        ):  # fmt: skip
            place = self.work / "side_effects" / name
            chosen = cases[: self.counts[count]]
            blocks = probe.effects(one, dial, chosen, place, self.instruments, seed=self.seed, filtered=bound)
            every = [b for block in tqdm(blocks, desc=name, unit="block") for b in block]
            found[name] = {"of": one.about, **probe.told(every)}
        if self.figures is not None:
            from ip2p_lib.evaluation.limit_figures import effects_matrix

            effects_matrix(found, self.figures / "side_effects.png")
        return found

    def familiar(self) -> dict[str, Any]:
        """Edits of what it was trained on beside edits of what is new to it."""
        from tqdm import tqdm

        from ip2p_lib.evaluation import familiar
        from ip2p_lib.miniature.recipes import EDITOR_PAIRS

        if self.learned is None:
            raise ValueError("there must be a folder of pairs that the editor was trained on, got none")
        known = familiar.learned(self.learned, self.counts["known"], self.models.editor)
        parts = (self.models.editor, self.models.base, self.judge, known, self.config, EDITOR_PAIRS)
        lines = list(tqdm(familiar.measure(*parts, self.seed), total=5, desc="familiar", unit="line"))
        return {"edits": len(known), "lines": lines}
