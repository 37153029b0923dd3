"""Make all candidates of all triplets: unit by unit, resumable, and early where that was asked for."""

import json
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ip2p_lib import images, records, storage
from ip2p_lib.backbone import Backbone
from ip2p_lib.fitting import Room
from ip2p_lib.pairs.candidates import Candidate, blocks, draw_candidates
from ip2p_lib.pairs.sampling import Hopeless, pair_latents
from ip2p_lib.pairs.shards import SHARDS, is_whole, shard_path, writing_shard
from ip2p_lib.presets import PairConfig
from ip2p_lib.records import Triplet


class Critic(Protocol):
    """Judges pairs while they are made."""

    @property
    def settings(self) -> dict[str, Any]:
        """What its verdicts depend on, for the record."""
        ...

    def __call__(
        self, candidates: Sequence[Candidate], before: Tensor, after: Tensor, slack: float = 0.0
    ) -> list[bool]:
        """Whether the pairs, pictures (K, 3, H, W) in [-1, 1], pass with thresholds lowered by `slack`."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """What has been made so far. Candidates that early stopping spared count as made."""

    candidates: int
    total: int
    reused: int


@dataclass(frozen=True, slots=True)
class Unit:
    """What one worker makes in one go: the triplets of one shard."""

    number: int
    triplets: Sequence[Triplet]


def units_of(triplets: Sequence[Triplet], config: PairConfig) -> list[Unit]:
    """Cut triplets into units; a triplet's unit depends on its place in the list alone."""
    return [Unit(i, group) for i, group in enumerate(blocks(triplets, config.triplets_per_shard))]


@dataclass
class _Triplets:
    """Which triplets of a unit still need candidates."""

    config: PairConfig
    hits: dict[str, int] = field(default_factory=dict)
    misses: dict[str, int] = field(default_factory=dict)  # since the last hit

    def done(self, triplet: Triplet) -> bool:
        hits, misses = self.hits.get(triplet.id, 0), self.misses.get(triplet.id, 0)
        enough, hopeless = self.config.stop_after_hits, self.config.give_up_after
        return (enough is not None and hits >= enough) or (hopeless is not None and misses >= hopeless)

    def note(self, triplet: Triplet, passed: bool) -> None:
        self.hits[triplet.id] = self.hits.get(triplet.id, 0) + passed
        self.misses[triplet.id] = 0 if passed else self.misses.get(triplet.id, 0) + 1


