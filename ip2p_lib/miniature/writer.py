"""The miniature's writer of triplets: a small Llama, pretrained on texts of the world, then taught the format.

Pretraining gives it what GPT-3 brings along: the words, what instructions mean, and that a changed scene
is told in the words of the old one. It reads captions, plain statements, instructions, little stories in which
something is wished for and happens, items of lists, in which dashes or arrows divide what was, what was asked and
what came of it, and sheets on which lines of signs divide captions. It never sees an instruction between the signs
of the triplets' format; that, and what people ask for, it learns from the hand-written seed triplets alone.
Phrasings held out for tests occur in neither.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ip2p_lib.backbone import LanguageModel
from ip2p_lib.miniature.texts import ordinary_text
from ip2p_lib.miniature.wishes import wish
from ip2p_lib.optimisation import FitConfig, Report, fit
from ip2p_lib.records import Triplet
from ip2p_lib.scenes.language import caption, instruction
from ip2p_lib.scenes.world import sample_edit, sample_scene
from ip2p_lib.triplets.prompts import PARTS, SEPARATOR, STOP
from ip2p_lib.triplets.tuning import Example, language_loss
from ip2p_lib.triplets.world import understood

REHEARSAL_START = 10_000_000
BLOCK = 8  # steps whose texts are sorted into batches together
TEXT_SEED = 3  # scenes of pretraining; held-out captions use 900 and above
SEED_COPIES = {"time": 3, "weather": 3}
PAD, END = "<pad>", "<end>"
# A chat is its messages joined, so that chat servers see the same prompt.
CHAT_TEMPLATE = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
DIVIDERS = (" -> ", " => ", "\n-\n", "\n==\n", " | ", "\n>\n", " / ", "; ")
STORIES = (
    "first we see {before}. somebody says: {wish}. then we see {after}.",
    "{before}. {wish}. now it is {after}.",
    "there was {before}. they asked: {wish}. so they drew {after}.",
    "a picture shows {before}. she wrote: {wish}. the new picture shows {after}.",
    "{wish}: {before} becomes {after}.",
    "from {before} to {after}: {wish}.",
    "in the old picture there is {before}. in the new one there is {after}. they had asked: {wish}.",
    "{before}, and a moment later {after}.",
)


@dataclass(frozen=True, kw_only=True)
class WriterRecipe:
    """Sizes and steps of the writer's pretraining."""

    hidden: int = 192
    layers: int = 4
    vocabulary: int = 1_100
    batch_size: int = 32
    steps: int = 15_000
    learning_rate: float = 2e-3
    seed: int = 15

    @property
    def fit(self) -> FitConfig:
        """Optimiser settings."""
        return FitConfig(
            steps=self.steps, learning_rate=self.learning_rate, weight_decay=0.05, adam_beta2=0.98,
            warmup_steps=200, decay_steps=self.steps, max_grad_norm=1.0, ema_decay=0.998, mixed_precision="auto",
            checkpoint_every=500,
        )  # fmt: skip


def story(index: int) -> str:
    """The `index`-th text of pretraining: one sentence, a sheet, an item of a list, or a story."""
    rng = np.random.default_rng((TEXT_SEED, index))
    scene = sample_scene(rng)
    phrasing = int(rng.integers(2**31))
    draw = rng.random()
    edit = sample_edit(scene, rng)
    asked = wish(edit, phrasing) if rng.random() < 0.7 else instruction(edit, phrasing)
    if draw < 0.15:
        return asked if rng.random() < 0.4 else ordinary_text(scene, phrasing)
    before, after = caption(edit.before, phrasing), caption(edit.after, phrasing)
    if draw < 0.2:
        return _sheet((before, after), rng)
    if draw < 0.65:
        return DIVIDERS[rng.integers(len(DIVIDERS))].join((before, asked, after))
    template = STORIES[rng.integers(len(STORIES))]
    return template.format(before=before, after=after, wish=asked)


def _sheet(captions: tuple[str, str], rng: np.random.Generator) -> str:
    """Two captions in any order, divided by either separator, some closed by the stop."""
    first, second = (captions[i] for i in rng.permutation(2))
    return first + (SEPARATOR, PARTS)[rng.integers(2)] + second + (STOP if rng.random() < 0.7 else "")


def learn_writer_tokenizer(vocabulary: int, seeds: list[Triplet]) -> PreTrainedTokenizerFast:
    """Byte-level BPE: any text can be encoded, and the separators are single tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[PAD, END], show_progress=False,
    )  # fmt: skip
    written = [text for t in seeds for text in (t.input, t.edit, t.output)]
    bpe.train_from_iterator((*(story(i) for i in range(4_000)), *written * 4), trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([SEPARATOR, PARTS, STOP])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_writer(recipe: WriterRecipe, tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    """A Llama of the recipe's size with random weights, a function of the recipe's seed."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=recipe.hidden, intermediate_size=recipe.hidden * 14 // 5,
        num_hidden_layers=recipe.layers, num_attention_heads=recipe.hidden // 32,
        num_key_value_heads=recipe.hidden // 32, max_position_embeddings=2_048, tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(recipe.seed)
        return LanguageModel(LlamaForCausalLM(config), tokenizer, "writer")


def pretrain_writer(recipe: WriterRecipe, language: LanguageModel, folder: Path) -> Iterator[Report]:
    """Teach the world's language, resuming in `folder`. No text is read twice."""
    tokenizer = language.tokenizer

    @lru_cache(maxsize=1)
    def batches(block: int) -> list[list[Example]]:
        size = BLOCK * recipe.batch_size
        rows = tokenizer([story(block * size + i) for i in range(size)]).input_ids
        even = _even_batches(rows, tokenizer.eos_token_id)
        return [even[i] for i in np.random.default_rng((recipe.seed, block)).permutation(BLOCK)]

    def loss_at(step: int) -> Tensor:
        return language_loss(language, batches(step // BLOCK)[step % BLOCK])

    return fit(language.model, loss_at, recipe.fit, folder=folder)


def _even_batches(rows: list[list[int]], end: int) -> list[list[Example]]:
    """`BLOCK` batches of texts of like length, so that little is padding; of the shortest, five share a row."""
    ended = sorted(((*row, end) for row in rows), key=len)
    short = len(ended) // 5
    joined = [sum(ended[i : i + 5], ()) for i in range(0, short, 5)]
    examples = [Example(row) for row in sorted([*joined, *ended[short:]], key=len)]
    edges = [len(examples) * i // BLOCK for i in range(BLOCK + 1)]
    return [examples[low:high] for low, high in pairwise(edges)]


def weighted(seeds: list[Triplet]) -> list[Triplet]:
    """The triplets that fine-tuning passes over, those of some kinds several times.

    Captions often leave hour and weather open, and attempts at such edits fail more often than others; without
    more examples of them they would be rare among what is written.
    """
    kinds = [edit.kind if (edit := understood(t)) else "" for t in seeds]
    return [t for t, kind in zip(seeds, kinds, strict=True) for _ in range(SEED_COPIES.get(kind, 1))]


def rehearsal(language: LanguageModel, size: int = 24) -> Callable[[int], list[Example]]:
    """Pretraining texts that were not read yet, `size` for each step of fine-tuning."""
    end = language.tokenizer.eos_token_id

    def texts_at(step: int) -> list[Example]:
        rows = language.tokenizer([story(REHEARSAL_START + step * size + i) for i in range(size)]).input_ids
        return [Example((*ids, end)) for ids in rows]

    return texts_at
