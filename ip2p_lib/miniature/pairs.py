"""The pairs the shipped editor learns from: written triplets, candidates of each, and what the filter keeps."""

import heapq
import re
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ip2p_lib import filtering, pairs
from ip2p_lib.backbone import LanguageModel, load_clip, load_text_to_image, load_writer
from ip2p_lib.miniature.recipes import (
    BOLD_TRIPLETS,
    BOLD_WRITING,
    CAUTIOUS_TRIPLETS,
    EDITOR_FILTER,
    EDITOR_PAIRS,
    EDITOR_TRIPLETS,
    TRIPLET_SEED,
)
from ip2p_lib.optimisation import compute_dtype
from ip2p_lib.presets import MINIATURE, Preset, WriteConfig
from ip2p_lib.records import Triplet, read_triplets, write_triplets
from ip2p_lib.scenes.language import is_held_out
from ip2p_lib.triplets.captions import world_captions
from ip2p_lib.triplets.local import LocalWriter
from ip2p_lib.triplets.writing import Rules, write_all


def written(path: Path, model: LanguageModel, config: WriteConfig, count: int) -> list[Triplet]:
    """What the writer makes of fresh captions; forms of instructions that tests use are turned away."""
    writer = LocalWriter(model, config)
    rules = Rules(veto=lambda t: "held out" if is_held_out(t.edit) else "")
    with tqdm(desc="triplets", unit="triplet", total=count) as bar:
        for tally in write_all(
            world_captions(config.seed), writer, config, path,
            made_by={"writer": "writer", "captions": "world"}, rules=rules, count=count,
        ):  # fmt: skip
            bar.update(min(tally.accepted, count) - bar.n)
    return list(read_triplets(path))


def balanced(triplets: Sequence[Triplet], count: int, *, plain_above: float = 0.2) -> list[Triplet]:
    """Up to `count` of them, each time the first of those whose caption gains, or only loses, what was taken least.

    Words in more than this share of the captions say nothing about what was asked for and do not count. Where a
    caption gains several words, the one taken most often speaks for it: a slip that adds an odd word is no rarity.
    """
    often = Counter(word for t in triplets for word in _words(t.output))
    plain = {word for word, n in often.items() if n > plain_above * len(triplets)}
    changes, taken = [_changes(t, plain) for t in triplets], Counter[str]()
    queue, chosen = [(0, i) for i, words in enumerate(changes) if words], list[Triplet]()
    while queue and len(chosen) < count:
        _, i = heapq.heappop(queue)
        now = max(taken[word] for word in changes[i])
        if queue and (now, i) > queue[0]:  # its words were taken meanwhile
            heapq.heappush(queue, (now, i))
            continue
        chosen.append(triplets[i])
        taken.update(changes[i])
    return chosen


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _changes(triplet: Triplet, plain: Set[str]) -> set[str]:
    """Words that the caption gains, as "+word"; where it gains none, those it loses, as "-word"."""
    before, after = _words(triplet.input) - plain, _words(triplet.output) - plain
    return {f"+{word}" for word in after - before} or {f"-{word}" for word in before - after}


def editor_triplets(work: Path, device: torch.device | str, preset: Preset = MINIATURE) -> list[Triplet]:
    """Of what the preset's cautious writer and a bolder one wrote, a balanced choice."""
    path = work / "triplets.jsonl"
    if not path.exists():
        model = load_writer(preset, device=device)
        config = replace(MINIATURE.write, seed=TRIPLET_SEED)
        cautious = written(work / "triplets-cautious.jsonl", model, config, CAUTIOUS_TRIPLETS)
        bold = written(work / "triplets-bold.jsonl", model, BOLD_WRITING, BOLD_TRIPLETS)
        write_triplets(path, balanced([*cautious, *bold], EDITOR_TRIPLETS))
    return list(read_triplets(path))


def kept_pairs(work: Path, device: torch.device | str, preset: Preset = MINIATURE) -> Path:
    """Triplets, candidates and their scores in `work`; returns the folder of those that the filter keeps.

    Args:
        preset: whose models make them; numbers are the recipes'.
    """
    kept, candidates = work / "kept", work / "candidates"
    if kept.exists():
        return kept
    # where bf16 is the faster arithmetic, it halves the time of sampling, on a CPU too
    base = load_text_to_image(preset, device=device, dtype=compute_dtype("auto"))
    clip = load_clip(preset, device=device)
    triplets = editor_triplets(work, device, preset)
    critic = filtering.ClipCritic(clip, EDITOR_FILTER)
    total = len(triplets) * EDITOR_PAIRS.candidates_per_triplet
    with tqdm(desc="pairs", unit="pair", total=total) as bar:
        for progress in pairs.synthesise(triplets, base, EDITOR_PAIRS, candidates, critic=critic):
            bar.update(progress.candidates - bar.n)
    for _ in filtering.score(candidates, clip):
        pass
    scores, config = filtering.read_scores(candidates), EDITOR_FILTER
    count = filtering.export_kept(candidates, filtering.select(scores, config), kept, config)
    tqdm.write(f"kept {count} of {len(scores)} candidates with {config}")
    return kept
