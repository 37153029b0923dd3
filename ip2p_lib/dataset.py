"""Pair datasets for training: shards in, one latent cache out, batches by step number."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from ip2p_lib import images, records, storage
from ip2p_lib.backbone import Backbone

ALIASES = {  # our name -> names in other datasets
    records.ORIGINAL_IMAGE: ("input_image", "original_image"),
    records.EDIT_PROMPT: ("edit_prompt", "instruction"),
    records.EDITED_IMAGE: ("edited_image", "edited_images"),
}


def pair_shards(folder: Path) -> list[Path]:
    """Parquet files with pairs, in order.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    found = sorted(p for p in folder.glob("*.parquet") if not p.name.startswith(("scores-", ".")))
    if not found:
        raise FileNotFoundError(
            f"{folder} must hold Parquet files with pairs, found none; make them with `ip2p filter`"
        )
    return found


def _column(names: Sequence[str], wanted: str, shard: Path) -> str:
    for name in (wanted, *ALIASES.get(wanted, ())):
        if name in names:
            return name
    raise ValueError(
        f"{shard} must have a column {wanted} (or {', '.join(ALIASES[wanted])}), got {', '.join(names)}"
    )


def is_held_out(key: str, fraction: float) -> bool:
    """Whether a prompt belongs to the held-out part: decided by its id or text, never by pair."""
    return int(storage.fingerprint(key), 16) / 16**16 < fraction


def _pixels(cell: Any, resolution: int) -> Tensor:
    if not isinstance(cell, dict) or "bytes" not in cell:
        raise ValueError(f"an image cell must hold a picture's bytes and path, got {type(cell).__name__}")
    picture = images.from_bytes(cell["bytes"], cell.get("path") or "picture")
    return images.to_tensor([images.fit(picture, (resolution, resolution))])


