"""The pairs the shipped editor learns from: written triplets, candidates of each, and what the filter keeps."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ip2p_lib import filtering, pairs
from ip2p_lib.backbone import LanguageModel, load_clip, load_text_to_image, load_writer
from ip2p_lib.miniature.recipes import (
    BOLD_TEMPERATURE,
    BOLD_TRIPLETS,
    EDITOR_FILTER,
    EDITOR_PAIRS,
    EDITOR_TRIPLETS,
    RARE_TRIPLETS,
    TRIPLET_SEED,
)
from ip2p_lib.optimisation import compute_dtype
from ip2p_lib.presets import MINIATURE, WriteConfig
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


def rarest(fresh: Sequence[Triplet], known: Sequence[Triplet], count: int) -> list[Triplet]:
    """Of fresh triplets those whose caption gains, or only loses, the words that known ones do least often."""
    often = Counter(change for t in known for change in _changes(t))
    return sorted(fresh, key=lambda t: min((often[c] for c in _changes(t)), default=len(known)))[:count]


def _changes(triplet: Triplet) -> set[str]:
    """Words that the caption gains, as "+word"; where it gains none, those it loses, as "-word"."""
    before, after = (set(re.findall(r"\w+", text.lower())) for text in (triplet.input, triplet.output))
    return {f"+{word}" for word in after - before} or {f"-{word}" for word in before - after}


def editor_triplets(work: Path, device: torch.device | str) -> list[Triplet]:
    """Many by the preset's cautious writer, and of a bolder one's those that ask for what the first seldom asks."""
    path = work / "triplets.jsonl"
    if not path.exists():
        model = load_writer(MINIATURE, device=device)
        config = replace(MINIATURE.write, seed=TRIPLET_SEED)
        cautious = written(work / "triplets-cautious.jsonl", model, config, EDITOR_TRIPLETS)
        config = replace(config, seed=TRIPLET_SEED + 1, temperature=BOLD_TEMPERATURE)
        bold = written(work / "triplets-bold.jsonl", model, config, BOLD_TRIPLETS)
        write_triplets(path, [*cautious, *rarest(bold, cautious, RARE_TRIPLETS)])
    return list(read_triplets(path))


def kept_pairs(work: Path, device: torch.device | str) -> Path:
    """Triplets, candidates and their scores in `work`; returns the folder of those that the filter keeps."""
    kept, candidates = work / "kept", work / "candidates"
    if kept.exists():
        return kept
    # where there is bf16 arithmetic, it halves the time of sampling, on a CPU too
    base = load_text_to_image(MINIATURE, device=device, dtype=compute_dtype("auto"))
    clip = load_clip(MINIATURE, device=device)
    triplets = editor_triplets(work, device)
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
