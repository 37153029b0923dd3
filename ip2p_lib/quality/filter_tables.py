"""Tables of `docs/filtering.md`, made from `data/results/filter.json`."""

from collections.abc import Mapping
from typing import Any

from ip2p_lib.evaluation.tables import markdown_table
from ip2p_lib.records import SIMILARITIES

NAMES = {
    "clip_sim_0": "input picture and its caption",
    "clip_sim_1": "edited picture and its caption",
    "clip_sim_dir": "direction",
    "clip_sim_image": "both pictures",
}


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _interval(row: Mapping[str, Any]) -> str:
    if row["precision"] is None:
        return "none kept"
    return f"{_percent(row['precision'])} ({100 * row['low']:.0f} to {100 * row['high']:.0f})"


def _shares(row: Mapping[str, Any]) -> tuple[object, ...]:
    return _percent(row["exact"]), row["kept"], _interval(row), _percent(row["recall"])


SHARES = ("exact before", "kept", "exact among kept", "exact ones kept")


def filter_tables(result: Mapping[str, Any]) -> dict[str, str]:
    """Markdown by the name of the block it fills."""
    whole = result["filter"]
    kinds = [(k, r["candidates"], *_shares(r)) for k, r in whole["by_kind"].items()]
    everything = ("all", whole["all"]["candidates"], *_shares(whole["all"]))
    quantiles = whole["by_quantile"]
    tables = {
        "by-kind": markdown_table(("kind of edit", "candidates", *SHARES), [*kinds, everything]),
        "auc": markdown_table(
            ("similarity", "chance to rank an exact pair above another"),
            [(f"{NAMES[n]} (`{n}`)", f"{whole['auc'][n]:.2f}") for n in SIMILARITIES],
        ),
        "sweep": markdown_table(
            ("threshold of prompt-to-prompt", "exact", "95 % interval", "image similarity"),
            [
                (r["threshold"], _percent(r["exact"]), f"{100 * r['low']:.0f} to {100 * r['high']:.0f}", r["image_similarity"])
                for r in result["sweep"]
            ],
        ),
        "saving": _saving(result),
        "shift": _by_shift(whole, result["shift"]),
    }  # fmt: skip
    for name, block in (("clip_sim_dir", "direction"), ("clip_sim_image", "image")):
        rows = [(_percent(r["below"]), r["threshold"], *_shares(r)[1:]) for r in quantiles[name]]
        tables[block] = markdown_table(("candidates below", "threshold", *SHARES[1:]), rows)
    return tables


def _by_shift(whole: Mapping[str, Any], shift: Mapping[str, Any]) -> str:
    """Both filters side by side, by kind of edit."""
    rows = [
        (kind, one["candidates"], one["kept"], _interval(one), other["kept"], _interval(other))
        for (kind, one), other in zip(
            [*whole["by_kind"].items(), ("all", whole["all"])],
            [*shift["by_kind"].values(), shift["all"]],
            strict=True,
        )
    ]
    heads = (
        "kind of edit",
        "candidates",
        "kept by cosine",
        "exact among them",
        "kept by shift",
        "exact among them",
    )
    return markdown_table(heads, rows)


def _saving(result: Mapping[str, Any]) -> str:
    everything = result["filter"]["all"]
    rows: list[tuple[object, ...]] = [("none", "0 %", *_shares(everything)[1:])]
    for option in ("stop_after_hits", "give_up_after"):
        for count, r in result[option].items():
            rows.append((f"`{option}={count}`", _percent(1 - r["sampled"]), *_shares(r)[1:]))
    forked = result["forked"]
    count = forked["thresholds_per_seed"]
    rows.append((f"`thresholds_per_seed={count}`", _percent(forked["rows_spared"]), *_shares(forked)[1:]))
    for r in result["preview"]:
        lost = (r["kept"], _interval(r), _percent(1 - r["passing_lost"]) + " of the passing")
        name = f"`preview_at={r['preview_at']}`, `preview_slack={r['slack']}`"
        rows.append((name, _percent(r["steps_spared"]), *lost))
    return markdown_table(("option", "UNet work spared", *SHARES[1:]), rows)
