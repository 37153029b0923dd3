"""Word-level prompt-to-prompt: which tokens of two captions are partners, and during which steps."""

from difflib import SequenceMatcher
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from ip2p_lib.attention import (
    WordEdit,
    align,
    positions_of,
    refinement,
    replacement,
    reweighted,
    scheduled,
    word_tokens,
)
from ip2p_lib.presets import MINIATURE

LENGTH = 32  # tokens that the text encoder of tests and miniature reads
WORDS = "a cat dog house, old in the ox red zebra at night lighthouse (blue) castle's snowy"


@pytest.fixture(scope="session", params=["learnt", "shipped"])
def either(request, tokenizer) -> CLIPTokenizer:
    """The tests' tokenizer, and the miniature's as it ships."""
    if request.param == "learnt":
        return tokenizer
    return CLIPTokenizer.from_pretrained(Path(MINIATURE.text_to_image) / "tokenizer")


def counts(tokenizer, text):
    """Number of tokens of each word."""
    return [len(tokens) for tokens in word_tokens(tokenizer, text)]


def matrix(*blocks):
    """(T, T) of zeros but for blocks (source tokens, target tokens, weight)."""
    weights = torch.zeros(LENGTH, LENGTH)
    for sources, targets, weight in blocks:
        for source in sources:
            for target in targets:
                weights[source, target] = weight
    return weights


def diagonal(source, target, count):
    """Blocks that join `count` tokens one to one."""
    return [([source + i], [target + i], 1) for i in range(count)]


def random_captions(seed, count, words=6):
    """Pairs of captions that have some words in common."""
    rng, known = np.random.default_rng(seed), WORDS.split()
    for _ in range(count):
        old = rng.choice(known, rng.integers(1, words)).tolist()
        new = [str(rng.choice(known)) if rng.random() < 0.4 else word for word in old]
        yield " ".join(old), " ".join(new), rng


@pytest.mark.parametrize(
    "text",
    [
        "a red house, old; at night!",
        "A RED House",
        "don't stop the cat's rock 'n' roll",
        "Zürich café, 1990s (50% off)",
        "  a  house \n in\ta\u00a0meadow  ",
        "a , b -- c",
        " ",
        "",
    ],
)
def test_the_tokens_of_the_words_are_those_of_the_caption(either, text):
    positions = word_tokens(either, text)
    whole = either(text).input_ids
    alone = [either(word).input_ids[1:-1] for word in text.split()]
    assert [[whole[p] for p in tokens] for tokens in positions] == alone
    assert [p for tokens in positions for p in tokens] == list(range(1, len(whole) - 1))


def test_words_are_what_space_of_any_width_divides(tokenizer):
    assert word_tokens(tokenizer, " a  house,\tred ") == word_tokens(tokenizer, "a house, red")
    assert word_tokens(tokenizer, "a house, red") == [[1], [2, 3], [4]]
    assert word_tokens(tokenizer, "") == []


def test_a_caption_that_is_cut_elsewhere_than_between_its_words_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"must have the tokens of its words, but 'a\\x1ccat' is cut other"):
        word_tokens(tokenizer, "a\x1ccat")


def test_a_caption_must_leave_room_for_start_and_end(tokenizer):
    assert word_tokens(tokenizer, "cat " * (LENGTH - 2))[-1] == [LENGTH - 2]
    for call in (
        word_tokens,
        lambda t, text: refinement(t, "cat", text),
        lambda t, text: replacement(t, text, text),
    ):
        with pytest.raises(ValueError, match=r"must have fewer than 31 tokens, got 31: 'cat cat"):
            call(tokenizer, "cat " * (LENGTH - 1))