@dataclass(frozen=True)
class EditDataset:
    """Encoded pairs, memory-mapped, with everything that training draws from.

    `moments` is (N, flips, 5, ...) in effect: mean and deviation of the target's scaled latents and the
    mode of the input's unscaled latents. Re-sampling the target's posterior stays possible.
    """

    instructions: list[str]
    groups: list[list[int]]  # pairs of each prompt
    target_mean: NDArray[np.float16]  # (N, F, C, h, w), scaled
    target_std: NDArray[np.float16]
    condition: NDArray[np.float16]  # (N, F, C, h, w), NOT scaled

    def __len__(self) -> int:
        """Number of prompts: an epoch shows one pair of each."""
        return len(self.groups)

    def picks(
        self, step: int, batch_size: int, seed: int, *, flip: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pair and flip index of each row of step `step`; any step is found without the ones before."""
        first, count = step * batch_size, len(self.groups)
        pairs, flips = [], []
        for position in range(first, first + batch_size):
            epoch, place = divmod(position, count)
            prompt = self.groups[_epoch_order(count, epoch, seed)[place]]
            rng = np.random.default_rng((seed, position, 41))
            pairs.append(prompt[rng.integers(len(prompt))])
            is_sided = {"left", "right"} & set(self.instructions[pairs[-1]].lower().split())
            flips.append(int(flip and not is_sided and self.condition.shape[1] > 1 and rng.random() < 0.5))
        return np.asarray(pairs), np.asarray(flips)

    def latents(self, pairs: NDArray[np.int64], flips: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """Target mean, target deviation and condition of the picked rows, float32 (B, C, h, w)."""
        mean, std, condition = (
            torch.from_numpy(a[pairs, flips].astype(np.float32))
            for a in (self.target_mean, self.target_std, self.condition)
        )
        return mean, std, condition


_ORDERS: dict[tuple[int, int, int], NDArray[np.int64]] = {}


def _epoch_order(count: int, epoch: int, seed: int) -> NDArray[np.int64]:
    """Shuffle of one epoch, remembered while it is in use."""
    key = (count, epoch, seed)
    if key not in _ORDERS:
        if len(_ORDERS) > 4:
            _ORDERS.clear()
        _ORDERS[key] = np.random.default_rng((seed, epoch, 40)).permutation(count)
    return _ORDERS[key]


def open_dataset(
    folder: Path,
    backbone: Backbone,
    *,
    resolution: int,
    held_out: float = 0.0,
    part: str = "train",
    cache: Path | None = None,
) -> EditDataset:
    """Encode a folder of pairs once, both ways round, and open the result memory-mapped.

    Reads our shards, the released dataset's columns and diffusers' names. The cache is keyed by the
    pictures' files and the autoencoder's weights, and written whole or not at all.

    Args:
        held_out: share of prompts kept from training.
        part: "train" for the others, "held_out" for those.
        cache: where encoded pairs are kept, default `folder/.latents`.

    Raises:
        FileNotFoundError: no pairs in the folder.
        ValueError: a column is missing, a picture or text is not usable, or no pair is left.
    """
    shards = pair_shards(folder)
    weights = next(iter(backbone.vae.state_dict().values())).float().sum().item()
    key = storage.fingerprint([[(s.name, storage.sha256(s)) for s in shards], resolution, round(weights, 4)])
    home = (cache or folder / ".latents") / key
    if not (home / "index.json").exists():
        _encode(shards, backbone, resolution, home)
    index = storage.read_json(home / "index.json")
    arrays = [np.load(home / f"{n}.npy", mmap_mode="r") for n in ("target_mean", "target_std", "condition")]
    groups: dict[str, list[int]] = {}
    for row, prompt in enumerate(index["prompts"]):
        if is_held_out(prompt, held_out) == (part == "held_out"):
            groups.setdefault(prompt, []).append(row)
    if not groups:
        raise ValueError(
            f"{folder} must hold at least one prompt of part {part!r}, got none of {len(index['prompts'])}"
        )
    return EditDataset(index["instructions"], list(groups.values()), *arrays)


def _encode(shards: Sequence[Path], backbone: Backbone, resolution: int, home: Path) -> None:
    """Encode every pair and its mirror image; written as three arrays and an index."""
    instructions: list[str] = []
    prompts: list[str] = []
    parts: dict[str, list[NDArray[np.float16]]] = {"target_mean": [], "target_std": [], "condition": []}
    for shard in tqdm(shards, desc="encoding pairs", unit="shard"):
        rows = pq.read_table(shard).to_pylist()
        names = list(rows[0]) if rows else []
        before, text, after = (
            _column(names, c, shard)
            for c in (records.ORIGINAL_IMAGE, records.EDIT_PROMPT, records.EDITED_IMAGE)
        )
        for number, row in enumerate(rows):
            if not isinstance(row[text], str):
                raise ValueError(f"{shard} row {number}: {text} must be a text, got {row[text]!r}")
            instructions.append(row[text])
            prompts.append(
                row.get(records.TRIPLET_ID) or f"{row.get(records.ORIGINAL_PROMPT, '')}|{row[text]}"
            )
        for start in range(0, len(rows), 64):
            block = rows[start : start + 64]
            first, second = (torch.cat([_pixels(r[c], resolution) for r in block]) for c in (before, after))
            encoded = [
                _encode_ways(backbone, a, b) for a, b in ((first, second), (first.flip(-1), second.flip(-1)))
            ]
            for name, ways in zip(parts, zip(*encoded, strict=True), strict=True):
                parts[name].append(torch.stack(ways, dim=1).half().cpu().numpy())  # (b, 2, C, h, w)
    with storage.atomic_folder(home) as partial:
        for name, blocks in parts.items():
            np.save(partial / f"{name}.npy", np.concatenate(blocks))
        storage.write_json(partial / "index.json", {"instructions": instructions, "prompts": prompts})


def _encode_ways(backbone: Backbone, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, std = backbone.latent_moments(second)
    return mean, std, backbone.image_latents(first)
