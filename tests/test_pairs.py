"""Prompt-to-prompt pairs: what they share, what they depend on, and shards that survive a killed run."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ip2p_lib import images, records, storage
from ip2p_lib.attention import is_shared, self_attention_layers
from ip2p_lib.diffusion import euler_ancestral
from ip2p_lib.guidance import single_guidance
from ip2p_lib.pairs import (
    Candidate,
    candidate_shards,
    draw_candidates,
    pair_latents,
    synthesise,
)
from ip2p_lib.pairs.sampling import distinct_rows
from ip2p_lib.presets import PairConfig
from ip2p_lib.records import Triplet

CONFIG = PairConfig(
    candidates_per_triplet=2, num_inference_steps=3, resolution=16, batch_size=3, triplets_per_shard=2, seed=8
)
HOUSE = Triplet("h", "a red house in a meadow", "make it a cat", "a red cat in a meadow")
NIGHT = Triplet("n", "a blue robot on a beach", "make it night", "a blue robot on a beach at night")


def candidate(threshold, triplet=HOUSE, seed=5, scale=4.0):
    return Candidate(triplet, 0, seed, threshold, scale)


def pictures_of(model, *candidates, steps=6, size=16):
    return pair_latents(model, candidates, num_inference_steps=steps, size=size)


def sampled_alone(model, caption, seed, scale, steps=6):
    """Text-to-image with classifier-free guidance, no pair in sight."""
    states = torch.cat([model.encode_text([""]), model.encode_text([caption])])

    def predict(scaled, timestep, step):
        with torch.no_grad():
            uncond, cond = model.unet(torch.cat([scaled, scaled]), timestep, states).sample.chunk(2)
        return single_guidance(cond, uncond, scale)

    *_, last = euler_ancestral(
        predict, model.scheduler, seeds=[seed], shape=(4, 8, 8), num_inference_steps=steps
    )
    return last.latents


class Reference:
    """Plain prompt-to-prompt for one candidate: [uncond A, uncond B, cond A, cond B], maps copied while on."""

    is_on = False

    def __call__(self, attn, hidden_states, *_args, **_kwargs):
        count = len(hidden_states)
        query, key, value = (
            attn.head_to_batch_dim(project(hidden_states)) for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        maps = attn.get_attention_scores(query, key).unflatten(0, (count, -1)).clone()
        if self.is_on:
            maps[1], maps[3] = maps[0], maps[2]
        out = attn.batch_to_head_dim(maps.flatten(0, 1) @ value)
        return attn.to_out[1](attn.to_out[0](out))


def reference_pair(model, one, steps):
    """The released procedure, one pair at a time."""
    processor, unet = Reference(), model.unet
    before, hooked = dict(unet.attn_processors), self_attention_layers(unet)
    unet.set_attn_processor({n: processor if n in hooked else p for n, p in before.items()})
    texts = model.encode_text(["", "", one.triplet.input, one.triplet.output])

    def predict(scaled, timestep, step):
        processor.is_on = one.p2p_threshold > step / (steps - 1)
        with torch.no_grad():
            uncond, cond = unet(torch.cat([scaled, scaled]), timestep, texts).sample.chunk(2)
        return uncond + one.cfg_scale * (cond - uncond)

    try:
        *_, last = euler_ancestral(
            predict, model.scheduler, seeds=[one.seed] * 2, shape=(4, 8, 8), num_inference_steps=steps
        )
    finally:
        unet.set_attn_processor(before)
    return last.latents


def test_targets_borrow_from_their_sources_only_while_their_threshold_lasts():
    """Rows 0-2 are the sources, 3-5 the targets."""
    three = [candidate(t, seed=i) for i, t in enumerate((0.9, 0.2, 0.5))]
    for step, lenders in ((0, [0, 1, 2]), (1, [0, 4, 2]), (4, [3, 4, 5])):
        rows = distinct_rows(three, step, 5)
        assert rows.lender.tolist() == [0, 1, 2, *lenders]
        assert rows.first.tolist() == rows.of.tolist() == list(range(6))


def test_threshold_zero_is_independent_sampling_from_the_same_noise(backbone):
    first, second = pictures_of(backbone, candidate(0.0))
    for latents, caption in ((first, HOUSE.input), (second, HOUSE.output)):
        torch.testing.assert_close(latents, sampled_alone(backbone, caption, 5, 4.0), rtol=1e-4, atol=1e-4)
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.1])
def test_equal_captions_give_equal_pictures(backbone, threshold):
    same = replace(HOUSE, output=HOUSE.input)
    first, second = pictures_of(backbone, candidate(threshold, same))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


def test_sharing_changes_the_second_picture_alone(backbone):
    without, shared = pictures_of(backbone, candidate(0.0)), pictures_of(backbone, candidate(1.0))
    torch.testing.assert_close(without[0], shared[0], rtol=1e-5, atol=1e-5)
    assert (without[1] - shared[1]).abs().max() > 1e-3


@pytest.mark.parametrize("threshold", [0.3, 0.8])
def test_twenty_steps_equal_a_processor_that_copies_attention_maps(backbone, threshold):
    one = candidate(threshold)
    assert 0 < sum(is_shared(threshold, i, 20) for i in range(20)) < 20
    ours = torch.cat(pictures_of(backbone, one, steps=20))
    torch.testing.assert_close(ours, reference_pair(backbone, one, 20), rtol=1e-4, atol=1e-4)


def test_a_candidate_does_not_depend_on_its_batch_mates(backbone):
    mixed = [candidate(0.8), candidate(0.2, NIGHT, seed=6, scale=3.0), candidate(0.5, NIGHT, seed=5)]
    together = pictures_of(backbone, *mixed)
    for row, one in enumerate(mixed):  # a processor may sum a larger batch in another order
        for side, alone in zip(together, pictures_of(backbone, one), strict=True):
            torch.testing.assert_close(side[row : row + 1], alone, rtol=1e-3, atol=2e-4)


def test_the_unet_is_its_own_again_after_a_failure(base):
    before = dict(base.unet.attn_processors)
    with pytest.raises(ValueError, match="num_inference_steps"):
        pictures_of(base, candidate(0.5), steps=0)
    assert dict(base.unet.attn_processors) == before


def test_candidates_are_keyed_by_run_triplet_and_number():
    drawn = draw_candidates(HOUSE, CONFIG)
    many = draw_candidates(HOUSE, replace(CONFIG, candidates_per_triplet=50, batch_size=1))
    assert many[:2] == drawn
    assert [c.index for c in many] == list(range(50))
    assert len({c.seed for c in many}) == 50
    assert draw_candidates(NIGHT, CONFIG)[0].seed != drawn[0].seed
    assert draw_candidates(HOUSE, replace(CONFIG, seed=9))[0].seed != drawn[0].seed


def test_thresholds_and_scales_fill_their_ranges():
    many = draw_candidates(HOUSE, replace(CONFIG, candidates_per_triplet=400))
    for values, (low, high) in (
        ([c.p2p_threshold for c in many], CONFIG.p2p_threshold_range),
        ([c.cfg_scale for c in many], CONFIG.cfg_scale_range),
    ):
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high


def made(folder, triplets, backbone, config=CONFIG):
    progress = list(synthesise(triplets, backbone, config, folder))
    return progress, {p.name: p.read_bytes() for p in candidate_shards(folder)}


def test_a_second_run_remakes_nothing(tmp_path, triplets, base):
    first, shards = made(tmp_path, triplets, base)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    again, same = made(tmp_path, triplets, base)
    assert (first[-1].candidates, first[-1].reused, first[-1].total) == (12, 0, 12)
    assert (again[-1].candidates, again[-1].reused) == (12, 12)
    assert same == shards
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == times


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path, triplets, base, stop_after):
    _, whole = made(tmp_path / "whole", triplets, base)
    steps = synthesise(triplets, base, CONFIG, tmp_path / "cut")
    for _ in range(stop_after):
        next(steps)
    steps.close()
    resumed, cut = made(tmp_path / "cut", triplets, base)
    assert cut == whole
    assert resumed[-1].candidates == 12
    assert (
        resumed[-1].reused == (stop_after - 1) // 2 * 4
    )  # two batches a shard; the third finishes the first


def test_two_folders_hold_the_same_bytes(tmp_path, triplets, base):
    assert made(tmp_path / "a", triplets[:2], base)[1] == made(tmp_path / "b", triplets[:2], base)[1]


@pytest.mark.parametrize("change", [{"seed": 9}, {"num_inference_steps": 4}])
def test_a_folder_of_another_configuration_is_refused(tmp_path, triplets, base, change):
    next(synthesise(triplets, base, CONFIG, tmp_path))
    with pytest.raises(ValueError, match="holds results of another configuration"):
        next(synthesise(triplets, base, replace(CONFIG, **change), tmp_path))
    with pytest.raises(ValueError, match="holds results of another configuration"):
        next(synthesise(triplets[1:], base, CONFIG, tmp_path))


def test_a_run_may_go_on_with_another_size_of_batches(tmp_path, triplets, base):
    """On which its pairs do not depend, and which the command's own advice makes smaller."""
    next(synthesise(triplets, base, CONFIG, tmp_path))
    *_, last = synthesise(triplets, base, replace(CONFIG, batch_size=2), tmp_path)
    assert last.candidates == CONFIG.candidates_per_triplet * len(triplets)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="output folder must be writable"):
        storage.claim_folder(tmp_path / "file" / "below", {"stage": "pairs"})


