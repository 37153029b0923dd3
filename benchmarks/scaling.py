"""Cost, time, storage and failures of the paper's run and of ten times it, from rates that are named one by one.

Every rate is in scaling_inputs.json with its source: counted, cited or assumed. Change one there and run this
again: `.venv/bin/python benchmarks/scaling.py` renews the tables of docs/scaling.md. Nothing here was measured
on a GPU by this project.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from ip2p_lib.evaluation.tables import markdown_table
from ip2p_lib.memory_plan.counts import EDITOR_UNET
from ip2p_lib.presets import FULL
from ip2p_lib.quality.goals import replace_block

HERE = Path(__file__).parent
INPUTS, PAGE = HERE / "scaling_inputs.json", HERE.parent / "docs" / "scaling.md"
HOUR, LATENT_BYTES = 3600, 6 * 4 * 32 * 32 * 2  # mean, deviation and condition, both ways round, two bytes
Rates = Mapping[str, float]


def read_rates() -> dict[str, float]:
    """Values by name."""
    return {name: entry["value"] for name, entry in json.loads(INPUTS.read_text(encoding="utf-8")).items()}


def rows_a_candidate(forks: int, low: float, high: float) -> float:
    """Trajectories of the UNet a candidate takes when so many thresholds, drawn evenly, fork off one source.

    Two if each has its own source. Else one for the source and one for the trunk up to the largest
    threshold are shared, and each fork goes its own way from its threshold on.
    """
    if forks == 1:
        return 2.0
    largest, mean = low + (high - low) * forks / (forks + 1), (low + high) / 2
    return (1 + largest + forks * (1 - mean)) / forks


def pair_flop(rates: Rates, forks: int) -> float:
    """One candidate: its share of rows with and without text at each step, two pictures decoded and scored."""
    trajectories = rows_a_candidate(forks, *FULL.pairs.p2p_threshold_range)
    pictures = 1 + 1 / forks  # the source is one for all forks
    rows = 2 * trajectories * rates["sampler_steps"]
    return rows * rates["unet_512"] + pictures * (rates["decode_512"] + rates["clip_picture"])


def gpu_hours(
    rates: Rates, times: float = 1, *, forks: int = 1, share: float | None = None
) -> dict[str, float]:
    """Hours of one GPU for each stage."""
    triplets = times * rates["captions"]
    writer = triplets * rates["writer_tokens"] * 2 * rates["writer_parameters"]
    pairs = triplets * rates["candidates"] * pair_flop(rates, forks)
    kept = times * rates["triplets_with_pairs"] * rates["pairs_a_triplet"]
    encoding = kept * 4 * rates["encode_256"]  # two pictures, both ways round
    steps = times * rates["training_steps"] * rates["training_batch"] * 3 * rates["unet_256"]
    per_hour = rates["peak"] * HOUR
    return {
        "triplets": writer / (per_hour * rates["share_writer"]),
        "pairs and scores": pairs / (per_hour * (share or rates["share_pairs"])),
        "latents": encoding / (per_hour * rates["share_training"]),
        "training": steps / (per_hour * rates["share_training"]),
    }


def storage(rates: Rates, times: float = 1) -> dict[str, float]:
    """Bytes at rest."""
    candidates = times * rates["captions"] * rates["candidates"]
    kept = times * rates["triplets_with_pairs"] * rates["pairs_a_triplet"]
    return {
        "all candidates' pictures, if none is deleted": candidates * 2 * rates["png_512"],
        "kept pairs in our shards": kept * 2 * rates["png_512"],
        "kept pairs as released": times * rates["released_bytes"],
        "latents of kept pairs at 256 pixels": kept * LATENT_BYTES,
        "two checkpoints of training": 2 * checkpoint_bytes(),
    }


def checkpoint_bytes() -> float:
    """Weights, their average and the optimiser's two, float32."""
    return 16.0 * EDITOR_UNET


