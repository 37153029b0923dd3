"""The training set: columns by any known name, both ways round, prompts counted once, any step found directly."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ip2p_lib import images, records
from ip2p_lib.dataset import is_held_out, open_dataset, pair_shards
from ip2p_lib.pairs import PAIR_SCHEMA


@pytest.fixture
def data(pair_folder, base):
    return open_dataset(pair_folder, base, resolution=32)


def renamed(rows, folder, names):
    """The pairs as another dataset spells them, with those columns alone."""
    folder.mkdir()
    found = [{new: row[old] for old, new in names.items()} for row in rows]
    pq.write_table(pa.Table.from_pylist(found), folder / "train-00000-of-00001.parquet")
    return folder


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


@pytest.mark.parametrize("word", ["left", "Right"])
def test_a_sided_instruction_is_never_flipped(tmp_path, rows, base, word):
    folder = tmp_path / "sided"
    folder.mkdir()
    sided = [{**r, records.EDIT_PROMPT: f"add a lamp on the {word}"} for r in rows]
    pq.write_table(pa.Table.from_pylist(sided, schema=PAIR_SCHEMA), folder / "pairs.parquet")
    data = open_dataset(folder, base, resolution=32)
    assert not np.concatenate([data.picks(s, 6, 3, flip=True)[1] for s in range(20)]).any()


@pytest.mark.parametrize(
    "names",
    [
        ("original_image", "edit_prompt", "edited_image"),
        ("input_image", "edit_prompt", "edited_image"),
        ("original_image", "instruction", "edited_images"),
    ],
)
def test_columns_of_other_datasets_are_understood(tmp_path, rows, base, data, names):
    ours = (records.ORIGINAL_IMAGE, records.EDIT_PROMPT, records.EDITED_IMAGE)
    other = open_dataset(
        renamed(rows, tmp_path / "other", dict(zip(ours, names, strict=True))), base, resolution=32
    )
    assert other.instructions == data.instructions
    # Two encodings of the same pixels may differ in the last bit of fp16 with the number of threads.
    np.testing.assert_allclose(other.condition, data.condition, atol=4e-3)
    np.testing.assert_allclose(other.target_mean, data.target_mean, atol=4e-3)


@pytest.mark.parametrize("missing", [records.ORIGINAL_IMAGE, records.EDIT_PROMPT, records.EDITED_IMAGE])
def test_a_missing_column_is_refused_by_name(tmp_path, rows, base, missing):
    names = {records.ORIGINAL_IMAGE, records.EDIT_PROMPT, records.EDITED_IMAGE} - {missing}
    folder = renamed(rows, tmp_path / "other", {n: n for n in names})
    with pytest.raises(ValueError, match=rf"parquet must have a column {missing} \(or .*\), got "):
        open_dataset(folder, base, resolution=32)
    assert not list(folder.glob(".latents/*"))


@pytest.mark.parametrize(
    "cell", [{"bytes": b"no picture", "path": "x.png"}, {"bytes": None, "path": "x.png"}, None]
)
def test_a_damaged_picture_is_refused_and_leaves_no_cache(tmp_path, rows, base, cell):
    rows[3][records.EDITED_IMAGE] = cell
    folder = tmp_path / "broken"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA), folder / "pairs.parquet")
    with pytest.raises(ValueError, match="must hold a picture"):
        open_dataset(folder, base, resolution=32)
    assert not list(folder.glob(".latents/*"))


def test_an_instruction_that_is_no_text_is_refused_by_row(tmp_path, rows, base):
    rows[3][records.EDIT_PROMPT] = None
    pq.write_table(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA), tmp_path / "pairs.parquet")
    with pytest.raises(ValueError, match=r"pairs\.parquet row 3: edit_prompt must be a text, got None"):
        open_dataset(tmp_path, base, resolution=32)


def test_a_shard_that_is_no_parquet_is_refused_by_name(tmp_path, base):
    (tmp_path / "pairs.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match=r"pairs\.parquet"):
        open_dataset(tmp_path, base, resolution=32)


def test_a_folder_without_pairs_is_not_found(tmp_path):
    (tmp_path / "scores-00000.parquet").touch()
    with pytest.raises(FileNotFoundError, match="must hold Parquet files with pairs, found none"):
        pair_shards(tmp_path)


def test_the_cache_is_used_again_and_keyed_by_resolution_and_autoencoder(pair_folder, base, data):
    files = {p: p.stat().st_mtime_ns for p in pair_folder.glob(".latents/*/*")}
    again = open_dataset(pair_folder, base, resolution=32)
    assert np.array_equal(again.condition, data.condition)
    assert {p: p.stat().st_mtime_ns for p in pair_folder.glob(".latents/*/*")} == files
    assert open_dataset(pair_folder, base, resolution=16).condition.shape[-1] == 8
    assert len(list(pair_folder.glob(".latents/*"))) == 2
    with torch.no_grad():
        weight = next(iter(base.vae.parameters()))
        kept = weight.clone()
        weight.add_(0.1)
        try:
            other = open_dataset(pair_folder, base, resolution=32)
        finally:
            weight.copy_(kept)
    assert not np.array_equal(other.condition, data.condition)


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
