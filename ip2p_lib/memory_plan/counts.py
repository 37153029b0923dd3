"""Bytes that each stage holds on the device, part by part, for Stable Diffusion 1.x and CLIP ViT-L/14.

Weights are counted from the architectures; what the networks hold while they run comes from
`memory_plan.dry_run` at two sizes and is a straight line in the number of latent pixels
(`tests/test_memory_plan.py` counts again). On a GPU it was not measured.
"""

import math

KIB, MIB, GIB = 2**10, 2**20, 2**30
STAGES = ("edit", "pairs", "filter", "train")
UNET, EDITOR_UNET = 859_520_964, 859_532_484  # parameters: 4 input channels, and 8
VAE, TEXT_ENCODER, CLIP = 83_653_863, 123_060_480, 427_616_513
LORA_PER_RANK, FIRST_LAYER = 199_296, 23_360
PRECISIONS = {"bf16": 2, "fp16": 2, "no": 4}

# Dry runs, per row and latent pixel (an eighth of a pixel along each side); two bytes a number.
FORWARD = 16.25 * KIB  # a UNet row, nothing kept for a backward pass
DECODE, ENCODE = 96.0 * KIB, 80.4 * KIB  # the autoencoder; a tile where pictures are cut into tiles
SCORE = 16.64 * MIB  # CLIP, a picture, float32
# What is kept for the backward pass: (per latent pixel, per row).
KEPT = {
    ("bf16", False): (298.9 * KIB, 7.4 * MIB),
    ("bf16", True): (54.4 * KIB, 0.1 * MIB),
    ("no", False): (451.7 * KIB, 7.7 * MIB),
    ("no", True): (115.4 * KIB, 0.0),
}
TILED_ABOVE, TILE = 768**2, 512  # pixels, and a tile's side: `editing.large`
CLIP_BATCH = 256
RESERVE, GAPS = 1 * GIB, 0.10  # assumed, not measured: the device's libraries, and gaps between tensors


def needs(
    stage: str,
    *,
    resolution: int = 512,
    batch: int = 1,
    precision: str = "bf16",
    gradient_checkpointing: bool = False,
    lora_rank: int | None = None,
    processes: int = 1,
) -> dict[str, int]:
    """Bytes by what they are for, at the stage's fullest moment; their sum is what must fit.

    Args:
        stage: edit, pairs, filter or train, as `ip2p` runs them.
        resolution: side of square pictures, a multiple of 8; the filter shrinks all pictures to 224.
        batch: edits, candidates, pictures, or pairs in a micro-step of one process.
        precision: bf16 or fp16, or no for float32.
        lora_rank: of an adapter that is trained instead of all weights.
        processes: GPUs that share weights, gradients, averages and the optimiser's state (`configs/fsdp.yaml`).

    Raises:
        ValueError: a value is none of these.
    """
    _check(stage, resolution, batch, precision, lora_rank, processes)
    latent = (resolution // 8) ** 2
    if stage == "train":
        held = _state(precision, lora_rank, processes)
        pixel, row = KEPT["no" if precision == "no" else "bf16", gradient_checkpointing]
        running = batch * (pixel * latent + row)
    elif stage == "filter":
        held, running = {"CLIP": 4 * CLIP}, SCORE * min(batch, CLIP_BATCH)
    else:
        size = PRECISIONS[precision]
        unet = EDITOR_UNET if stage == "edit" else UNET
        held = {"UNet": size * unet, "autoencoder and text encoder": size * (VAE + TEXT_ENCODER)}
        rows = batch * (3 if stage == "edit" else 4)  # three predictions; two pictures with and without text
        is_tiled = stage == "edit" and resolution**2 > TILED_ABOVE
        decoded = (TILE // 8) ** 2 if is_tiled else batch * latent
        running = size / 2 * max(rows * FORWARD * latent, DECODE * decoded)
    return {
        **{name: math.ceil(size) for name, size in held.items()},
        "while it runs": math.ceil(running),
        "gaps between tensors, assumed": math.ceil(GAPS * running),
        "the device's libraries, assumed": RESERVE,
    }


def _state(precision: str, lora_rank: int | None, processes: int) -> dict[str, float]:
    """What training holds from the first step to the last; the UNet it starts from waits in the processor's memory.

    Frozen weights lie in the dtype they are computed in (`lora.store_frozen`); norms and biases, a two-thousandth
    of them, do not, and are counted as if they did.
    """
    adapter = 0 if lora_rank is None else lora_rank * LORA_PER_RANK
    trained = EDITOR_UNET if lora_rank is None else adapter + FIRST_LAYER
    frozen = EDITOR_UNET + adapter - trained
    return {
        "autoencoder and text encoder": 4 * (VAE + TEXT_ENCODER),
        "frozen weights": PRECISIONS[precision] * frozen / processes,
        "trained weights": 4 * trained / processes,
        "gradients": 4 * trained / processes,
        "the optimiser's two averages": 8 * trained / processes,
        "averaged weights": 4 * trained / processes,
        "trained weights in two bytes": 0 if precision == "no" else 2 * trained,
    }


def _check(
    stage: str, resolution: int, batch: int, precision: str, lora_rank: int | None, processes: int
) -> None:
    if stage not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}; got {stage!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    if resolution < 64 or resolution % 8:
        raise ValueError(f"resolution must be a multiple of 8 and at least 64, got {resolution}")
    for name, value in (("batch", batch), ("lora_rank", lora_rank), ("processes", processes)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
