"""A training of the shipped models, watched: progress, sample sheets, a log, and the record that is shipped."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ip2p_lib import storage
from ip2p_lib.optimisation import Report

SHEET_EVERY = 500
LOSSES = 40  # shipped with a model, at least

Sheet = Callable[[Report], None]  # draws samples of a model with its averaged weights


def sheet_path(work: Path, name: str, report: Report) -> Path:
    """Where the samples of a step go."""
    path = work / "sheets" / f"{name}-{report.step:06d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def watch(
    work: Path, name: str, steps: Iterable[Report], total: int, sheet: Sheet | None, recipe: dict[str, Any]
) -> Report:
    """Run a training to its end with progress, sample sheets and a log in `work`; returns the last report."""
    path = work / f"{name}-log.json"
    log: dict[str, Any] = storage.read_json(path) if path.exists() else {"hours": 0.0, "loss": []}
    started = time.monotonic() - log["hours"] * 3600
    last: Any = None
    with tqdm(steps, total=total, desc=name, unit="step") as bar:
        for last in bar:
            bar.update(max(0, last.step - bar.n - 1))
            if last.step % 50 == 0 and last.loss.isfinite():
                log["loss"].append([last.step, round(last.loss.item(), 5)])
                bar.set_postfix(loss=log["loss"][-1][1])
            if last.step % 250 == 0 or last.step == total:
                log["hours"] = (time.monotonic() - started) / 3600
                storage.write_json(path, {**log, "recipe": recipe, **storage.environment()})
            if sheet and last.step % SHEET_EVERY == 0 and last.step < total:
                _draw(sheet, last)
    return last


@torch.no_grad()
def _draw(sheet: Sheet, report: Report) -> None:
    report.ema.swap()
    report.model.eval()
    sheet(report)
    report.model.train()
    report.ema.swap()


def write_record(work: Path, model: Path, names: tuple[str, ...]) -> None:
    """Write `training.json` beside shipped weights: recipe, hours, machine, versions, losses of each part."""
    logs = {n: storage.read_json(work / f"{n}-log.json") for n in names}
    for log in logs.values():
        log["loss"] = log["loss"][:: max(1, len(log["loss"]) // LOSSES)]
    storage.write_json(model / "training.json", logs)
