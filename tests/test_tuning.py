"""Fine-tuning a writer: what is learned, LoRA on real architectures, resuming, the saved folder."""

import shutil
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM
from typer.testing import CliRunner

from ip2p_lib import cli
from ip2p_lib.backbone import LanguageModel, load_language_model
from ip2p_lib.presets import TuneConfig, WriteConfig
from ip2p_lib.triplets.local import LocalWriter
from ip2p_lib.triplets.prompts import Request, completion_of, prompt_for, read_completion
from ip2p_lib.triplets.tuning import (
    Example,
    collate,
    fine_tune,
    language_loss,
    save_writer,
    triplet_example,
    validation_loss,
    with_adapter,
)  # fmt: skip

SIZES = dict(
    hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2
)
CONFIG = TuneConfig(
    steps=3, batch_size=2, learning_rate=1e-3, lora_rank=4, warmup_steps=0, gradient_checkpointing=False,
    checkpoint_every=1,
)  # fmt: skip


def small(kind, tokenizer, tie=False):
    """A language model of a published architecture, small, with random weights."""
    config, model = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen": (Qwen2Config, Qwen2ForCausalLM)}[kind]
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(2)
        network = model(
            config(
                **SIZES,
                vocab_size=len(tokenizer),
                tie_word_embeddings=tie,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=None,
                initializer_range=0.2,  # so that a frozen head can be sure of anything
            )
        )
    return LanguageModel(network.eval().requires_grad_(False), tokenizer, kind)


def last_of(steps):
    *_, last = steps
    return last


def test_only_the_completion_is_learned_and_padding_never(tiny_writer, seed_triplets):
    examples = [triplet_example(tiny_writer.tokenizer, t) for t in seed_triplets[:3]]
    ids, mask, labels = collate(examples, tiny_writer.tokenizer.pad_token_id)
    for row, triplet in enumerate(seed_triplets[:3]):
        learned = tiny_writer.tokenizer.decode(labels[row][labels[row] >= 0])
        assert learned == completion_of(triplet) + tiny_writer.tokenizer.eos_token
        given = tiny_writer.tokenizer.decode(ids[row][(labels[row] < 0) & (mask[row] == 1)])
        assert given == prompt_for(triplet.input)
    assert (labels[mask == 0] == -100).all()


def test_the_loss_is_the_models_own(tiny_writer, seed_triplets):
    examples = [triplet_example(tiny_writer.tokenizer, t) for t in seed_triplets[:4]]
    ids, mask, labels = collate(examples, 0)
    theirs = tiny_writer.model(input_ids=ids, attention_mask=mask, labels=labels).loss
    torch.testing.assert_close(language_loss(tiny_writer, examples), theirs)


def test_padding_does_not_change_a_rows_loss(tiny_writer, seed_triplets):
    short, long = (
        triplet_example(tiny_writer.tokenizer, t)
        for t in sorted(seed_triplets, key=lambda t: len(t.input))[:: len(seed_triplets) - 1]
    )
    alone = language_loss(tiny_writer, [short]) * (len(short.ids) - short.given)
    other = language_loss(tiny_writer, [long]) * (len(long.ids) - long.given)
    count = len(short.ids) - short.given + len(long.ids) - long.given
    torch.testing.assert_close(language_loss(tiny_writer, [short, long]), (alone + other) / count)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_lora_overfits_a_handful_of_triplets_and_reproduces_them(kind, tiny_writer, seed_triplets, tmp_path):
    """Through the saved adapter folder and back, in greedy writing."""
    few = seed_triplets[:4]
    plain = small(kind, tiny_writer.tokenizer)
    plain.model.save_pretrained(tmp_path / "base")
    tiny_writer.tokenizer.save_pretrained(tmp_path / "base")
    language = with_adapter(load_language_model(str(tmp_path / "base")), replace(CONFIG, lora_rank=32))
    config = replace(
        CONFIG, steps=260, batch_size=4, learning_rate=1e-2, lora_rank=32, checkpoint_every=1_000
    )
    before = validation_loss(language, few)
    last = last_of(fine_tune(language, few, config))
    last.ema.swap()
    assert validation_loss(language, few) < 0.05 < before
    save_writer(language, tmp_path / "writer")
    again = load_language_model(str(tmp_path / "writer"))
    assert not isinstance(again.model, PeftModel)
    writer = LocalWriter(again, WriteConfig(temperature=0, frequency_penalty=0, max_new_tokens=80))
    completions = writer([Request(prompt_for(t.input), 0) for t in few])
    written = [read_completion(c, t.input) for c, t in zip(completions, few, strict=True)]
    assert written == [(t.edit, t.output) for t in few]


