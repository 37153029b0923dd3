"""Tables and captions of `docs/limits.md`, and the table of `docs/ablations.md`, made from the result files of their commands."""

from collections.abc import Callable, Mapping
from typing import Any

from ip2p_lib.evaluation.limit_figures import TITLES
from ip2p_lib.evaluation.side_effects import COLUMNS
from ip2p_lib.evaluation.tables import markdown_table, measure_text, picture
from ip2p_lib.scenes.world import KINDS

Row = Mapping[str, Any]


def sizes_table(result: Row) -> str:
    """One line for each way to edit, intervals 95 %."""
    columns = {
        "requested": "requested",
        "exact": "exact",
        "l1_over_unedited_l1": "L1 over the unedited picture's",
        "clip_sim_dir": "CLIP direction",
        "judge_reads": "exact answer read",
        "autoencoder_keeps": "read after the autoencoder",
    }
    lines = [(s["way"], *(measure_text(s.get(n)) for n in columns)) for s in result["sizes"]]
    return markdown_table(("edited at", *columns.values()), lines)


def failures_table(result: Row) -> str:
    """One line for each kind of wish."""
    lines = [
        (
            f"“{w['instruction'].format(noun='cat')}”",
            *(measure_text(w[n]) for n in ("moved", "moved_left", "another_scene")),
            ", ".join(f"{name} {count}" for name, count in list(w["changed"].items())[:4]),
        )
        for w in result["wishes"].values()
    ]
    heads = (
        "wish",
        "subject moved",
        "moved to the left",
        "another scene, by the judge",
        "changed most often",
    )
    return markdown_table(heads, lines)


def effects_table(result: Row) -> str:
    """For editor, pairs and floor: what changes besides over all kinds of edit, and where it goes."""
    parts = [n for n in TITLES if n in result and result[n]["matrix"]]  # the filter may have kept no pair
    pulls = {p["column"]: p for p in result["editor"]["pulls"]}
    overall = {n: next(m["besides"] for m in result[n]["matrix"] if m["kind"] == "all") for n in parts}
    lines = [
        (
            column,
            *(measure_text(overall[n].get(column)) for n in parts),
            "" if column not in pulls else f"{pulls[column]['to']}, {measure_text(pulls[column]['share'])}",
        )
        for column in (*COLUMNS, "anything")
    ]
    heads = (
        "changed besides",
        *(TITLES[n] for n in parts),
        "the editor's most frequent new value, its share",
    )
    return markdown_table(heads, lines)


def familiar_table(result: Row) -> str:
    """One line for each step from what is known to what is new; by kind without intervals."""
    kinds = [k for k in KINDS if any(k in line["by_kind"] for line in result["lines"])]
    lines = [
        (line["name"], measure_text(line["exact"]), *(_share(line["by_kind"].get(k)) for k in kinds))
        for line in result["lines"]
    ]
    return markdown_table(("what is edited", "exact", *kinds), lines)


def _share(value: Row | None) -> str:
    return "" if value is None else f"{value['value']:.2f}"


def ablations_table(result: Row) -> str:
    """One line for each run, intervals 95 %."""
    columns = {
        "exact": "exact",
        "requested": "requested",
        "l1_over_unedited_l1": "L1 over the unedited picture's",
        "clip_sim_dir": "CLIP direction",
        "clip_sim_image": "CLIP image similarity",
    }
    lines = [(r["about"], str(r["prompts"]), *(measure_text(r[n]) for n in columns)) for r in result.values()]
    return markdown_table(("trained on, or with", "prompts", *columns.values()), lines)


def sizes_picture(result: Row) -> str:
    """The sheet of sizes, with the judge's words for every edit on it."""
    wishes = ", ".join(f"“{text}”" for text in result["shown"])
    words = " ".join(f"At {s['way']}: {'; '.join(s['shown'])}." for s in result["sizes"])
    return picture(f"The same edits at each size: {wishes}. {words}", "sizes")


def failures_picture(result: Row) -> str:
    """The sheet of wishes, with what the judge reads of every result on it."""
    words = " ".join(
        f"“{w['instruction'].format(noun='…')}”: {'; '.join(': '.join(s.values()) for s in w['shown'])}."
        for w in result["wishes"].values()
    )
    return picture(f"Three wishes of the same pictures, with what the judge reads. {words}", "failures")


TABLES: dict[str, Callable[[Row], str]] = {
    "sizes": sizes_table,
    "failures": failures_table,
    "side_effects": effects_table,
    "familiar": familiar_table,
}
PICTURES: dict[str, Callable[[Row], str]] = {"sizes": sizes_picture, "failures": failures_picture}


def blocks(part: str, result: Row) -> dict[str, str]:
    """What the page shows of a part, by the name of the block."""
    shown = {f"{part}_picture": PICTURES[part](result)} if part in PICTURES else {}
    return {part: TABLES[part](result), **shown}
