"""Captions to triplets: a language model writes, the paper's filters judge, a journal remembers."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

from ip2p_lib import storage
from ip2p_lib.presets import WriteConfig
from ip2p_lib.records import Caption, Triplet, write_triplets
from ip2p_lib.triplets.captions import caption_fault
from ip2p_lib.triplets.journal import Journal, Outcome, Tally, digest, trail
from ip2p_lib.triplets.prompts import Completion, RejectedError, Request, prompt_for, read_completion

Writer = Callable[[Sequence[Request]], list[Completion]]
Moderator = Callable[[Sequence[str]], list[bool]]  # True where a text is not wanted
Veto = Callable[[Triplet], str]  # a reason to reject a triplet, or ""
HOPELESS = 1000  # captions in a row without a triplet, after which a run stops
MAX_SKIPPED = 1000  # in one block, so that memory and journal keep up with captions of which few are of use


@dataclass(frozen=True, slots=True)
class Rules:
    """What guards the triplets beside the paper's filters, and the worked examples shown to the model."""

    moderate: Moderator | None = None
    veto: Veto | None = None
    examples: tuple[Triplet, ...] = ()


def attempt_seed(seed: int, caption_id: str, attempt: int) -> int:
    """The seed of one attempt, keyed by run seed, caption and attempt; neither batch nor shard enters."""
    key = hashlib.sha256(f"{seed}/{caption_id}/{attempt}".encode()).digest()
    return int.from_bytes(key[:7], "little")


def write_block(
    captions: Sequence[Caption], writer: Writer, config: WriteConfig, rules: Rules = Rules()
) -> list[Outcome]:
    """Write triplets for some captions, in batches, each caption with up to `config.attempts` attempts.

    Source: order and meaning of the filters as in timothybrooks/instruct-pix2pix@0dffd1e,
    dataset_creation/generate_txt_dataset.py.
    """
    ask = rules.moderate if captions else None  # servers refuse an empty question
    flagged = ask([c.text for c in captions]) if ask else [False] * len(captions)
    drafts = [_Draft(c, "moderated" if f else "") for c, f in zip(captions, flagged, strict=True)]
    for attempt in range(config.attempts):
        pending = [d for d in drafts if d.triplet is None and not d.skipped]
        if not pending:
            break
        completions = writer(
            [
                Request(
                    prompt_for(d.caption.text, rules.examples),
                    attempt_seed(config.seed, d.caption.id, attempt),
                )
                for d in pending
            ]
        )
        for draft, completion in zip(pending, completions, strict=True):
            draft.take(completion, config, rules.veto)
        if rules.moderate:
            _moderate(pending, rules.moderate)
    return [d.outcome() for d in drafts]


class _Draft:
    """One caption on its way to a triplet."""

    def __init__(self, caption: Caption, skipped: str = "") -> None:
        self.caption, self.skipped = caption, skipped
        self.triplet: Triplet | None = None
        self.rejected: list[str] = []
        self.tokens = [0, 0]

    def take(self, completion: Completion, config: WriteConfig, veto: Veto | None) -> None:
        """Keep an attempt, or note why not."""
        self.tokens[0] += completion.prompt_tokens
        self.tokens[1] += completion.completion_tokens
        c = self.caption
        try:
            edit, output = read_completion(completion, c.text, config)
        except RejectedError as error:
            self.rejected.append(error.reason)
            return
        triplet = Triplet(c.id, c.text, edit, output, c.url, c.source)
        reason = veto(triplet) if veto else ""
        if reason:
            self.rejected.append(reason)
        else:
            self.triplet = triplet

    def outcome(self) -> Outcome:
        """What became of the caption."""
        c = self.caption
        return Outcome(
            digest(c.text), digest(c.url), self.triplet, self.skipped, tuple(self.rejected), *self.tokens
        )


def _moderate(drafts: Sequence[_Draft], moderate: Moderator) -> None:
    """Take back triplets whose instruction or edited caption is flagged."""
    written = [d for d in drafts if d.triplet is not None]
    texts = [text for d in written if d.triplet for text in (d.triplet.edit, d.triplet.output)]
    flags = moderate(texts) if texts else []
    for draft, edit, output in zip(written, flags[::2], flags[1::2], strict=True):
        if edit or output:
            draft.triplet = None
            draft.rejected.append("moderated")


def in_shard(caption: Caption, shard: tuple[int, int]) -> bool:
    """Whether a caption belongs to shard (index, count), by its text alone."""
    return shard[1] == 1 or int(digest(caption.text) or "0", 16) % shard[1] == shard[0]


