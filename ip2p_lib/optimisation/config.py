"""How a model is optimised: a record, and the rate it gives to each step."""

import math
from dataclasses import dataclass, fields

# What may differ between a run and its continuation, as long as the steps done so far had the same rates.
FREE = {"steps", "decay_steps", "checkpoint_every", "keep_checkpoints", "loss_limit", "compile"}


def check_precision(name: str) -> None:
    """Refuse a precision that no training computes in.

    Raises:
        ValueError: it is none of no, bf16, fp16 and auto.
    """
    if name not in ("no", "bf16", "fp16", "auto"):
        raise ValueError(f"FitConfig.mixed_precision must be no, bf16, fp16 or auto; got {name!r}")


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a model is optimised. Defaults are the paper's: AdamW at a constant 1e-4, no clipping.

    Raises:
        ValueError: a value is out of its range.
    """

    steps: int
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    adam_beta2: float = 0.999
    warmup_steps: int = 0
    decay_steps: int = 0  # over so many last steps the rate falls, along a cosine, to a hundredth
    max_grad_norm: float | None = None  # 0 or None: gradients are not clipped
    ema_decay: float = 0.9999  # reached along min(decay, (1 + n) / (10 + n))
    mixed_precision: str = "no"  # "auto" takes bf16 where it is faster
    gradient_accumulation_steps: int = 1
    compile: bool = False  # torch.compile; the first step then takes minutes
    loss_limit: float = 10.0  # a mean loss so many times that of the first steps ends the run
    checkpoint_every: int = 250
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"FitConfig.{name} must be at least 1, got {getattr(self, name)}")
        if self.warmup_steps < 0:
            raise ValueError(f"FitConfig.warmup_steps must be at least 0, got {self.warmup_steps}")
        for name in ("learning_rate", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"FitConfig.{name} must be finite and at least 0, got {value}")
        if not 0 <= self.decay_steps <= self.steps:
            raise ValueError(
                f"FitConfig.decay_steps must lie in 0..steps ({self.steps}), got {self.decay_steps}"
            )
        check_precision(self.mixed_precision)
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"FitConfig.ema_decay must lie in [0, 1), got {self.ema_decay}")

    def rate_at(self, step: int) -> float:
        """Factor on the learning rate at a step counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        into = step - (self.steps - self.decay_steps)
        if self.decay_steps == 0 or into < 0:
            return warm
        return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * into / self.decay_steps)))

    def differences(self, other: "FitConfig", done: int) -> list[str]:
        """Names of the settings that would have made the first `done` steps of another run different ones."""
        names = [f.name for f in fields(self) if f.name not in FREE]
        changed = [n for n in names if getattr(self, n) != getattr(other, n)]
        if not changed and any(self.rate_at(s) != other.rate_at(s) for s in range(done)):
            return ["steps or decay_steps"]
        return changed
