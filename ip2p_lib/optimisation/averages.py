"""Averages over a run: of the weights, and of the loss, which tells when a run has gone wrong."""

import torch
from torch import Tensor, nn

FIRST = 10  # losses that say where a run began


class Ema:
    """Exponential moving average of trainable weights, updated by one fused call.

    Source: decay ramp of timothybrooks/instruct-pix2pix@0dffd1e:stable_diffusion/ldm/modules/ema.py,
    here once per optimiser step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.names = [n for n, p in model.named_parameters() if p.requires_grad]
        self._live = [p for p in model.parameters() if p.requires_grad]
        self.shadow = [p.detach().clone() for p in self._live]
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the live weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self._live], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange live weights and average; call again to change back."""
        for live, mean in zip(self._live, self.shadow, strict=True):
            kept = live.detach().clone()
            live.copy_(mean)
            mean.copy_(kept)


class LossWatch:
    """Remembers the first step at which the loss stopped making sense, without waiting for the device.

    That is a step whose loss is not finite, or at which the running mean passes `limit` times the mean
    of the first losses.
    """

    def __init__(self, limit: float, device: torch.device, state: dict[str, float] | None = None) -> None:
        state = state or {"seen": 0.0, "first": 0.0, "mean": 0.0}
        self._limit, self._seen = limit, int(state["seen"])
        self._first, self._mean = (torch.tensor(state[n], device=device) for n in ("first", "mean"))
        self._bad = torch.zeros((), dtype=torch.long, device=device)
        self._at = torch.zeros((), device=device)

    def see(self, done: int, loss: Tensor) -> None:
        """Take note of the loss of step `done`, counted from 1."""
        self._seen += 1
        if self._seen <= FIRST:
            self._first = self._first + (loss - self._first) / self._seen
            self._mean = self._first
        else:
            self._mean = 0.9 * self._mean + 0.1 * loss
        broken = ~torch.isfinite(loss) | (self._mean > self._limit * self._first)
        self._at = torch.where((self._bad == 0) & broken, loss, self._at)
        self._bad = torch.where((self._bad == 0) & broken, done, self._bad)

    def first_bad(self) -> tuple[int, float] | None:
        """Step and loss where it went wrong, or None. Waits for the device."""
        step = int(self._bad.item())
        return (step, self._at.item()) if step else None

    def state(self) -> dict[str, float]:
        """What a continued run needs to judge alike."""
        return {"seen": float(self._seen), "first": self._first.item(), "mean": self._mean.item()}
