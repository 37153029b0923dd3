"""Checkpoints: whole or absent, the newest few, and refused where they do not belong."""

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ip2p_lib import storage
from ip2p_lib.optimisation.averages import Ema
from ip2p_lib.optimisation.config import FitConfig
from ip2p_lib.storage import first_line

logger = logging.getLogger(__name__)
NAME = re.compile(r"checkpoint-\d{8,}")


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints in a run folder, oldest first."""
    found = (p for p in folder.glob("checkpoint-*") if NAME.fullmatch(p.name))  # and not a copy of one
    return sorted((p for p in found if (p / "state.json").is_file()), key=lambda p: int(p.name.split("-")[1]))


def clear_leftovers(folder: Path, keep: int) -> None:
    """Remove what a killed run was writing or deleting, and what it had yet to delete."""
    for path in (*folder.glob(".*.partial"), *folder.glob(".*.old")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    _drop_oldest(folder, keep)


def _drop_oldest(folder: Path, keep: int) -> None:
    for old in checkpoints(folder)[:-keep]:
        doomed = old.with_name(f".{old.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        shutil.rmtree(old.rename(doomed))


def whole(tensor: Tensor) -> Tensor:
    """The tensor on one device, contiguous; of a sharded one all processes must ask together."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().contiguous()


def _as_live(value: Tensor, live: Tensor) -> Tensor:
    """A read tensor spread over devices, or laid out in memory, as the live one."""
    if isinstance(live, DTensor):
        return distribute_tensor(value.to(live.device), live.device_mesh, live.placements)
    return torch.empty_like(live, device=value.device, dtype=value.dtype).copy_(value)


def learned(model: nn.Module) -> dict[str, Tensor]:
    """The state that training changes, tied weights once; a frozen base under an adapter is not in it."""
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    others = {n for n, _ in model.named_parameters(remove_duplicate=False)} - trained
    return {n: t for n, t in model.state_dict().items() if n not in others}


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema,
    config: FitConfig,
    loss: dict[str, float],
    *,
    loss_scale: dict[str, Any] | None = None,
    is_main: bool = True,
) -> None:
    """Write checkpoint-XXXXXXXX: what is trained, its average, the optimiser's state; drop the oldest.

    Every process calls this, the main one writes.

    Args:
        loss: state of a `LossWatch`.
        loss_scale: state of fp16's scaler, where there is one.
    """

    def kept(tensor: Tensor) -> Tensor:
        """The whole tensor off the device, so that no device ever holds more than one; elsewhere nothing."""
        full = whole(tensor)
        return full.cpu() if is_main else full.new_empty(0)

    tensors = {
        "model": {n: kept(t) for n, t in learned(model).items()},
        "ema": {n: kept(t) for n, t in zip(ema.names, ema.shadow, strict=True)},
        "optimizer": {
            f"{index}.{name}": kept(value)
            for index, slots in optimizer.state_dict()["state"].items()
            for name, value in slots.items()
        },
    }
    if not is_main:
        return
    state = {"step": step, "ema_updates": ema.updates, "loss": loss, "config": asdict(config)}
    state |= {"loss_scale": loss_scale} if loss_scale else {}
    with storage.atomic_folder(folder / f"checkpoint-{step:08d}") as partial:
        for name, group in tensors.items():
            _write(group, partial / f"{name}.safetensors")
        storage.write_json(partial / "state.json", state)
    _drop_oldest(folder, config.keep_checkpoints)


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # a full disk, for instance, which safetensors does not call an OSError
        raise ValueError(
            f"{path.parent.parent} must have room for a checkpoint, but: {first_line(error)}"
        ) from error


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema, config: FitConfig
) -> dict[str, Any]:
    """Load the newest checkpoint in place; returns its record, or one of step 0 if there is none.

    Raises:
        ValueError: it is of another configuration or another model, or damaged.
    """
    found = checkpoints(folder)
    if not found:
        return {"step": 0, "loss": None}
    state, earlier = _record(found[-1])
    changed = earlier.differences(config, state["step"])
    if changed:
        raise ValueError(
            f"{folder} holds a run with another {', '.join(changed)}; continue with the same configuration"
            " or choose an empty folder"
        )
    weights, averaged, slots = (_read(found[-1] / f"{n}.safetensors") for n in ("model", "ema", "optimizer"))
    live = learned(model)
    if weights.keys() != live.keys() or any(weights[n].shape != live[n].shape for n in live):
        odd = sorted(weights.keys() ^ live.keys())[:3] or ["shapes differ"]
        raise ValueError(f"{found[-1]} must hold a checkpoint of this model, but it does not match: {odd}")
    _fill_optimizer(optimizer, slots)
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(_as_live(weights[name], tensor))
        for name, mean in zip(ema.names, ema.shadow, strict=True):
            mean.copy_(_as_live(averaged[name], mean))
    ema.updates = state["ema_updates"]
    logger.info("continuing from %s", found[-1])
    return state


def load_average(folder: Path, model: nn.Module) -> None:
    """Fill what is trained of a model with the averages in the newest checkpoint of a run folder.

    The model is a plain one, whether or not the trained one was sharded over several devices.

    Raises:
        ValueError: there is no whole checkpoint, or it is another model's.
    """
    found = checkpoints(folder)
    if not found:
        raise ValueError(f"{folder} must hold a checkpoint, but has none; train first")
    averages = _read(found[-1] / "ema.safetensors")
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if {n: t.shape for n, t in averages.items()} != {n: p.shape for n, p in trained.items()}:
        raise ValueError(f"{found[-1]} must hold a checkpoint of this model, but its averages are of another")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(averages[name])


def _record(folder: Path) -> tuple[dict[str, Any], FitConfig]:
    """What state.json holds, and the configuration in it."""
    with _reading(folder / "state.json") as path:
        state = storage.read_json(path)
        if not {"step", "ema_updates", "loss", "config"} <= state.keys():
            raise ValueError(f"it lacks some of its keys, has {', '.join(state)}")
        return state, FitConfig(**state["config"])


def _read(path: Path) -> dict[str, Tensor]:
    with _reading(path):
        return load_file(path)


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    try:
        yield path
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path.parent} must be a whole checkpoint, but {path.name} cannot be read ({error}); delete that"
            " folder to continue from the one before"
        ) from error


def _fill_optimizer(optimizer: torch.optim.Optimizer, flat: dict[str, Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        index, name = key.split(".", 1)
        live = parameters[int(index)]
        slots.setdefault(int(index), {})[name] = _as_live(value, live) if value.shape == live.shape else value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
