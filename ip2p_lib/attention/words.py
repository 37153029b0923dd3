"""Which words of two captions belong together, and how long one's attention follows the other's.

The word-level prompt-to-prompt of Hertz et al. 2022. InstructPix2Pix's data were made without it (see `sharing`);
it is here to compare, and to change one picture by changing its words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

Span = float | tuple[float, float]  # share of the steps: up to it, or from and to
PUNCTUATION = ".,;:!?\"'()"


@dataclass(frozen=True, slots=True)
class WordEdit:
    """How the cross-attention of a target caption follows its source's, token by token (T of them).

    Where token n of the target follows, its column of the attention map is the source's columns weighted by
    `mapper[:, n]`, times its `equalizer`; elsewhere it is the target's own, times the equalizer.
    """

    mapper: Tensor  # (T, T), rows: source tokens, columns: target tokens
    follows: Tensor  # (T,), 1 where the target's token has a source
    equalizer: Tensor  # (T,)
    spans: Tensor  # (T, 2), shares of the steps between which the edit of each target token is on, in float64

    def weights(self, step: int, num_inference_steps: int) -> tuple[Tensor, Tensor]:
        """Weights (T, T) on the source's map and (T,) on the target's own at a step counted from 0.

        The table of N steps has N + 1 rows in the original, so a span ends at int(share * (N + 1)).

        Source: google/prompt-to-prompt: ptp_utils.py, get_time_words_attention_alpha.
        """
        low, high = (self.spans.double() * (num_inference_steps + 1)).int().T
        on = ((low <= step) & (step < high)).float()
        taken = on * self.equalizer * self.follows
        return self.mapper * taken, on * self.equalizer * (1 - self.follows) + 1 - on


def word_tokens(tokenizer: CLIPTokenizer, text: str) -> list[list[int]]:
    """Positions of the tokens of each of `text.split()`; position 0 is the start token.

    Raises:
        ValueError: the text is longer than the encoder reads, or its tokens are not those of its words.
    """
    words = [tokenizer(word).input_ids[1:-1] for word in text.split()]
    ends = list(accumulate(map(len, words), initial=1))
    if ends[-1] >= tokenizer.model_max_length:
        raise ValueError(
            f"a caption to edit word by word must have fewer than {tokenizer.model_max_length - 1} tokens,"
            f" got {ends[-1] - 1}: {text!r}"
        )
    if tokenizer(text).input_ids[1:-1] != [token for word in words for token in word]:
        raise ValueError(
            f"a caption must have the tokens of its words, but {text!r} is cut otherwise; put plain spaces"
            " between its words"
        )
    return [list(range(low, high)) for low, high in pairwise(ends)]


def replacement(
    tokenizer: CLIPTokenizer, source: str, target: str, *, until: Span | Mapping[str, Span] = 0.8
) -> WordEdit:
    """Swap words one for one: each word of the target attends where the source's word in its place did.

    The tokens of a word that became longer or shorter share the map of the old word evenly. Deviation: in
    the original, words behind the last changed one are shifted if its number of tokens differs; here they
    keep their partners.

    Raises:
        ValueError: the captions differ in their number of words, or as `word_tokens` and `scheduled`.

    Source: google/prompt-to-prompt: seq_aligner.py, get_replacement_mapper.
    """
    old, new = word_tokens(tokenizer, source), word_tokens(tokenizer, target)
    if len(old) != len(new):
        raise ValueError(
            "to replace words, both captions must have as many; got"
            f" {len(old)} in {source!r} and {len(new)} in {target!r}; use `refinement`"
        )
    mapper = torch.zeros(tokenizer.model_max_length, tokenizer.model_max_length)
    mapper[0, 0] = 1
    i = j = 1
    for before, after in zip(old, new, strict=True):
        if len(before) == len(after):
            mapper[before, after] = 1
        else:
            mapper[np.ix_(before, after)] = 1 / len(after)
        i, j = before[-1] + 1, after[-1] + 1
    rest = len(mapper) - max(i, j)  # end token and padding
    mapper[range(i, i + rest), range(j, j + rest)] = 1
    mapper[-1, j + rest :] = 1
    return _edit(tokenizer, target, mapper, torch.ones(len(mapper)), until)


def align(source: Sequence[int], target: Sequence[int]) -> list[int]:
    """For each target token the position of its source token, or -1, by global alignment.

    A match counts 1, a mismatch -1, a gap nothing; among equally good ways gaps are preferred.

    Source: Needleman and Wunsch 1970, scored as google/prompt-to-prompt: seq_aligner.py.
    """
    best = np.zeros((len(source) + 1, len(target) + 1), dtype=int)
    for i, a in enumerate(source, 1):
        for j, b in enumerate(target, 1):
            pair = best[i - 1, j - 1] + (1 if a == b else -1)
            best[i, j] = max(best[i, j - 1], best[i - 1, j], pair)
    partners = [-1] * len(target)
    i, j = len(source), len(target)
    while i > 0 and j > 0:
        if best[i, j] == best[i, j - 1]:
            j -= 1
        elif best[i, j] == best[i - 1, j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            partners[j] = i
    return partners


def refinement(
    tokenizer: CLIPTokenizer, source: str, target: str, *, until: Span | Mapping[str, Span] = 0.8
) -> WordEdit:
    """Add, drop or change words: what both captions have in common keeps the source's maps.

    Raises:
        ValueError: as `word_tokens` and `scheduled`.

    Source: google/prompt-to-prompt: seq_aligner.py, get_refinement_mapper.
    """
    word_tokens(tokenizer, source), word_tokens(tokenizer, target)  # refuses what is too long
    old, new = tokenizer(source).input_ids, tokenizer(target).input_ids
    length = tokenizer.model_max_length
    mapper, follows = torch.zeros(length, length), torch.zeros(length)
    partners = [*align(old, new), *range(len(new), length)]  # padding keeps its place
    for token, partner in enumerate(partners):
        if partner >= 0:
            mapper[partner, token] = follows[token] = 1
    return _edit(tokenizer, target, mapper, follows, until)


def _edit(
    tokenizer: CLIPTokenizer, target: str, mapper: Tensor, follows: Tensor, until: Span | Mapping[str, Span]
) -> WordEdit:
    edit = WordEdit(mapper, follows, torch.ones(len(mapper)), torch.zeros(len(mapper), 2).double())
    return scheduled(edit, tokenizer, target, until)


def scheduled(
    edit: WordEdit, tokenizer: CLIPTokenizer, target: str, until: Span | Mapping[str, Span]
) -> WordEdit:
    """The same edit with other spans: one for all tokens, or by word, the rest under `default_`.

    Raises:
        ValueError: a word is not in the target, or a share lies outside [0, 1].
    """
    by_word = dict(until) if isinstance(until, Mapping) else {"default_": until}
    spans = edit.spans.clone()
    spans[:] = torch.tensor(checked_span(by_word.pop("default_", (0.0, 1.0))), dtype=spans.dtype)
    for word, span in by_word.items():
        spans[positions_of(tokenizer, target, word)] = torch.tensor(checked_span(span), dtype=spans.dtype)
    return replace(edit, spans=spans)


def checked_span(span: Span) -> tuple[float, float]:
    """Beginning and end of a span of steps.

    Raises:
        ValueError: a share lies outside [0, 1], or the end before the beginning.
    """
    low, high = span if isinstance(span, Sequence) else (0.0, span)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"a span of steps must lie in [0, 1] and run upwards, got {span}")
    return float(low), float(high)


def positions_of(tokenizer: CLIPTokenizer, text: str, word: str) -> list[int]:
    """Token positions of every occurrence of a word; neither case nor punctuation glued to it hides it.

    Raises:
        ValueError: the word does not occur.
    """
    found = [
        position
        for each, positions in zip(text.lower().split(), word_tokens(tokenizer, text), strict=True)
        for position in positions
        if word and word.lower() in (each, each.strip(PUNCTUATION))
    ]
    if not found:
        raise ValueError(f"{word!r} must be one word of {text!r}")
    return found


def reweighted(
    edit: WordEdit, tokenizer: CLIPTokenizer, target: str, factors: Mapping[str, float]
) -> WordEdit:
    """The same edit with some words' attention made stronger or weaker; maps are not renormalised.

    Source: google/prompt-to-prompt: prompt-to-prompt_stable.ipynb, AttentionReweight.
    """
    equalizer = edit.equalizer.clone()
    for word, factor in factors.items():
        equalizer[positions_of(tokenizer, target, word)] = factor
    return replace(edit, equalizer=equalizer)
