"""Convolutions on a CPU whose weights are brought into the kernel's own layout once, not at every call."""

from typing import Any

import torch
from torch import Tensor, nn


def packable(module: nn.Module) -> bool:
    """Whether a module is a plain float32 convolution on a CPU that the vendor's kernels compute."""
    return (
        type(module) is nn.Conv2d
        and "forward" not in module.__dict__
        and module.weight.device.type == "cpu"
        and module.weight.dtype is torch.float32
        and module.padding_mode == "zeros"
        and isinstance(module.padding, tuple)
        and not module.weight.is_inference()  # such weights do not count their changes
        and torch.backends.mkldnn.is_available()
    )


def packed_convolutions(unet: nn.Module) -> dict[nn.Module, "PackedConvolution"]:
    """What may take the place of the `forward` of each `packable` module."""
    return {m: PackedConvolution(m) for m in unet.modules() if packable(m)}


class PackedConvolution:
    """A convolution's forward pass with weights packed for the shape it saw last; the module keeps its own.

    The packed copy takes as much memory as the weights, and is made anew when they have changed. Where gradients are
    wanted the module computes as ever.

    Args:
        conv: `packable`; changes of its weights through `.data` go unseen.
    """

    def __init__(self, conv: Any) -> None:
        self._conv = conv
        self._packed_for: tuple[torch.Size, int, int] | None = None
        self._weight: Tensor | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """What the module would answer."""
        conv = self._conv
        if torch.is_grad_enabled() or inputs.dtype is not torch.float32:
            return type(conv).forward(conv, inputs)
        how = (conv.padding, conv.stride, conv.dilation, conv.groups)
        wanted = (inputs.shape, conv.weight.data_ptr(), conv.weight._version)
        if wanted != self._packed_for:
            reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # its stub lacks the last argument
            self._weight = reorder(conv.weight.to_mkldnn(), *how, inputs.shape)
            self._packed_for = wanted
        return torch.ops.mkldnn._convolution_pointwise(inputs, self._weight, conv.bias, *how, "none", [], "")
