"""One training loop for every model here: Accelerate, fused EMA, exact resume; a generator of steps."""

import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ip2p_lib import storage

LossAt = Callable[[int], Tensor]  # optimiser micro-step -> scalar loss; all randomness keyed by the step
logger = logging.getLogger(__name__)


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
    cosine_decay: bool = False  # to a hundredth of the rate at the last step
    max_grad_norm: float | None = None
    ema_decay: float = 0.9999  # reached along min(decay, (1 + n) / (10 + n))
    mixed_precision: str = "no"  # "auto" takes bf16 where the hardware computes in it
    gradient_accumulation_steps: int = 1
    checkpoint_every: int = 250
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"FitConfig.steps must be at least 1, got {self.steps}")
        if self.mixed_precision not in ("no", "bf16", "fp16", "auto"):
            raise ValueError(
                f"FitConfig.mixed_precision must be no, bf16, fp16 or auto; got {self.mixed_precision!r}"
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"FitConfig.ema_decay must lie in [0, 1), got {self.ema_decay}")

    def rate_at(self, step: int) -> float:
        """Factor on the learning rate at a step counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if not self.cosine_decay:
            return warm
        return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))


@dataclass(frozen=True, slots=True)
class Report:
    """What one optimiser step did. `loss` stays on the device: reading it is the caller's choice."""

    step: int  # number of optimiser steps done so far
    loss: Tensor
    model: Any
    ema: "Ema"


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


def fit(
    model: nn.Module,
    loss_at: LossAt,
    config: FitConfig,
    *,
    folder: Path | None = None,
    groups: Sequence[dict[str, Any]] | None = None,
) -> Iterator[Report]:
    """Optimise `model`, yielding after every step; continues from the last checkpoint in `folder`.

    `loss_at(micro_step)` computes the loss with all its random draws keyed by that number, so that a
    resumed run meets the very batches and noise that an uninterrupted one would have met.

    Args:
        model: trained in place; parameters without gradient are left alone.
        loss_at: scalar loss of a micro-step counted from 0; it calls `model` itself.
        config: how to optimise.
        folder: where checkpoints go; None keeps none.
        groups: optimiser parameter groups (with their own `lr`), default all trainable parameters.

    Raises:
        FloatingPointError: the loss is no longer finite (checked at every checkpoint and at the end).
        ValueError: the folder holds checkpoints of another configuration.
    """
    accelerator = _accelerator(config.mixed_precision)
    model.to(accelerator.device).train()
    parameters = list(groups) if groups else [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(0.9, config.adam_beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
    base_rates = [g["lr"] for g in optimizer.param_groups]
    ema = Ema(model, config.ema_decay)
    first = _resume(folder, model, optimizer, ema, config) if folder else 0
    if first >= config.steps:  # finished earlier: hand the result over once
        yield Report(first, torch.tensor(float("nan")), model, ema)
    stepper = accelerator.prepare(optimizer)  # unscales gradients under fp16
    for step in range(first, config.steps):
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * config.rate_at(step)
        loss = _accumulate(accelerator, loss_at, step, config)
        if config.max_grad_norm is not None:
            accelerator.unscale_gradients(stepper)
            nn.utils.clip_grad_norm_(ema._live, config.max_grad_norm)
        stepper.step()
        stepper.zero_grad(set_to_none=True)
        ema.update()
        done = step + 1
        if done % config.checkpoint_every == 0 or done == config.steps:
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss must stay finite, got {loss.item()} at step {done}; the last good checkpoint"
                    f" is the newest in {folder}: lower the learning rate and run again"
                )
            if folder:
                _save(folder, done, model, optimizer, ema, config)
        yield Report(done, loss, model, ema)


def batch_indices(count: int, batch_size: int, step: int, seed: int) -> NDArray[np.int64]:
    """Which items step `step` sees: epochs of a keyed shuffle, so any step can be found directly."""
    first = step * batch_size
    picked = []
    for epoch in range(first // count, (first + batch_size - 1) // count + 1):
        order = np.random.default_rng((seed, epoch)).permutation(count)
        low, high = max(first - epoch * count, 0), min(first + batch_size - epoch * count, count)
        picked.append(order[low:high])
    return np.concatenate(picked)


def computes_in_bf16() -> bool:
    """Whether this machine has bf16 arithmetic. A CPU without it emulates bf16, more than ten times slower."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _accelerator(mixed_precision: str) -> Accelerator:
    """An Accelerator; its shared state is renewed, so that one process may train at several precisions."""
    AcceleratorState._reset_state()
    if mixed_precision == "auto":
        mixed_precision = "bf16" if computes_in_bf16() else "no"
    return Accelerator(mixed_precision=mixed_precision)


def _accumulate(accelerator: Accelerator, loss_at: LossAt, step: int, config: FitConfig) -> Tensor:
    count = config.gradient_accumulation_steps
    total = torch.zeros((), device=accelerator.device)
    for micro in range(count):
        with accelerator.autocast():
            loss = loss_at(step * count + micro) / count
        accelerator.backward(loss)
        total = total + loss.detach()
    return total


def _save(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema, config: FitConfig
) -> None:
    """Write checkpoint-XXXXXXXX: what is trained, its average, the optimiser's state; drop the oldest."""
    weights = {n: t.contiguous() for n, t in _learned(model).items()}
    state = {
        f"{index}.{name}": value
        for index, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
    }
    with storage.atomic_folder(folder / f"checkpoint-{step:08d}") as partial:
        save_file(weights, partial / "model.safetensors")
        save_file(dict(zip(ema.names, ema.shadow, strict=True)), partial / "ema.safetensors")
        save_file({n: t.contiguous() for n, t in state.items()}, partial / "optimizer.safetensors")
        storage.write_json(
            partial / "state.json", {"step": step, "ema_updates": ema.updates, "config": asdict(config)}
        )
    for old in checkpoints(folder)[: -config.keep_checkpoints]:
        shutil.rmtree(old)


def _learned(model: nn.Module) -> dict[str, Tensor]:
    """The state that training changes, tied weights once; a frozen base under an adapter is not in it."""
    learned = {n for n, p in model.named_parameters() if p.requires_grad}
    others = {n for n, _ in model.named_parameters(remove_duplicate=False)} - learned
    return {n: t for n, t in model.state_dict().items() if n not in others}


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in a run folder, oldest first."""
    return sorted(p for p in folder.glob("checkpoint-*") if (p / "state.json").is_file())


def _resume(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema, config: FitConfig
) -> int:
    """Load the newest checkpoint in place; returns the number of steps it has done."""
    found = checkpoints(folder)
    if not found:
        return 0
    state = storage.read_json(found[-1] / "state.json")
    if state["config"] != asdict(config):
        changed = [k for k, v in asdict(config).items() if state["config"].get(k) != v]
        raise ValueError(
            f"{folder} holds a run with another {', '.join(changed)}; continue with the same configuration"
            " or choose an empty folder"
        )
    weights = load_file(found[-1] / "model.safetensors")
    live = _learned(model)
    if weights.keys() != live.keys() or any(weights[n].shape != live[n].shape for n in live):
        odd = sorted(weights.keys() ^ live.keys())[:3] or ["shapes differ"]
        raise ValueError(f"{found[-1]} must hold a checkpoint of this model, but it does not match: {odd}")
    averaged = load_file(found[-1] / "ema.safetensors")
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(found[-1] / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(weights[name])
        for name, mean in zip(ema.names, ema.shadow, strict=True):
            mean.copy_(averaged[name])
    ema.updates = state["ema_updates"]
    logger.info("continuing from %s", found[-1])
    return state["step"]
