"""The miniature's writer of triplets: a small Llama, pretrained on texts of the world, then taught the format.

Pretraining gives it what GPT-3 brings along: the words, what instructions mean, and that a changed scene
is told in the words of the old one. It reads captions, plain statements, instructions, little stories in which
something is wished for and happens, in prose, and sheets of notes in which lines of signs divide captions and
statements about one scene; in later rounds also items of lists, in which dashes or arrows divide what was, what
was asked and what came of it. It never sees an instruction between the signs of the triplets' format; that, and what people ask for, it learns from the hand-written seed triplets alone. Phrasings held out for tests
occur in neither.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ip2p_lib.backbone import LanguageModel
from ip2p_lib.miniature.texts import ordinary_text, statement
from ip2p_lib.miniature.wishes import wish
from ip2p_lib.optimisation import FitConfig, Report, fit
from ip2p_lib.records import Triplet
from ip2p_lib.scenes.language import caption, instruction
from ip2p_lib.scenes.world import sample_edit, sample_scene
from ip2p_lib.triplets.prompts import PARTS, SEPARATOR, STOP
from ip2p_lib.triplets.tuning import Example, language_loss

REHEARSAL_START = 10_000_000
TEXT_SEED = 3  # scenes of pretraining; held-out captions use 900 and above
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
    steps: int = 5_000
    learning_rate: float = 2e-3
    lists: bool = False  # whether the texts include lists
    first_text: int = 0
    seed: int = 15

    @property
    def fit(self) -> FitConfig:
        """Optimiser settings."""
        return FitConfig(
            steps=self.steps, learning_rate=self.learning_rate, weight_decay=0.05, adam_beta2=0.98,
            warmup_steps=150, cosine_decay=True, max_grad_norm=1.0, ema_decay=0.99, mixed_precision="auto",
            checkpoint_every=500,
        )  # fmt: skip


ROUNDS = {  # each goes on from the average of the one before
    "writer": WriterRecipe(),
    "writer-2": WriterRecipe(steps=2_000, learning_rate=1e-3, lists=True, first_text=200_000),
    "writer-3": WriterRecipe(steps=1_800, learning_rate=1e-3, lists=True, first_text=400_000),
}


def story(index: int, lists: bool = False) -> str:
    """The `index`-th text of pretraining: one sentence, a sheet, a story, or with `lists` an item of a list."""
    rng = np.random.default_rng((TEXT_SEED, index))
    scene = sample_scene(rng)
    phrasing = int(rng.integers(2**31))
    draw = rng.random()
    edit = sample_edit(scene, rng)
    asked = wish(edit, phrasing) if rng.random() < 0.7 else instruction(edit, phrasing)
    if draw < 0.2:
        return asked if rng.random() < 0.4 else ordinary_text(scene, phrasing)
    before, after = caption(edit.before, phrasing), caption(edit.after, phrasing)
    if draw < (0.25 if lists else 0.4):
        return _sheet((before, statement(scene, rng), (before, after)[int(rng.integers(2))]), rng)
    if lists and draw < 0.65:
        return DIVIDERS[rng.integers(len(DIVIDERS))].join((before, asked, after))
    template = STORIES[rng.integers(len(STORIES))]
    return template.format(before=before, after=after, wish=asked)


def _sheet(notes: tuple[str, ...], rng: np.random.Generator) -> str:
    """Notes in any order and number, divided by either separator, some of them closed by the stop."""
    chosen = [notes[i] for i in rng.permutation(len(notes))[: rng.integers(2, len(notes) + 1)]]
    lines = [chosen[0], *((SEPARATOR, PARTS)[rng.integers(2)] + note for note in chosen[1:])]
    return "".join(lines) + (STOP if rng.random() < 0.7 else "")


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

    def loss_at(step: int) -> Tensor:
        first = recipe.first_text + step * recipe.batch_size
        texts = [story(first + i, recipe.lists) for i in range(recipe.batch_size)]
        rows = sorted(tokenizer(texts).input_ids, key=len)
        short, end = recipe.batch_size // 5, (tokenizer.eos_token_id,)
        # The shortest texts share rows, so that little of a batch is padding.
        joined = [sum(((*ids, *end) for ids in rows[i:short:2]), ()) for i in range(2)]
        return language_loss(
            language, [Example(ids) for ids in (*joined, *((*r, *end) for r in rows[short:]))]
        )

    return fit(language.model, loss_at, recipe.fit, folder=folder)


def rehearsal(language: LanguageModel, size: int = 24) -> Callable[[int], list[Example]]:
    """Pretraining texts that were not read yet, `size` for each step of fine-tuning."""
    end = language.tokenizer.eos_token_id

    def texts_at(step: int) -> list[Example]:
        rows = language.tokenizer(
            [story(REHEARSAL_START + step * size + i, True) for i in range(size)]
        ).input_ids
        return [Example((*ids, end)) for ids in rows]

    return texts_at
