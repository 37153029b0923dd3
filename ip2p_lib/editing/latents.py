"""The guided sampler: latents of an edit from those of a picture and the states of an instruction."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ip2p_lib.backbone import Backbone
from ip2p_lib.diffusion import Step
from ip2p_lib.editing.graphs import CapturedStep
from ip2p_lib.editing.memory import Memory
from ip2p_lib.editing.packing import packed_convolutions
from ip2p_lib.editing.reuse import SharedWork
from ip2p_lib.guidance import Branches
from ip2p_lib.samplers import sample, timesteps_of


@torch.no_grad()
def edit_latents(
    editor: Backbone,
    condition: Tensor,
    text_states: Tensor,
    null_states: Tensor,
    *,
    guidance_scales: Sequence[float],
    image_guidance_scales: Sequence[float],
    seeds: Sequence[int],
    num_inference_steps: int,
    sampler: str = "euler_ancestral",
    graph: bool = False,
    memory: Memory | None = None,
) -> Iterator[Step]:
    """Sample the edit, yielding after each step; stop by leaving the loop.

    Only predictions whose weight is non-zero are computed: three in general, two where s_I = 1 or
    s_T = s_I, one where both are 1. What they share, over rows and steps, is computed once; the UNet is as it
    was whenever this has yielded, ended or raised.

    Args:
        condition: unscaled latents of the input pictures, (B, C, h, w).
        text_states: of the instructions, (B, T, D).
        null_states: of "", (1, T, D).
        guidance_scales, image_guidance_scales, seeds: one per row.
        graph: capture a step as a CUDA graph; on other devices the same is computed without.
        memory: keeps packed weights, or the captured step, for later edits of the same shape.

    Source: InstructPix2Pix section 3.2.1; timothybrooks/instruct-pix2pix@0dffd1e:edit_cli.py.
    """
    count = len(condition)
    branches = Branches.of(guidance_scales, image_guidance_scales).to(condition.device)
    null = null_states.expand(count, -1, -1)
    states = torch.cat([text_states if used else null for used in branches.has_text])
    pictures = torch.cat([condition if used else torch.zeros_like(condition) for used in branches.has_image])
    alike = count if branches.has_image[:2] == (True, True) else 0
    network: Callable[[Tensor, Tensor, Tensor, int], Tensor]
    if graph:
        network = _captured(editor.unet, states, pictures, alike, memory)
    else:
        timesteps = timesteps_of(sampler, editor.scheduler, num_inference_steps)
        packed = packed_convolutions if memory is None else memory.packed
        network = SharedWork(
            editor.unet, alike=alike, timesteps=timesteps, dtype=pictures.dtype, packed=packed
        )

    def predict(scaled: Tensor, timestep: Tensor, step: int) -> Tensor:
        repeated = scaled.to(pictures.dtype).repeat(len(branches.has_text), 1, 1, 1)
        return branches.combine(
            network(torch.cat([repeated, pictures], dim=1), timestep, states, step).float()
        )

    yield from sample(
        sampler,
        predict,
        editor.scheduler,
        seeds=seeds,
        shape=tuple(condition.shape[1:]),
        num_inference_steps=num_inference_steps,
        device=condition.device,
    )


def _captured(
    unet: torch.nn.Module, states: Tensor, pictures: Tensor, alike: int, memory: Memory | None
) -> CapturedStep:
    """A step for these shapes: the one that memory keeps, or a new one."""
    if memory is None:
        return CapturedStep(unet, alike)
    key = (states.shape, pictures.shape, pictures.dtype, pictures.device, alike)
    return memory.steps.get(unet, key, lambda: CapturedStep(unet, alike))
