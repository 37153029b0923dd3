"""Which guidance scales suit the shipped editor: some pairs of both, on edits that no goal is measured on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ip2p_lib import storage
from ip2p_lib.backbone import Backbone, load_clip, load_editor, load_judge, model_mark
from ip2p_lib.evaluation import EditScore, distance_ratio, evaluate_edits, share
from ip2p_lib.evaluation.report import plain
from ip2p_lib.evaluation.tables import markdown_table, measure_text
from ip2p_lib.guidance import Branches
from ip2p_lib.presets import EditConfig, Preset
from ip2p_lib.triplets import world_triplets

SEED = 904  # held out, and other edits than those of any goal
EDITS = 512
SCALES = ((1.0, 1.0), (1.5, 1.5), (1.8, 1.8), (2.0, 1.7), (2.5, 1.9), (3.0, 2.1))  # s_T, s_I


def study_scales(
    preset: Preset, path: Path, edits: int = EDITS, scales: Sequence[tuple[float, float]] = SCALES
) -> Iterator[str]:
    """Measure each pair of scales and write `path` after each; yields one line a pair.

    What is on file of the same editor, edits and settings is not measured again.

    Raises:
        ValueError: there are no edits to measure.
    """
    if edits < 1:
        raise ValueError(f"edits must be at least 1, got {edits}")
    editor, judge, clip = load_editor(preset), load_judge(preset), load_clip(preset)
    triplets = list(world_triplets(edits, SEED, held_out=True))
    head = {"seed": SEED, "edits": edits, "mark": _mark(editor, preset.edit)}
    before: dict[str, Any] = storage.read_json(path) if path.exists() else {}
    known = before["scales"] if head.items() <= before.items() else []
    rows = {(r["guidance_scale"], r["image_guidance_scale"]): r for r in known}
    for text, image in scales:
        if (text, image) not in rows:
            config = replace(preset.edit, guidance_scale=text, image_guidance_scale=image)
            steps = evaluate_edits(editor, judge, clip, triplets, config)
            bar = tqdm(steps, total=edits, desc=f"s_T {text:g}, s_I {image:g}", unit="edit")
            rows[text, image] = summed_up([score for score, *_ in bar], config)
        result = {
            **head,
            "command": "ip2p study-scales" + ("" if edits == EDITS else f" --edits {edits}"),
            "commit": storage.commit(),
            "scales": [rows[s] for s in scales if s in rows],
        }
        storage.write_json(path, result)
        yield f"s_T {text:g}, s_I {image:g}: exact {measure_text(rows[text, image]['exact'])}"


def _mark(editor: Backbone, config: EditConfig) -> str:
    """Of the editor and its settings but the scales."""
    settings = {k: v for k, v in asdict(config).items() if not k.endswith("guidance_scale")}
    return storage.fingerprint([model_mark(editor), settings])


def summed_up(scores: Sequence[EditScore], config: EditConfig) -> dict[str, Any]:
    """One pair of scales: what it costs, and what comes of it."""
    scales = config.guidance_scale, config.image_guidance_scale
    return {
        "guidance_scale": scales[0],
        "image_guidance_scale": scales[1],
        "predictions": len(Branches.of(*([s] for s in scales)).weights),
        "exact": plain(share([s.exact for s in scores])),
        "requested": plain(share([s.requested for s in scores])),
        "l1_over_unedited_l1": plain(distance_ratio(scores)),
    }


def scales_table(result: Mapping[str, Any]) -> str:
    """One line for each pair of scales."""
    heads = (
        "s_T",
        "s_I",
        "predictions a step",
        "requested change",
        "exact",
        "L1 over the unedited picture's",
    )
    measures = "requested", "exact", "l1_over_unedited_l1"
    lines = [
        (f"{r['guidance_scale']:g}", f"{r['image_guidance_scale']:g}", r["predictions"], *(measure_text(r[m]) for m in measures))
        for r in result["scales"]
    ]  # fmt: skip
    return markdown_table(heads, lines)
