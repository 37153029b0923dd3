"""The writer of triplets against the world: valid, new, varied; by temperature, before and after fine-tuning."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm.auto import tqdm

from ip2p_lib.backbone import LanguageModel, load_writer
from ip2p_lib.presets import Preset, WriteConfig
from ip2p_lib.records import Triplet, read_triplets
from ip2p_lib.triplets import Tally, world_captions, write_all
from ip2p_lib.triplets.local import LocalWriter
from ip2p_lib.triplets.seeds import repeated_instructions
from ip2p_lib.triplets.verdicts import WriterVerdict, mix, target_mix, verdicts
from ip2p_lib.triplets.world import understood

SEED = 907  # held out: no training draws from it, nor did the choice of temperature (904)
CAPTIONS, CAPTIONS_BY_TEMPERATURE = 2_600, 250
TEMPERATURES = (0.3, 0.7, 1.0, 1.3)
CAPTIONS_BY_BOUNDS = 800
BOUNDS = ("min_certainty", "min_instruction_certainty", "max_changes")


def written_triplets(language: LanguageModel, count: int, config: WriteConfig) -> tuple[list[Triplet], Tally]:
    """What a model writes for the first `count` held-out captions, and the counts of the run."""
    config, tally = replace(config, seed=SEED), Tally()
    with TemporaryDirectory() as name, tqdm(total=count, desc="triplets", unit="caption") as bar:
        path, captions = Path(name) / "triplets.jsonl", islice(world_captions(SEED), count)
        for tally in write_all(captions, LocalWriter(language, config), config, path, made_by={}):
            bar.update(tally.captions - bar.n)
        return list(read_triplets(path)), tally


def judge_writer(
    preset: Preset, count: int = CAPTIONS, bold: WriteConfig | None = None
) -> tuple[list[WriterVerdict], dict[str, Any]]:
    """The world's verdicts on the preset's writer, and the details: kinds, faults, temperatures.

    Args:
        bold: a bolder way of writing, whose bounds are looked at one by one.
    """
    training = list(read_triplets(Path(preset.seed_triplets)))
    writer = load_writer(preset)
    rows, tally = written_triplets(writer, count, preset.write)
    found = verdicts(rows, training)
    shares, target = mix(found), target_mix(rows)
    details = {
        "kinds": {k: {"share": round(shares[k], 4), "target": round(target[k], 4)} for k in target},
        "lowest_share_over_target": round(min(shares[k] / target[k] for k in target), 4),
        "faults": dict(Counter(v.fault for v in found if v.fault)),
        "attempts_rejected": dict(tally.rejected),
        "captions_given_up": tally.given_up,
        "different_instructions": repeated_instructions(rows)[1],
        "by_temperature": [
            row
            for name, model in (("before", preset.language_model), ("after", preset.writer))
            for row in _by_temperature(load_writer(preset, model), name, preset.write, training)
        ],
        "bold_by_bounds": _by_bounds(writer, bold) if bold else [],
    }
    return found, details


def _by_temperature(
    language: LanguageModel, name: str, config: WriteConfig, training: Sequence[Triplet]
) -> list[dict[str, Any]]:
    """Valid and new triplets per caption, one attempt each."""
    rows = []
    for temperature in TEMPERATURES:
        written, tally = written_triplets(
            language, CAPTIONS_BY_TEMPERATURE, replace(config, temperature=temperature, attempts=1)
        )
        found = verdicts(written, training)
        rows.append(
            {
                "fine_tuning": name,
                "temperature": temperature,
                "captions": tally.captions,
                "valid": round(sum(not v.fault for v in found) / tally.captions, 4),
                "new": round(sum(v.new for v in found) / tally.captions, 4),
                "rejected": dict(tally.rejected),
            }
        )
    return rows


def _by_bounds(language: LanguageModel, config: WriteConfig) -> list[dict[str, Any]]:
    """How many of a bolder writer's triplets are valid, with one more of its bounds from row to row."""
    rows = []
    for i in range(len(BOUNDS) + 1):
        lifted: dict[str, Any] = dict.fromkeys(BOUNDS[i:])
        written, tally = written_triplets(language, CAPTIONS_BY_BOUNDS, replace(config, **lifted))
        valid = [understood(t) is not None for t in written]
        rows.append(
            {
                "bounds": {name: getattr(config, name) for name in BOUNDS[:i]},
                "captions": tally.captions,
                "written": len(written),
                "valid": round(sum(valid) / len(written), 4),
                "rejected": dict(tally.rejected),
            }
        )
    return rows
