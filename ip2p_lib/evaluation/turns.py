"""Benchmarks in the folder format of MagicBrush, read and drawn: edits in sessions of several turns, each with its answer."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ip2p_lib import storage
from ip2p_lib.records import Triplet
from ip2p_lib.scenes import caption, edit_mask, held_out_instruction, render, sample_edit, sample_scene
from ip2p_lib.scenes.world import Scene

SESSIONS, TURNS, DESCRIPTIONS = "edit_sessions.json", "edit_turns.json", "global_descriptions.json"

PROPORTIONS = (
    0.02  # how much width over height may differ between source and answer, rounding of sides included
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One edit of a session. Captions are "" where the benchmark has none."""

    session: str
    number: int  # from 1
    source: Path
    truth: Path
    instruction: str
    caption: str = ""
    edited_caption: str = ""

    @property
    def triplet(self) -> Triplet:
        """As a triplet; the instruction stands in for captions that the benchmark lacks."""
        return Triplet(
            f"{self.session}-{self.number}",
            self.caption or self.instruction,
            self.instruction,
            self.edited_caption or self.instruction,
        )


def read_turns(folder: Path) -> list[Turn]:
    """All turns of a benchmark, sessions together and in order.

    Reads `edit_sessions.json` or, where there is none, `edit_turns.json`, in which a picture's session is the
    part of its name before the last dash; and `global_descriptions.json` if it is there.

    Raises:
        FileNotFoundError: the folder has neither file.
        ValueError: a file is damaged, there is no turn, or one names no picture or instruction.

    Source: the layout of OSU-NLP-Group/MagicBrush's development and test sets.
    """
    path = next((folder / n for n in (SESSIONS, TURNS) if (folder / n).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder} must be a benchmark with {SESSIONS} or {TURNS}, found neither")
    found = storage.read_json(path)
    told = storage.read_json(folder / DESCRIPTIONS) if (folder / DESCRIPTIONS).is_file() else {}
    sessions: dict[str, list[Any]] = defaultdict(list)
    try:
        if isinstance(found, dict):
            sessions.update({str(k): list(v) for k, v in found.items()})
        else:
            for row in found:
                sessions[row["input"].rpartition("-")[0]].append(row)
        turns = [
            _turn(folder, session, number, row, told.get(session, {}))
            for session, rows in sessions.items()
            for number, row in enumerate(rows, 1)
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must hold turns with input, output and instruction, but one has not: {error!r}"
        ) from error
    if not turns:
        raise ValueError(f"{path} must hold at least one turn, has none")
    return turns


def _turn(folder: Path, session: str, number: int, row: dict[str, str], told: dict[str, str]) -> Turn:
    place = folder / "images" / session
    return Turn(
        session,
        number,
        place / row["input"],
        place / row["output"],
        row["instruction"],
        told.get(row["input"], ""),
        told.get(row["output"], ""),
    )


def draw_benchmark(folder: Path, sessions: int, seed: int, *, turns: int = 3, size: int = 64) -> None:
    """A benchmark of the picture world in the same format, whole or not at all: held-out phrasings, exact answers.

    Raises:
        ValueError: a count is below 1.
    """
    if sessions < 1 or turns < 1:
        raise ValueError(f"a benchmark needs sessions and turns, got {sessions} and {turns}")
    with storage.atomic_folder(folder) as partial:
        listed, told = {}, {}
        for i in range(sessions):
            listed[f"{i:05d}"], told[f"{i:05d}"] = _draw_session(partial, f"{i:05d}", seed, i, turns, size)
        storage.write_json(partial / SESSIONS, listed)
        storage.write_json(partial / TURNS, [row for rows in listed.values() for row in rows])
        storage.write_json(partial / DESCRIPTIONS, told)


def _draw_session(
    folder: Path, name: str, seed: int, index: int, turns: int, size: int
) -> tuple[list[dict[str, str]], dict[str, str]]:
    rng = np.random.default_rng((seed, index))
    place = folder / "images" / name
    place.mkdir(parents=True)
    scene, before = sample_scene(rng), f"{name}-input.png"
    told, rows = {before: _drawn(scene, place / before, size)}, []
    for turn in range(1, turns + 1):
        edit = sample_edit(scene, rng)
        after, mask = f"{name}-output{turn}.png", f"{name}-mask{turn}.png"
        told[after] = _drawn(edit.after, place / after, size)
        Image.fromarray(edit_mask(edit.before, edit.after, size)).save(place / mask)
        said = held_out_instruction(edit, int(rng.integers(2**31)))
        rows.append({"input": before, "mask": mask, "output": after, "instruction": said})
        scene, before = edit.after, after
    return rows, told


def _drawn(scene: Scene, path: Path, size: int) -> str:
    render(scene, size).save(path)
    return caption(scene, 0)
