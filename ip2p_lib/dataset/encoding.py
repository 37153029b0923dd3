"""The latent cache: every pair encoded once, both ways round, kept on disk shard by shard."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from ip2p_lib import images, storage
from ip2p_lib.backbone import Backbone, weights_mark
from ip2p_lib.dataset.reading import GROUP, Shard
from ip2p_lib.dataset.rows import Pair
from ip2p_lib.fitting import Room
from ip2p_lib.pairs.shards import needing_room

ARRAYS = ("target_mean", "target_std", "condition")
INDEX = "index.json"
PIXELS = 2**18  # of each side of a pair: four of 256, or 64 of the miniature
LARGEST = 9 / 8  # of the random sides, by the side of the crop
MAPPED = 200  # files of an array that are open at once; a process may have some thousand
Box = tuple[int, int, int]


@dataclass
class JoinedArray:
    """Arrays in many files, one after the other, as one array (N, ...); files are mapped as they are needed."""

    files: Sequence[Path]
    counts: Sequence[int]
    tail: tuple[int, ...]
    _mapped: dict[int, NDArray[np.float16]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._starts = np.cumsum([0, *self.counts])

    @property
    def shape(self) -> tuple[int, ...]:
        """As if it were one array."""
        return (int(self._starts[-1]), *self.tail)

    def _file(self, number: int) -> NDArray[np.float16]:
        if number not in self._mapped:
            if len(self._mapped) >= MAPPED:
                self._mapped.pop(next(iter(self._mapped)))
            self._mapped[number] = np.load(self.files[number], mmap_mode="r")
        return self._mapped[number]

    def __getitem__(self, index: tuple[NDArray[np.int64], NDArray[np.int64]]) -> NDArray[np.float16]:
        """Copies of chosen rows, (B, *tail[1:]): `index` has a row and a place on the second axis for each."""
        rows, ways = (np.asarray(i) for i in index)
        holders = np.searchsorted(self._starts, rows, side="right") - 1
        out = np.empty((len(rows), *self.tail[1:]), np.float16)
        for number in np.unique(holders).tolist():
            here = holders == number
            out[here] = self._file(number)[rows[here] - self._starts[number], ways[here]]
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of it in memory, to look at small ones."""
        return np.concatenate([self._file(n) for n in range(len(self.files))]).astype(dtype or np.float16)


def autoencoder_mark(backbone: Backbone) -> str:
    """Digest of what decides the latents: the autoencoder's weights, their dtype, and its configuration."""
    config = {n: v for n, v in dict(backbone.vae.config).items() if not n.startswith("_")}
    return storage.fingerprint([weights_mark(backbone.vae), config])


def boxes(prompt: str, number: int, crops: int, resolution: int) -> list[Box]:
    """The crops of a pair, both pictures alike: (side to resize to, left, top) for each.

    One crop is the whole picture. More are random ones, of sides from `resolution` to 9/8 of it; they follow
    from the pair's prompt and its number in the file.

    Source: timothybrooks/instruct-pix2pix@0dffd1e, edit_dataset.py, whose own sides (256 to 256) leave one.
    """
    if crops == 1:
        return [(resolution, 0, 0)]
    rng = np.random.default_rng((int(storage.fingerprint([prompt, number]), 16), 43))
    sides = rng.integers(resolution, round(LARGEST * resolution) + 1, crops).tolist()
    return [(s, *(int(p) for p in rng.integers(s - resolution + 1, size=2))) for s in sides]


def cut(picture: Image.Image, box: Box, resolution: int) -> Image.Image:
    """A picture resized and cropped to (resolution, resolution)."""
    side, left, top = box
    return images.fit(picture, (side, side)).crop((left, top, left + resolution, top + resolution))


