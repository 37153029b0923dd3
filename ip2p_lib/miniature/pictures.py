"""Training pictures of the world, drawn once and kept in a memory-mapped array."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from ip2p_lib import storage
from ip2p_lib.scenes.render import render_many
from ip2p_lib.scenes.world import Scene, sample_scenes

BASE_SEED, JUDGE_SEED, HELD_OUT_SEED = 1, 2, 900  # scenes of the three never mix


def drawn_scenes(count: int, seed: int, work: Path, size: int = 64) -> tuple[list[Scene], NDArray[np.uint8]]:
    """Scenes and their pictures, (count, size, size, 3); drawn on all cores the first time."""
    scenes = sample_scenes(count, seed)
    path = work / f"pictures-{seed}-{count}-{size}.npy"
    if not path.exists():
        with storage.atomic_file(path) as partial:
            pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, (count, size, size, 3))
            done = 0
            with tqdm(total=count, desc="drawing", unit="picture") as bar:
                for block in render_many(scenes, size):
                    pixels[done : done + len(block)] = block
                    done += len(block)
                    bar.update(len(block))
            pixels.flush()
    return scenes, np.load(path, mmap_mode="r")


def batch_indices(count: int, batch_size: int, step: int, seed: int) -> NDArray[np.int64]:
    """Which items step `step` sees: epochs of a keyed shuffle, so any step can be found directly."""
    first = step * batch_size
    picked = []
    for epoch in range(first // count, (first + batch_size - 1) // count + 1):
        order = np.random.default_rng((seed, epoch)).permutation(count)
        low, high = max(first - epoch * count, 0), min(first + batch_size - epoch * count, count)
        picked.append(order[low:high])
    return np.concatenate(picked)


def as_tensor(pixels: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """(B, H, W, 3) bytes to (B, 3, H, W) float in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
