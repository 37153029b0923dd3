"""The run: a training configuration turned into steps of the common loop."""

import math
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from ip2p_lib import storage
from ip2p_lib.backbone import Backbone, weights_mark
from ip2p_lib.dataset import EditDataset
from ip2p_lib.fitting import first_line
from ip2p_lib.optimisation import (
    FitConfig,
    Report,
    checkpoints,
    fit,
    is_sharded,
    processes,
    settled_precision,
)
from ip2p_lib.presets import TrainConfig
from ip2p_lib.training.loss import EditLoss

# On a CPU the fused kernel's backward pass takes longer than products written out, as long as these are small;
# and convolutions are faster over channels that lie side by side.
FEW_POSITIONS = 256

# Settings that may change between a run and its continuation; the loop checks that the rates agree.
FREE = {"steps", "decay_steps", "checkpoint_every", "keep_checkpoints", "compile", "gradient_checkpointing"}


def fit_config(config: TrainConfig) -> FitConfig:
    """The optimiser's part of a training configuration."""
    shared = {f.name for f in fields(FitConfig)} & {f.name for f in fields(TrainConfig)}
    return FitConfig(**{name: getattr(config, name) for name in shared})


def parameter_groups(unet: UNet2DConditionModel, config: TrainConfig) -> list[dict[str, Any]]:
    """What is trained, the first convolution with its own rate."""
    first = {id(p) for p in unet.conv_in.parameters()}
    trained = [p for p in unet.parameters() if p.requires_grad]
    rate = config.learning_rate if config.conv_in_learning_rate is None else config.conv_in_learning_rate
    groups = [
        {"params": [p for p in trained if id(p) not in first], "lr": config.learning_rate},
        {"params": [p for p in trained if id(p) in first], "lr": rate},
    ]
    return [group for group in groups if group["params"]]


def train_editor(
    unet: UNet2DConditionModel,
    backbone: Backbone,
    data: EditDataset,
    config: TrainConfig,
    folder: Path | None = None,
    *,
    mark: str | None = None,
) -> Iterator[Report]:
    """Train a widened UNet in place, yielding after every step; resumes in `folder`.

    Every parameter that requires a gradient is trained: all of them after `unet.as_editor_unet`, an adapter
    after `lora.add_lora`. A later call may ask for more steps, as long as the rates so far stay what they were.

    Args:
        unet: takes noisy latents and picture side by side.
        backbone: supplies text states and the noise schedule; its networks stay frozen.
        mark: `weights_mark` of the UNet before `lora.store_frozen`, so that a run may go on where it is not applied.

    Raises:
        ValueError: the folder holds a run of another configuration or other pairs, or the UNet does not
            take these pairs.
            Or a micro-step does not fit in a GPU's memory; the message says how to split it.
        FloatingPointError: the loss is no longer finite, or exploded.
    """
    data.check_channels(unet.config.in_channels)
    config = replace(config, mixed_precision=settled_precision(config.mixed_precision))
    settings = fit_config(config)  # what is out of range is refused before the folder is claimed
    loss = EditLoss(unet, backbone, data, config)
    if folder is not None:
        remedy = "continue with the pairs, model and settings of that run, or choose an empty folder"
        claim = _claim(unet, backbone, data, config, mark)
        storage.claim_folder(folder, claim, remedy=remedy, is_empty=not checkpoints(folder))
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if processes().device.type == "cpu" and math.prod(data.condition.shape[-2:]) <= FEW_POSITIONS:
        unet.set_attn_processor(AttnProcessor())
        if not is_sharded():
            unet.to(memory_format=torch.channels_last)
    groups = parameter_groups(unet, config)
    return _in_memory(
        fit(unet, loss, settings, folder=folder, groups=groups, describe=loss.describe),
        unet,
        config,
    )


def _in_memory(
    reports: Iterator[Report], unet: UNet2DConditionModel, config: TrainConfig
) -> Iterator[Report]:
    """The same steps, and at their end weights laid out as any file wants them.

    The batch is part of the result, so where memory runs out it is not changed: the user chooses.
    """
    try:
        yield from reports
    except torch.cuda.OutOfMemoryError as error:
        reason = first_line(error)
    else:
        return
    finally:
        if not is_sharded():
            unet.to(memory_format=torch.contiguous_format)
    raise ValueError(
        f"the GPU's memory must hold a micro-step of {config.batch_size} pairs, but does not ({reason});"
        f" {_smaller(config)}`ip2p plan --stage train` says what fits"
    )


def _smaller(config: TrainConfig) -> str:
    """Options by which a step of as many pairs takes less memory."""
    ways = [] if config.gradient_checkpointing else ["take --gradient-checkpointing"]
    share = config.batch_size // processes().num_processes
    parts = next((n for n in range(2, share + 1) if share % n == 0), None)
    if parts:
        size, micro_steps = config.batch_size // parts, config.gradient_accumulation_steps * parts
        ways.insert(0, f"split the step by --batch-size {size} --accumulate {micro_steps}")
    return f"{', or '.join(ways)}; " if ways else ""


def _claim(
    unet: UNet2DConditionModel,
    backbone: Backbone,
    data: EditDataset,
    config: TrainConfig,
    mark: str | None,
) -> dict[str, Any]:
    """What two runs in one folder must have in common."""
    return {
        "stage": "train",
        **{n: v for n, v in asdict(config).items() if n not in FREE},
        **_pairs(data),
        **_networks(unet, backbone, mark),
    }


def _pairs(data: EditDataset) -> dict[str, Any]:
    """What is learned from."""
    instructions = storage.fingerprint(data.instructions)
    return {"prompts": len(data), "instructions": instructions, "pairs": data.mark}


def _networks(unet: UNet2DConditionModel, backbone: Backbone, mark: str | None = None) -> dict[str, Any]:
    """What is trained, and what stays as it is around it; the autoencoder is in the mark of the pairs."""
    trained = sorted(n for n, p in unet.named_parameters() if p.requires_grad)
    is_adapter = len(trained) < len(list(unet.parameters()))  # which fits the weights under it, and no others
    return {
        "base": [backbone.name, mark or weights_mark(unet)] if is_adapter else backbone.name,
        "text_encoder": weights_mark(backbone.text_encoder)[:16],
        "trained": storage.fingerprint(trained),
    }


def check_run(unet: UNet2DConditionModel, backbone: Backbone, data: EditDataset, folder: Path) -> None:
    """Refuse to put what a run in `folder` learned into other networks than it began with, or to call other pairs its.

    Raises:
        ValueError: its record tells of others.
    """
    if not (folder / "run.json").exists():
        return
    found = storage.recorded(folder / "run.json")
    for what, options, told in (
        ("model it trained", "--model and --lora-rank", _networks(unet, backbone)),
        ("pairs it learned from", "--data, --held-out and --resolution", _pairs(data)),
    ):
        for name, here in told.items():
            if found.get(name) != here:
                raise ValueError(
                    f"the run in {folder} must be given the {what}, but its {name} was {found.get(name)}, and"
                    f" this one's is {here}; see {options}"
                )