def _judged(captions: Iterable[Caption], shard: tuple[int, int]) -> Iterator[tuple[Caption, str]]:
    """A shard's captions, each with the reason why it is skipped, or "".

    A caption or address that came earlier, in whatever shard, is skipped whatever became of it; so the
    shards together write what one worker would.
    """
    seen: set[str] = set()
    for caption in captions:
        marks = {m for m in (digest(caption.text), digest(caption.url)) if m}
        fault = caption_fault(caption.text) or ("duplicate" if marks & seen else "")
        seen |= marks
        if in_shard(caption, shard):
            yield caption, fault


def _blocks(
    judged: Iterable[tuple[Caption, str]], size: int
) -> Iterator[tuple[list[Caption], dict[int, str]]]:
    """Runs of captions with up to `size` to be written, and by position the reason why the others are not."""
    block: list[Caption] = []
    skipped: dict[int, str] = {}
    for caption, fault in judged:
        if fault:
            skipped[len(block)] = fault
        block.append(caption)
        if len(block) - len(skipped) == size or len(skipped) == MAX_SKIPPED:
            yield block, skipped
            block, skipped = [], {}
    if block:
        yield block, skipped


def write_all(
    captions: Iterable[Caption],
    writer: Writer,
    config: WriteConfig,
    out: Path,
    *,
    made_by: dict[str, Any],
    rules: Rules = Rules(),
    count: int | None = None,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[Tally]:
    """Write triplets for captions into a JSONL file, yielding the counts after every block.

    `out` appears when all is written, beside it `out.journal` (every caption's outcome, by which a killed
    or a longer run goes on) and `out.report.json` (counts, settings, versions).

    Args:
        captions: in a fixed order; a run that goes on reads them again from the start.
        writer: continues prompts; see `local` and `server`.
        out: JSONL file of triplets.
        made_by: what else decides the result (names of model and captions), for the record.
        count: stop at this many triplets; None writes one for every caption.
        shard: (index, count): deal with this part of the captions alone.

    Raises:
        ValueError: `out` is there without a journal, or was begun with other settings or from other captions, or its journal is damaged;
            another run writes to it; the shard does not exist, or the count is negative; a thousand captions in a row
            gave no triplet.
    """
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard must be index/count with 0 <= index < count, got {shard[0]}/{shard[1]}")
    if count is not None and count < 0:
        raise ValueError(f"count must be at least 0, got {count}")
    settings = {**asdict(config), **made_by, "shard": f"{shard[0]}/{shard[1]}"}
    settings["examples"] = storage.fingerprint([e.as_row() for e in rules.examples])
    settings |= {"moderation": rules.moderate is not None, "veto": rules.veto is not None}
    path = out.with_name(out.name + ".journal")
    if out.exists() and not path.exists():
        raise ValueError(f"{out} must not exist before its run begins, since it would be overwritten")
    journal = Journal(path, settings)
    judged = _judged(captions, shard)
    _skip(judged, journal)
    yield journal.tally
    blocks = _blocks(judged, config.batch_size)
    last = (journal.tally.accepted, journal.tally.given_up)
    while count is None or journal.tally.accepted < count:
        block, skipped = next(blocks, ([], {}))
        if not block:
            break
        written = iter(
            write_block([c for i, c in enumerate(block) if i not in skipped], writer, config, rules)
        )
        journal.append(
            [
                Outcome(digest(c.text), digest(c.url), skipped=skipped[i]) if i in skipped else next(written)
                for i, c in enumerate(block)
            ]
        )
        yield journal.tally
        last = _hopeful(journal.tally, last)
    report = {"triplets": write_triplets(out, islice(journal.triplets(), count))}
    report |= {f.name: getattr(journal.tally, f.name) for f in fields(journal.tally)}
    storage.write_json(
        out.with_name(out.name + ".report.json"), {**report, "settings": settings, **storage.environment()}
    )


def _hopeful(tally: Tally, last: tuple[int, int]) -> tuple[int, int]:
    """Triplets so far, and captions given up when the last one came; `last` is this of the block before.

    Raises:
        ValueError: too many captions in a row gave none.
    """
    if tally.accepted > last[0]:
        return tally.accepted, tally.given_up
    if (barren := tally.given_up - last[1]) >= HOPELESS:
        reasons = ", ".join(f"{reason} {count}" for reason, count in tally.rejected.most_common(3))
        raise ValueError(
            f"of {HOPELESS} captions in a row at least one must become a triplet, but {barren} did not (rejected so far: {reasons});"
            " look at what the writer writes, or choose another; the same command goes on"
        )
    return last


def _skip(judged: Iterator[tuple[Caption, str]], journal: Journal) -> None:
    """Pass over the captions that the journal has dealt with.

    Raises:
        ValueError: the captions are not those of the earlier run.
    """
    done, passed = journal.tally.captions, ""
    for caption, _ in islice(judged, done):
        passed = trail(passed, digest(caption.text), digest(caption.url))
    if passed != journal.trail:
        raise ValueError(
            f"{journal.path} was begun with other captions ({done} dealt with); give the same"
            " source again, or choose another output file"
        )
