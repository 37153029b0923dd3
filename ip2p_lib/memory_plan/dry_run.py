"""Run a network on tensors that have shapes and no numbers, and count what it would hold at its fullest.

PyTorch's fake tensors go through every operation as real ones do, so what autograd saves, what autocast
casts and when each tensor is let go are counted, not guessed. Not counted: what a device's libraries take
for themselves, and gaps between tensors. A plan adds a reserve for these.
"""

import types
import weakref
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TEXT = (77, 768)  # tokens and width of Stable Diffusion 1.x's text states


class Allocations(TorchDispatchMode):
    """Inside the block: bytes held in tensors made there, `now` and at the `peak`.

    Args:
        known: tensors made before, which do not count, nor do views of them.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._seen: Any = weakref.WeakSet(t.untyped_storage() for t in known)

    def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the storages that it made."""
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._seen:
                storage = tensor.untyped_storage()
                self._seen.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _gone(self, size: int) -> None:
        self.now -= size


def filled(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A network from the meta device with new storage in place: fake inside `FakeTensorMode`, else real."""
    for module in network.modules():
        for name, value in list(module._parameters.items()):
            if value is not None:
                module._parameters[name] = nn.Parameter(torch.zeros(value.shape, dtype=dtype))
    return network


def inference_bytes(unet: nn.Module, resolution: int, rows: int, dtype: torch.dtype = torch.bfloat16) -> int:
    """Peak of one forward pass beside the weights; `unet` comes from the meta device and is filled."""
    with FakeTensorMode(), torch.no_grad():
        filled(unet, dtype)
        inputs = _inputs(unet, resolution, rows, dtype)
        with Allocations(unet.parameters()) as held:
            unet(*inputs)
    return held.peak


def training_bytes(
    unet: nn.Module, resolution: int, batch: int, *, precision: str = "bf16", checkpointing: bool = False
) -> int:
    """Peak of one micro-step beside float32 weights and gradients; `unet` comes from the meta device.

    Norms compute in float32, as autocast on a GPU has it.

    Args:
        precision: bf16 or fp16, through autocast; or no.
    """
    with FakeTensorMode():
        inputs = _inputs(unet, resolution, batch, torch.float32)
        return training_peak(filled(unet, torch.float32), inputs, precision, checkpointing)


def training_peak(unet: Any, inputs: tuple[Tensor, ...], precision: str, checkpointing: bool) -> int:
    """As `training_bytes`, of a network and inputs that are there, fake or real."""
    if checkpointing:
        unet.enable_gradient_checkpointing()
    for module in unet.train().modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm) and precision != "no":
            module.forward = types.MethodType(_norm_in_float32, module)  # type: ignore[method-assign]
    for parameter in unet.parameters():
        parameter.grad = torch.zeros_like(parameter)
    known = [*unet.parameters(), *(p.grad for p in unet.parameters())]
    with Allocations(known) as held:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision != "no"):
            output = unet(*inputs).sample
        output.float().square().mean().backward()
    return held.peak


def _inputs(unet: Any, resolution: int, rows: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    side = resolution // 8
    latents = torch.zeros(rows, unet.config.in_channels, side, side, dtype=dtype)
    return latents, torch.zeros(rows, dtype=torch.long), torch.zeros(rows, *TEXT, dtype=dtype)


def _norm_in_float32(norm: Any, x: Tensor) -> Tensor:
    if isinstance(norm, nn.GroupNorm):
        return F.group_norm(x.float(), norm.num_groups, norm.weight, norm.bias, norm.eps)
    return F.layer_norm(x.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
