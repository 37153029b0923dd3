"""A system on a benchmark in MagicBrush's format: every turn from its true source, or each from the one before."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image
from torch.nn import functional as F

from ip2p_lib import images
from ip2p_lib.backbone import ClipEncoder
from ip2p_lib.baselines import System
from ip2p_lib.evaluation.intervals import bootstrap
from ip2p_lib.evaluation.sweep import run_each
from ip2p_lib.evaluation.turns import Turn
from ip2p_lib.pairs import blocks
from ip2p_lib.presets import EditConfig
from ip2p_lib.similarity import image_features, text_features

PROPORTIONS = (
    0.02  # how much width over height may differ between source and answer, rounding of sides included
)


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
    """Measure a result, put back into its source and brought to the answer's size, against the answer and its caption.

    An answer that does not open, or has other proportions than its source, is named and nothing is measured; a
    measure that is no number is named and left out.
    """
    try:
        truth, source = images.open_picture(turn.truth), images.open_picture(turn.source)
        _check_proportions(source.size, truth.size)
    except (ValueError, OSError) as error:
        return TurnScore(turn.session, turn.number, fault=" ".join(str(error).split()))
    shown = images.paste_back(source, result)  # what the edit's size cut off is as it was
    pair = images.to_unit(images.to_tensor([images.fit(shown, truth.size), truth]))
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
    """Means with their intervals, turns of a session drawn together, and what could not be measured."""
    found: dict[str, Any] = {"faults": [f"{s.session} turn {s.number}: {s.fault}" for s in scores if s.fault]}
    for name in ("l1", "l2", "clip_i", "clip_t"):
        measured = [s for s in scores if getattr(s, name) is not None]
        if measured:
            mean = bootstrap([getattr(s, name) for s in measured], groups=[s.session for s in measured])
            found[name] = {k: round(v, 4) for k, v in asdict(mean).items()}
    return found


def sentence(found: dict[str, Any]) -> str:
    """A summary in one line."""
    told = [
        f"{n} {m['value']:.3f} ({m['low']:.3f} to {m['high']:.3f})" for n, m in found.items() if n != "faults"
    ]
    return ", ".join([*told, f"{len(found['faults'])} not measured"])
