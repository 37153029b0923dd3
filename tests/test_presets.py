"""Presets are data: looked up by name, frozen, checked, and the full one says what the paper and its code say."""

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import pytest

from ip2p_lib.presets import (
    FULL,
    MINIATURE,
    PRESETS,
    FilterConfig,
    PairConfig,
    TrainConfig,
    WriteConfig,
    preset,
)


def test_a_preset_is_found_by_name():
    assert preset("miniature") is MINIATURE
    assert preset("full") is FULL
    assert all(p.name == name for name, p in PRESETS.items())


@pytest.mark.parametrize("name", ["", "Miniature", "huge"])
def test_an_unknown_preset_is_refused(name):
    with pytest.raises(ValueError, match=f"one of miniature, full; got '{name}'"):
        preset(name)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (PairConfig, {"candidates_per_triplet": 0}, r"candidates_per_triplet must be at least 1, got 0"),
        (PairConfig, {"num_inference_steps": -1}, r"num_inference_steps must be at least 1, got -1"),
        (PairConfig, {"batch_size": 0}, r"batch_size must be at least 1"),
        (PairConfig, {"triplets_per_shard": 0}, r"triplets_per_shard must be at least 1"),
        (PairConfig, {"p2p_threshold_range": (0.9, 0.1)}, r"p2p_threshold_range must run from low to high"),
        (PairConfig, {"cfg_scale_range": (5, 3)}, r"cfg_scale_range must run from low to high, got \(5, 3\)"),
        (FilterConfig, {"min_image": 1.7}, r"min_image is a cosine .*got 1\.7"),
        (FilterConfig, {"min_direction": -1.1}, r"min_direction is a cosine"),
        (FilterConfig, {"min_text": float("nan")}, r"min_text is a cosine .*got nan"),
        (FilterConfig, {"min_shift": 2.5}, r"min_shift is a distance .* in \[-2, 2\], got 2\.5"),
        (FilterConfig, {"max_per_triplet": 0}, r"max_per_triplet must be at least 1"),
        (WriteConfig, {"temperature": -0.1}, r"temperature must be at least 0, got -0\.1"),
        (WriteConfig, {"temperature": float("nan")}, r"temperature must be at least 0, got nan"),
        (WriteConfig, {"top_p": 0}, r"top_p must lie in \(0, 1\], got 0"),
        (WriteConfig, {"attempts": 0}, r"attempts must be at least 1, got 0"),
        (WriteConfig, {"max_changes": 0}, r"max_changes must be at least 1, got 0"),
        (WriteConfig, {"batch_size": 0}, r"batch_size must be at least 1, got 0"),
        (WriteConfig, {"max_new_tokens": 0}, r"max_new_tokens must be at least 1, got 0"),
        (TrainConfig, {"conditioning_dropout": 0.5}, r"conditioning_dropout must lie in \[0, 1/3\].*0\.5"),
        (TrainConfig, {"conditioning_dropout": -0.1}, r"conditioning_dropout must lie in \[0, 1/3\]"),
        (TrainConfig, {"noisy_fraction": 1.5}, r"noisy_fraction must lie in \[0, 1\], got 1\.5"),
        (TrainConfig, {"batch_size": 0}, r"batch_size must be at least 1, got 0"),
        (TrainConfig, {"gradient_accumulation_steps": 0}, r"gradient_accumulation_steps must be at least 1"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(kind, change, message):
    with pytest.raises(ValueError, match=rf"{kind.__name__}\.{message}"):
        kind(**change)


@pytest.mark.parametrize("dropout", [0, 0.05, 1 / 3])
def test_the_ends_of_the_dropout_range_are_legal(dropout):
    assert TrainConfig(conditioning_dropout=dropout).conditioning_dropout == dropout


@pytest.mark.parametrize("chosen", PRESETS.values(), ids=PRESETS)
def test_a_preset_and_its_parts_are_frozen(chosen):
    parts = [chosen, *(v for f in fields(chosen) if is_dataclass(v := getattr(chosen, f.name)))]
    assert len(parts) == 7
    for part in parts:
        name = fields(part)[0].name
        with pytest.raises(FrozenInstanceError):
            setattr(part, name, None)
        assert replace(part) == part


def test_the_full_preset_is_the_papers_and_its_codes():
    pairs, train, edit = FULL.pairs, FULL.train, FULL.edit
    assert (pairs.candidates_per_triplet, pairs.num_inference_steps, pairs.resolution) == (100, 100, 512)
    assert (pairs.p2p_threshold_range, pairs.cfg_scale_range) == ((0.1, 0.9), (7.5, 15.0))
    assert FULL.filter == FilterConfig(min_text=0.2, min_direction=0.2, min_image=0.75, max_per_triplet=4)
    assert train.batch_size * train.gradient_accumulation_steps == 1024
    assert (train.steps, train.learning_rate, train.resolution) == (10_000, 1e-4, 256)
    assert (train.conditioning_dropout, train.mixed_precision) == (0.05, "no")
    assert (edit.guidance_scale, edit.image_guidance_scale) == (7.5, 1.5)
    assert (edit.num_inference_steps, edit.resolution, edit.multiple) == (100, 512, 64)


def test_the_full_writer_samples_as_the_released_code_does():
    w = FULL.write
    assert (w.temperature, w.top_p, w.frequency_penalty, w.max_new_tokens) == (0.7, 1.0, 0.1, 256)
    assert (w.attempts, w.min_certainty, w.min_instruction_certainty, w.max_changes) == (4, None, None, None)
