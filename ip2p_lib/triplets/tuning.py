"""Fine-tune a causal language model on triplets: all its weights, or a LoRA adapter."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn import functional as F

from ip2p_lib import storage
from ip2p_lib.backbone import LanguageModel
from ip2p_lib.optimisation import FitConfig, Report, batch_indices, checkpoints, fit
from ip2p_lib.presets import TuneConfig
from ip2p_lib.records import Triplet
from ip2p_lib.triplets.prompts import completion_of, prompt_for

IGNORED = -100
# Settings that may change between a run and its continuation; the loop checks that the rates agree.
FREE = {"steps", "checkpoint_every", "gradient_checkpointing"}


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one text, and how many of them are given rather than learned."""

    ids: tuple[int, ...]
    given: int = 0


def triplet_example(tokenizer: object, triplet: Triplet) -> Example:
    """Prompt and completion as one text; the completion is what is learned."""
    prompt = tokenizer(prompt_for(triplet.input)).input_ids  # type: ignore[operator]
    written = tokenizer(completion_of(triplet), add_special_tokens=False).input_ids  # type: ignore[operator]
    end = tokenizer.eos_token_id  # type: ignore[attr-defined]
    return Example((*prompt, *written, *([end] if end is not None else [])), len(prompt))


def collate(examples: Sequence[Example], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and labels, each (B, T), padded on the right; labels are -100 where not learned."""
    length = max(len(e.ids) for e in examples)
    ids = torch.full((len(examples), length), pad)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for row, example in enumerate(examples):
        n = len(example.ids)
        ids[row, :n] = torch.tensor(example.ids)
        mask[row, :n] = 1
        labels[row, example.given : n] = ids[row, example.given : n]
    return ids, mask, labels


def language_loss(language: LanguageModel, examples: Sequence[Example]) -> Tensor:
    """Mean cross-entropy of the learned tokens, in nats."""
    ids, mask, labels = (
        t.to(language.device) for t in collate(examples, language.tokenizer.pad_token_id or 0)
    )
    logits = language.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    targets = labels[:, 1:].flatten()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets, ignore_index=IGNORED)


@torch.no_grad()
def validation_loss(language: LanguageModel, triplets: Sequence[Triplet], batch_size: int = 16) -> float:
    """Mean over triplets that were not trained on."""
    examples = [triplet_example(language.tokenizer, t) for t in triplets]
    groups = [examples[i : i + batch_size] for i in range(0, len(examples), batch_size)]
    losses = [language_loss(language, group).item() * len(group) for group in groups]
    return sum(losses) / len(examples)


def with_adapter(language: LanguageModel, config: TuneConfig) -> LanguageModel:
    """Wrap a model in a LoRA adapter on all its linear layers; rank 0 frees all weights instead.

    The adapter's first weights are a function of `config.seed`.
    """
    if config.lora_rank == 0:
        language.model.float().requires_grad_(True)  # small steps vanish in bf16
        return language
    lora = LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(config.seed)
        wrapped = get_peft_model(language.model, lora)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # small steps vanish in bf16
    return replace(language, model=wrapped)


def fine_tune(
    language: LanguageModel,
    triplets: Sequence[Triplet],
    config: TuneConfig,
    folder: Path | None = None,
    *,
    rehearsal: Callable[[int], Sequence[Example]] | None = None,
) -> Iterator[Report]:
    """Teach a model (wrapped by `with_adapter`) to continue captions, yielding after every step.

    Every pass visits each triplet once in an order keyed by the seed; checkpoints in `folder` resume.

    Args:
        rehearsal: texts that join the triplets of a step, so that a small model all of whose weights are
            trained keeps what it knew. An adapter needs none.

    Raises:
        ValueError: there are no triplets, or the folder holds another run.
        FloatingPointError: the loss is no longer finite.
    """
    if not triplets:
        raise ValueError("fine-tuning needs at least one triplet, got none")
    examples = [triplet_example(language.tokenizer, t) for t in triplets]
    if config.gradient_checkpointing:
        language.model.gradient_checkpointing_enable({"use_reentrant": False})
        language.model.enable_input_require_grads()

    def loss_at(step: int) -> Tensor:
        picked = batch_indices(len(examples), config.batch_size, step, config.seed)
        chosen = [examples[i] for i in picked]
        return language_loss(language, [*chosen, *(rehearsal(step) if rehearsal else ())])

    settings = FitConfig(
        steps=config.steps, learning_rate=config.learning_rate, weight_decay=0.0, adam_beta2=0.99,
        warmup_steps=config.warmup_steps, decay_steps=config.steps, max_grad_norm=1.0, ema_decay=0.9,
        mixed_precision=config.mixed_precision, checkpoint_every=config.checkpoint_every,
    )  # fmt: skip
    if folder is not None:
        remedy = "continue with the triplets, model and settings of that run, or choose another folder"
        claim = _claim(language, triplets, config)
        storage.claim_folder(folder, claim, remedy=remedy, is_empty=not checkpoints(folder))
    return fit(language.model, loss_at, settings, folder=folder)


def _claim(language: LanguageModel, triplets: Sequence[Triplet], config: TuneConfig) -> dict[str, Any]:
    """What two runs in one folder must have in common."""
    return {
        "stage": "tune",
        **{name: value for name, value in asdict(config).items() if name not in FREE},
        "triplets": storage.fingerprint([t.as_row() for t in triplets]),
        "model": [language.name, language.files],
    }


def save_writer(language: LanguageModel, folder: Path) -> None:
    """Write the model (or the adapter alone) and its tokenizer as a folder that transformers or peft opens."""
    with storage.atomic_folder(folder) as partial:
        language.model.save_pretrained(partial)
        if isinstance(language.model, PeftModel):
            (partial / "README.md").unlink(missing_ok=True)
        language.tokenizer.save_pretrained(partial)
