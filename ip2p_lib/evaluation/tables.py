"""Tables of `docs/evaluation.md` and captions of `docs/baselines.md`, made from their `tradeoff.json`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

COLUMNS = {
    "clip_sim_dir": "direction",
    "clip_sim_image": "image similarity",
    "requested": "requested change",
    "exact": "exact",
    "l1": "L1 to truth",
    "l1_outside": "L1 outside the mask",
}


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def measure_text(value: Mapping[str, Any] | None) -> str:
    """A measure with its interval, to two decimals; "" for none."""
    return "" if value is None else f"{value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f})"


def picture(alt: str, name: str) -> str:
    """A picture of `docs/images` in Markdown, with what it shows in words."""
    return f"![{alt}](images/{name}.png)"


def _reaches(line: Mapping[str, Any]) -> str:
    """Why two curves without a direction in common are not compared."""
    ours, theirs = (f"{a:.2f} to {b:.2f}" for a, b in (line["our_reach"], line["their_reach"]))
    return f"none in common: ours {ours}, theirs {theirs}"


def _compared(lines: Sequence[Mapping[str, Any]], across: str, verdict: str) -> str:
    """Our curve against each of the others, a line for each place where both were read."""
    rows: list[tuple[object, ...]] = []
    for c in lines:
        found = [
            (c["against"], f"{p[across]:.2f}", *(measure_text(p[n]) for n in ("ours", "theirs", "difference")),
             "yes" if p["above"] else "no")
            for p in c["points"]
        ]  # fmt: skip
        rows += found or [(c["against"], c.get("fault") or _reaches(c), "", "", "", "")]
    return markdown_table(("against", across, "ours", "theirs", "difference", verdict), rows)


def _as_distances(line: Mapping[str, Any]) -> dict[str, Any]:
    """What was kept, which curves count upwards, as the distances that it is minus."""
    turned = [{**p, **{n: _minus(p[n]) for n in ("ours", "theirs", "difference")}} for p in line["points"]]
    return {**line, "points": turned}


def _minus(m: Mapping[str, Any]) -> dict[str, Any]:
    return {**m, "value": -m["value"], "low": -m["high"], "high": -m["low"]}


def tables(result: Mapping[str, Any]) -> dict[str, str]:
    """Markdown by the name of the block it fills; intervals are 95 %."""
    points = [
        (p["system"], f"{p['dial']:g}", p["edits"], *(measure_text(p.get(name)) for name in COLUMNS))
        for p in result["points"]
    ]
    kinds = [
        (c["kind"], c["measure"], c["truth"], measure_text(c))
        for c in result["correlations"]
        if (c["measure"] == "clip_sim_dir" and c["truth"] in ("exact", "requested"))
        or (c["measure"], c["truth"]) == ("clip_sim_image", "l1_outside")
    ]  # fmt: skip
    wrong = [(k, m["n"], measure_text(m)) for k, m in result["clip_prefers_the_wrong_one"].items()]
    return {
        "points": markdown_table(("system", "dial", "edits", *COLUMNS.values()), points),
        "compared": _compared(result["compared"], "direction", "ours above, intervals apart"),
        "compared_by_truth": _compared(
            [_as_distances(c) for c in result["compared_by_truth"]],
            "requested",
            "ours nearer, intervals apart",
        ),
        "correlations": markdown_table(
            ("kind of edit", "CLIP's measure", "truth", "rank correlation"), kinds
        ),
        "preferences": markdown_table(("kind of edit", "edits", "share of wrong preferences"), wrong),
    }


def examples_file(system: str) -> str:
    """Name, without its ending, of the sheet that shows examples of a system."""
    return f"examples_{system.replace('-', '_')}"


def captions(result: Mapping[str, Any]) -> dict[str, str]:
    """Each sheet of examples with the judge's words for its alternative text, by the name of block and file."""
    found = {}
    for name, sheet in result["examples"].items():
        words = "; ".join(f"“{e['instruction']}” {e['judge']}" for e in sheet["edits"])
        alt = f"{sheet['of'][0].upper()}{sheet['of'][1:]}, dial at {sheet['dial']:g}: {words}"
        found[examples_file(name)] = picture(alt, examples_file(name))
    return found
