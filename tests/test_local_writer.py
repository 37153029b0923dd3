"""A language model of one's own as writer: exact sampling, each row by its own seed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import TopPLogitsWarper

from ip2p_lib.presets import WriteConfig
from ip2p_lib.triplets.local import KeyedSampler, LocalWriter
from ip2p_lib.triplets.prompts import PARTS, STOP, Request

CONFIG = WriteConfig(max_new_tokens=24, frequency_penalty=0.0)


def picks(scores, config, seeds, history=None):
    """Tokens a sampler picks for rows of the same scores."""
    ids = torch.zeros(len(seeds), 1, dtype=torch.long)
    sampler = KeyedSampler(seeds, config)
    if history is not None:
        sampler(ids, scores.expand(len(seeds), -1))
        ids = torch.cat([ids, history.expand(len(seeds), -1)], dim=1)
    return sampler(ids, scores.expand(len(seeds), -1)).argmax(dim=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_softmax_at_the_temperature(temperature):
    scores = torch.tensor([[2.0, 1.0, 0.0, -1.0, -torch.inf]])
    found = picks(scores, replace(CONFIG, temperature=temperature), range(8_000))
    share = torch.bincount(found, minlength=5) / 8_000
    torch.testing.assert_close(share, (scores[0] / temperature).softmax(0), atol=0.02, rtol=0)
    assert share[4] == 0


def test_temperature_zero_takes_the_likeliest():
    assert set(
        picks(torch.tensor([[0.0, 3.0, 2.9]]), replace(CONFIG, temperature=0), range(50)).tolist()
    ) == {1}


def test_top_p_leaves_what_transformers_leaves():
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0, -3.0]])
    left = TopPLogitsWarper(0.8)(None, scores)[0].isfinite().nonzero().flatten().tolist()
    found = picks(scores, replace(CONFIG, temperature=1.0, top_p=0.8), range(3_000))
    assert set(found.tolist()) == set(left)


def test_the_penalty_counts_generated_tokens_alone_and_each_time():
    scores = torch.tensor([[1.0, 0.9, 0.0]])
    config = replace(CONFIG, temperature=0, frequency_penalty=0.06)
    assert picks(scores, config, [1]).item() == 0  # the prompt, token 0, does not count
    assert picks(scores, config, [1], torch.tensor([[0]])).item() == 0
    assert picks(scores, config, [1], torch.tensor([[0, 0]])).item() == 1


def test_one_row_decides_nothing_about_another():
    scores = torch.randn(3, 200, generator=torch.Generator().manual_seed(0))
    ids = torch.zeros(3, 1, dtype=torch.long)
    together = KeyedSampler([5, 6, 7], CONFIG)(ids, scores).argmax(1)
    alone = [
        KeyedSampler([s], CONFIG)(ids[:1], scores[i : i + 1]).argmax().item() for i, s in enumerate((5, 6, 7))
    ]
    assert together.tolist() == alone


def test_completions_depend_on_prompt_and_seed_not_on_the_batch_or_the_global_generator(tiny_writer):
    writer = LocalWriter(tiny_writer, CONFIG)
    requests = [
        Request(p, s) for s, p in enumerate(("a red car in the city\n##\n", "a cat\n##\n", "x\n##\n"))
    ]
    before = torch.random.get_rng_state()
    together = writer(requests)
    assert torch.equal(before, torch.random.get_rng_state())
    assert [writer([r])[0] for r in requests] == together
    assert writer(requests[::-1]) == together[::-1]
    assert writer([replace_seed(requests[0], 99)])[0].text != together[0].text


def replace_seed(request, seed):
    return Request(request.prompt, seed)


def test_a_completion_that_fills_its_length_is_unfinished_and_tokens_are_counted(tiny_writer):
    prompt = "a red car in the city\n##\n"
    found = LocalWriter(tiny_writer, CONFIG)([Request(prompt, seed) for seed in range(8)])
    full = [c for c in found if c.completion_tokens == CONFIG.max_new_tokens]
    assert full
    assert not any(c.finished for c in full)
    assert max(c.completion_tokens for c in found) == CONFIG.max_new_tokens
    assert {c.prompt_tokens for c in found} == {len(tiny_writer.tokenizer(prompt).input_ids)}


def test_writing_ends_at_the_stop_or_at_the_end_token(tiny_writer):
    tokenizer = tiny_writer.tokenizer
    for token, text in ((tokenizer.convert_tokens_to_ids(STOP), STOP), (tokenizer.eos_token_id, "")):
        with torch.no_grad():
            tiny_writer.model.lm_head.weight.zero_()
            tiny_writer.model.lm_head.weight[token] = 0.0
        writer = LocalWriter(tiny_writer, replace(CONFIG, temperature=0))
        hook = tiny_writer.model.lm_head.register_forward_hook(
            lambda _m, _i, out, token=token: out.index_fill(-1, torch.tensor([token]), 9.0)
        )
        (completion,) = writer([Request("a cat\n##\n", 1)])
        hook.remove()
        assert completion.finished
        assert completion.text.startswith(text)
        assert completion.completion_tokens == 1


def test_certainties_are_the_log_probabilities_of_the_least_sure_tokens(shipped_writer):
    """Against the log-probabilities of one forward pass over the finished text."""
    prompt = "a red car in the city\n##\n"
    config = replace(CONFIG, max_new_tokens=60)
    (completion,) = LocalWriter(shipped_writer, config)([Request(prompt, 4)])
    tokenizer = shipped_writer.tokenizer
    ids = tokenizer(prompt + completion.text, return_tensors="pt").input_ids
    with torch.no_grad():
        log_probs = shipped_writer.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    own = log_probs.gather(1, ids[0, 1:, None])[:, 0]
    start = ids[0].tolist().index(tokenizer.convert_tokens_to_ids(PARTS))
    end = ids[0].tolist().index(tokenizer.convert_tokens_to_ids(STOP))
    assert completion.certainty == pytest.approx(own[start:end].min().item(), abs=1e-3)
    first = len(tokenizer(prompt).input_ids) - 1  # own[i] is that of the token after i
    assert completion.instruction_certainty == pytest.approx(own[first:start].min().item(), abs=1e-3)
    assert completion.instruction_certainty < completion.certainty  # an instruction is a choice among many


def test_a_prompt_that_does_not_fit_is_refused(tiny_writer):
    with pytest.raises(ValueError, match=r"must fit in 2048 tokens.*show fewer examples"):
        LocalWriter(tiny_writer, CONFIG)([Request("a cat " * 2_000, 1)])


@pytest.mark.parametrize("text", ["", "\x00\x07", "猫と虹 🌈", "a" * 500, "##", "\n%%\n\nEND"])
def test_any_text_can_be_a_prompt(tiny_writer, text):
    (completion,) = LocalWriter(tiny_writer, CONFIG)([Request(f"{text}\n##\n", 3)])
    assert isinstance(completion.text, str)
    assert np.isfinite(completion.completion_tokens)
