"""One training loop for every model here: Accelerate, fused EMA, exact resume; a generator of steps."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    parse_flag_from_env,
)
from numpy.typing import NDArray
from torch import Tensor, nn

from ip2p_lib.optimisation.averages import Ema, LossWatch
from ip2p_lib.optimisation.checkpoints import checkpoints, clear_leftovers, load_checkpoint, save_checkpoint
from ip2p_lib.optimisation.config import FitConfig, check_precision

LossAt = Callable[[int], Tensor]  # optimiser micro-step -> scalar loss; all randomness keyed by the step
CHECK_EVERY = 50  # steps between two looks at the loss, each of which waits for the device
PATIENCE = timedelta(days=1)  # of processes that wait while another one encodes its last shard


@dataclass(frozen=True, slots=True)
class Report:
    """What one optimiser step did. `loss` stays on the device: reading it is the caller's choice."""

    step: int  # number of optimiser steps done so far
    loss: Tensor  # mean over all processes
    model: Any
    ema: Ema


class _Step(nn.Module):
    """The loss as a module around the model, so that wrappers for many processes see each pass begin and end."""

    def __init__(self, model: nn.Module, loss_at: LossAt) -> None:
        super().__init__()
        self.model, self._loss_at = model, loss_at

    def forward(self, micro_step: int) -> Tensor:
        return self._loss_at(micro_step)


def fit(
    model: nn.Module,
    loss_at: LossAt,
    config: FitConfig,
    *,
    folder: Path | None = None,
    groups: Sequence[dict[str, Any]] | None = None,
    describe: Callable[[int], str] | None = None,
) -> Iterator[Report]:
    """Optimise `model`, yielding after every step; continues from the last checkpoint in `folder`.

    `loss_at(micro_step)` computes the loss with all its random draws keyed by that number, so that a
    resumed run meets the very batches and noise that an uninterrupted one would have met. Started by
    `accelerate launch`, every process computes its own part of that batch, and gradients are averaged.

    Args:
        model: trained in place; parameters without gradient are left alone.
        loss_at: scalar loss of a micro-step counted from 0; it calls `model` itself.
        config: how to optimise. A later call may ask for more steps if the rates so far stay what they were.
        folder: where checkpoints go; None keeps none.
        groups: optimiser parameter groups (with their own `lr`), default all trainable parameters.
        describe: says what a micro-step was about, for the message when a loss goes wrong.

    Raises:
        FloatingPointError: the loss is no longer finite, or exploded (looked at every 50 steps, at every
            checkpoint and at the end; no checkpoint is written after such a step).
        ValueError: the folder holds checkpoints of another configuration or model, or a damaged one.
    """
    accelerator = make_accelerator(config.mixed_precision)
    model.to(accelerator.device).train()
    if config.compile:
        model.compile()
    module, stepper = accelerator.prepare(_Step(model, loss_at), _optimizer(model, config, groups))
    base_rates = [g["lr"] for g in stepper.param_groups]
    ema = Ema(model, config.ema_decay)
    state = _continued(folder, accelerator, model, stepper.optimizer, ema, config)
    watch = LossWatch(config.loss_limit, accelerator.device, state["loss"])
    if state["step"] >= config.steps:  # finished earlier: hand the result over once
        yield Report(state["step"], torch.tensor(float("nan")), model, ema)
    for step in range(state["step"], config.steps):
        for group, rate in zip(stepper.param_groups, base_rates, strict=True):
            group["lr"] = rate * config.rate_at(step)
        loss = _accumulate(accelerator, module, step, config.gradient_accumulation_steps)
        if config.max_grad_norm:
            accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        stepper.step()
        stepper.zero_grad(set_to_none=True)
        ema.update()
        done = step + 1
        watch.see(done, loss)
        is_due = done % config.checkpoint_every == 0 or done == config.steps
        if is_due or done % CHECK_EVERY == 0:
            _stop_if_broken(watch, config, folder, describe)
        if folder and is_due:
            save_checkpoint(
                folder, done, model, stepper.optimizer, ema, config, watch.state(),
                loss_scale=accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
                is_main=accelerator.is_main_process,
            )  # fmt: skip
            accelerator.wait_for_everyone()
        yield Report(done, loss, model, ema)