def failures(
    rates: Rates, hours: float, gpus: float, between: float, unit: float, shared: bool
) -> dict[str, float]:
    """Failures to expect, and the share of work that is lost to them.

    Args:
        hours: of one GPU, in all.
        between: hours of one GPU from failure to failure.
        unit: hours of one GPU's work that a failure loses at most; half of it on average.
        shared: whether one GPU's failure costs all others the same.
    """
    count = hours / between
    lost = count * unit / 2 * (gpus if shared else 1)
    return {"count": count, "lost": lost / hours}


def shown(value: float) -> str:
    """A number to two significant digits, with its thousands."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def time_table(rates: Rates) -> str:
    """GPU hours, days on the paper's number of GPUs, and money."""
    rows = []
    for name in gpu_hours(rates):
        once, ten = (gpu_hours(rates, t)[name] for t in (1, 10))
        rows.append([name, shown(once), shown(once / rates["gpus"] / 24), shown(ten)])
    once, ten = (sum(gpu_hours(rates, t).values()) for t in (1, 10))
    rows.append(["in all", shown(once), shown(once / rates["gpus"] / 24), shown(ten)])
    price = rates["price"]
    rows.append(["dollars", shown(once * price), "", shown(ten * price)])
    heads = ("stage", "GPU hours", f"days on {rates['gpus']:g} GPUs", "GPU hours, ten times the run")
    return markdown_table(heads, rows)


def pairs_table(rates: Rates) -> str:
    """What lowers the largest item."""
    usual = gpu_hours(rates)["pairs and scores"]
    ways = {
        "as the paper made them": (1, rates["share_pairs"]),
        "`--thresholds-per-seed 10`": (10, rates["share_pairs"]),
        "kernels as good as the best published": (1, rates["share_pairs_tuned"]),
        "both": (10, rates["share_pairs_tuned"]),
    }
    found = {n: gpu_hours(rates, forks=f, share=s)["pairs and scores"] for n, (f, s) in ways.items()}
    return markdown_table(
        ("way", "GPU hours", "times fewer"), [(n, shown(h), f"{usual / h:.1f}") for n, h in found.items()]
    )


def storage_table(rates: Rates) -> str:
    """Gigabytes at rest."""
    once, ten = storage(rates), storage(rates, 10)
    return markdown_table(
        ("what", "GB", "GB, ten times"), [(n, shown(v / 1e9), shown(ten[n] / 1e9)) for n, v in once.items()]
    )


def failure_table(rates: Rates) -> str:
    """Both stages that take long, on machines that last and on lent ones."""
    hours = gpu_hours(rates)
    shard = FULL.pairs.triplets_per_shard * rates["candidates"] * pair_flop(rates, 1)
    shard /= rates["peak"] * HOUR * rates["share_pairs"]
    step = hours["training"] / rates["training_steps"] / rates["gpus"]
    unit = FULL.train.checkpoint_every * step
    rows = []
    for kind, between in (("own", rates["gpu_hours_between_failures"]), ("lent", rates["spot_hours"])):
        for stage, size, shared in (("pairs and scores", shard, False), ("training", unit, True)):
            found = failures(rates, hours[stage], rates["gpus"], between, size, shared)
            rows.append((stage, kind, shown(found["count"]), shown(size), f"{found['lost']:.2%}"))
    writing = checkpoint_bytes() / rates["disk"] / (unit * HOUR)
    rows.append(("writing checkpoints", "", "", "", f"{writing:.2%}"))
    heads = ("stage", "GPUs", "failures", "hours between what is safe", "share of the work lost")
    return markdown_table(heads, rows)


def input_table() -> str:
    """Every rate with its source."""
    entries = json.loads(INPUTS.read_text(encoding="utf-8"))
    rows = [(f"`{n}`", f"{e['value']:.6g}", e["unit"], e["source"]) for n, e in entries.items()]
    return markdown_table(("rate", "value", "unit", "source"), rows)


def blocks() -> dict[str, str]:
    """The page's tables by the name of their marks."""
    rates = read_rates()
    return {
        "time": time_table(rates),
        "pairs": pairs_table(rates),
        "storage": storage_table(rates),
        "failures": failure_table(rates),
        "rates": input_table(),
    }


if __name__ == "__main__":
    for name, text in blocks().items():
        replace_block(PAGE, name, text)
