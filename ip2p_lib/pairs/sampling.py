"""Latents of picture pairs by prompt-to-prompt: many candidates in one batch, each distinct row computed once."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ip2p_lib.attention import is_shared, shared_self_attention, shared_steps
from ip2p_lib.backbone import Backbone
from ip2p_lib.diffusion import euler_ancestral
from ip2p_lib.guidance import single_guidance
from ip2p_lib.pairs.candidates import Candidate

Hopeless = Callable[
    [int, Tensor, Tensor], Tensor
]  # step, estimates (K, C, h, w) of both latents -> bool (K,)


@dataclass(frozen=True, slots=True)
class Rows:
    """The different rows among K sources and K targets at one step.

    Sources with the same caption, seed and scale are one row. So are targets of one source and caption, as
    long as they all share its self-attention, and again when they stopped sharing at the same step.
    """

    first: Tensor  # (R,) where among the 2K rows [sources, targets] each different row occurs first
    of: Tensor  # (2K,) which of the R each of the 2K is
    lender: Tensor  # (R,) whose queries and keys each of the R attends with


def distinct_rows(candidates: Sequence[Candidate], step: int, num_inference_steps: int) -> Rows:
    """What has to be computed at `step`, without repetition."""
    position: dict[Hashable, int] = {}
    first: list[int] = []
    of: list[int] = []
    lender: list[int] = []

    def place(key: Hashable, row: int, borrows: int | None = None) -> int:
        if key not in position:
            position[key] = len(first)
            first.append(row)
            lender.append(position[key] if borrows is None else borrows)
        of.append(position[key])
        return position[key]

    sources = [
        place(("source", c.triplet.input, c.seed, c.cfg_scale), row) for row, c in enumerate(candidates)
    ]
    for row, (candidate, source) in enumerate(zip(candidates, sources, strict=True)):
        sharing = is_shared(candidate.p2p_threshold, step, num_inference_steps)
        phase = "sharing" if sharing else shared_steps(candidate.p2p_threshold, num_inference_steps)
        key = (candidate.triplet.output, source, phase)
        place(key, len(candidates) + row, source if sharing else None)
    return Rows(torch.tensor(first), torch.tensor(of), torch.tensor(lender))


def rows_computed(candidates: Sequence[Candidate], num_inference_steps: int) -> int:
    """UNet rows of a whole run in one guidance half; 2 N for each candidate if none have a source in common."""
    counts = (
        len(distinct_rows(candidates, i, num_inference_steps).first) for i in range(num_inference_steps)
    )
    return sum(counts)


@torch.no_grad()
def pair_latents(
    backbone: Backbone,
    candidates: Sequence[Candidate],
    *,
    num_inference_steps: int,
    size: int,
    hopeless: Hopeless | None = None,
) -> tuple[Tensor, Tensor]:
    """Latents of both pictures of each candidate, (K, C, h, w) each, scaled.

    Source and target of a candidate share the initial and all ancestral noise (same seed); while its
    threshold lasts, the target also attends with the source's self-attention. Guidance scale,
    threshold and seed are each row's own, so candidates of different captions can share a batch, and
    what candidates have in common is computed once.

    Args:
        size: side of the pictures in pixels.
        hopeless: asked after every step but the last which candidates to give up; their latents become NaN,
            and no more is computed for them.

    Source: InstructPix2Pix section 3.1.2; timothybrooks/instruct-pix2pix@0dffd1e, generate_img_dataset.py.
    """
    device = backbone.device
    captions = [c.triplet.input for c in candidates] + [c.triplet.output for c in candidates]
    texts = list(dict.fromkeys(["", *captions]))
    states, text_of = backbone.encode_text(texts), torch.tensor([texts.index(c) for c in captions])
    scales = torch.tensor([c.cfg_scale for c in candidates] * 2, device=device)
    alive = list(range(len(candidates)))

    with shared_self_attention(backbone.unet) as sharing:

        def predict(scaled: Tensor, timestep: Tensor, step: int) -> Tensor:
            output = torch.full_like(scaled, torch.nan)
            if not alive:
                return output
            rows = distinct_rows([candidates[i] for i in alive], step, num_inference_steps)
            place = torch.tensor(alive + [i + len(candidates) for i in alive])
            chosen = place[rows.first].to(device)
            sharing.set(torch.cat([rows.lender, rows.lender + len(rows.lender)]).to(device))
            latents = scaled[chosen].to(backbone.unet.dtype)
            null = states[:1].expand(len(chosen), -1, -1)
            context = torch.cat([null, states[text_of.to(device)[chosen]]])
            uncond, cond = backbone.unet(torch.cat([latents, latents]), timestep, context).sample.chunk(2)
            output[place.to(device)] = single_guidance(cond.float(), uncond.float(), scales[chosen])[
                rows.of.to(device)
            ]
            return output

        side = size // backbone.factor
        for state in euler_ancestral(
            predict,
            backbone.scheduler,
            seeds=[c.seed for c in candidates] * 2,
            shape=(backbone.latent_channels, side, side),
            num_inference_steps=num_inference_steps,
            device=device,
        ):
            if hopeless is not None and state.index < num_inference_steps - 1:
                given_up = hopeless(state.index, *state.denoised.chunk(2)).tolist()
                alive = [i for i in alive if not given_up[i]]
    before, after = state.latents.chunk(2)
    return before, after