@pytest.mark.parametrize(
    ("source", "target", "blocks"),
    [
        ("a red cat at night", "a red house at night", diagonal(0, 0, LENGTH)),
        ("an ox at night", "an old at night", diagonal(0, 0, LENGTH)),
        (  # one longer by two: the last two places of padding have no room
            "a cat at night",
            "a dog at night",
            [*diagonal(0, 0, 2), ([2], [2, 3, 4], 1 / 3), *diagonal(3, 5, 27)],
        ),
        (  # one shorter by two: the last padding is repeated
            "a dog at night",
            "a cat at night",
            [*diagonal(0, 0, 2), ([2, 3, 4], [2], 1), *diagonal(5, 3, 27), ([31], [30, 31], 1)],
        ),
        (  # three changed words, two of them longer
            "an old cat at night",
            "a dog ox at night",
            [*diagonal(0, 0, 2), ([2, 3], [2, 3, 4], 1 / 3), ([4], [5, 6], 1 / 2), *diagonal(5, 7, 25)],
        ),
        (  # first and last
            "cat at night",
            "dog at ox",
            [*diagonal(0, 0, 1), ([1], [1, 2, 3], 1 / 3), *diagonal(2, 4, 1), ([3], [5, 6], 1 / 2),
             *diagonal(4, 7, 25)],
        ),
        (  # a comma belongs to its word
            "a house, red",
            "a house red",
            [*diagonal(0, 0, 2), ([2, 3], [2], 1), *diagonal(4, 3, 28), ([31], [31], 1)],
        ),
        (  # what got longer first and shorter later is in step again
            "a cat at dog",
            "a dog at cat",
            [*diagonal(0, 0, 2), ([2], [2, 3, 4], 1 / 3), *diagonal(3, 5, 1), ([4, 5, 6], [6], 1),
             *diagonal(7, 7, 25)],
        ),
        ("", "", diagonal(0, 0, LENGTH)),
    ],
)  # fmt: skip
def test_replacement_joins_the_words_in_the_same_place(either, source, target, blocks):
    assert counts(either, "cat at night an ox old dog house,") == [1, 1, 1, 1, 2, 2, 3, 2]
    edit = replacement(either, source, target)
    torch.testing.assert_close(edit.mapper, matrix(*blocks))
    assert edit.follows.tolist() == [1] * LENGTH
    assert edit.equalizer.tolist() == [1] * LENGTH


def test_a_replaced_word_hands_on_all_of_its_attention(either):
    for source, target, _ in random_captions(1, 60):
        mapper = replacement(either, source, target).mapper
        words = zip(word_tokens(either, source), word_tokens(either, target), strict=True)
        for before, after in words:
            torch.testing.assert_close(mapper[before].sum(1), torch.ones(len(before)))
            torch.testing.assert_close(mapper[:, after].sum(), torch.tensor(float(len(before))))
        ends = (len(either(text).input_ids) - 1 for text in (source, target))
        assert mapper[next(ends), next(ends)] == 1
        assert mapper[0].tolist() == mapper[:, 0].tolist() == [1] + [0] * (LENGTH - 1)


def test_captions_of_unequal_word_count_cannot_be_replaced(tokenizer):
    with pytest.raises(ValueError, match=r"got 2 in 'a cat' and 3 in 'a red cat'; use `refinement`"):
        replacement(tokenizer, "a cat", "a red cat")
    replacement(tokenizer, "a  cat ", "a house")  # spaces are no words


@pytest.mark.parametrize(
    ("source", "target", "partners"),
    [
        ("a red house in a meadow", "a red house in a red meadow", [0, 1, 2, 3, 4, 5, -1, 6, 7]),
        ("a red house in a red meadow", "a red house in a meadow", [0, 1, 2, 3, 4, 5, 7, 8]),
        ("a red house", "a blue house", [0, 1, -1, 3, 4]),
        ("a red house", "a red house at night", [0, 1, 2, 3, -1, -1, 4]),
        ("red house", "a red house", [0, -1, 1, 2, 3]),
        ("a red red house", "a red house", [0, 1, 2, 4, 5]),
        ("a red house", "a red red house", [0, 1, 2, -1, 3, 4]),
        ("red cat", "cat red", [0, 2, -1, 3]),
        ("a house, red", "a house at red", [0, 1, 2, -1, 4, 5]),
        ("a house, red", "a house red", [0, 1, 2, 4, 5]),
        ("a cat", "a dog", [0, 1, -1, -1, -1, 3]),  # a word of three tokens
        ("a House", "a house", [0, 1, 2, 3]),
        ("", "cat", [0, -1, 1]),
        ("cat", "", [0, 2]),
    ],
)
def test_refinement_keeps_what_both_captions_have(either, source, target, partners):
    edit = refinement(either, source, target)
    assert len(partners) == len(either(target).input_ids)
    joined = [([s], [t], 1) for t, s in enumerate(partners) if s >= 0]
    padding = diagonal(len(partners), len(partners), LENGTH - len(partners))
    torch.testing.assert_close(edit.mapper, matrix(*joined, *padding))
    assert edit.follows.tolist() == [float(s >= 0) for s in partners] + [1] * (LENGTH - len(partners))


@pytest.mark.parametrize("make", [replacement, refinement])
@pytest.mark.parametrize("caption", ["a red house, old", "cat cat cat", "zebra", ""])
def test_equal_captions_are_their_own_partners(either, make, caption):
    edit = make(either, caption, caption)
    torch.testing.assert_close(edit.mapper, torch.eye(LENGTH))
    assert edit.follows.tolist() == [1] * LENGTH


