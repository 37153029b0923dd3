"""The memory plan: what a stage takes at full size, told before anything is loaded."""

from typing import Annotated, Any

import typer

from ip2p_lib.cli.face import app, one_line_errors


@app.command()
@one_line_errors
def plan(
    stage: Annotated[str, typer.Option(help="edit, pairs, filter or train")],
    memory: Annotated[float, typer.Option(help="GiB on one card, e.g. 24")],
    preset: Annotated[str, typer.Option("--preset", help="Whose sizes and batches to take")] = "full",
    resolution: Annotated[int | None, typer.Option(help="Side of the pictures")] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Edits, candidates or pictures at a time; for train, pairs of an optimiser step"),
    ] = None,
) -> None:
    """Say how much memory a stage of Stable Diffusion 1.x takes, and which options make it fit; loads nothing."""
    from ip2p_lib import memory_plan
    from ip2p_lib.presets import preset as find

    chosen = find(preset)
    usual = {
        "edit": (chosen.edit.resolution, 1),
        "pairs": (chosen.pairs.resolution, chosen.pairs.batch_size),
        "filter": (chosen.pairs.resolution, 256),
        "train": (
            chosen.train.resolution, chosen.train.batch_size * chosen.train.gradient_accumulation_steps,
        ),
    }  # fmt: skip
    size, batch = usual.get(stage, (512, 1))
    found = memory_plan.plan(
        stage,
        memory,
        resolution=size if resolution is None else resolution,
        batch=batch if batch_size is None else batch_size,
    )
    for name, needed in [*found.parts.items(), ("in all", found.total)]:
        typer.echo(f"{needed / memory_plan.GIB:8.2f} GiB  {name}")
    typer.echo(f"{'fits' if found.fits else 'does not fit'} {memory:g} GiB")
    if found.options:
        typer.echo(f"ip2p {stage} --preset {preset} ... {' '.join(found.options)}")
    for note in found.notes:
        typer.echo(f"- {note}")


def tell_memory(stage: str, preset: Any, precision: str = "", **options: Any) -> None:
    """Before models of counted size are loaded: a line of what the stage takes, and of how much there is.

    Args:
        precision: that training computes in; other stages take the device's.
        options: as `memory_plan.needs`.
    """
    if not preset.is_planned:
        return
    import torch

    from ip2p_lib.backbone import pick_device
    from ip2p_lib.memory_plan import GIB, needs
    from ip2p_lib.optimisation import compute_dtype

    device, dtype, _ = pick_device()
    dtype = compute_dtype(precision) if precision else dtype
    name = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    taken = sum(needs(stage, precision=name, **options).values()) / GIB
    there = _free(device) / GIB
    line = f"{stage} at {options['resolution']} pixels takes about {taken:.1f} GiB in {str(dtype)[6:]}"
    if there < float("inf"):
        line += f"; this {'GPU' if device.type == 'cuda' else 'machine'} has {there:.1f} free"
    if there < taken:
        line += f", which is too little: `ip2p plan --stage {stage} --memory {there:.0f}` says what fits"
    typer.echo(line)


def _free(device: Any) -> float:
    """Bytes that are free on a device; infinite where nothing tells."""
    import torch

    from ip2p_lib.course.doctor import free_memory

    return float(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_memory()
