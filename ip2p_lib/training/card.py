"""The model card of a fine-tuned editor, from the record that its run left."""

from collections.abc import Sequence
from pathlib import Path

from ip2p_lib import storage
from ip2p_lib.optimisation import checkpoints

TEMPLATE = """---
base_model: {base}
library_name: diffusers
pipeline_tag: image-to-image
tags: [instruct-pix2pix, image-editing]
---

# Editor fine-tuned from {base}

Changes a picture as an instruction in words asks, by the method of InstructPix2Pix (arXiv:2211.09800): the UNet
takes the picture's latents beside the noise, and two guidance scales weigh picture and text.

```python
from diffusers import StableDiffusionInstructPix2PixPipeline
pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained("path/of/this/folder")
edited = pipeline("make it night", image=picture, guidance_scale=7.5, image_guidance_scale=1.5).images[0]
```

## How it was trained

| | |
|---|---|
{rows}

Weights are the exponential moving average. {losses}

## Limits

It can do what its pairs showed, in words like theirs. Nothing was measured here beyond the losses above: try it on
pictures of your own kind, and measure (`ip2p quality` for the miniature) before you rely on it. It inherits what the
base model may and may not be used for, and its biases.
"""
SHOWN = {
    "prompts": "prompts in the training set",
    "steps": "optimiser steps",
    "batch_size": "pairs per micro-step",
    "gradient_accumulation_steps": "micro-steps per step",
    "learning_rate": "learning rate",
    "conv_in_learning_rate": "learning rate of the first convolution, if another",
    "conditioning_dropout": "conditioning dropout, each of three events",
    "noisy_fraction": "share of timesteps from the noisier half only",
    "ema_decay": "decay of the average",
    "mixed_precision": "mixed precision",
    "resolution": "side of the pictures",
    "flip": "mirrored half of the time",
    "seed": "seed",
}


def write_card(
    run: Path, path: Path, losses: Sequence[tuple[int, float]] = (), held_out_loss: float | None = None
) -> None:
    """Write a card from a run folder's record and newest checkpoint.

    Args:
        run: folder that `train_editor` worked in.
        losses: (step, mean training loss), of which first and last are told.
        held_out_loss: of prompts kept from training.

    Raises:
        FileNotFoundError: the folder holds no record of a run.
    """
    record = storage.read_json(run / "run.json")
    config = dict(record["config"])
    if found := checkpoints(run):
        config["steps"] = storage.read_json(found[-1] / "state.json")["step"]
    rows = [f"| {text} | {config[name]} |" for name, text in SHOWN.items() if config.get(name) is not None]
    rows += [f"| {name} | {record[name]} |" for name in ("command", "commit", "machine")]
    rows += [f"| {name} | {version} |" for name, version in record["versions"].items()]
    base, told = config["base"], ""
    if isinstance(base, list):  # of an adapter: name and weights
        base = base[0]
    if losses:
        (first, high), (last, low) = losses[0], losses[-1]
        told = f"Mean training loss: {high:.4f} around step {first}, {low:.4f} around step {last}."
    if held_out_loss is not None:
        told += f" Loss on held-out prompts, without dropout: {held_out_loss:.4f}."
    with storage.atomic_file(path) as partial:
        partial.write_text(TEMPLATE.format(base=base, rows="\n".join(rows), losses=told), encoding="utf-8")