def make_unit(
    unit: Unit, backbone: Backbone, config: PairConfig, folder: Path, critic: Critic | None = None
) -> Iterator[int]:
    """Make a unit's candidates and commit its shard; yields how many are done or spared after each batch.

    The shard is a function of the unit, the configuration and the models, not of who makes it or when.
    Pairs that are not finite (half precision may overflow) are left out. Where a GPU's memory runs out, fewer
    candidates share a batch.

    Raises:
        ValueError: the configuration stops early and there is no critic; or the disk is full.
    """
    _check_critic(config, critic)
    pending = [c for t in unit.triplets for c in draw_candidates(t, config)]
    if config.stops_early:  # every triplet's first candidates come first; forks stay together
        pending.sort(key=lambda c: c.index // config.thresholds_per_seed)
    total, sampled, state, room = len(pending), 0, _Triplets(config), Room("candidates")
    with writing_shard(shard_path(folder, unit.number)) as shard:
        while pending:
            batch, pending = pending[: config.batch_size], pending[config.batch_size :]
            sampled += len(batch)
            shard.add(_batch_rows(backbone, batch, config, critic, state, room))
            pending = [c for c in pending if not state.done(c.triplet)]
            yield total - len(pending)
        shard.note = {"candidates": total, "sampled": sampled}


def _batch_rows(
    backbone: Backbone,
    batch: Sequence[Candidate],
    config: PairConfig,
    critic: Critic | None,
    state: _Triplets,
    room: Room,
) -> Iterator[dict[str, Any]]:
    parts = room.parts(lambda part: _judged(backbone, part, config, critic), batch)
    for candidate, (pair, passed) in zip(batch, chain.from_iterable(parts), strict=True):
        if state.done(candidate.triplet):
            continue  # made beyond the end only because it shared a batch: results must not depend on that
        state.note(candidate.triplet, passed)
        if pair:
            yield pair_row(candidate, *pair)


def _judged(
    backbone: Backbone, batch: Sequence[Candidate], config: PairConfig, critic: Critic | None
) -> list[tuple[list[Any], bool]]:
    """Both pictures of each candidate, none where they are not finite, and what the critic says of them."""
    hopeless = _preview(backbone, batch, config, critic) if critic and config.preview_at else None
    latents = pair_latents(
        backbone,
        batch,
        num_inference_steps=config.num_inference_steps,
        size=config.resolution,
        hopeless=hopeless,
    )
    alive = _finite(latents)
    if alive.any():
        decoded = [backbone.decode_latents(z[alive]) for z in latents]
        fine = _finite(decoded)
        alive[alive.clone()] = fine
        first, second = (images.to_pictures(p[fine]) for p in decoded)
    else:
        first, second = [], []
    made = [c for c, is_alive in zip(batch, alive.tolist(), strict=True) if is_alive]
    verdicts = [False] * len(made)
    if critic and made:  # it sees what is stored, rounded to bytes, so that it agrees with the filter
        verdicts = critic(made, images.to_tensor(first), images.to_tensor(second))
    finished = zip(first, second, verdicts, strict=True)
    judged = [next(finished) if is_alive else (False,) for is_alive in alive.tolist()]
    return [(pair, passed) for *pair, passed in judged]


def _finite(pair: Sequence[Tensor]) -> Tensor:
    """(B,): whether both of a row's parts are numbers throughout."""
    return torch.cat([part.flatten(1) for part in pair], dim=1).isfinite().all(1)


def _preview(backbone: Backbone, batch: Sequence[Candidate], config: PairConfig, critic: Critic) -> Hopeless:
    """Once, early on, decode what the sampler expects to arrive at, and drop what is far from passing."""
    at = max(round((config.preview_at or 0) * config.num_inference_steps), 1) - 1

    def hopeless(step: int, before: Tensor, after: Tensor) -> Tensor:
        if step != at:
            return torch.zeros(len(before), dtype=torch.bool)
        first, second = (backbone.decode_latents(z) for z in (before, after))
        return ~torch.tensor(critic(batch, first, second, slack=config.preview_slack))

    return hopeless


def pair_row(candidate: Candidate, first: Any, second: Any) -> dict[str, Any]:
    """A candidate and its two pictures as a row of `PAIR_SCHEMA`."""
    triplet = candidate.triplet
    name = f"{triplet.id}/{candidate.index}-{candidate.seed}"
    return {
        records.TRIPLET_ID: triplet.id,
        records.CANDIDATE: candidate.index,
        records.ORIGINAL_PROMPT: triplet.input,
        records.ORIGINAL_IMAGE: {"bytes": images.png_bytes(first), "path": f"{name}_0.png"},
        records.EDIT_PROMPT: triplet.edit,
        records.EDITED_PROMPT: triplet.output,
        records.EDITED_IMAGE: {"bytes": images.png_bytes(second), "path": f"{name}_1.png"},
        records.SEED: candidate.seed,
        records.P2P_THRESHOLD: candidate.p2p_threshold,
        records.CFG_SCALE: candidate.cfg_scale,
        records.SOURCE: json.dumps(dict(triplet.source)),
    }


def _check_critic(config: PairConfig, critic: Critic | None) -> None:
    if config.stops_early and critic is None:
        raise ValueError(
            "a configuration that stops early needs a critic, see filtering.ClipCritic; got none"
        )


def claim_run(
    triplets: Sequence[Triplet],
    model: str,
    config: PairConfig,
    folder: Path,
    critic: Critic | None = None,
    files: str = "",
) -> list[Unit]:
    """Claim a folder for a run and return its units.

    Args:
        model, files: the text-to-image model's name, and digest of its files if it has any.

    Raises:
        ValueError: the folder holds results of another configuration; two triplets share an id; or the
            configuration stops early and there is no critic.
    """
    _check_critic(config, critic)
    twice = next((i for i, n in Counter(t.id for t in triplets).items() if n > 1), None)
    if twice is not None:
        raise ValueError(f"every triplet must have an id of its own, but {twice!r} occurs more than once")
    digest = storage.fingerprint([t.as_row() for t in triplets])
    judged = {"critic": critic.settings} if critic and config.stops_early else {}
    settings = asdict(config)
    batch = {"batch_size": settings.pop("batch_size")}  # on which results do not depend
    claimed = {
        "stage": "pairs",
        **settings,
        "model": model,
        "weights": files,
        "triplets": digest,
        **judged,
    }
    units = units_of(triplets, config)
    storage.claim_folder(folder, claimed, note={SHARDS: len(units), **batch})
    return units


def synthesise(
    triplets: Sequence[Triplet],
    backbone: Backbone,
    config: PairConfig,
    folder: Path,
    *,
    critic: Critic | None = None,
) -> Generator[Progress, None, None]:
    """Make every candidate of every triplet, in shards `candidates-00000.parquet` and on.

    A shard appears whole or not at all, and its mark after it; shards with a mark are not made again, so a
    killed run continues where it stopped and a finished one returns at once.

    Args:
        critic: judges pairs as they are made, for the options of `config` that stop early.

    Raises:
        ValueError: as `claim_run`; or the disk is full.
    """
    total, done, reused = len(triplets) * config.candidates_per_triplet, 0, 0
    for unit in claim_run(triplets, backbone.name, config, folder, critic, backbone.files):
        count = len(unit.triplets) * config.candidates_per_triplet
        if is_whole(shard_path(folder, unit.number)):
            reused += count
            yield Progress(done + count, total, reused)
        else:
            for made in make_unit(unit, backbone, config, folder, critic if config.stops_early else None):
                yield Progress(done + made, total, reused)
        done += count
