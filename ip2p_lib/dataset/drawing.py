"""What training draws from: prompts in a new order each epoch, a pair of each, batches by step number."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from torch import Tensor

from ip2p_lib import storage
from ip2p_lib.backbone import Backbone
from ip2p_lib.dataset.encoding import ARRAYS, Encoder, JoinedArray, encode_shards, read_index
from ip2p_lib.dataset.reading import find_shards, remembered

SIDED = re.compile(r"\b(left|right)", re.IGNORECASE)  # also leftmost, right-hand
PARTS = ("train", "held_out")


def is_held_out(key: str, fraction: float) -> bool:
    """Whether a prompt belongs to the held-out part: decided by its id or text, never by pair."""
    return int(storage.fingerprint(key), 16) / 16**16 < fraction


@dataclass(frozen=True)
class EditDataset:
    """Encoded pairs on disk, with everything that training draws from.

    Each array is (N, ways, C, h, w) float16. Ways 2 i and 2 i + 1 are crop i and its mirror image, of both
    pictures alike. The target has mean and deviation, so that its posterior is sampled anew at each visit.
    """

    instructions: list[str]
    groups: list[list[int]]  # pairs of each prompt
    target_mean: JoinedArray  # scaled
    target_std: JoinedArray  # scaled
    condition: JoinedArray  # NOT scaled
    mark: str = ""  # of pictures, texts, crops and autoencoder

    def __len__(self) -> int:
        """Number of prompts: an epoch shows one pair of each."""
        return len(self.groups)

    def picks(
        self, step: int, batch_size: int, seed: int, *, flip: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pair and way of each row of step `step`; any step is found without the ones before.

        A way is mirrored where it is odd: never without `flip`, nor where the instruction says left or right.
        """
        first, count = step * batch_size, len(self.groups)
        pairs, ways = [], []
        for position in range(first, first + batch_size):
            epoch, place = divmod(position, count)
            prompt = self.groups[_epoch_order(count, epoch, seed)[place]]
            rng = np.random.default_rng((seed, position, 41))
            pairs.append(prompt[rng.integers(len(prompt))])
            may_flip = flip and not SIDED.search(self.instructions[pairs[-1]])
            ways.append(2 * self._crop(seed, position) + int(may_flip and rng.random() < 0.5))
        return np.asarray(pairs), np.asarray(ways)

    def _crop(self, seed: int, position: int) -> int:
        """Which crop; from a stream of its own, so that their number changes no other draw."""
        crops = self.condition.shape[1] // 2
        return int(np.random.default_rng((seed, position, 42)).integers(crops)) if crops > 1 else 0

    def latents(self, pairs: NDArray[np.int64], ways: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """Target mean, target deviation and condition of the picked rows, float32 (B, C, h, w)."""
        mean, std, condition = (
            torch.from_numpy(a[pairs, ways].astype(np.float32))
            for a in (self.target_mean, self.target_std, self.condition)
        )
        return mean, std, condition

    def check_channels(self, in_channels: int) -> None:
        """Refuse a UNet that does not take noisy latents and picture side by side.

        Raises:
            ValueError: it has another number of input channels than twice those of these latents.
        """
        wanted = 2 * self.condition.shape[2]
        if in_channels != wanted:
            raise ValueError(
                f"to train on these pairs a UNet must have {wanted} input channels, got {in_channels};"
                " widen a text-to-image UNet of the same autoencoder with `widen_unet`"
            )


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
    crops: int = 1,
    columns: Mapping[str, str] | None = None,
    crew: PartialState | None = None,
) -> EditDataset:
    """Encode a folder of pairs once, and open the result memory-mapped.

    Reads our shards, the released dataset's columns and diffusers' names, and picture folders with metadata.
    Each shard is encoded by itself and kept: a stopped run goes on after the last whole one, and a new shard
    costs only itself.

    Args:
        resolution: side of the square pictures, in pixels.
        held_out: share of prompts kept from training.
        part: "train" for the others, "held_out" for those.
        cache: where encoded pairs are kept, default `folder/.latents`.
        crops: 1 for the whole picture; more for that many random crops of each pair.
        columns: names that columns have in this folder, by ours, where they are not found by themselves.
        crew: processes that share the encoding, shard by shard, on one file system; all of them must call this.

    Raises:
        FileNotFoundError: no pairs in the folder.
        ValueError: a column is missing, a picture or text is not usable, no pair is left, the cache is
            damaged or the disk full, or autoencoder and UNet do not fit together.
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    encoder = Encoder(backbone, resolution, crops)
    _check_unet(backbone)
    cache = cache or folder / ".latents"
    with remembered(cache / "digests.json", keep=crew is None or crew.is_main_process) as digests:
        shards = find_shards(folder, digests, columns)
    homes = encode_shards(shards, encoder, cache, crew)
    counts, shape = [s.count for s in shards], encoder.shape
    indices = [read_index(home, count, shape) for home, count in zip(homes, counts, strict=True)]
    prompts = [p for index in indices for p in index["prompts"]]
    groups: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        if is_held_out(prompt, held_out) == (part == "held_out"):
            groups.setdefault(prompt, []).append(row)
    if not groups:
        raise ValueError(
            f"{folder} must hold at least one prompt of part {part!r}, got none of {len(prompts)}"
        )
    arrays = {n: JoinedArray([h / f"{n}.npy" for h in homes], counts, shape) for n in ARRAYS}
    return EditDataset(
        [i for index in indices for i in index["instructions"]],
        list(groups.values()),
        **arrays,
        mark=storage.fingerprint([f"{h.parent.name}/{h.name}" for h in homes]),  # encoder and pairs,
    )


def _check_unet(backbone: Backbone) -> None:
    channels, unet = backbone.latent_channels, backbone.unet.config
    if unet.out_channels != channels or unet.in_channels not in (channels, 2 * channels):
        raise ValueError(
            f"{backbone.name} must have a UNet for the {channels} channels of its autoencoder, has one from"
            f" {unet.in_channels} to {unet.out_channels}; choose a text-to-image model"
        )
