"""One step of fixed shapes, captured as a CUDA graph: replayed without Python between its kernels."""

from typing import Any

import torch
from torch import Tensor

from ip2p_lib.editing.reuse import LOCK, SharedWork


class CapturedStep:
    """A UNet call in buffers of its own, for any number of edits of one shape.

    On a CUDA device the first call captures it as a graph. Elsewhere it is computed from the same buffers, with the same
    results. What depends on the timestep is computed inside, since the timestep is an input.

    Args:
        unet: of the editor; its weights stay where they are in memory, but may change there between edits.
        alike: as for `SharedWork`.
    """

    def __init__(self, unet: Any, alike: int) -> None:
        self._work = SharedWork(unet, alike=alike)
        self._given: Tensor | None = None  # the states that the buffer holds
        self._buffers: tuple[Tensor, Tensor, Tensor] | None = None
        self._graph: Any = None
        self._output: Tensor | None = None

    def __call__(self, inputs: Tensor, timestep: Tensor, states: Tensor, step: int) -> Tensor:
        """The network's answer, as `SharedWork` gives it. Inputs and states have the shapes of the first call."""
        with LOCK:
            if self._buffers is None:
                self._buffers = (inputs.clone(), timestep.float().clone(), states.clone())
                self._given = states
                self._capture()
            own_inputs, own_timestep, own_states = self._buffers
            own_inputs.copy_(inputs)
            own_timestep.copy_(timestep)
            if states is not self._given:
                own_states.copy_(states)
                self._work.reread()
                self._given = states
            if self._graph is None:
                return self._compute()
            self._graph.replay()
            return self._output.clone()  # type: ignore[union-attr]

    def _compute(self) -> Tensor:
        inputs, timestep, states = self._buffers  # type: ignore[misc]
        return self._work(inputs, timestep, states, 0)

    def _capture(self) -> None:
        """Record the kernels of a call. Two calls before settle what kernels choose, and what is kept of the text."""
        if self._buffers is None or not self._buffers[0].is_cuda:
            return
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                self._compute()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._output = self._compute()
        self._graph = graph
