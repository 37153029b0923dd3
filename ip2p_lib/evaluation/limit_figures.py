"""Figures of what the editor cannot do, and of what its training owes to each part; all read without colour."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ip2p_lib.evaluation.figures import new_figure, save_figure
from ip2p_lib.evaluation.side_effects import COLUMNS, asked_for

Row = Mapping[str, Any]
TITLES = {
    "editor": "the editor",
    "kept_pairs": "pairs it learns from",
    "floor": "judge and autoencoder alone",
}
SHARES = {"hundredth": 0.01, "tenth": 0.1, "all": 1.0}  # of the prompts
CHANGED = {
    "unfiltered": "no CLIP filter",
    "no_dropout": "no dropout",
    "random_start": "random start",
    "drawn": "drawn answers",
}
LOOKS = {"requested": ("#D55E00", "s", "--"), "exact": ("#000000", "o", "-")}  # colour, marker, line


def effects_matrix(result: Row, path: Path) -> Path:
    """Share of edits that change an attribute besides, kind of edit by attribute; every cell says its number.

    Raises:
        ValueError: nothing was measured.
    """
    parts = [n for n in TITLES if n in result and result[n]["matrix"]]
    if not parts:
        raise ValueError("a matrix of side effects needs measured edits, found none")
    figure, axes = new_figure((4.2 * len(parts) + 1, 4.4), columns=len(parts))
    for name, one in zip(parts, axes, strict=True):
        _matrix(one, result[name]["matrix"])
        one.set_title(f"{TITLES[name]} (n = {result[name]['edits']})", fontsize=10)
    axes[0].set_ylabel("asked for")
    axes[len(parts) // 2].set_xlabel("changed besides, per cent of edits (by the judge)")
    return save_figure(figure, path)


def _matrix(axes: Any, lines: Sequence[Row]) -> None:
    """One matrix: darker is more, and the number is written in."""
    names = (*COLUMNS, "anything")
    axes.grid(visible=False)
    for y, line in enumerate(lines):
        for x, name in enumerate(names):
            share = line["besides"].get(name)
            if share is None:
                mark = "asked" if asked_for(line["kind"], name) else ""
                axes.text(x, y, mark, ha="center", va="center", fontsize=6.5, color="0.45")
                continue
            value = share["value"]
            grey = str(1 - 0.85 * value)
            axes.fill([x - 0.5, x + 0.5, x + 0.5, x - 0.5], [y - 0.5, y - 0.5, y + 0.5, y + 0.5], grey)
            axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=9,
                      color="white" if value > 0.5 else "black")  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(lines)), [line["kind"] for line in lines], fontsize=8)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(lines) - 0.5, -0.5)


def ablation_curve(result: Row, path: Path) -> Path:
    """Success over the size of the data set, and beside it what each other change of the training costs.

    The paper's figure 10, with the truth in place of CLIP's opinion.

    Args:
        result: runs by name, as `data/results/ablations.json` has them.

    Raises:
        ValueError: a run is missing, or runs differ in their number of steps.
    """
    _check_runs(result)
    figure, (left, right) = new_figure((8.4, 4.2), columns=2)
    for measure in LOOKS:
        _runs(left, list(SHARES.values()), [result[n][measure] for n in SHARES], measure, joined=True)
        _runs(right, range(len(CHANGED) + 1), [result[n][measure] for n in ("all", *CHANGED)], measure)
    left.set_xscale("log")
    left.set_xticks(
        list(SHARES.values()), [f"{100 * s:g} %\n{result[n]['prompts']}" for n, s in SHARES.items()]
    )
    left.set_xlabel(f"share of the data and prompts; {result['all']['steps']} steps")
    left.set_ylabel("share of held-out edits, by the judge")
    right.set_xticks(range(len(CHANGED) + 1), ["kept pairs", *CHANGED.values()], rotation=25, ha="right")
    for axes in (left, right):
        axes.set_ylim(0, 1)
    left.legend(fontsize=8, title="mean and 95 % interval", title_fontsize=7, loc="upper left")
    return save_figure(figure, path)


def _check_runs(result: Row) -> None:
    """Refuse to draw a part of the runs, or runs that cannot be compared."""
    needed = (*SHARES, *CHANGED)
    if lacking := [n for n in needed if n not in result]:
        raise ValueError(
            f"the ablation curve needs the runs {', '.join(needed)}; {', '.join(lacking)} not on file, make them"
            " with `ip2p ablations`"
        )
    if len(steps := {result[n]["steps"] for n in needed}) > 1:
        raise ValueError(f"ablations must have equal steps to be compared, got {sorted(steps)}")


def _runs(
    axes: Any, places: Sequence[float], found: Sequence[Row], measure: str, *, joined: bool = False
) -> None:
    """One measure of several runs with its intervals; a line joins those whose order means something."""
    colour, marker, line = LOOKS[measure]
    ends = [[m["value"] - m["low"] for m in found], [m["high"] - m["value"] for m in found]]
    axes.errorbar(
        places, [m["value"] for m in found], yerr=ends, color=colour, marker=marker, label=measure, capsize=3,
        elinewidth=0.8, linestyle=line if joined else "none",
    )  # fmt: skip
