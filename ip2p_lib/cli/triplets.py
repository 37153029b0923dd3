"""Stage one from the shell: write triplets, join shards, check a file, fine-tune a writer."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ip2p_lib.cli.face import Folder, PresetName, app, given, one_line_errors, quiet, writable

if TYPE_CHECKING:
    from ip2p_lib.presets import WriteConfig
    from ip2p_lib.triplets.writing import Rules, Writer

File = Annotated[Path, typer.Option("--out", help="JSONL file to write; a second run continues it")]
GRAMMAR = "grammar"
BLOCKS = 4  # of so many times a server's concurrency


@app.command()
@one_line_errors
def triplets(
    out: File,
    count: Annotated[
        int | None, typer.Option(help="Stop at this many triplets; default 1000 for the world")
    ] = None,
    preset: PresetName = "miniature",
    captions: Annotated[
        str | None, typer.Option(help="'world', a .jsonl .parquet .csv .tsv .txt file, or a dataset's hub id")
    ] = None,
    writer: Annotated[
        str | None,
        typer.Option(help="Language model: folder or hub id; 'grammar' for the world's own triplets"),
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="Address of an OpenAI-compatible server, up to /v1, to write instead")
    ] = None,
    server_model: Annotated[str, typer.Option(help="Model to ask the server for")] = "default",
    endpoint: Annotated[str, typer.Option(help="completions, or chat")] = "completions",
    concurrency: Annotated[int, typer.Option(help="Questions to the server at a time")] = 8,
    prices: Annotated[
        tuple[float, float], typer.Option(help="Price per million prompt and completion tokens")
    ] = (0.0, 0.0),
    moderation: Annotated[
        bool, typer.Option(help="Ask the server's moderation endpoint about every text")
    ] = False,
    examples: Annotated[
        int | None,
        typer.Option(
            help="Seed triplets shown in the prompt, for a model not fine-tuned; default for the preset's own"
            " writer what it needs, else 0"
        ),
    ] = None,
    shard: Annotated[str, typer.Option(help="Part of the captions to deal with, index/count")] = "0/1",
    temperature: float | None = None,
    attempts: Annotated[int | None, typer.Option(help="Per caption")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Captions written together; for a server several times --concurrency")
    ] = None,
    seed: int = 50,
    held_out: Annotated[
        bool, typer.Option(help="With --writer grammar: phrasings that no training text contains")
    ] = False,
) -> None:
    """Write caption triplets with a language model; killed at any moment, the next run goes on."""
    from dataclasses import replace

    from ip2p_lib.presets import preset as find
    from ip2p_lib.triplets.captions import WORLD, read_captions

    chosen = find(preset)
    source = captions or chosen.captions
    limit = 1000 if count is None and source == WORLD else count
    if limit is not None and limit < 1:
        raise ValueError(f"--count must be at least 1, got {limit}")
    if out.is_dir():
        raise ValueError(f"--out must be a file, but {out} is a folder")
    if server and writer:
        raise ValueError("one of --writer and --server must write, but both were given")
    if writer == GRAMMAR:
        if shard != "0/1" or captions not in (None, WORLD) or moderation:
            raise ValueError(
                "--writer grammar takes no --captions, --moderation or --shard; for parts that differ give each its own --seed"
            )
        _write_grammar(out, limit or 1000, seed, held_out)
        return
    if held_out:
        raise ValueError("--held-out goes with --writer grammar: a model writes as it has learned to")
    config = replace(
        chosen.write, seed=seed, **given(temperature=temperature, attempts=attempts, batch_size=batch_size)
    )
    if server and batch_size is None:  # written block by block: a block must keep all questions busy
        config = replace(config, batch_size=max(config.batch_size, BLOCKS * concurrency))
    part = _shard(shard)
    rows = read_captions(source, seed=seed)
    writable(out.parent)
    quiet()
    if moderation and server is None:
        raise ValueError(
            "--moderation asks a server's endpoint, so it goes with --server, which was not given"
        )
    own = chosen.examples if writer is None and server is None else 0
    rules = _rules(chosen.seed_triplets, own if examples is None else examples)
    if server is None:
        write, who = _local(chosen, writer, config)
    else:
        write, who, rules = _remote(server, server_model, endpoint, concurrency, moderation, config, rules)
    made_by = {**who, "captions": source}
    _write(out, rows, write, config, rules, made_by, limit, part, prices)


def _write_grammar(out: Path, count: int, seed: int, held_out: bool) -> None:
    from ip2p_lib.records import write_triplets
    from ip2p_lib.triplets.world import world_triplets

    rows = world_triplets(count, seed, held_out=held_out)
    typer.echo(f"{_written(out, lambda path: write_triplets(path, rows))} triplets in {out}")


def _written(out: Path, write: Callable[[Path], int]) -> int:
    """What `write` leaves, at its place; a file that holds anything else is not written over."""
    from tempfile import TemporaryDirectory

    writable(out.parent)
    with TemporaryDirectory(dir=out.parent, prefix=".") as folder:
        made = Path(folder) / "made.jsonl"
        count = write(made)
        if out.exists() and out.read_bytes() != made.read_bytes():
            raise ValueError(
                f"{out} holds something else than would be written; choose another --out or move it"
            )
        made.replace(out)
    return count


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"--shard must be index/count with 0 <= index < count, got {text!r}")
    return int(index), int(count)


def _rules(seed_triplets: str, examples: int) -> "Rules":
    """So many seed triplets from all over the file, whose neighbours resemble each other."""
    from ip2p_lib.records import read_triplets
    from ip2p_lib.triplets.writing import Rules

    found = list(read_triplets(Path(seed_triplets))) if examples else []
    if not 0 <= examples <= max(len(found), 0):
        raise ValueError(f"--examples must lie in 0..{len(found)}, got {examples}")
    return Rules(examples=tuple(found[i * len(found) // examples] for i in range(examples)))


def _local(chosen: Any, writer: str | None, config: "WriteConfig") -> tuple["Writer", dict[str, str]]:
    from ip2p_lib.backbone import load_writer, pick_device
    from ip2p_lib.triplets.local import LocalWriter

    device, dtype, _ = pick_device()
    language = load_writer(chosen, writer, device=device, dtype=dtype)
    return LocalWriter(language, config), {"writer": language.name, **given(weights=language.files or None)}


def _remote(
    url: str,
    model: str,
    endpoint: str,
    concurrency: int,
    moderation: bool,
    config: "WriteConfig",
    rules: "Rules",
) -> tuple["Writer", dict[str, str], "Rules"]:
    from dataclasses import replace

    from ip2p_lib.triplets.server import ServerConfig, ServerWriter

    served = ServerWriter(
        ServerConfig(url=url, model=model, endpoint=endpoint, concurrency=concurrency), config
    )
    rules = replace(rules, moderate=served.moderate if moderation else None)
    return served, {"writer": f"{model} on a server"}, rules


def _write(
    out: Path, rows: Any, write: Any, config: Any, rules: Any, made_by: dict[str, str], limit: int | None,
    part: tuple[int, int], prices: tuple[float, float],
) -> None:  # fmt: skip
    from itertools import islice

    from tqdm import tqdm

    from ip2p_lib.records import read_triplets
    from ip2p_lib.triplets.seeds import summary
    from ip2p_lib.triplets.server import cost
    from ip2p_lib.triplets.writing import write_all

    with tqdm(total=limit, unit="triplet") as bar:
        for tally in write_all(
            rows, write, config, out, made_by=made_by, rules=rules, count=limit, shard=part
        ):
            bar.update(min(tally.accepted, limit or tally.accepted) - bar.n)
            bar.set_postfix(rejected=tally.rejected.total(), skipped=tally.skipped.total())
    typer.echo(summary(tally))
    if any(prices):
        typer.echo(f"cost {cost(tally.prompt_tokens, tally.completion_tokens, prices):.2f}")
    for triplet in islice(read_triplets(out), 3):
        typer.echo(f"  {triplet.input} | {triplet.edit} | {triplet.output}")
    typer.echo(f"{sum(1 for _ in read_triplets(out))} triplets in {out}")


@app.command()
@one_line_errors
def merge_triplets(
    files: Annotated[list[Path], typer.Argument(help="Shards written with --shard")], out: File
) -> None:
    """Join shards into one file in caption order; a caption or address that comes twice is kept once."""
    from ip2p_lib.triplets.merging import merge

    typer.echo(f"{_written(out, lambda path: merge(files, path))} triplets in {out}")


@app.command()
@one_line_errors
def check_triplets(file: Annotated[Path, typer.Argument(help="JSONL file of triplets")]) -> None:
    """Report kinds, variety and faults of hand-written triplets; exit code 1 if there are faults."""
    from ip2p_lib.records import read_triplets
    from ip2p_lib.triplets.seeds import faults, portrait

    rows = list(read_triplets(file))
    for line in portrait(rows):
        typer.echo(line)
    found = faults(rows)
    for fault in found:
        typer.echo(fault)
    if found:
        raise ValueError(f"{file} must have no faults, found {len(found)}")
    typer.echo(f"{len(rows)} triplets, no faults")


@app.command()
@one_line_errors
def tune_writer(
    out: Folder,
    triplets: Annotated[Path | None, typer.Option("--triplets", help="JSONL file to learn from")] = None,
    preset: PresetName = "full",
    model: Annotated[str | None, typer.Option(help="Language model to start from: folder or hub id")] = None,
    steps: int | None = None,
    batch_size: int | None = None,
    lora_rank: Annotated[int | None, typer.Option(help="0 trains all weights")] = None,
    learning_rate: float | None = None,
    seed: int = 0,
) -> None:
    """Fine-tune a language model on triplets (LoRA by default) into a writer."""
    from dataclasses import replace

    from tqdm import tqdm

    from ip2p_lib.backbone import load_writer, pick_device
    from ip2p_lib.presets import preset as find
    from ip2p_lib.records import read_triplets
    from ip2p_lib.triplets.tuning import fine_tune, save_writer, with_adapter

    chosen = find(preset)
    config = replace(
        chosen.tune,
        seed=seed,
        **given(steps=steps, batch_size=batch_size, lora_rank=lora_rank, learning_rate=learning_rate),
    )
    if config.lora_rank == 0:  # all weights in float32, so that small steps count
        config = replace(config, mixed_precision="auto")
    rows = list(read_triplets(triplets or Path(chosen.seed_triplets)))
    writable(out)
    quiet()
    device, dtype, _ = pick_device()
    start = load_writer(chosen, model or chosen.language_model, device=device, dtype=dtype)
    language = with_adapter(start, config)
    last: Any = None
    with tqdm(fine_tune(language, rows, config, out / "run"), total=config.steps, unit="step") as bar:
        for last in bar:
            if last.step % 10 == 0:
                bar.set_postfix(loss=f"{last.loss.item():.4f}")
    last.ema.swap()
    save_writer(language, out / "writer")
    typer.echo(f"writer in {out / 'writer'}")