def test_refined_partners_are_monotone_equal_tokens_and_start_and_end_are_kept(either):
    for source, target, rng in random_captions(2, 60):
        new = [word for word in target.split() if rng.random() < 0.8]
        edit = refinement(either, source, " ".join(new))
        old_ids, new_ids = either(source).input_ids, either(" ".join(new)).input_ids
        assert edit.mapper.sum(0).tolist() == edit.follows.tolist()
        assert edit.mapper[0, 0] == edit.mapper[len(old_ids) - 1, len(new_ids) - 1] == 1
        sources, targets = edit.mapper[:, : len(new_ids)].nonzero().T.tolist()
        order = sorted(zip(targets, sources, strict=True))
        assert [s for _, s in order] == sorted(set(sources))
        assert all(old_ids[s] == new_ids[t] for t, s in order)


def longest_common(source, target):
    """Length of the longest common subsequence, by trying all."""
    for count in range(min(len(source), len(target)), 0, -1):
        if set(combinations(source, count)) & set(combinations(target, count)):
            return count
    return 0


def test_no_alignment_keeps_more_tokens():
    rng = np.random.default_rng(3)
    for _ in range(300):
        source, target = (rng.integers(0, 3, rng.integers(0, 8)).tolist() for _ in range(2))
        kept = [(t, s) for t, s in enumerate(align(source, target)) if s >= 0]
        assert len(align(source, target)) == len(target)
        assert len(kept) == longest_common(source, target)
        assert all(source[s] == target[t] for t, s in kept)
        assert [s for _, s in kept] == sorted({s for _, s in kept})


@pytest.mark.parametrize("is_longer", [True, False])
def test_alignment_agrees_with_difflib_where_there_is_one_answer(is_longer):
    rng = np.random.default_rng(4)
    for _ in range(100):
        whole = rng.permutation(20).tolist()
        part = [token for token in whole if rng.random() < 0.6]
        source, target = (part, whole) if is_longer else (whole, part)
        expected = [-1] * len(target)
        for block in SequenceMatcher(None, source, target, autojunk=False).get_matching_blocks():
            expected[block.b : block.b + block.size] = range(block.a, block.a + block.size)
        assert align(source, target) == expected


def is_on(edit, num_inference_steps):
    """Steps by tokens, (N, T): whether the edit is on; for edits in which every token follows."""
    return torch.stack([1 - edit.weights(i, num_inference_steps)[1] for i in range(num_inference_steps)])


@pytest.mark.parametrize("steps", [1, 2, 9, 20, 50, 99, 100])
def test_spans_end_where_the_original_table_has_them(steps):
    """A table of N + 1 rows, filled between int(a * (N + 1)) and int(b * (N + 1)), of which N are used."""
    shares = [k / 100 for k in range(101)]
    spans = [(low, high) for low in shares[::9] for high in shares if low <= high]
    table = torch.zeros(steps + 1, len(spans))
    for token, (low, high) in enumerate(spans):
        table[int(low * (steps + 1)) : int(high * (steps + 1)), token] = 1
    nothing = torch.zeros(0, len(spans))
    edit = WordEdit(
        nothing, torch.ones(len(spans)), torch.ones(len(spans)), torch.tensor(spans, dtype=torch.float64)
    )
    assert torch.equal(is_on(edit, steps), table[:steps])


@pytest.mark.parametrize(
    ("until", "expected"), [(0, 0), (0.0, 0), (0.29, 28), (0.4, 40), (0.8, 80), (1.0, 99), (1, 99)]
)
def test_a_share_edits_its_part_of_99_steps_in_all_tokens(tokenizer, until, expected):
    """0.29 * 100 is 28.999... in double precision, and 29 in single."""
    for edit in (
        replacement(tokenizer, "a cat", "a house", until=until),
        scheduled(replacement(tokenizer, "a cat", "a house"), tokenizer, "a house", until),
        replacement(tokenizer, "a cat", "a house", until=(0.0, until)),
        replacement(tokenizer, "a cat", "a house", until={"default_": until}),
    ):
        assert is_on(edit, 99).sum(0).tolist() == [expected] * LENGTH
        assert is_on(edit, 99)[:expected].all()


def test_a_pair_says_when_the_edit_begins(tokenizer):
    edit = replacement(tokenizer, "a cat", "a house", until=(0.25, 0.75))
    assert is_on(edit, 7)[:, 0].tolist() == [0, 0, 1, 1, 1, 1, 0]


