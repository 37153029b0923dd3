"""Time pair synthesis and filter against the released way of doing them; rows spared by forks; memory.

Both sides of a comparison hold the same weights and noise and are checked for equal results first; rounds are
interleaved and medians compared. Weights are random: speed does not depend on them, and no quality is claimed.
Run: `.venv/bin/python benchmarks/pairs_cpu.py` on an idle machine. Writes benchmarks/results/pairs_cpu.json and
docs/images/pairs_memory.png.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from side_by_side import interleaved, peak_mb, write_rows
from torch import Tensor
from tqdm import tqdm

from ip2p_lib.attention import self_attention_layers, shared_self_attention
from ip2p_lib.backbone import Backbone, load_clip, load_text_to_image
from ip2p_lib.pairs import Candidate, pair_latents, rows_computed, synthesise
from ip2p_lib.presets import MINIATURE, PairConfig
from ip2p_lib.records import Triplet
from ip2p_lib.similarity import encode_edits, similarities
from ip2p_lib.triplets import world_triplets

RESULT = Path(__file__).parent / "results" / "pairs_cpu.json"
PLOT = Path(__file__).parent.parent / "docs" / "images" / "pairs_memory.png"
FORKS, STEPS = 6, 20
MEMORY_SIZES = (100, 400, 1_600, 10_000)


class CopiedScores:
    """The released rule as a diffusers processor: write the scores down, overwrite targets' by sources'."""

    def __init__(self, source: Tensor) -> None:
        self.source = source

    def __call__(self, attn: Any, hidden_states: Tensor, *_args: object, **_kwargs: object) -> Tensor:
        """Attend, (B, N, D) to (B, N, D)."""
        q, k, v = (
            p(hidden_states).unflatten(-1, (attn.heads, -1)) for p in (attn.to_q, attn.to_k, attn.to_v)
        )
        scores = torch.einsum("bihd,bjhd->bhij", q, k) * attn.scale
        scores = scores[self.source]
        mixed = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2)
        return attn.to_out[1](attn.to_out[0](mixed))


@torch.no_grad()
def injected_step() -> dict[str, object]:
    """One UNet call with shared self-attention, at half the width of Stable Diffusion, 256 pixels."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(1)
        unet = UNet2DConditionModel(
            sample_size=32,
            block_out_channels=(160, 320, 640, 640),
            attention_head_dim=8,
            cross_attention_dim=768,
        ).eval()
    generator = torch.Generator().manual_seed(2)
    noisy, texts = (torch.randn(*s, generator=generator) for s in ((4, 4, 32, 32), (4, 77, 768)))
    source, timestep = torch.tensor([0, 0, 2, 2]), torch.tensor(500)
    plain = dict(unet.attn_processors)
    hooked = self_attention_layers(unet)

    def copying() -> Tensor:
        unet.set_attn_processor({n: CopiedScores(source) if n in hooked else p for n, p in plain.items()})
        out = unet(noisy, timestep, texts).sample
        unet.set_attn_processor(dict(plain))  # diffusers empties the dict it is given
        return out

    def sharing() -> Tensor:
        with shared_self_attention(unet) as state:
            state.set(source)
            return unet(noisy, timestep, texts).sample

    error = (copying() - sharing()).abs().max().item()
    if error > 1e-3:
        raise ValueError(f"both ways must agree within 1e-3, got {error}")
    row = interleaved(sharing, copying, "p2p_injection_cpu")
    return {**row, "unit": "seconds per injected UNet call", "equal_within": float(f"{error:.1e}")}


def forks() -> dict[str, object]:
    """Six thresholds from one seed, forked and independent, with the shipped model."""
    base, triplet = load_text_to_image(MINIATURE), next(iter(world_triplets(1, 905)))
    rng = np.random.default_rng(3)
    drawn = rng.uniform(0.1, 0.9, (400, FORKS))
    rows = [rows_computed([Candidate(triplet, i, 1, t, 4.0) for i, t in enumerate(d)], STEPS) for d in drawn]
    together = [Candidate(triplet, i, 1, float(t), 4.0) for i, t in enumerate(drawn[0])]

    def run(groups: list[list[Candidate]]) -> Tensor:
        made = [pair_latents(base, g, num_inference_steps=STEPS, size=64) for g in groups]
        return torch.cat([torch.stack(pair, 1) for pair in made])

    apart = [[c] for c in together]
    error = (run([together]) - run(apart)).abs().max().item()
    if error > 1e-3:
        raise ValueError(f"forked must equal independent within 1e-3, got {error}")
    independent = 2 * FORKS * STEPS
    wall = interleaved(lambda: run([together]), lambda: run(apart), "forks")
    return {
        "name": "p2p_forked_rows",
        "ratio": round(independent / float(np.mean(rows)), 2),
        "ours": round(float(np.mean(rows)), 1),
        "theirs": independent,
        "wall_ratio": wall["ratio"],
        "unit": f"UNet rows for {FORKS} thresholds at {STEPS} steps, one guidance half",
        "equal_within": float(f"{error:.1e}"),
    }


