"""Benchmarks in the folder format of MagicBrush: edits in sessions of several turns, each with its answer."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.nn import functional as F

from ip2p_lib import images, storage
from ip2p_lib.backbone import ClipEncoder
from ip2p_lib.baselines import System
from ip2p_lib.evaluation.measures import bootstrap
from ip2p_lib.evaluation.sweep import run_each
from ip2p_lib.pairs import blocks
from ip2p_lib.presets import EditConfig
from ip2p_lib.records import Triplet
from ip2p_lib.scenes import caption, edit_mask, held_out_instruction, render, sample_edit, sample_scene
from ip2p_lib.scenes.world import Scene
from ip2p_lib.similarity import image_features, text_features

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


@dataclass(frozen=True, slots=True)
class TurnScore:
    """One turn measured as MagicBrush does, pixels in [0, 1]; None where it could not be, and why."""

    session: str
    number: int
    l1: float | None = None  # mean absolute distance to the answer
    l2: float | None = None  # mean squared
    clip_i: float | None = None  # cosine of result and answer
    clip_t: float | None = None  # cosine of result and the answer's caption
    fault: str = ""


def run_benchmark(
    system: System,
    value: float,
    turns: Sequence[Turn],
    clip: ClipEncoder,
    config: EditConfig,
    *,
    iterated: bool = False,
    seed: int = 0,
    batch_size: int = 32,
) -> Iterator[TurnScore]:
    """Make the edits of a benchmark and measure them.

    Args:
        iterated: edit each session's first picture turn by turn, going on from our own results, and measure the
            last turn ("multi-turn"); otherwise every turn starts from its true source ("single-turn").

    A turn whose pictures do not open, or that the system refuses, is named and not measured; it ends its
    session where turns are iterated.
    """
    last = {t.session: t.number for t in turns}
    state: dict[str, Image.Image] = {}
    failed: set[str] = set()
    numbers = sorted({t.number for t in turns})
    rounds = [[t for t in turns if t.number == n] for n in numbers] if iterated else [list(turns)]
    for group in rounds:
        for block in blocks([t for t in group if t.session not in failed], batch_size):
            results = edit_turns(system, value, block, state, config, seed)
            for turn, result in zip(block, results, strict=True):
                if isinstance(result, str):
                    failed |= {turn.session} if iterated else set()
                    yield TurnScore(turn.session, turn.number, fault=result)
                elif not iterated or turn.number == last[turn.session]:
                    yield score_turn(turn, result, clip)
                if iterated and isinstance(result, Image.Image):
                    state[turn.session] = result


def edit_turns(
    system: System,
    value: float,
    turns: Sequence[Turn],
    state: Mapping[str, Image.Image],
    config: EditConfig,
    seed: int,
) -> list[Image.Image | str]:
    """Result of each turn, or why there is none: from its session's state if there is one, else its own source."""
    found: dict[int, Image.Image | str] = {}
    usable: dict[int, Image.Image] = {}
    for i, turn in enumerate(turns):
        try:
            picture = state.get(turn.session) or images.open_picture(turn.source)
            side = images.edit_size(*picture.size, config.resolution, config.multiple)
            usable[i] = images.fit(picture, side)
        except (ValueError, OSError) as error:
            found[i] = " ".join(str(error).split())
    made = run_each(
        lambda chosen: system.run(
            [usable[i] for i in chosen], [turns[i].triplet for i in chosen], value, [seed] * len(chosen)
        ),
        list(usable),
    )
    found |= {i: r if isinstance(r, str) else r.picture for i, r in made}
    return [found[i] for i in range(len(turns))]


def score_turn(turn: Turn, result: Image.Image, clip: ClipEncoder) -> TurnScore:
    """Measure a result, brought to the answer's size, against the answer and its caption.

    An answer that does not open, or has other proportions than its source, is named and nothing is measured; a
    measure that is no number is named and left out.
    """
    try:
        truth, source = images.open_picture(turn.truth), images.open_picture(turn.source)
        _check_proportions(source.size, truth.size)
    except (ValueError, OSError) as error:
        return TurnScore(turn.session, turn.number, fault=" ".join(str(error).split()))
    pair = images.to_unit(images.to_tensor([images.fit(result, truth.size), truth]))
    off, features = pair[0] - pair[1], image_features(clip, pair)
    found = {
        "l1": off.abs().mean().item(),
        "l2": (off**2).mean().item(),
        "clip_i": F.cosine_similarity(features[:1], features[1:]).item(),
    }
    if turn.edited_caption:
        told = text_features(clip, [turn.edited_caption])
        found["clip_t"] = F.cosine_similarity(features[:1], told).item()
    broken = [n for n, v in found.items() if not math.isfinite(v)]
    kept = {n: v for n, v in found.items() if n not in broken}
    fault = "; ".join(f"{n} is not a number" for n in broken)
    return TurnScore(turn.session, turn.number, fault=fault, **kept)


def _check_proportions(source: tuple[int, int], truth: tuple[int, int]) -> None:
    """Refuse an answer that would have to be cropped before it can be compared."""
    across, down = source[0] * truth[1], source[1] * truth[0]
    if abs(across - down) > PROPORTIONS * max(across, down):
        raise ValueError(
            f"an answer must have its source's proportions, {source[0]} x {source[1]}; got {truth[0]} x {truth[1]}"
        )


def summary(scores: Sequence[TurnScore]) -> dict[str, Any]:
    """Means with their intervals, and what could not be measured."""
    found: dict[str, Any] = {"faults": [f"{s.session} turn {s.number}: {s.fault}" for s in scores if s.fault]}
    for name in ("l1", "l2", "clip_i", "clip_t"):
        values = [v for s in scores if (v := getattr(s, name)) is not None]
        if values:
            found[name] = {k: round(v, 4) for k, v in asdict(bootstrap(values)).items()}
    return found


def sentence(found: dict[str, Any]) -> str:
    """A summary in one line."""
    told = [
        f"{n} {m['value']:.3f} ({m['low']:.3f} to {m['high']:.3f})" for n, m in found.items() if n != "faults"
    ]
    return ", ".join([*told, f"{len(found['faults'])} not measured"])