def test_words_may_have_spans_of_their_own(tokenizer):
    """dog has the tokens 4, 5 and 6."""
    target = "a red cat dog, red"
    spans = {"dog": (0.25, 0.5), "red": 0.75, "default_": 0.5}
    edit = replacement(tokenizer, target, target, until=spans)
    starts, counts_ = is_on(edit, 7).argmax(0).tolist(), is_on(edit, 7).sum(0).tolist()
    assert starts[:10] == [0, 0, 0, 0, 2, 2, 2, 2, 0, 0]
    assert counts_ == [4, 4, 6, 4, 2, 2, 2, 2, 6] + [4] * (LENGTH - 9)
    assert spans == {"dog": (0.25, 0.5), "red": 0.75, "default_": 0.5}


def test_words_without_a_span_are_always_edited(tokenizer):
    edit = refinement(tokenizer, "a cat", "a cat", until={"cat": 0.5})
    assert is_on(edit, 7).sum(0).tolist() == [7, 7, 4] + [7] * (LENGTH - 3)


@pytest.mark.parametrize(
    "span", [-0.1, 1.1, 40, (0.6, 0.2), (0.2, 1.5), (-0.2, 0.5), float("nan"), [0.5, 0.4]]
)
def test_a_span_outside_its_range_is_refused(tokenizer, span):
    for until in (span, {"cat": span}, {"default_": span}):
        for make in (replacement, refinement):
            with pytest.raises(ValueError, match=r"must lie in \[0, 1\] and run upwards, got "):
                make(tokenizer, "a cat", "a cat", until=until)


@pytest.mark.parametrize("word", ["dog", "red house", "", ",", "hous"])
def test_a_word_that_does_not_occur_is_refused(tokenizer, word):
    text = "a house, red ..."
    edit = replacement(tokenizer, text, text)
    for call in (
        lambda: positions_of(tokenizer, text, word),
        lambda: reweighted(edit, tokenizer, text, {word: 2.0}),
        lambda: scheduled(edit, tokenizer, text, {word: 0.5}),
    ):
        with pytest.raises(ValueError, match=f"'{word}' must be one word of 'a house, red ...'"):
            call()


@pytest.mark.parametrize(
    ("text", "word", "positions"),
    [
        ("a dog in a red house", "a", [1, 6]),
        ("a dog in a red house", "dog", [2, 3, 4]),
        ("a house, (red)", "house", [2, 3]),
        ("a house, (red)", "house,", [2, 3]),
        ("a house, (red)", "red", [4, 5, 6]),
        ("a House in a house", "house", [2, 5]),
        ("a house", "HOUSE", [2]),
        ("a , house", ",", [2]),
        ("a  house ", "house", [2]),
    ],
)
def test_every_occurrence_of_a_word_is_found(either, text, word, positions):
    assert positions_of(either, text, word) == positions


def test_weights_mix_the_source_with_the_target_where_words_are_new(tokenizer):
    """Token 2 is new; while the edit is on, the others are the source's."""
    edit = refinement(tokenizer, "a house", "a red house", until=0.5)
    taken, own = edit.weights(0, 7)
    torch.testing.assert_close(taken, edit.mapper)
    assert own.tolist() == [0, 0, 1] + [0] * (LENGTH - 3)
    taken, own = edit.weights(4, 7)
    assert taken.abs().sum() == 0
    assert own.tolist() == [1] * LENGTH


def test_reweighting_scales_one_word_while_the_edit_is_on(tokenizer):
    plain = refinement(tokenizer, "a house", "a red house", until=0.5)
    edit = reweighted(plain, tokenizer, "a red house", {"house": -2.0, "red": 3.0})
    (taken, own), (taken_plain, own_plain) = edit.weights(0, 7), plain.weights(0, 7)
    factors = torch.tensor([1.0, 1, 3, -2] + [1] * (LENGTH - 4))
    torch.testing.assert_close(taken, taken_plain * factors)
    torch.testing.assert_close(own, own_plain * factors)
    assert edit.weights(4, 7)[1].tolist() == [1] * LENGTH
    assert plain.equalizer.tolist() == [1] * LENGTH


def test_reweighting_and_scheduling_can_follow_each_other(tokenizer):
    edit = replacement(tokenizer, "a cat", "a house", until=0.2)
    one = scheduled(reweighted(edit, tokenizer, "a house", {"house": 2.0}), tokenizer, "a house", 0.6)
    other = reweighted(scheduled(edit, tokenizer, "a house", 0.6), tokenizer, "a house", {"house": 2.0})
    for step in range(5):
        for left, right in zip(one.weights(step, 5), other.weights(step, 5), strict=True):
            assert torch.equal(left, right)