@dataclass(frozen=True)
class Encoder:
    """Turns pairs into latents of `crops` crops, each both ways round.

    Raises:
        ValueError: no crop, or a resolution that is no whole number of latents.
    """

    backbone: Backbone
    resolution: int
    crops: int = 1

    def __post_init__(self) -> None:
        factor = self.backbone.factor
        if self.crops < 1:
            raise ValueError(f"crops must be at least 1, got {self.crops}")
        if self.resolution < factor or self.resolution % factor:
            raise ValueError(f"resolution must be a multiple of {factor}, got {self.resolution}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a pair's latents: (ways, C, h, w), where way 2 i is crop i and way 2 i + 1 its mirror image."""
        side = self.resolution // self.backbone.factor
        return (2 * self.crops, self.backbone.latent_channels, side, side)

    @property
    def together(self) -> int:
        """Pairs encoded at once: as many as fill `PIXELS`, since an encoder's memory grows with them."""
        return max(1, min(GROUP, PIXELS // self.resolution**2))

    def record(self) -> dict[str, Any]:
        """What latents and their index depend on beside the pairs; reads all weights."""
        mark, prompts = autoencoder_mark(self.backbone), "id and texts"
        return {"autoencoder": mark, "resolution": self.resolution, "crops": self.crops, "prompts": prompts}

    def encode(self, pairs: Sequence[Pair], first: int) -> list[NDArray[np.float16]]:
        """Target mean, target deviation and condition, each (B, *shape), of pairs numbered from `first`.

        Raises:
            ValueError: latents are not finite.
        """
        places = [boxes(p.prompt, n, self.crops, self.resolution) for n, p in enumerate(pairs, first)]
        ways: list[tuple[Tensor, Tensor, Tensor]] = []
        for chosen in zip(*places, strict=True):
            before = self._pixels([p.before for p in pairs], chosen)
            after = self._pixels([p.after for p in pairs], chosen)
            for a, b in ((before, after), (before.flip(-1), after.flip(-1))):
                ways.append((*self.backbone.latent_moments(b), self.backbone.image_latents(a)))
        blocks = [torch.stack(way, dim=1).half().cpu().numpy() for way in zip(*ways, strict=True)]
        if not all(np.isfinite(block).all() for block in blocks):
            raise ValueError(
                f"{self.backbone.name} must encode to finite float16 values, but does not; load it in float32"
            )
        return blocks

    def _encode_numbered(self, pairs: Sequence[tuple[int, Pair]]) -> list[NDArray[np.float16]]:
        return self.encode([p for _, p in pairs], pairs[0][0])

    def _pixels(self, pictures: Sequence[Image.Image], chosen: Sequence[Box]) -> Tensor:
        return images.to_tensor([cut(p, b, self.resolution) for p, b in zip(pictures, chosen, strict=True)])

    def write(self, shard: Shard, out: Path, record: dict[str, Any], bar: tqdm) -> None:
        """Write a shard's three arrays and its index, with a group of pairs in memory at a time, or less where it runs out.

        Raises:
            ValueError: the shard cannot be read or has changed, or its latents are refused.
        """
        instructions: list[str] = []
        prompts: list[str] = []
        pairs, room = enumerate(shard.pairs(), shard.first), Room("pairs to encode")
        with ExitStack() as stack:
            files = [stack.enter_context((out / f"{name}.npy").open("wb")) for name in ARRAYS]
            for file in files:
                _write_header(file, (shard.count, *self.shape))
            while group := list(islice(pairs, self.together)):
                for blocks in room.parts(self._encode_numbered, group):
                    for file, block in zip(files, blocks, strict=True):
                        file.write(block.tobytes())
                instructions += [p.instruction for _, p in group]
                prompts += [p.prompt for _, p in group]
                bar.update(len(group))
        if len(prompts) != shard.count:
            raise ValueError(
                f"{shard.path} must have {shard.count} rows, has {len(prompts)}: it has changed; run again"
            )
        storage.write_json(out / INDEX, {**record, "instructions": instructions, "prompts": prompts})


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    # written, not mapped: a full disk is an error here, and would end the process there
    np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})


def encode_shards(
    shards: Sequence[Shard], encoder: Encoder, cache: Path, crew: PartialState | None = None
) -> list[Path]:
    """Folders with the latents of each shard; those that the cache lacks are encoded, each whole or not at all.

    They are named by what latents depend on: autoencoder, resolution and crops; then texts and pictures.

    Args:
        crew: processes that all call this with the same shards; each encodes its part and waits for the others.

    Raises:
        ValueError: a shard cannot be read, its latents are refused, or the disk is full.
    """
    record = encoder.record()
    homes = [cache / storage.fingerprint(record) / s.digest[:16] for s in shards]
    lacking = {h: s for s, h in zip(shards, homes, strict=True) if not (h / INDEX).is_file()}
    missing = [(s, h) for h, s in lacking.items()]
    if crew is not None:
        crew.wait_for_everyone()  # all have looked before the first one writes
        missing = missing[crew.process_index :: crew.num_processes]
    total = sum(s.count for s, _ in missing)
    with tqdm(total=total, desc="encoding pairs", unit="pair", disable=not missing) as bar:
        for shard, home in missing:
            with needing_room(home), storage.atomic_folder(home) as partial:
                encoder.write(shard, partial, {"pairs": shard.path.name, **record}, bar)
    if crew is not None:
        crew.wait_for_everyone()
    return homes


def read_index(home: Path, count: int, shape: tuple[int, ...]) -> dict[str, list[str]]:
    """Instructions and prompts of an encoded shard, whose arrays are held against their size.

    Raises:
        ValueError: the folder is damaged.
    """
    try:
        index = storage.read_json(home / INDEX)
        found = [np.load(home / f"{n}.npy", mmap_mode="r") for n in ARRAYS]
        lengths = {len(index["instructions"]), len(index["prompts"])}
        if lengths != {count} or any(a.shape != (count, *shape) or a.dtype != np.float16 for a in found):
            raise ValueError("it holds another number of pairs, or latents of another shape")
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{home} must hold encoded pairs, but is damaged ({reason}); delete that folder and run again"
        ) from error
    return index