def filter_batched() -> dict[str, object]:
    """64 candidates of 16 captions through the shipped CLIP, together and one per call."""
    clip = load_clip(MINIATURE)
    generator = torch.Generator().manual_seed(4)
    before, after = (torch.rand(64, 3, 64, 64, generator=generator) for _ in range(2))
    triplets = list(world_triplets(16, 905))
    texts = [[t.input for t in triplets for _ in range(4)], [t.output for t in triplets for _ in range(4)]]

    def together() -> Tensor:
        return torch.stack(list(similarities(*encode_edits(clip, before, after, *texts)).values()))

    def apart() -> Tensor:
        rows = [
            similarities(
                *encode_edits(clip, before[i : i + 1], after[i : i + 1], [texts[0][i]], [texts[1][i]])
            )
            for i in range(64)
        ]
        return torch.cat([torch.stack(list(r.values())) for r in rows], 1)

    error = (together() - apart()).abs().max().item()
    if error > 1e-4:
        raise ValueError(f"both ways must agree within 1e-4, got {error}")
    row = interleaved(together, apart, "filter_cpu")
    return {**row, "unit": "seconds for 64 candidates", "equal_within": float(f"{error:.1e}")}


def tiny_backbone() -> Backbone:
    """A random model so small that what remains is the pipeline itself."""
    whole = load_text_to_image(MINIATURE)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(5)
        unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=(16, 16), layers_per_block=1, norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=4,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=whole.unet.config.cross_attention_dim,
        ).eval()  # fmt: skip
        vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=8, down_block_types=("DownEncoderBlock2D",) * 2,
                            up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1).eval()  # fmt: skip
    return replace(whole, unet=unet.requires_grad_(False), vae=vae.requires_grad_(False), name="tiny")


def peak_of_run(candidates: int) -> None:
    """Make and score so many candidates of one unit; prints the peak of resident memory in MB."""
    from ip2p_lib.filtering import score

    config = PairConfig(
        candidates_per_triplet=100, num_inference_steps=2, resolution=64, batch_size=32,
        triplets_per_shard=64,
    )  # fmt: skip
    triplets: list[Triplet] = list(world_triplets(candidates // 100, 906))
    with TemporaryDirectory() as name:
        for _ in synthesise(triplets, tiny_backbone(), config, Path(name)):
            pass
        for _ in score(Path(name), load_clip(MINIATURE)):
            pass
    sys.stdout.write(f"{peak_mb()}\n")


def memory() -> dict[str, object]:
    """Peak memory of whole runs of 100 to 10,000 candidates, each in a process of its own."""
    peaks = {}
    for size in tqdm(MEMORY_SIZES, desc="memory"):
        run = subprocess.run(
            [sys.executable, __file__, "--peak", str(size)], capture_output=True, text=True, check=True
        )
        peaks[size] = int(run.stdout.split()[-1])
    plot_memory(peaks)
    return {
        "name": "pairs_memory_mb",
        "ratio": round(peaks[MEMORY_SIZES[-1]] / peaks[MEMORY_SIZES[0]], 3),
        "peaks": {str(k): v for k, v in peaks.items()},
        "unit": "MB at the peak, by candidates",
    }


def plot_memory(peaks: dict[int, int]) -> None:
    """The curve of memory over candidates."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3))
    axes.plot(list(peaks), list(peaks.values()), "o-")
    axes.set(xscale="log", ylim=(0, 1.2 * max(peaks.values())), xlabel="candidates", ylabel="peak memory, MB")
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, dpi=80, bbox_inches="tight")
    pyplot.close(figure)


def main() -> None:
    """Measure and write the result file."""
    if sys.argv[1:2] == ["--peak"]:
        peak_of_run(int(sys.argv[2]))
        return
    rows = [injected_step(), forks(), filter_batched(), memory()]
    write_rows(RESULT, rows, "python benchmarks/pairs_cpu.py")


if __name__ == "__main__":
    main()
