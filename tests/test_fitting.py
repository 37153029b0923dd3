"""Where memory runs out, half as many go at a time and nothing else changes; training stops instead and says how to split."""

import logging
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from ip2p_lib import filtering, pairs
from ip2p_lib.dataset import open_dataset
from ip2p_lib.editing import edit
from ip2p_lib.fitting import Room
from ip2p_lib.presets import PairConfig, TrainConfig
from ip2p_lib.similarity import image_features
from ip2p_lib.training import train_editor
from ip2p_lib.unet import as_editor_unet

SAID = "CUDA out of memory. Tried to allocate 1 GiB. See documentation for Memory Management"


@contextmanager
def small_memory(network, rows):
    """A network that runs out of memory, with the error that a GPU gives, at more than so many rows."""

    def refuse(_, given):
        sizes.append(len(given[0]))
        if len(given[0]) > rows:
            raise torch.cuda.OutOfMemoryError(SAID)

    sizes, hook = [], network.register_forward_pre_hook(refuse)
    try:
        yield sizes
    finally:
        hook.remove()


@pytest.fixture
def said(caplog):
    """What was said so far, line by line."""
    caplog.set_level(logging.WARNING, "ip2p_lib")
    return lambda: [r.getMessage() for r in caplog.records]


def test_all_go_at_once_as_long_as_they_fit(said):
    assert list(Room("things").parts(tuple, [1, 2, 3])) == [(1, 2, 3)]
    assert list(Room("things").parts(tuple, [])) == []
    assert said() == []


def test_half_as_many_go_until_they_fit_and_later_ones_at_once(said):
    tried = []

    def work(part):
        tried.append(len(part))
        if len(part) > 3:
            raise torch.cuda.OutOfMemoryError(SAID)
        return list(part)

    room = Room("things")
    assert list(room.parts(work, list(range(13)))) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11], [12]]
    assert said() == [
        "out of GPU memory with 13 things at a time: going on with 6",
        "out of GPU memory with 6 things at a time: going on with 3",
    ]
    assert list(room.parts(work, "abcd")) == [["a", "b", "c"], ["d"]]
    assert tried == [13, 6, 3, 3, 3, 3, 1, 3, 1]


def test_one_that_does_not_fit_is_refused_in_one_line():
    def work(part):
        raise torch.cuda.OutOfMemoryError(SAID)

    with pytest.raises(
        ValueError, match=r"must hold one of the things, but does not \(CUDA out of memory\); make"
    ):
        list(Room("things").parts(work, [1, 2]))


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError):
        list(Room("things").parts(lambda part: 1 / 0, [1, 2]))


def test_edits_are_the_same_in_less_memory(editor, picture, edit_config, said):
    def edits():
        return edit(editor, picture, "make it night", config=edit_config, seed=range(5))

    expected = edits()
    with small_memory(editor.unet, 6) as sizes:  # three rows each
        found = edits()
    assert max(n for n in sizes if n <= 6) == 6
    assert said() == ["out of GPU memory with 5 edits at a time: going on with 2"]
    for a, b in zip(found, expected, strict=True):
        assert a.recipe == b.recipe
        assert np.abs(np.int16(a.picture) - np.int16(b.picture)).max() <= 1


def test_pairs_and_their_scores_are_the_same_in_less_memory(base, clip, triplets, tmp_path, said):
    config = PairConfig(
        candidates_per_triplet=4, num_inference_steps=3, resolution=16, batch_size=8, triplets_per_shard=3
    )
    whole, small = tmp_path / "whole", tmp_path / "small"
    list(pairs.synthesise(triplets[:3], base, config, whole))
    list(filtering.score(whole, clip))
    with small_memory(base.unet, 16), small_memory(clip.model.visual, 3):  # up to four rows each
        list(pairs.synthesise(triplets[:3], base, config, small))
        list(filtering.score(small, clip))
    assert "out of GPU memory with 8 candidates at a time: going on with 4" in said()
    assert "out of GPU memory with 24 pictures for CLIP at a time: going on with 12" in said()
    assert len(said()) == 1 + 3  # 8 to 4; 24 to 12, 6 and 3
    expected, found = filtering.read_scores(whole), filtering.read_scores(small)
    assert [r["candidate"] for r in found] == [r["candidate"] for r in expected]
    for a, b in zip(found, expected, strict=True):
        assert a["clip_sim_image"] == pytest.approx(b["clip_sim_image"], abs=1e-3)


def test_features_do_not_depend_on_how_many_fit(clip):
    pixels = torch.rand(5, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    expected = image_features(clip, pixels)
    with small_memory(clip.model.visual, 1):
        torch.testing.assert_close(image_features(clip, pixels), expected, rtol=1e-4, atol=1e-5)


def test_latents_are_the_same_in_less_memory(base, pair_folder, tmp_path, said):
    expected = open_dataset(pair_folder, base, resolution=32, cache=tmp_path / "one")
    with small_memory(base.vae.encoder, 2):
        found = open_dataset(pair_folder, base, resolution=32, cache=tmp_path / "two")
    assert said()[0] == "out of GPU memory with 5 pairs to encode at a time: going on with 2"
    assert found.instructions == expected.instructions
    for name in ("target_mean", "target_std", "condition"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=2e-3)


@pytest.mark.parametrize(
    ("batch", "options", "remedy"),
    [
        (
            6,
            {},
            r"split the step by --batch-size 3 --accumulate 4, or take --gradient-checkpointing; `ip2p plan",
        ),
        (
            9,
            {"gradient_checkpointing": True},
            r"\); split the step by --batch-size 3 --accumulate 6; `ip2p plan",
        ),
        (1, {}, r"\); take --gradient-checkpointing; `ip2p plan --stage train` says"),
        (1, {"gradient_checkpointing": True}, r"\); `ip2p plan --stage train` says what fits"),
    ],
)
def test_training_keeps_its_batch_and_says_how_to_split_the_step(
    base, pair_folder, said, batch, options, remedy
):
    data = open_dataset(pair_folder, base, resolution=32)
    config = TrainConfig(
        steps=2, batch_size=batch, gradient_accumulation_steps=2, mixed_precision="no", resolution=32
    )
    unet = as_editor_unet(base.unet, 4)
    with small_memory(unet, 0), pytest.raises(ValueError, match=f"a micro-step of {batch} pairs, .*{remedy}"):
        list(train_editor(unet, base, data, replace(config, **options)))
    assert said() == []
