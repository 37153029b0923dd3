"""Choose settings that fit a card: the fastest first, and a plain answer where nothing does."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ip2p_lib.memory_plan.counts import GIB, needs

LORA_RANK = 16
LARGEST_MICRO_BATCH = 256
MOST_PROCESSES = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What a stage takes with certain settings, and whether that fits."""

    stage: str
    memory: int  # bytes on one card
    parts: dict[str, int]  # bytes by what they are for
    options: tuple[str, ...] = ()  # for the stage's command
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether the card holds it."""
        return self.total <= self.memory


def plan(stage: str, memory_gib: float, *, resolution: int, batch: int) -> Plan:
    """Settings of a stage for one card.

    For training the choice falls on the fastest that fits: large micro-steps, then gradients from
    checkpoints, then an adapter. The pairs of an optimiser step stay what they were, in more micro-steps.

    Args:
        memory_gib: of one card, in GiB.
        resolution: side of the pictures.
        batch: edits, candidates or pictures at a time; for training the pairs of an optimiser step.

    Raises:
        ValueError: memory is not positive, or as `needs`.
    """
    if not 0 < memory_gib < float("inf"):
        raise ValueError(f"memory must be a positive number of GiB, got {memory_gib}")
    memory = round(memory_gib * GIB)
    if stage == "train":
        needs(stage, resolution=resolution, batch=batch)  # judges the values
        tried = list(_trainings(memory, resolution, batch))
        found = next((p for p in tried if p.fits), tried[-1])
        is_adapter = any(o.startswith("--lora-rank") for o in found.options)
        return replace(found, notes=(*found.notes, _shared(memory, resolution))) if is_adapter else found
    parts = needs(stage, resolution=resolution, batch=batch)
    return Plan(stage, memory, parts, notes=_advice(stage, memory, resolution, batch))


def _trainings(memory: int, resolution: int, batch: int) -> Iterator[Plan]:
    """Ways to train, from the fastest to the most frugal; each with the largest micro-step worth having."""
    sizes = [n for n in range(min(batch, LARGEST_MICRO_BATCH), 0, -1) if batch % n == 0]
    ways = ((None, False, 8), (None, True, 1), (LORA_RANK, False, 4), (LORA_RANK, True, 1))
    for rank, checkpointing, least in ways:
        for micro in (n for n in sizes if n >= min(least, batch)):
            parts = needs(
                "train", resolution=resolution, batch=micro, gradient_checkpointing=checkpointing,
                lora_rank=rank,
            )  # fmt: skip
            options = ["--precision bf16", f"--resolution {resolution}", f"--batch-size {micro}"]
            options.append(f"--accumulate {batch // micro}")
            options += ["--gradient-checkpointing"] if checkpointing else []
            options += [f"--lora-rank {rank}"] if rank else []
            yield Plan("train", memory, parts, tuple(options), _training_notes(rank, checkpointing))


def _training_notes(rank: int | None, checkpointing: bool) -> tuple[str, ...]:
    notes = ["--precision fp16 where the card has no bf16; it takes as much memory"]
    if checkpointing:
        notes.append("gradients from checkpoints: about a third more time, the same result")
    if rank:
        notes.append(f"an adapter of rank {rank} instead of all weights: another, smaller result")
    return tuple(notes)


def _shared(memory: int, resolution: int) -> str:
    """On how many cards of this size all weights can be trained, each holding a part of them."""
    for processes in range(2, MOST_PROCESSES + 1):
        parts = needs(
            "train", resolution=resolution, batch=1, gradient_checkpointing=True, processes=processes
        )
        if sum(parts.values()) <= memory:
            launch = f"accelerate launch --config_file configs/fsdp.yaml --num_processes {processes}"
            return f"{processes} such cards hold all weights in parts: {launch}"
    return (
        "not even in parts do several such cards hold all weights: each has the text encoder and a micro-step"
    )


def _advice(stage: str, memory: int, resolution: int, batch: int) -> tuple[str, ...]:
    """What helps a stage that only runs networks, and what need not be switched on."""
    largest = 0
    while largest < 4096 and sum(needs(stage, resolution=resolution, batch=largest + 1).values()) <= memory:
        largest += 1
    at_most = f"at most {largest} at a time fit" if largest else "not even one at a time fits"
    fixed = {
        "edit": "above 768 x 768 pixels the autoencoder works in tiles by itself; attention never holds its"
        " scores, so slicing would save nothing",
        "pairs": "attention never holds its scores; with scorers on the same card add the filter's plan",
        "filter": "float32, in blocks of 256 pictures",
    }
    return (at_most, fixed[stage])
