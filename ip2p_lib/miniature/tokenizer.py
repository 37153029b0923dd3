"""The miniature's tokenizer: CLIP's byte-level BPE, with merges learned on the world's texts."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from ip2p_lib import storage

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 32


def learn_tokenizer(texts: Iterable[str], folder: Path, vocab_size: int = 1_200) -> CLIPTokenizer:
    """Learn merges and write a `CLIPTokenizer` folder. Any text can be encoded: all bytes are tokens.

    The end token gets the highest id, since CLIP's text tower pools where the id is largest.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator((t.lower() for t in texts), trainer)
    merges = [tuple(m) for m in _merges(bpe)]
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(m) for m in merges), BEGIN, END]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)
    with storage.atomic_folder(folder) as partial:
        tokenizer.save_pretrained(partial)
    return tokenizer


def _merges(bpe: Tokenizer) -> list[list[str]]:
    import json

    merges = json.loads(bpe.to_str())["model"]["merges"]
    return [m.split(" ") if isinstance(m, str) else m for m in merges]
