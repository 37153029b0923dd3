"""The training set: both ways round, crops in pairs, prompts counted once, any step found directly; its cache."""

import copy
import random
import shutil
import tracemalloc
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from test_folders import files_of_at_most

from ip2p_lib import images, records
from ip2p_lib.dataset import autoencoder_mark, is_held_out, open_dataset
from ip2p_lib.dataset.encoding import MAPPED, Encoder, JoinedArray, boxes, cut
from ip2p_lib.pairs import shard_path, writing_shard
from ip2p_lib.unet import widen_unet


@pytest.fixture
def data(pair_folder, base):
    return open_dataset(pair_folder, base, resolution=32)


def test_a_prompt_counts_once_however_many_pairs_it_has(data, rows):
    assert len(data) == 6
    assert sorted(len(g) for g in data.groups) == [1, 1, 1, 2, 2, 2]
    assert data.instructions == [r[records.EDIT_PROMPT] for r in rows]
    assert data.target_mean.shape == (9, 2, 4, 16, 16)


def test_input_and_answer_are_encoded_as_training_needs_them(data, rows, base):
    for row in (0, 4, 8):
        first, second = (
            images.to_tensor([images.from_bytes(rows[row][c]["bytes"])])
            for c in (records.ORIGINAL_IMAGE, records.EDITED_IMAGE)
        )
        mean, std, condition = data.latents(np.array([row]), np.array([0]))
        expected_mean, expected_std = base.latent_moments(second)
        torch.testing.assert_close(condition, base.image_latents(first), rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(mean, expected_mean, rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(std, expected_std, rtol=1e-2, atol=1e-3)


def test_input_and_answer_are_flipped_together(data, rows, base):
    for row in (0, 5):
        first, second = (
            images.to_tensor([images.from_bytes(rows[row][c]["bytes"])]).flip(-1)
            for c in (records.ORIGINAL_IMAGE, records.EDITED_IMAGE)
        )
        mean, _, condition = data.latents(np.array([row]), np.array([1]))
        torch.testing.assert_close(condition, base.image_latents(first), rtol=1e-2, atol=1e-3)
        torch.testing.assert_close(mean, base.latent_moments(second)[0], rtol=1e-2, atol=1e-3)
        plain = data.latents(np.array([row]), np.array([0]))
        assert (plain[0] - mean).abs().max() > 1e-2
        assert (plain[2] - condition).abs().max() > 1e-2


def test_an_epoch_shows_every_prompt_once_and_epochs_differ(data):
    group_of = {pair: i for i, group in enumerate(data.groups) for pair in group}
    epochs = []
    for epoch in range(6):
        pairs = np.concatenate([data.picks(3 * epoch + s, 2, 5, flip=True)[0] for s in range(3)])
        epochs.append([group_of[p] for p in pairs.tolist()])
        assert sorted(epochs[-1]) == list(range(6))
    assert len({tuple(e) for e in epochs}) > 1


def test_any_step_is_found_without_the_ones_before(data):
    forward = [data.picks(s, 4, 7, flip=True) for s in range(20)]
    backward = [data.picks(s, 4, 7, flip=True) for s in reversed(range(20))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert any(not np.array_equal(a, data.picks(s, 4, 8, flip=True)) for s, a in enumerate(forward))


def test_rows_do_not_depend_on_the_batch_size(data):
    small = [np.concatenate([data.picks(s, 2, 7, flip=True)[i] for s in range(6)]) for i in (0, 1)]
    large = [np.concatenate([data.picks(s, 6, 7, flip=True)[i] for s in range(2)]) for i in (0, 1)]
    assert all(np.array_equal(a, b) for a, b in zip(small, large, strict=True))


def test_all_pairs_of_a_prompt_are_drawn_and_half_are_flipped(data):
    picks = [data.picks(s, 6, 3, flip=True) for s in range(150)]
    counts = Counter(np.concatenate([p for p, _ in picks]).tolist())
    assert set(counts) == set(range(9))
    assert 0.45 < np.concatenate([f for _, f in picks]).mean() < 0.55
    assert not data.picks(0, 50, 3, flip=False)[1].any()


@pytest.mark.parametrize(
    "words", ["on the left", "on the Right.", "left of it", "right-hand side", "at the leftmost"]
)
def test_a_sided_instruction_is_never_flipped(data, words):
    sided = replace(data, instructions=[f"add a lamp {words}"] * 9)
    assert not np.concatenate([sided.picks(s, 6, 3, flip=True)[1] for s in range(20)]).any()


@pytest.mark.parametrize("words", ["make it brighter", "an upright copyright sign"])
def test_other_instructions_are_flipped(data, words):
    plain = replace(data, instructions=[words] * 9)
    assert np.concatenate([plain.picks(s, 6, 3, flip=True)[1] for s in range(20)]).any()


@pytest.fixture
def cropped(pair_folder, base):
    return open_dataset(pair_folder, base, resolution=32, crops=3)


def test_input_and_answer_have_the_same_crops(tmp_path, rows, base):
    same = [{**r, records.EDITED_IMAGE: r[records.ORIGINAL_IMAGE]} for r in rows]
    with writing_shard(shard_path(tmp_path, 0)) as shard:
        shard.add(same)
    data = open_dataset(tmp_path, base, resolution=32, crops=3)
    condition, mean = np.asarray(data.condition), np.asarray(data.target_mean)
    assert condition.shape == (9, 6, 4, 16, 16)
    np.testing.assert_allclose(mean, 0.7 * condition.astype(np.float32), rtol=2e-3, atol=2e-3)
    for way in range(1, 6):
        differs = np.abs(condition[:, way] - condition[:, 0]).max(axis=(1, 2, 3)) > 1e-2
        assert differs.sum() >= 6  # two crops of so few places may be one


def test_odd_ways_are_the_mirror_images_of_the_crops_before_them(cropped, rows, base):
    for row in (0, 7):
        prompt = "|".join(
            rows[row][c] for c in (records.TRIPLET_ID, records.ORIGINAL_PROMPT, records.EDIT_PROMPT)
        )
        number = row if row < 5 else row - 5
        for crop, box in enumerate(boxes(prompt, number, 3, 32)):
            first, second = (
                images.to_tensor([cut(images.from_bytes(rows[row][c]["bytes"]), box, 32)])
                for c in (records.ORIGINAL_IMAGE, records.EDITED_IMAGE)
            )
            for way, turned in ((2 * crop, False), (2 * crop + 1, True)):
                a, b = (p.flip(-1) if turned else p for p in (first, second))
                mean, _, condition = cropped.latents(np.array([row]), np.array([way]))
                torch.testing.assert_close(condition, base.image_latents(a), rtol=1e-2, atol=1e-3)
                torch.testing.assert_close(mean, base.latent_moments(b)[0], rtol=1e-2, atol=1e-3)


def test_crops_lie_inside_and_reach_every_size_and_edge():
    found = [b for n in range(200) for b in boxes("a prompt", n, 4, 64)]
    assert {side for side, _, _ in found} == set(range(64, 73))
    assert all(min(left, top) >= 0 and max(left, top) + 64 <= side for side, left, top in found)
    for edge in (1, 2):
        assert any(b[0] == 72 and b[edge] == 8 for b in found)
        assert any(b[0] == 72 and b[edge] == 0 for b in found)
    assert len(set(found)) > 200
    assert boxes("a prompt", 3, 4, 64) == boxes("a prompt", 3, 4, 64) != boxes("another", 3, 4, 64)


def test_a_crop_is_a_window_of_the_resized_picture():
    grey = np.tile(np.arange(72, dtype=np.uint8), (72, 1))  # columns tell where they are
    window = np.asarray(cut(Image.fromarray(grey), (72, 5, 3), 64))
    assert np.array_equal(window, grey[3:67, 5:69])


def test_one_crop_is_the_whole_picture(data, cropped):
    assert boxes("a prompt", 0, 1, 64) == [(64, 0, 0)]
    assert data.condition.shape[1] == 2
    assert cropped.condition.shape[1] == 6


def test_more_crops_change_no_other_draw(data, cropped):
    for flip in (True, False):
        few, many = ([d.picks(s, 6, 3, flip=flip) for s in range(30)] for d in (data, cropped))
        assert all(
            np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1] % 2)
            for a, b in zip(few, many, strict=True)
        )
        drawn = Counter(np.concatenate([w for _, w in many]).tolist())
        assert set(drawn) == set(range(0, 6, 1 if flip else 2))
        assert min(drawn.values()) > 180 / len(drawn) / 2


def written(folder):
    """When each file of the cache was written."""
    return {p: p.stat().st_mtime_ns for p in folder.glob(".latents/*/*/*")}


def test_the_cache_is_used_again(pair_folder, base, data):
    before = written(pair_folder)
    assert len(before) == 8  # three arrays and an index for each of two shards
    again = open_dataset(pair_folder, base, resolution=32)
    assert np.array_equal(again.condition, data.condition)
    assert written(pair_folder) == before


def test_a_changed_resolution_or_number_of_crops_is_another_cache(pair_folder, base, data):
    assert open_dataset(pair_folder, base, resolution=16).condition.shape == (9, 2, 4, 8, 8)
    assert open_dataset(pair_folder, base, resolution=32, crops=2).condition.shape == (9, 4, 4, 16, 16)
    assert len(list(pair_folder.glob(".latents/*/"))) == 3
    assert np.array_equal(open_dataset(pair_folder, base, resolution=32).condition, data.condition)


def test_every_weight_the_scale_and_the_dtype_of_the_autoencoder_are_in_the_key(base):
    def changed(change):
        vae = copy.deepcopy(base.vae)
        change(vae)
        return autoencoder_mark(replace(base, vae=vae))

    def nudge(number):
        return lambda vae: list(vae.parameters())[number].view(-1)[-1:].add_(1e-3)

    marks = [changed(lambda vae: None), autoencoder_mark(base)]
    assert len(set(marks)) == 1
    count = len(list(base.vae.parameters()))
    marks += [changed(nudge(n)) for n in (0, count // 2, count - 1)]
    marks += [changed(lambda vae, d=d: vae.to(d)) for d in (torch.bfloat16, torch.float16)]
    marks += [changed(lambda vae: vae.register_to_config(scaling_factor=0.5))]
    assert len(set(marks)) == 7


def test_another_autoencoder_encodes_anew(pair_folder, base, data):
    vae = copy.deepcopy(base.vae)
    vae.encoder.conv_in.weight.add_(0.1)
    other = open_dataset(pair_folder, replace(base, vae=vae), resolution=32)
    assert not np.array_equal(other.condition, data.condition)


def test_a_new_shard_costs_only_itself(pair_folder, base, data, rows):
    before = written(pair_folder)
    with writing_shard(shard_path(pair_folder, 2)) as shard:
        shard.add(rows[:2])
    more = open_dataset(pair_folder, base, resolution=32)
    after = written(pair_folder)
    assert before.items() <= after.items()
    assert len(after) == 12
    assert np.array_equal(np.asarray(more.condition)[:9], data.condition)
    np.testing.assert_allclose(np.asarray(more.condition)[9:], np.asarray(data.condition)[:2], atol=4e-3)


def test_a_changed_picture_is_encoded_anew_and_the_other_shard_is_not(pair_folder, base, data, rows):
    before = written(pair_folder)
    rows[6][records.EDITED_IMAGE] = rows[6][records.ORIGINAL_IMAGE]
    with writing_shard(shard_path(pair_folder, 1)) as shard:
        shard.add(rows[5:])
    changed = open_dataset(pair_folder, base, resolution=32)
    assert len(written(pair_folder)) == len(before) + 4
    same = (np.asarray(changed.target_mean) == np.asarray(data.target_mean)).all(axis=(1, 2, 3, 4))
    assert not same[6]
    assert same[:5].all()


def test_a_stopped_encoding_keeps_the_shards_that_were_done(pair_folder, base, rows):
    path = shard_path(pair_folder, 1)
    kept = path.read_bytes()
    with writing_shard(path) as shard:
        shard.add([*rows[5:8], {**rows[8], records.EDITED_IMAGE: {"bytes": b"no picture", "path": "x"}}])
    with pytest.raises(ValueError, match=r"00001\.parquet row 3: edited_image must hold a picture"):
        open_dataset(pair_folder, base, resolution=32)
    first = written(pair_folder)
    assert len(first) == 4
    assert not list(pair_folder.glob(".latents/*/.*"))  # nothing half done
    path.write_bytes(kept)
    mended = open_dataset(pair_folder, base, resolution=32)
    assert first.items() <= written(pair_folder).items()
    shutil.rmtree(pair_folder / ".latents")
    assert np.array_equal(mended.condition, open_dataset(pair_folder, base, resolution=32).condition)


@pytest.mark.parametrize("name", ["target_mean.npy", "target_std.npy", "condition.npy", "index.json"])
@pytest.mark.parametrize("size", [0, 1, 60, -1])
def test_a_damaged_cache_is_refused_with_a_remedy_that_works(pair_folder, base, data, name, size):
    path = next(pair_folder.glob(f".latents/*/*/{name}"))
    expected = np.asarray(data.condition)
    path.write_bytes(path.read_bytes()[:size] if name.endswith("npy") or size >= 0 else b"[]")
    with pytest.raises(
        ValueError, match=rf"{path.parent.name} must hold encoded pairs, .*; delete that folder"
    ) as caught:
        open_dataset(pair_folder, base, resolution=32)
    assert "\n" not in str(caught.value)
    shutil.rmtree(path.parent)
    assert np.array_equal(open_dataset(pair_folder, base, resolution=32).condition, expected)


def test_a_cache_of_another_number_of_pairs_is_refused(pair_folder, base, data):
    first, second = sorted(pair_folder.glob(".latents/*/*"))
    shutil.rmtree(first)
    shutil.copytree(second, first)
    with pytest.raises(ValueError, match="it holds another number of pairs"):
        open_dataset(pair_folder, base, resolution=32)


def test_a_full_disk_is_one_line_and_costs_the_last_shard_alone(pair_folder, base, data):
    whole = np.asarray(data.condition)
    last = shutil.move(next(iter(written(pair_folder))).parent, pair_folder / "elsewhere")
    first = written(pair_folder)
    with (
        files_of_at_most(8_000),
        pytest.raises(ValueError, match=r"must have room and be writable.*what was finished is safe"),
    ):
        open_dataset(pair_folder, base, resolution=32)
    assert written(pair_folder) == first
    shutil.rmtree(last)
    assert np.array_equal(open_dataset(pair_folder, base, resolution=32).condition, whole)


def test_latents_that_are_not_finite_are_refused(pair_folder, base):
    vae = copy.deepcopy(base.vae)
    vae.encoder.conv_in.weight.fill_(float("nan"))
    with pytest.raises(
        ValueError, match="must encode to finite float16 values, but does not; load it in float32"
    ):
        open_dataset(pair_folder, replace(base, vae=vae), resolution=32)
    assert not written(pair_folder)


def test_memory_does_not_grow_with_the_pairs(tmp_path, rows, base):
    noise = random.Random(4)
    pictures = [images.png_bytes(Image.frombytes("RGB", (64, 64), noise.randbytes(12_288))) for _ in range(8)]

    def peak(count):
        """Bytes held at most while a shard of `count` pairs is encoded: Python's and Arrow's."""
        folder = tmp_path / str(count)
        with writing_shard(shard_path(folder, 0)) as shard:
            for i in range(count):
                cells = {
                    c: {"bytes": pictures[i % 8], "path": ""}
                    for c in (records.ORIGINAL_IMAGE, records.EDITED_IMAGE)
                }
                shard.add([{**rows[i % 9], **cells}])
        start = pa.total_allocated_bytes()
        encoder = Encoder(base, 16)
        tracemalloc.start()
        found = open_dataset(folder, base, resolution=16)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.condition.shape == (count, *encoder.shape)
        return held + pa.total_allocated_bytes() - start

    assert peak(512) < 1.3 * peak(128)


def test_more_files_than_may_be_open_are_still_one_array(tmp_path):
    many = MAPPED + 20
    for n in range(many):
        np.save(tmp_path / f"{n}.npy", np.full((2, 3, 1), n, np.float16))
    joined = JoinedArray([tmp_path / f"{n}.npy" for n in range(many)], [2] * many, (3, 1))
    picked = np.random.default_rng(0).permutation(2 * many)
    assert np.array_equal(joined[picked, picked % 3][:, 0], picked // 2)
    assert len(joined._mapped) == MAPPED
    assert joined.shape == (2 * many, 3, 1) == np.asarray(joined).shape


def test_a_unet_of_other_channels_is_refused(pair_folder, base, editor, data):
    data.check_channels(widen_unet(base.unet, 4).config.in_channels)
    with pytest.raises(ValueError, match="a UNet must have 8 input channels, got 4; widen"):
        data.check_channels(base.unet.config.in_channels)
    open_dataset(pair_folder, editor, resolution=32).check_channels(8)
    with pytest.raises(ValueError, match="for the 4 channels of its autoencoder, has one from 9 to 4"):
        open_dataset(pair_folder, base.with_unet(widen_unet(base.unet, 5), "inpainting"), resolution=32)


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"crops": 0}, "crops must be at least 1, got 0"),
        ({"part": "test"}, "part must be one of train, held_out, got 'test'"),
        ({"resolution": 33}, "resolution must be a multiple of 2, got 33"),
        ({"resolution": 0}, "resolution must be a multiple of 2, got 0"),
    ],
)
def test_a_wrong_choice_is_refused(pair_folder, base, choice, told):
    with pytest.raises(ValueError, match=told):
        open_dataset(pair_folder, base, **{"resolution": 32, **choice})


def test_parts_are_disjoint_whole_prompts_and_cover_everything(pair_folder, base):
    parts = [
        open_dataset(pair_folder, base, resolution=16, held_out=0.5, part=p) for p in ("train", "held_out")
    ]
    train, held_out = ({pair for g in p.groups for pair in g} for p in parts)
    assert train & held_out == set()
    assert train | held_out == set(range(9))
    assert train
    assert held_out


def test_an_empty_part_is_refused(pair_folder, base):
    with pytest.raises(ValueError, match="at least one prompt of part 'held_out', got none of 9"):
        open_dataset(pair_folder, base, resolution=16, held_out=0.0, part="held_out")


def test_holding_out_takes_the_asked_share_and_only_ever_grows():
    keys = [f"50-{i:07d}" for i in range(4_000)]
    small, large = ({k for k in keys if is_held_out(k, f)} for f in (0.1, 0.3))
    assert 0.08 < len(small) / 4_000 < 0.12
    assert 0.27 < len(large) / 4_000 < 0.33
    assert small < large