def test_a_row_says_everything_about_its_candidate(tmp_path, triplets, base):
    made(tmp_path, triplets, base)
    rows = [r for s in candidate_shards(tmp_path) for r in pq.read_table(s).to_pylist()]
    drawn = [c for t in triplets for c in draw_candidates(t, CONFIG)]
    assert len(rows) == len(drawn) == 12
    for row, one in zip(rows, drawn, strict=True):
        assert tuple(row) == records.PAIR_COLUMNS
        assert (row[records.TRIPLET_ID], row[records.CANDIDATE]) == (one.triplet.id, one.index)
        assert (row[records.SEED], row[records.P2P_THRESHOLD]) == (one.seed, one.p2p_threshold)
        assert row[records.EDIT_PROMPT] == one.triplet.edit
        assert images.from_bytes(row[records.ORIGINAL_IMAGE]["bytes"]).size == (16, 16)


def test_the_stored_pictures_are_those_of_the_candidates(tmp_path, triplets, base):
    made(tmp_path, triplets[:1], base)
    row = pq.read_table(candidate_shards(tmp_path)[0]).to_pylist()[1]
    latents = pair_latents(base, draw_candidates(triplets[0], CONFIG)[1:], num_inference_steps=3, size=16)
    for column, expected in zip((records.ORIGINAL_IMAGE, records.EDITED_IMAGE), latents, strict=True):
        stored = images.to_tensor([images.from_bytes(row[column]["bytes"])])
        torch.testing.assert_close(stored, base.decode_latents(expected), rtol=0, atol=1.01 / 127.5)


def test_candidates_open_with_datasets_as_pictures(tmp_path, triplets, base):
    from datasets import load_dataset

    made(tmp_path / "pairs", triplets[:2], base)
    files = [str(p) for p in candidate_shards(tmp_path / "pairs")]
    rows = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 4
    assert isinstance(rows[0][records.ORIGINAL_IMAGE], Image.Image)
    assert rows[0][records.EDIT_PROMPT] == triplets[0].edit


def test_a_folder_without_candidates_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold candidates-\*\.parquet, found none"):
        candidate_shards(tmp_path)
