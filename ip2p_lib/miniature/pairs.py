"""The pairs the shipped editor learns from: written triplets, candidates of each, and what the filter keeps."""

from dataclasses import replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ip2p_lib import filtering, pairs
from ip2p_lib.backbone import load_clip, load_text_to_image, load_writer
from ip2p_lib.miniature.recipes import EDITOR_FILTER, EDITOR_PAIRS, EDITOR_TRIPLETS, TRIPLET_SEED
from ip2p_lib.optimisation import compute_dtype
from ip2p_lib.presets import MINIATURE
from ip2p_lib.records import Triplet, read_triplets
from ip2p_lib.scenes.language import is_held_out
from ip2p_lib.triplets.captions import world_captions
from ip2p_lib.triplets.local import LocalWriter
from ip2p_lib.triplets.writing import Rules, write_all


def written_triplets(path: Path, device: torch.device | str) -> list[Triplet]:
    """What the writer makes of fresh captions; forms of instructions that tests use are turned away."""
    writer_config = replace(MINIATURE.write, seed=TRIPLET_SEED)
    writer = LocalWriter(load_writer(MINIATURE, device=device), writer_config)
    rules = Rules(veto=lambda t: "held out" if is_held_out(t.edit) else "")
    with tqdm(desc="triplets", unit="triplet", total=EDITOR_TRIPLETS) as bar:
        for tally in write_all(
            world_captions(TRIPLET_SEED), writer, writer_config, path,
            made_by={"writer": "writer", "captions": "world"}, rules=rules, count=EDITOR_TRIPLETS,
        ):  # fmt: skip
            bar.update(min(tally.accepted, EDITOR_TRIPLETS) - bar.n)
    return list(read_triplets(path))


def kept_pairs(work: Path, device: torch.device | str) -> Path:
    """Triplets, candidates and their scores in `work`; returns the folder of those that the filter keeps."""
    kept, candidates = work / "kept", work / "candidates"
    if kept.exists():
        return kept
    # where there is bf16 arithmetic, it halves the time of sampling, on a CPU too
    base = load_text_to_image(MINIATURE, device=device, dtype=compute_dtype("auto"))
    clip = load_clip(MINIATURE, device=device)
    triplets = written_triplets(work / "triplets.jsonl", device)
    critic = filtering.ClipCritic(clip, EDITOR_FILTER)
    total = EDITOR_TRIPLETS * EDITOR_PAIRS.candidates_per_triplet
    with tqdm(desc="pairs", unit="pair", total=total) as bar:
        for progress in pairs.synthesise(triplets, base, EDITOR_PAIRS, candidates, critic=critic):
            bar.update(progress.candidates - bar.n)
    for _ in filtering.score(candidates, clip):
        pass
    scores, config = filtering.read_scores(candidates), EDITOR_FILTER
    count = filtering.export_kept(candidates, filtering.select(scores, config), kept, config)
    tqdm.write(f"kept {count} of {len(scores)} candidates with {config}")
    return kept
