"""Plots of a result file, readable without colour: each system has its own marker and line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ip2p_lib import storage
from ip2p_lib.evaluation.curves import DIRECTION, IMAGE, RELEASED

# Okabe and Ito's colours, which colour-blind eyes tell apart; darkness and markers differ too.
LOOKS = {
    "ours": ("#000000", "o", "-"),
    "ours-text": ("#0072B2", "s", "-"),
    "sdedit": ("#D55E00", "^", "--"),
    "sdedit-instruction": ("#E69F00", "v", "--"),
    "no-text": ("#999999", "D", ":"),
    "prompt-to-prompt": ("#009E73", "P", "-."),
    "text2live": ("#CC79A7", "X", "-."),
    "nothing": ("#56B4E9", "p", "none"),
    "truth": ("#009E73", "*", "none"),
}
DPI, SIZE = 110, (6.4, 4.6)
Row = Mapping[str, Any]


def new_figure(size: tuple[float, float] = SIZE, columns: int = 1) -> tuple[Any, list[Any]]:
    """A figure of `size` inches that belongs to no window and no global state, and its axes side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    found = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for axes in found:
        axes.grid(color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, found


def save_figure(figure: Any, path: Path) -> Path:
    """Write a PNG, whole or not at all, and the same bytes each time."""
    with storage.atomic_file(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
    return path


def _curve(axes: Any, points: Sequence[Row], across: str, up: str, **changes: Any) -> None:
    """One system's points with the intervals of both axes."""
    name = str(points[0]["system"])
    colour, marker, line = LOOKS.get(name, ("#444444", "h", "-"))
    x, y = ([p[key]["value"] for p in points] for key in (across, up))
    bars = [
        [
            [p[key]["value"] - p[key]["low"] for p in points],
            [p[key]["high"] - p[key]["value"] for p in points],
        ]
        for key in (across, up)
    ]
    looks = {"color": colour, "marker": marker, "linestyle": line, "label": name, **changes}
    axes.errorbar(x, y, xerr=bars[0], yerr=bars[1], elinewidth=0.7, capsize=2, markersize=6, **looks)


def _by_system(points: Sequence[Row], *needed: str) -> list[list[Row]]:
    """Points that have all that is needed, by system in the order of the file, along the dial."""
    whole = [p for p in points if all(n in p for n in needed)]
    names = dict.fromkeys(str(p["system"]) for p in whole)
    return [sorted((p for p in whole if p["system"] == n), key=lambda p: p["dial"]) for n in names]


def tradeoff(result: Row, path: Path, axes_names: tuple[str, str] = (DIRECTION, IMAGE)) -> Path:
    """Image similarity over direction, every system; the paper's figure 8.

    Raises:
        ValueError: no point has both measures.
    """
    systems = _by_system(result["points"], *axes_names)
    if not systems:
        raise ValueError(f"a curve needs points with {axes_names[0]} and {axes_names[1]}, found none")
    figure, (axes,) = new_figure()
    for points in systems:
        _curve(axes, points, *axes_names)
    wrong = ", pixels in the wrong range" if axes_names == RELEASED else ""
    axes.set_xlabel(f"change wanted: CLIP direction similarity{wrong} (cosine)")
    axes.set_ylabel("picture kept: CLIP image similarity (cosine)")
    axes.legend(fontsize=8, title="mean and 95 % interval", title_fontsize=7)
    return save_figure(figure, path)


def truth_curve(result: Row, path: Path) -> Path:
    """The same trade-off without CLIP: distance outside the exact mask over the requested change, by the judge.

    Raises:
        ValueError: no point has both measures: there is no judge or no mask.
    """
    systems = _by_system(result["points"], "requested", "l1_outside")
    if not systems:
        raise ValueError("a curve against the truth needs a judge and exact masks, found no point with both")
    figure, (axes,) = new_figure()
    for points in systems:
        _curve(axes, points, "requested", "l1_outside")
    axes.invert_yaxis()
    axes.set_xlabel("change wanted: share of edits with the requested change, by the judge")
    axes.set_ylabel(
        "picture kept: distance outside the exact mask\n(mean L1 of values in [-1, 1], up is better)"
    )
    axes.legend(fontsize=8, title="mean and 95 % interval", title_fontsize=7)
    return save_figure(figure, path)


def ranges(result: Row, path: Path) -> Path:
    """Our curve as CLIP should be fed, and as the released script feeds it.

    Raises:
        ValueError: our editor was not measured.
    """
    figure, (axes,) = new_figure()
    mine = [p for p in result["points"] if p["system"] == "ours"]
    for names, changes in (
        ((DIRECTION, IMAGE), {"label": "pixels in [0, 1], as CLIP expects"}),
        (RELEASED, {"label": "pixels in [-1, 1], as released", "color": "#D55E00", "marker": "^", "linestyle": "--"}),
    ):  # fmt: skip
        points = _by_system(mine, *names)
        if not points:
            raise ValueError("the two ranges are compared on our own curve; measure the system 'ours' first")
        _curve(axes, points[0], *names, **changes)
    axes.set_xlabel("CLIP direction similarity (cosine)")
    axes.set_ylabel("CLIP image similarity (cosine)")
    axes.legend(fontsize=8, title="ours, mean and 95 % interval", title_fontsize=7)
    return save_figure(figure, path)


def draw(result: Row, folder: Path) -> list[Path]:
    """Every plot that the result has measures for."""
    points = result["points"]
    paths = [tradeoff(result, folder / "tradeoff.png")]
    if _by_system(points, "requested", "l1_outside"):
        paths.append(truth_curve(result, folder / "tradeoff_truth.png"))
    if any(p["system"] == "ours" for p in points):
        paths.append(ranges(result, folder / "tradeoff_ranges.png"))
    return paths
