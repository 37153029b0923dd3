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
        and torch.backends.mkldnn.is_available()
    )


class PackedConvolution:
    """A convolution's forward pass with weights packed for the shape it saw last; the module keeps its own.

    The packed copy takes as much memory as the weights. Where gradients are wanted the module computes as ever.

    Args:
        conv: `packable`; its weights must not change as long as this is used.
    """

    def __init__(self, conv: Any) -> None:
        self._conv = conv
        self._shape: torch.Size | None = None
        self._weight: Tensor | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """What the module would answer."""
        conv = self._conv
        if torch.is_grad_enabled() or inputs.dtype is not torch.float32:
            return type(conv).forward(conv, inputs)
        how = (conv.padding, conv.stride, conv.dilation, conv.groups)
        if inputs.shape != self._shape:
            plain = conv.weight.to_mkldnn()
            reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight  # its stub lacks the last argument
            self._weight = reorder(plain, *how, inputs.shape)
            self._shape = inputs.shape
        return torch.ops.mkldnn._convolution_pointwise(inputs, self._weight, conv.bias, *how, "none", [], "")