def _continued(
    folder: Path | None,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema,
    config: FitConfig,
) -> dict[str, Any]:
    """Fill everything from the newest checkpoint, if there is one; returns its record."""
    if folder is None:
        return {"step": 0, "loss": None}
    state = load_checkpoint(folder, model, optimizer, ema, config)
    if accelerator.is_main_process:
        clear_leftovers(folder, config.keep_checkpoints)
    if accelerator.scaler is not None and state.get("loss_scale"):  # else fp16 overflows its way down again
        accelerator.scaler.load_state_dict(state["loss_scale"])
    return state


def _optimizer(
    model: nn.Module, config: FitConfig, groups: Sequence[dict[str, Any]] | None
) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        list(groups) if groups else [p for p in model.parameters() if p.requires_grad],
        lr=config.learning_rate,
        betas=(0.9, config.adam_beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )


def _accumulate(accelerator: Accelerator, module: nn.Module, step: int, count: int) -> Tensor:
    """Gradients of one optimiser step; returns its loss, averaged over micro-steps and processes."""
    total = torch.zeros((), device=accelerator.device)
    for micro in range(count):
        is_last = micro == count - 1
        with nullcontext() if is_last else accelerator.no_sync(module):
            loss = module(step * count + micro) / count
            accelerator.backward(loss)
        total = total + loss.detach()
    return accelerator.reduce(total, "mean") if accelerator.num_processes > 1 else total


def _stop_if_broken(
    watch: LossWatch, config: FitConfig, folder: Path | None, describe: Callable[[int], str] | None
) -> None:
    bad = watch.first_bad()
    if bad is None:
        return
    step, loss = bad
    micro = range((step - 1) * config.gradient_accumulation_steps, step * config.gradient_accumulation_steps)
    seen = f" on {'; '.join(describe(m) for m in micro)}" if describe else ""
    found = checkpoints(folder) if folder else []
    good = f"start from the last good checkpoint, {found[-1]}" if found else "start over"
    raise FloatingPointError(
        f"the loss must stay finite and below {config.loss_limit:g} times its first values, got {loss} at step"
        f" {step}{seen}; {good}, in another folder, at a lower learning rate"
    )


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
    """Whether bf16 is the faster arithmetic here: on most GPUs, and on CPUs with matrix tiles (AMX).

    A CPU without any emulates bf16, more than ten times slower. With vector instructions alone (AVX-512 BF16) our
    networks took longer than in float32, to train and to sample.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported()


def compute_dtype(mixed_precision: str) -> torch.dtype:
    """What products are computed in: float32 for no, or where auto finds no faster bf16.

    Raises:
        ValueError: it is none of no, bf16, fp16 and auto.
    """
    check_precision(mixed_precision)
    return {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[
        settled_precision(mixed_precision)
    ]


def settled_precision(mixed_precision: str) -> str:
    """What auto comes to on this machine; anything else as it is."""
    if mixed_precision == "auto":
        return "bf16" if computes_in_bf16() else "no"
    return mixed_precision


def is_sharded() -> bool:
    """Whether Accelerate was started to cut the model into parts, which wants all weights in one dtype."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP")


def launched_precision() -> str | None:
    """The precision that `accelerate launch` was asked for, if any."""
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    return None if asked == "no" else asked


def processes() -> PartialState:
    """The processes that were started together, and which of them this is; without a GPU they meet on the CPU.

    Accelerate's own default takes each for the only one where there is no GPU, and any accelerator for one.
    """
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    return PartialState(cpu=on_cpu, timeout=PATIENCE)


def make_accelerator(mixed_precision: str) -> Accelerator:
    """An Accelerator; its shared state is renewed, so that one process may train at several precisions."""
    AcceleratorState._reset_state()
    processes()
    return Accelerator(
        mixed_precision=settled_precision(mixed_precision),
        # `fit` counts micro-steps itself; only a plugin keeps the launcher's own setting from dividing once more
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        # gradients lie in the buckets that travel, and not beside them once more
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )
