"""Image pairs by prompt-to-prompt: caption pairs in, shards of candidate picture pairs out."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ip2p_lib import images, records, storage
from ip2p_lib.attention import shared_self_attention, sharing_rows
from ip2p_lib.backbone import Backbone
from ip2p_lib.diffusion import euler_ancestral
from ip2p_lib.guidance import single_guidance
from ip2p_lib.presets import PairConfig
from ip2p_lib.records import Triplet

T = TypeVar("T")
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # what `datasets` reads as Image


@dataclass(frozen=True, slots=True)
class Candidate:
    """One attempt at a triplet's pair: all that its two pictures depend on beside the captions."""

    triplet: Triplet
    index: int
    seed: int
    p2p_threshold: float
    cfg_scale: float


def draw_candidates(triplet: Triplet, config: PairConfig) -> list[Candidate]:
    """Seed, threshold and scale of each candidate, keyed by (run seed, triplet id, candidate index).

    Neither shard, batch nor worker enters, so any candidate can be made again anywhere.
    """
    drawn = []
    for index in range(config.candidates_per_triplet):
        key = hashlib.sha256(f"{config.seed}/{triplet.id}/{index}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(key[:16], "little"))
        seed = int(rng.integers(2**32))
        threshold, scale = (
            float(rng.uniform(*limits)) for limits in (config.p2p_threshold_range, config.cfg_scale_range)
        )
        drawn.append(Candidate(triplet, index, seed, threshold, scale))
    return drawn


@torch.no_grad()
def pair_latents(
    backbone: Backbone, candidates: Sequence[Candidate], *, num_inference_steps: int, size: int
) -> tuple[Tensor, Tensor]:
    """Latents of both pictures of each candidate, (K, C, h, w) each, scaled.

    Source and target of a candidate share the initial and all ancestral noise (same seed); while its
    threshold lasts, the target also attends with the source's self-attention. Guidance scale,
    threshold and seed are each row's own, so candidates of different captions can share a batch.

    Args:
        size: side of the pictures in pixels.

    Source: InstructPix2Pix section 3.1.2; timothybrooks/instruct-pix2pix@0dffd1e, generate_img_dataset.py.
    """
    count, device = len(candidates), backbone.device
    captions = [c.triplet.input for c in candidates] + [c.triplet.output for c in candidates]
    null = backbone.encode_text([""]).expand(2 * count, -1, -1)
    states = torch.cat([null, backbone.encode_text(captions)])  # (4K, T, D)
    scales = torch.tensor([c.cfg_scale for c in candidates] * 2, device=device)
    thresholds = [c.p2p_threshold for c in candidates]

    with shared_self_attention(backbone.unet) as sharing:

        def predict(scaled: Tensor, timestep: Tensor, step: int) -> Tensor:
            sharing.set(sharing_rows(thresholds, step, num_inference_steps).to(device))
            doubled = torch.cat([scaled, scaled]).to(backbone.unet.dtype)  # (2K, ...) -> (4K, ...)
            uncond, cond = backbone.unet(doubled, timestep, states).sample.chunk(2)
            return single_guidance(cond.float(), uncond.float(), scales)

        side = size // backbone.factor
        *_, last = euler_ancestral(
            predict,
            backbone.scheduler,
            seeds=[c.seed for c in candidates] * 2,
            shape=(backbone.latent_channels, side, side),
            num_inference_steps=num_inference_steps,
            device=device,
        )
    before, after = last.latents.chunk(2)
    return before, after


@dataclass(frozen=True, slots=True)
class Progress:
    """What has been made so far."""

    candidates: int
    total: int
    reused: int


def _pair_rows(
    backbone: Backbone, candidates: Sequence[Candidate], config: PairConfig
) -> Iterator[dict[str, Any]]:
    before, after = pair_latents(
        backbone, candidates, num_inference_steps=config.num_inference_steps, size=config.resolution
    )
    pictures = [images.to_pictures(backbone.decode_latents(z)) for z in (before, after)]
    for candidate, first, second in zip(candidates, *pictures, strict=True):
        name = f"{candidate.triplet.id}/{candidate.seed}"
        yield {
            records.TRIPLET_ID: candidate.triplet.id,
            records.CANDIDATE: candidate.index,
            records.ORIGINAL_PROMPT: candidate.triplet.input,
            records.ORIGINAL_IMAGE: {"bytes": images.png_bytes(first), "path": f"{name}_0.png"},
            records.EDIT_PROMPT: candidate.triplet.edit,
            records.EDITED_PROMPT: candidate.triplet.output,
            records.EDITED_IMAGE: {"bytes": images.png_bytes(second), "path": f"{name}_1.png"},
            records.SEED: candidate.seed,
            records.P2P_THRESHOLD: candidate.p2p_threshold,
            records.CFG_SCALE: candidate.cfg_scale,
            records.SOURCE: json.dumps(dict(candidate.triplet.source)),
        }


PAIR_SCHEMA = pa.schema(
    [
        (records.TRIPLET_ID, pa.string()),
        (records.CANDIDATE, pa.int32()),
        (records.ORIGINAL_PROMPT, pa.string()),
        (records.ORIGINAL_IMAGE, IMAGE_TYPE),
        (records.EDIT_PROMPT, pa.string()),
        (records.EDITED_PROMPT, pa.string()),
        (records.EDITED_IMAGE, IMAGE_TYPE),
        (records.SEED, pa.int64()),
        (records.P2P_THRESHOLD, pa.float64()),
        (records.CFG_SCALE, pa.float64()),
        (records.SOURCE, pa.string()),
    ],
    metadata={
        "huggingface": json.dumps(
            {"info": {"features": {
                name: {"_type": "Image"} if name in (records.ORIGINAL_IMAGE, records.EDITED_IMAGE)
                else {"dtype": kind, "_type": "Value"}
                for name, kind in zip(
                    records.PAIR_COLUMNS,
                    ("string", "int32", "string", "", "string", "string", "", "int64", "float64", "float64", "string"),
                    strict=True,
                )
            }}}
        )
    },
)  # fmt: skip


def blocks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive runs of up to `size` items."""
    return (items[i : i + size] for i in range(0, len(items), size))


def claim_folder(folder: Path, configuration: dict[str, Any]) -> None:
    """Write the folder's run record, or check that it was made by this very configuration.

    Raises:
        ValueError: the folder holds results of another configuration, or cannot be written.
    """
    mark = storage.fingerprint(configuration)
    path = folder / "run.json"
    if path.exists():
        found = storage.read_json(path)["config"].get("fingerprint")
        if found != mark:
            raise ValueError(
                f"{folder} holds results of another configuration ({found}, not {mark}); choose an empty"
                " folder, or delete it to start over"
            )
        return
    try:
        storage.record_run(folder, {**configuration, "fingerprint": mark})
    except OSError as error:
        raise ValueError(f"the output folder must be writable, but {folder} is not: {error}") from error


def synthesise(
    triplets: Sequence[Triplet], backbone: Backbone, config: PairConfig, folder: Path
) -> Iterator[Progress]:
    """Make every candidate of every triplet, in shards `candidates-00000.parquet` and on.

    A shard appears whole or not at all; shards that exist are not made again, so a killed run
    continues where it stopped and a finished one returns at once.

    Raises:
        ValueError: the folder holds results of another configuration.
    """
    claim_folder(
        folder,
        {
            "stage": "pairs",
            **asdict(config),
            "model": backbone.name,
            "triplets": storage.fingerprint([t.as_row() for t in triplets]),
        },
    )
    total = len(triplets) * config.candidates_per_triplet
    done = reused = 0
    for number, group in enumerate(blocks(triplets, config.triplets_per_shard)):
        path = folder / f"candidates-{number:05d}.parquet"
        candidates = [c for t in group for c in draw_candidates(t, config)]
        if path.exists():
            done, reused = done + len(candidates), reused + len(candidates)
            yield Progress(done, total, reused)
            continue
        rows: list[dict[str, Any]] = []
        for batch in blocks(candidates, config.batch_size):
            rows += _pair_rows(backbone, batch, config)
            done += len(batch)
            yield Progress(done, total, reused)
        with storage.atomic_file(path) as partial:
            pq.write_table(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA), partial)


def candidate_shards(folder: Path) -> list[Path]:
    """Whole candidate shards of a folder, in order.

    Raises:
        FileNotFoundError: there are none.
    """
    found = sorted(folder.glob("candidates-*.parquet"))
    if not found:
        raise FileNotFoundError(
            f"{folder} must hold candidates-*.parquet, found none; make them with `ip2p pairs`"
        )
    return found
