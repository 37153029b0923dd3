"""Model cards, written from the record of each training and the measured results."""

from pathlib import Path
from typing import Any

from ip2p_lib import storage

ABOUT = {
    "text_to_image": (
        "Text-to-image model of the picture world",
        "A latent diffusion model in diffusers' format: autoencoder (4 latent channels, a quarter of the side),"
        " text encoder (the CLIP text tower below) and UNet predicting velocity. It makes the caption pairs into"
        " picture pairs.",
        ("vae_psnr_db", "vae_keeps_attributes", "text_to_image_all_attributes"),
    ),
    "clip": (
        "CLIP of the picture world",
        "An open_clip model with a small ResNet beside a causal text tower, trained on drawn pictures and their"
        " captions; the text tower also learned to predict the next word of captions, instructions and plain"
        " statements, and then to read instructions as ways from one caption to another. It filters pairs and serves as"
        " text encoder.",
        ("clip_recall_at_1",),
    ),
    "language_model": (
        "Language model of the picture world",
        "A small Llama with a byte-level tokenizer, pretrained on captions, statements, instructions and little"
        " stories of the world. It has never seen a triplet; fine-tuning makes the writer of it.",
        (),
    ),
    "writer": (
        "Writer of triplets",
        "The language model above, fine-tuned on the 264 hand-written triplets of `data/triplets/picture_world.jsonl`:"
        " it continues a caption with an instruction and the edited caption. `data/results/triplets.json` has its"
        " scores by kind and temperature.",
        ("triplets_valid", "triplets_new"),
    ),
    "judge": (
        "The judge",
        "Reads a scene's attributes off a picture. An instrument for measuring; nothing is trained with it.",
        ("judge_all_attributes",),
    ),
    "editor": (
        "Editor of the picture world",
        "The text-to-image UNet with four more input channels, fine-tuned on pairs that the miniature generated"
        " and its CLIP kept, by how far the picture moves (`docs/filtering.md`; `pairs_kept_exact` below is about the"
        " preset's filter, and the text-to-image model as it is now, which drew only the last of these pairs). It has"
        " seen no drawn answer to an edit.",
        ("pairs_kept_exact", "editor_exact", "editor_exact_worst_kind", "editor_l1_over_unedited_l1"),
    ),
}
LIMITS = (
    "Knows drawn scenes of this world alone: ten subjects, eight colours, six places. It has no use on photographs"
    " of people, and none of its numbers say anything about models of full size. Trained on pictures drawn by this"
    " repository's code; no photograph and no foreign weights entered. Licence: CC0 1.0."
)


def write_cards(models: Path, results: Path, out: Path) -> list[Path]:
    """Write one Markdown card per shipped model; returns their paths."""
    quality = storage.read_json(results / "quality.json") if (results / "quality.json").exists() else {}
    written = []
    for name, (title, text, keys) in ABOUT.items():
        path = out / f"{name}.md"
        record = storage.read_json(models / name / "training.json")
        with storage.atomic_file(path) as partial:
            partial.write_text(
                _card(title, text, record, {k: quality[k] for k in keys if k in quality}), "utf-8"
            )
        written.append(path)
    return written


def _card(title: str, text: str, record: dict[str, Any], scores: dict[str, Any]) -> str:
    lines = [f"# {title}", "", text, ""]
    lines += ["## Scores on held-out scenes", ""] if scores else []
    lines += [
        f"- `{k}`: {s['value']:.3f} (95 % interval {s['low']:.3f} to {s['high']:.3f}, n = {s['n']})"
        for k, s in scores.items()
    ]
    made = "`make miniature` makes one like it, from nothing."
    lines += [*([""] if scores else []), "## How it was made", "", made, ""]
    lines += ["| part | hours | steps | batch | seed | machine | commit |", "|---|---|---|---|---|---|---|"]
    for part, log in record.items():
        r = log["recipe"]
        lines.append(
            f"| {part} | {log['hours']:.2f} | {r['steps']} | {r['batch_size']} | {r['seed']} |"
            f" {log['machine']} | {log['commit']} |"
        )
    told = [f"- {part}: {log['about']}." for part, log in record.items() if "about" in log]
    lines += ["", *told] if told else []
    return "\n".join([*lines, "", "## Limits", "", LIMITS, ""])
