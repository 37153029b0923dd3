"""What each number must reach, and the tables and sentences that prose shows of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ip2p_lib import storage
from ip2p_lib.evaluation.tables import markdown_table, measure_text


@dataclass(frozen=True, slots=True)
class Goal:
    """What a measure must reach."""

    at_least: float | None = None
    at_most: float | None = None

    def met_by(self, value: float) -> bool:
        """Whether a value reaches the goal."""
        above = self.at_least is None or value >= self.at_least
        return above and (self.at_most is None or value <= self.at_most)


GOALS = {
    "judge_all_attributes": Goal(0.99),
    "vae_psnr_db": Goal(30),
    "vae_keeps_attributes": Goal(0.97),
    "text_to_image_all_attributes": Goal(0.90),
    "clip_recall_at_1": Goal(0.90),
    "triplets_valid": Goal(0.95),
    "triplets_new": Goal(0.60),
    "pairs_unfiltered_exact": Goal(),
    "pairs_kept_exact": Goal(0.90),
    "editor_exact": Goal(0.85),
    "editor_exact_worst_kind": Goal(0.75),
    "editor_l1_over_unedited_l1": Goal(at_most=0.5),
}

LABELS = {
    "judge_all_attributes": "judge reads every attribute of a true render",
    "vae_psnr_db": "autoencoder, PSNR in dB",
    "vae_keeps_attributes": "all attributes survive the autoencoder",
    "text_to_image_all_attributes": "text-to-image shows every attribute of its caption",
    "clip_recall_at_1": "CLIP finds the right one of 256 captions",
    "triplets_valid": "triplets whose new caption follows from caption and instruction, nothing else changed",
    "triplets_new": "valid triplets whose instruction is in no training triplet",
    "pairs_unfiltered_exact": "candidate pairs that do exactly what was asked",
    "pairs_kept_exact": "kept pairs that do",
    "editor_exact": "edits of unseen pictures: exactly the requested change",
    "editor_exact_worst_kind": "the same, worst kind of edit",
    "editor_l1_over_unedited_l1": "distance to the exact answer over the unedited picture's",
}


def quality_table(results: dict[str, Any]) -> str:
    """The Markdown table that README shows between its quality marks."""
    rows = ["| measured on held-out scenes | value | 95 % interval | n | goal |", "|---|---|---|---|---|"]
    for key, label in LABELS.items():
        if key not in results:
            continue
        r, goal = results[key], GOALS[key]
        wanted = f"at least {goal.at_least:g}" if goal.at_least is not None else ""
        wanted = f"at most {goal.at_most:g}" if goal.at_most is not None else wanted
        missed = "" if goal.met_by(r["value"]) else ", not reached"
        interval = f"{r['low']:.3f} to {r['high']:.3f}"
        rows.append(f"| {label} (`{key}`) | {r['value']:.3f} | {interval} | {r['n']} | {wanted}{missed} |")
    return "\n".join(rows)


def edits_table(found: dict[str, Any]) -> str:
    """The Markdown table of the page on quality: exact edits by kind, and by the style of the input."""
    shares = {"kind": found["editor_exact_by_kind"], "style of the input": found["editor_exact_by_style"]}
    rows = [
        (f"{about}: {name}", measure_text(r), r["n"])
        for about, by in shares.items()
        for name, r in by.items()
    ]
    return markdown_table(("edits of unseen pictures", "exact", "n"), rows)


def replace_block(path: Path, name: str, text: str) -> None:
    """Put generated text between a document's marks `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: the marks are missing.
    """
    whole = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if begin not in whole or end not in whole:
        raise ValueError(f"{path} must hold the marks {begin.strip()} and {end}")
    head, rest = whole.split(begin, 1)
    with storage.atomic_file(path) as partial:
        partial.write_text(f"{head}{begin}\n{text}\n\n{end}{rest.split(end, 1)[1]}", encoding="utf-8")
