"""The benchmark in MagicBrush's format, single turns and chains of them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ip2p_lib.cli.face import PresetName, app, one_line_errors, quiet, writable


@app.command()
@one_line_errors
def benchmark(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Benchmark in MagicBrush's format")],
    out: Annotated[Path, typer.Option("--out", help="Result file, JSON")] = Path("out/benchmark.json"),
    name: Annotated[str, typer.Option("--system", help="A wrong name lists them")] = "ours",
    at: Annotated[
        float | None, typer.Option(help="Value of the system's dial; the editor's own by default")
    ] = None,
    draw: Annotated[
        int, typer.Option(metavar="SESSIONS", help="First draw a benchmark of the picture world")
    ] = 0,
    preset: PresetName = "miniature",
    model: Annotated[str | None, typer.Option(help="Editor: folder, file or hub id")] = None,
    seed: int = 0,
) -> None:
    """Edit a benchmark's pictures, each turn from its true source and then going on from our own, and measure."""
    from ip2p_lib import storage
    from ip2p_lib.backbone import pick_device
    from ip2p_lib.baselines import Models, system
    from ip2p_lib.evaluation import magicbrush
    from ip2p_lib.evaluation.turns import draw_benchmark, read_turns
    from ip2p_lib.presets import preset as find

    chosen = find(preset)
    if draw and folder.exists():
        raise ValueError(f"--draw needs a new folder, but {folder} exists; leave --draw out to use it")
    if draw:
        draw_benchmark(folder, draw, seed, size=chosen.edit.resolution)
    turns = read_turns(folder)
    writable(out.parent)
    if out.is_dir():
        raise ValueError(f"--out must be a file, but {out} is a folder")
    quiet()
    device, dtype, _ = pick_device()
    models = Models(chosen, model=model, device=device, dtype=dtype)
    one = system(name, models)
    if one.own_sources:
        raise ValueError(f"{name} paints its inputs itself, so its results have no answer in a benchmark")
    own = {"s_I": chosen.edit.image_guidance_scale, "s_T": chosen.edit.guidance_scale}
    usual = own.get(one.dial, one.values[len(one.values) // 2])
    value = usual if at is None else at
    result: dict[str, Any] = {"folder": folder.name, "system": name, "at": value, "seed": seed}
    for part in ("single_turn", "multi_turn"):
        scores = list(
            magicbrush.run_benchmark(
                one, value, turns, models.clip, chosen.edit, iterated=part == "multi_turn", seed=seed
            )
        )
        if all(s.fault for s in scores):
            raise ValueError(
                f"{part}: nothing could be measured, first {scores[0].session}: {scores[0].fault}"
            )
        result[part] = magicbrush.summary(scores)
        typer.echo(f"{part}: {magicbrush.sentence(result[part])}")
    storage.write_json(out, {**result, "commit": storage.commit()})