def test_rehearsed_texts_join_the_triplets_of_a_step(tiny_writer, seed_triplets):
    few, extra = seed_triplets[:2], [Example((5, 6, 7, 8))]
    examples = [triplet_example(tiny_writer.tokenizer, t) for t in few]
    expected = language_loss(tiny_writer, [*examples, *extra]).item()
    alone = language_loss(tiny_writer, examples).item()
    language = with_adapter(tiny_writer, replace(CONFIG, lora_rank=0, steps=1))
    report = last_of(
        fine_tune(language, few, replace(CONFIG, lora_rank=0, steps=1), rehearsal=lambda _: extra)
    )
    assert report.loss.item() == pytest.approx(expected, abs=1e-5)
    assert abs(expected - alone) > 1e-3


def test_an_adapter_starts_as_the_model_itself_and_trains_nothing_else(tiny_writer, seed_triplets):
    examples = [triplet_example(tiny_writer.tokenizer, t) for t in seed_triplets[:4]]
    plain = language_loss(tiny_writer, examples)
    wrapped = with_adapter(tiny_writer, CONFIG)
    torch.testing.assert_close(language_loss(wrapped, examples), plain)
    trained = [n for n, p in wrapped.model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in n for n in trained)


def test_an_adapters_first_weights_are_a_function_of_the_seed(seed_triplets, tiny_writer):
    def weights(seed):
        wrapped = with_adapter(small("llama", tiny_writer.tokenizer), replace(CONFIG, seed=seed))
        return torch.cat([p.flatten() for n, p in wrapped.model.named_parameters() if "lora_A" in n])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(("rank", "tie"), [(4, False), (0, False), (0, True)])
def test_a_resumed_run_equals_an_uninterrupted_one(rank, tie, tiny_writer, seed_triplets, tmp_path):
    config = replace(CONFIG, lora_rank=rank)

    def fresh():
        return with_adapter(small("llama", tiny_writer.tokenizer, tie), config)

    whole, halves = fresh(), fresh()
    last_of(fine_tune(whole, seed_triplets[:8], config))
    for report in fine_tune(halves, seed_triplets[:8], config, tmp_path):
        if report.step == 2:
            break
    resumed = fresh()
    last_of(fine_tune(resumed, seed_triplets[:8], config, tmp_path))
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_goes_on_only_with_its_triplets_model_and_settings(tiny_writer, seed_triplets, tmp_path):
    def run(triplets=seed_triplets[:4], files="", **changes):
        config = replace(CONFIG, **changes)
        language = replace(small("llama", tiny_writer.tokenizer), files=files)
        return last_of(fine_tune(with_adapter(language, config), triplets, config, tmp_path))

    run()
    for name, changes in (
        ("triplets", {"triplets": seed_triplets[4:8]}),
        ("seed", {"seed": 9}),
        ("batch_size", {"batch_size": 1}),
        ("model", {"files": "of another"}),
    ):
        with pytest.raises(
            ValueError, match=rf"another configuration \({name}: .*; continue with the triplets"
        ):
            run(**changes)


