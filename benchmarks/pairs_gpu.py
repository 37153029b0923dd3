"""The GPU benchmark's part about picture pairs: candidates per minute against the released way of making them.

The released way: one candidate at a time, four rows, self-attention scores written down and the source's copied over the
target's. 512 pixels, random weights, bf16; decoding and CLIP are the same on both sides and left out. Few steps are
timed, and rates scaled to the 100 of the paper. Run through `python benchmarks/gpu.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import median

import torch
from gpu_parts import Deadline, Row, cast, largest, peak_gib, rounds_within
from pairs_cpu import CopiedScores
from torch import Tensor

from ip2p_lib.attention import is_shared, self_attention_layers
from ip2p_lib.backbone import Backbone
from ip2p_lib.diffusion import euler_ancestral
from ip2p_lib.guidance import single_guidance
from ip2p_lib.pairs import Candidate, pair_latents
from ip2p_lib.records import Triplet

PAPER_STEPS, STEPS = 100, 20
BATCHES, SIZES_TRIED = (1, 8, 16), (32, 64, 128)
FORKS = 8


def candidates(count: int, forked: bool = False) -> list[Candidate]:
    """Attempts at pairs; with different captions and seeds, or thresholds that fork off one source."""
    made = []
    for n in range(count):
        which = 0 if forked else n
        triplet = Triplet(
            f"house-{which}", f"a house, number {which}", "make it night", f"a house at night, number {which}"
        )
        made.append(Candidate(triplet, n, which, 0.1 + 0.8 * (n + 0.5) / count, 7.5))
    return made


@torch.no_grad()
def released(base: Backbone, candidate: Candidate, steps: int, size: int) -> Tensor:
    """Latents of a pair, (2, C, h, w), made by copying score matrices in rows [uncond A, uncond B, A, B]."""
    plain, hooked = dict(base.unet.attn_processors), self_attention_layers(base.unet)
    copying = CopiedScores(torch.tensor([0, 0, 2, 2], device=base.device))
    states = base.encode_text(["", candidate.triplet.input, candidate.triplet.output])[[0, 0, 1, 2]]

    def predict(scaled: Tensor, timestep: Tensor, step: int) -> Tensor:
        shares = is_shared(candidate.p2p_threshold, step, steps)
        base.unet.set_attn_processor({n: copying if shares and n in hooked else p for n, p in plain.items()})
        latents = scaled.to(base.unet.dtype).repeat(2, 1, 1, 1)
        uncond, cond = base.unet(latents, timestep, states).sample.chunk(2)
        return single_guidance(cond.float(), uncond.float(), candidate.cfg_scale)

    shape = (base.latent_channels, size // base.factor, size // base.factor)
    try:
        *_, last = euler_ancestral(
            predict, base.scheduler, seeds=[candidate.seed] * 2, shape=shape, num_inference_steps=steps, device=base.device
        )  # fmt: skip
    finally:
        base.unet.set_attn_processor(dict(plain))
    return last.latents


def ours(base: Backbone, made: Sequence[Candidate], steps: int, size: int) -> Tensor:
    """Latents of pairs, (K, 2, C, h, w)."""
    return torch.stack(pair_latents(base, made, num_inference_steps=steps, size=size), 1)


def equal(base: Backbone, quick: bool) -> Row:
    """Largest difference between both ways' latents in float32, in one batch and forked.

    Raises:
        ValueError: it is above 1e-3.
    """
    size, error = 64 if quick else 256, 0.0
    for forked in (False, True):
        made = candidates(2, forked)
        theirs = torch.stack([released(base, c, 10, size) for c in made])
        error = max(error, (ours(base, made, 10, size) - theirs).abs().max().item())
    if not error <= 1e-3:
        raise ValueError(f"both ways must agree within 1e-3, got {error}")
    return {"equal_within": float(f"{error:.1e}")}


def rows(base: Backbone, quick: bool, deadline: Deadline, peak: float | None) -> Iterator[Row]:
    """One row for each batch, the forked one, and the largest batch that fits."""
    cast(base, torch.bfloat16)
    size, steps = (64, 3) if quick else (512, STEPS)
    works: dict[str, tuple[int, Callable[[], object]]] = {
        "copied": (1, lambda: released(base, candidates(3)[1], steps, size)),
        **{f"{n} at a time": (n, lambda n=n: ours(base, candidates(n), steps, size)) for n in BATCHES[: 2 if quick else 3]},
        f"{FORKS} forked": (FORKS, lambda: ours(base, candidates(FORKS, True), steps, size)),
    }  # fmt: skip
    taken = rounds_within({way: work for way, (_, work) in works.items()}, 0 if quick else deadline.left / 2)
    rates = {
        way: 60 * works[way][0] / median(seconds) * steps / PAPER_STEPS for way, seconds in taken.items()
    }
    peaks = {way: peak_gib(work) for way, (_, work) in works.items()}
    whole = max((way for way in rates if way.endswith("at a time")), key=rates.__getitem__)
    unit = f"candidates of {size} pixels and {PAPER_STEPS} steps per minute, scaled from {steps} steps"
    for name, way in [
        ("p2p_candidates_gpu", whole),
        *((f"p2p_candidates_gpu_{w}", w) for w in rates if w != "copied"),
    ]:
        row = {
            "name": name.replace(" ", "_"),
            "ratio": round(rates[way] / rates["copied"], 2),
            "ours": round(rates[way], 2),
        }
        row |= {"theirs": round(rates["copied"], 2), "unit": unit, "way": way, "rounds": len(taken[way])}
        yield {**row, "peak_gib": {w: peaks[w] for w in (way, "copied")}}  # fmt: skip
    yield {"name": "p2p_largest_batch_gpu", **largest(
        lambda n: ours(base, candidates(n), 1, size), (4,) if quick else SIZES_TRIED, deadline)}  # fmt: skip
