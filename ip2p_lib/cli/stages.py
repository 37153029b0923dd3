"""Pictures, pairs, filter: each a thin face of one library function."""

from pathlib import Path
from typing import Annotated

import typer

from ip2p_lib.cli.face import Folder, PresetName, app, given, one_line_errors, quiet, writable
from ip2p_lib.cli.plan import tell_memory

ClipName = Annotated[
    str | None,
    typer.Option("--clip", help="CLIP in place of the preset's: a folder, or open_clip's name/weights"),
]

BoundToStop = Annotated[float | None, typer.Option(help="Bound to end early by, as of `ip2p filter`")]


@app.command()
@one_line_errors
def scenes(
    out: Annotated[Path, typer.Option("--out", help="Folder to draw into, new or empty")],
    count: int = 64,
    seed: int = 0,
    size: int = 64,
) -> None:
    """Draw pictures of the world with their captions."""
    import json

    from ip2p_lib import storage
    from ip2p_lib.scenes import caption, render, sample_scenes

    if count < 1:
        raise ValueError(f"--count must be at least 1, got {count}")
    writable(out)
    if any(out.iterdir()):
        raise ValueError(f"--out must be a new or empty folder, but {out} holds files; choose another")
    with storage.atomic_file(out / "captions.jsonl") as partial, partial.open("w", encoding="utf-8") as file:
        for i, scene in enumerate(sample_scenes(count, seed)):
            render(scene, size).save(out / f"{i:07d}.png")
            file.write(json.dumps({"file_name": f"{i:07d}.png", "text": caption(scene, i)}) + "\n")
    typer.echo(f"{count} pictures in {out}")


@app.command()
@one_line_errors
def pairs(
    triplets: Annotated[Path, typer.Option("--triplets", help="JSONL file of triplets")],
    out: Folder,
    preset: PresetName = "miniature",
    model: Annotated[str | None, typer.Option(help="Text-to-image model: folder, file or hub id")] = None,
    candidates: Annotated[int | None, typer.Option(help="Candidates per triplet")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampler steps")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Candidates that share a UNet call")] = None,
    triplets_per_shard: Annotated[
        int | None, typer.Option(help="What a killed worker has to do again")
    ] = None,
    clip: ClipName = None,
    thresholds_per_seed: Annotated[
        int | None, typer.Option(help="Candidates that fork off one source picture, each with its threshold")
    ] = None,
    stop_after_hits: Annotated[
        int | None, typer.Option(help="End a triplet after so many candidates that pass the filter")
    ] = None,
    give_up_after: Annotated[
        int | None, typer.Option(help="End a triplet after so many in a row that do not pass")
    ] = None,
    preview_at: Annotated[
        float | None, typer.Option(help="At this share of the steps, drop what is far from passing")
    ] = None,
    min_text: BoundToStop = None,
    min_direction: BoundToStop = None,
    min_image: BoundToStop = None,
    min_shift: BoundToStop = None,
    engine: Annotated[
        str, typer.Option(help="in-process, or ray: many workers, which also score")
    ] = "in-process",
    workers: Annotated[int, typer.Option(help="Processes that make pairs, with engine ray")] = 1,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(help="GPUs, or a part of one, for each worker; by default what a scorer leaves of one"),
    ] = None,
    scorers: Annotated[
        int | None, typer.Option(help="Processes that score; by default one, or on GPUs one for each worker")
    ] = None,
    gpus_per_scorer: Annotated[
        float | None,
        typer.Option(help="GPUs, or a part of one, for each scorer; by default an eighth if there are any"),
    ] = None,
    seed: int = 0,
) -> None:
    """Make candidate picture pairs by prompt-to-prompt."""
    from contextlib import closing
    from dataclasses import replace

    from tqdm import tqdm

    from ip2p_lib.engines import Crew, make_pairs
    from ip2p_lib.presets import preset as find
    from ip2p_lib.records import read_triplets

    chosen = replace(find(preset), **given(clip=clip))
    options = given(
        candidates_per_triplet=candidates,
        num_inference_steps=steps,
        batch_size=batch_size,
        triplets_per_shard=triplets_per_shard,
        thresholds_per_seed=thresholds_per_seed,
        stop_after_hits=stop_after_hits,
        give_up_after=give_up_after,
        preview_at=preview_at,
    )
    config = replace(chosen.pairs, seed=seed, **options)
    bounds = given(min_text=min_text, min_direction=min_direction, min_image=min_image, min_shift=min_shift)
    if bounds and not config.stops_early:
        raise ValueError(
            "--min-* of `ip2p pairs` go with --stop-after-hits, --give-up-after or --preview-at; to keep pairs by"
            " them give them to `ip2p filter`"
        )
    chosen = replace(chosen, filter=replace(chosen.filter, **bounds))
    rows = list(read_triplets(triplets))
    writable(out)
    quiet()
    tell_memory("pairs", chosen, resolution=config.resolution, batch=config.batch_size)
    crew = Crew(workers, scorers, gpus_per_worker, gpus_per_scorer)
    making = make_pairs(rows, config, out, chosen, model, engine=engine, crew=crew)
    # Closed at once when stopped: Ray cannot be shut down any more while the interpreter is.
    with closing(making), tqdm(total=len(rows) * config.candidates_per_triplet, unit="pair") as bar:
        for progress in making:
            bar.update(progress.candidates - bar.n)
    typer.echo(f"candidates in {out}")


@app.command(name="filter")
@one_line_errors
def filter_(
    candidates: Annotated[Path, typer.Option("--candidates", help="Folder written by `ip2p pairs`")],
    out: Folder,
    preset: PresetName = "miniature",
    clip: ClipName = None,
    min_text: float | None = None,
    min_direction: float | None = None,
    min_image: float | None = None,
    min_shift: Annotated[
        float | None,
        typer.Option(
            help="How far the picture must move along the texts' direction; beside a low --min-direction"
        ),
    ] = None,
    keep: Annotated[int | None, typer.Option(help="At most this many pairs per triplet")] = None,
) -> None:
    """Score candidates with CLIP and write the kept ones as a dataset."""
    from dataclasses import replace

    from tqdm import tqdm

    from ip2p_lib import filtering
    from ip2p_lib.backbone import load_clip, pick_device
    from ip2p_lib.memory_plan.counts import CLIP_BATCH
    from ip2p_lib.pairs import missing_shards
    from ip2p_lib.presets import preset as find

    chosen = replace(find(preset), **given(clip=clip))
    config = replace(
        chosen.filter,
        **given(
            min_text=min_text,
            min_direction=min_direction,
            min_image=min_image,
            min_shift=min_shift,
            max_per_triplet=keep,
        ),
    )
    shards = filtering.candidate_shards(candidates)
    if missing := missing_shards(candidates):
        typer.echo(
            f"{len(missing)} of {len(missing) + len(shards)} shards are not there, the first {missing[0].name}; run"
            " `ip2p pairs` again to make them. What follows is of the others."
        )
    if told := filtering.other_bounds(candidates, config):
        typer.echo(
            f"pairs were ended early by other bounds, so some that these would keep may be missing: {told}"
        )
    writable(out.parent)
    quiet()
    tell_memory("filter", chosen, resolution=chosen.pairs.resolution, batch=CLIP_BATCH)
    scoring = filtering.score(candidates, load_clip(chosen, device=pick_device()[0]))
    for _ in tqdm(scoring, total=len(shards), unit="shard"):
        pass
    scores = filtering.read_scores(candidates)
    count = filtering.export_kept(candidates, filtering.select(scores, config), out, config)
    typer.echo(f"kept {count} of {len(scores)} candidates in {out}")