def test_all_weights_are_trained_in_float32(tiny_writer):
    short = replace(tiny_writer, model=deepcopy(tiny_writer.model).to(torch.bfloat16))
    language = with_adapter(short, replace(CONFIG, lora_rank=0))
    assert {p.dtype for p in language.model.parameters()} == {torch.float32}


def test_checkpoints_of_an_adapter_leave_the_base_out(tiny_writer, seed_triplets, tmp_path):
    language = with_adapter(tiny_writer, CONFIG)
    last_of(fine_tune(language, seed_triplets[:4], CONFIG, tmp_path))
    (weights,) = tmp_path.glob("checkpoint-00000003/model.safetensors")
    trained = sum(p.numel() for p in language.model.parameters() if p.requires_grad)
    assert weights.stat().st_size < 4 * trained + 20_000


def test_gradient_checkpointing_changes_no_gradient(tiny_writer, seed_triplets):
    def gradients(checkpointing):
        config = replace(CONFIG, gradient_checkpointing=checkpointing, steps=2)
        language = with_adapter(small("qwen", tiny_writer.tokenizer), config)
        last_of(fine_tune(language, seed_triplets[:4], config))
        return [p.detach() for n, p in language.model.named_parameters() if "lora_" in n]

    for a, b in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(a, b)


def test_nothing_to_learn_from_is_refused(tiny_writer):
    with pytest.raises(ValueError, match="at least one triplet, got none"):
        next(fine_tune(tiny_writer, [], CONFIG))


@pytest.mark.parametrize(("field", "value"), [("steps", 0), ("batch_size", 0), ("lora_rank", -1)])
def test_settings_check_themselves(field, value):
    with pytest.raises(ValueError, match=rf"TuneConfig\.{field} must be at least .*got {value}"):
        replace(CONFIG, **{field: value})


def test_a_missing_or_broken_language_model_gets_one_line(tmp_path, tiny_writer):
    with pytest.raises(FileNotFoundError, match="neither a folder here nor in the hub's cache"):
        load_language_model("nobody/no-such-model")
    save_writer(tiny_writer, tmp_path / "writer")
    weights = tmp_path / "writer" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="writer is damaged or no causal language model"):
        load_language_model(str(tmp_path / "writer"))
    weights.unlink()
    with pytest.raises(ValueError, match="must hold a language model in safetensors"):
        load_language_model(str(tmp_path / "writer"))


def test_an_adapters_folder_needs_no_tokenizer(tiny_writer, tmp_path):
    save_writer(replace(tiny_writer, model=deepcopy(tiny_writer.model)), tmp_path / "base")
    base = load_language_model(str(tmp_path / "base"))
    with_adapter(base, CONFIG).model.save_pretrained(tmp_path / "adapter")
    found = load_language_model(str(tmp_path / "adapter"))
    assert found.tokenizer.get_vocab() == tiny_writer.tokenizer.get_vocab()


def test_another_writer_of_the_same_name_does_not_go_on_with_a_file(tiny_writer, tmp_path):
    folder, out = tmp_path / "writer", tmp_path / "triplets.jsonl"
    captions = tmp_path / "captions.txt"
    captions.write_text("a red house in a meadow\na blue car in the city\n")

    def written():
        arguments = ("triplets", "--writer", folder, "--captions", captions, "--attempts", 1, "--out", out)
        return CliRunner().invoke(cli.app, [str(a) for a in arguments])

    save_writer(tiny_writer, folder)
    written()  # random weights write no triplet, but the journal has their mark
    first = load_language_model(str(folder)).files
    other = deepcopy(tiny_writer.model)
    with torch.no_grad():
        next(other.parameters()).mul_(1.02)
    shutil.rmtree(folder)
    save_writer(replace(tiny_writer, model=other), folder)
    assert load_language_model(str(folder)).files != first
    result = written()
    assert result.exit_code == 1
    assert "belongs to a run with another weights" in result.stderr
