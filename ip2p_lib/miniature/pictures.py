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


def as_tensor(pixels: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """(B, H, W, 3) bytes to (B, 3, H, W) float in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
