"""Pairs in any format that diffusers trains on: columns, folders, cells; and one clear line for each fault."""

import csv
import io
import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from ip2p_lib import images, records, storage
from ip2p_lib.dataset import find_shards, open_dataset, pair_files
from ip2p_lib.dataset import reading as reader
from ip2p_lib.dataset.encoding import Encoder, encode_shards
from ip2p_lib.dataset.rows import PICTURES
from ip2p_lib.pairs import PAIR_SCHEMA, shard_path
from ip2p_lib.presets import TrainConfig
from ip2p_lib.training import train_editor
from ip2p_lib.unet import widen_unet

OURS = (records.ORIGINAL_IMAGE, records.EDIT_PROMPT, records.EDITED_IMAGE)
THEIRS = ("input_image", "edit_prompt", "edited_image")


@pytest.fixture
def data(pair_folder, base):
    return open_dataset(pair_folder, base, resolution=32)


def renamed(rows, names):
    """Rows with these columns alone, as another dataset spells them."""
    return [{new: row[old] for old, new in zip(OURS, names, strict=True)} for row in rows]


def parquet(path, rows, schema=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return path.parent


def picture_folder(rows, folder, kind="jsonl", names=THEIRS):
    """Pictures as files, and the metadata file from which `datasets` makes columns."""
    folder.mkdir(parents=True)
    table = []
    for number, row in enumerate(rows):
        files = [f"{number}-{i}.png" for i in range(2)]
        for file, column in zip(files, PICTURES, strict=True):
            (folder / file).write_bytes(row[column]["bytes"])
        first, text, second = names
        table.append(
            {f"{first}_file_name": files[0], text: row[records.EDIT_PROMPT], f"{second}_file_name": files[1]}
        )
    path = folder / f"metadata.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(table), path)
        return folder
    with path.open("w", encoding="utf-8", newline="") as file:
        if kind == "jsonl":
            file.writelines(json.dumps(row) + "\n" for row in table)
        else:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    return folder


def same(found, expected):
    """Equal pairs: texts exactly, latents up to the last bit of float16, which depends on the threads."""
    assert found.instructions == expected.instructions
    for name in ("condition", "target_mean", "target_std"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=4e-3)


def refused(match, folder, base):
    """A refusal in one line, which leaves no cache."""
    with pytest.raises(ValueError, match=match) as caught:
        open_dataset(folder, base, resolution=32)
    assert "\n" not in str(caught.value)
    assert not list(folder.glob(".latents/*/*"))


@pytest.mark.parametrize(
    "names",
    [
        ("original_image", "edit_prompt", "edited_image"),
        ("input_image", "edit_prompt", "edited_image"),
        ("original_image", "instruction", "edited_images"),
        ("source_img", "instruction", "target_img"),  # MagicBrush
    ],
)
@pytest.mark.parametrize(
    "place", ["pairs.parquet", "train-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"]
)
def test_columns_and_folders_of_other_datasets_are_understood(tmp_path, rows, base, data, names, place):
    parquet(tmp_path / "other" / place, renamed(rows, names))
    same(open_dataset(tmp_path / "other", base, resolution=32), data)


def test_only_the_training_split_is_read_where_files_name_their_splits(tmp_path, rows):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001", "validation"):
        parquet(tmp_path / "data" / f"{name}.parquet", rows)
    assert [p.name[:11] for p in pair_files(tmp_path)] == ["train-00000", "train-00001"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # `datasets` leaves a CSV file open
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_picture_folder_is_read_as_datasets_reads_it(tmp_path, rows, base, data, kind):
    folder = picture_folder(rows, tmp_path / "pictures", kind)
    same(open_dataset(folder, base, resolution=32), data)
    opened = load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    pairs = [p for s in find_shards(folder) for p in s.pairs()]
    assert len(opened) == len(pairs)
    for theirs, ours in zip(opened, pairs, strict=True):
        assert theirs["edit_prompt"] == ours.instruction
        assert theirs["input_image"].convert("RGB").tobytes() == ours.before.tobytes()
        assert theirs["edited_image"].convert("RGB").tobytes() == ours.after.tobytes()


def test_picture_folders_below_are_found_and_those_for_training_preferred(tmp_path, rows, base, data):
    for name, part in (("train", rows), ("test", rows[:2])):
        picture_folder(part, tmp_path / "all" / name)
    same(open_dataset(tmp_path / "all", base, resolution=32), data)
    again = open_dataset(tmp_path / "all", base, resolution=32)  # nor is the cache taken for a picture folder
    same(again, data)


def test_a_large_picture_folder_is_kept_piece_by_piece(tmp_path, rows, base, data, monkeypatch):
    folder = picture_folder(rows, tmp_path / "pictures")
    monkeypatch.setattr(reader, "PIECE", 4)
    assert [(s.first, s.count) for s in find_shards(folder)] == [(0, 4), (4, 4), (8, 1)]
    (folder / "5-1.png").rename(folder / "away")
    with pytest.raises(
        ValueError, match=r"metadata\.jsonl row 5: edited_image must hold a picture, but there is no file"
    ):
        find_shards(folder)
    (folder / "5-1.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"metadata\.jsonl row 5: edited_image must hold a picture, but: "):
        open_dataset(folder, base, resolution=32)
    assert len(list(folder.glob(".latents/*/*"))) == 1
    (folder / "away").replace(folder / "5-1.png")
    same(open_dataset(folder, base, resolution=32), data)


def test_our_loop_trains_on_a_folder_in_diffusers_format(tmp_path, rows, base):
    folder = picture_folder(rows, tmp_path / "pictures")
    config = TrainConfig(
        steps=2, batch_size=3, gradient_accumulation_steps=1, learning_rate=1e-3, resolution=16, seed=3
    )
    data = open_dataset(folder, base, resolution=16)
    unet = widen_unet(base.unet, base.latent_channels)
    data.check_channels(unet.config.in_channels)
    *_, last = train_editor(unet, base, data, config)
    assert np.isfinite(last.loss.item())
    assert unet.conv_in.weight[:, 4:].abs().max() > 0


def stored(row, column, how, folder):
    """A picture's cell in one of the ways that datasets store one."""
    data = row[column]["bytes"]
    if how == "bytes alone":
        return data
    if how == "JPEG":
        buffer = io.BytesIO()
        images.from_bytes(data).save(buffer, "JPEG", quality=100, subsampling=0)
        return {"bytes": buffer.getvalue(), "path": None}
    name = f"{column}-{row[records.TRIPLET_ID]}.png"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return name if how == "name alone" else {"bytes": None, "path": name}


@pytest.mark.parametrize("how", ["bytes alone", "JPEG", "name alone", "name"])
def test_a_picture_may_be_bytes_or_the_name_of_a_file_beside(tmp_path, rows, base, data, how):
    folder = tmp_path / "other"
    cells = [{**r, **{c: stored(r, c, how, folder) for c in PICTURES}} for r in rows]
    parquet(folder / "pairs.parquet", renamed(cells, THEIRS))
    found = open_dataset(folder, base, resolution=32)
    if how == "JPEG":
        assert np.abs(np.asarray(found.condition) - np.asarray(data.condition)).mean() < 0.05
    else:
        same(found, data)


@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_a_changed_file_beside_is_encoded_anew(tmp_path, rows, base, kind):
    folder = tmp_path / "other"
    if kind == "folder":
        picture_folder(rows, folder)
    else:
        cells = [{**r, **{c: stored(r, c, "name", folder) for c in PICTURES}} for r in rows]
        parquet(folder / "pairs.parquet", renamed(cells, THEIRS))
    before = open_dataset(folder, base, resolution=32)
    changed = sorted(folder.glob("*.png"))[0]
    changed.write_bytes(images.png_bytes(Image.new("RGB", (32, 32), "red")))
    after = open_dataset(folder, base, resolution=32)
    arrays = ("condition", "target_mean")
    assert any(not np.array_equal(getattr(after, a), getattr(before, a)) for a in arrays)
    assert len(list(folder.glob(".latents/*/*"))) == 2


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/hostname", "a/../../x.png", "file:///x.png", "..\\x.png"]
)
def test_a_dataset_cannot_ask_for_files_outside(tmp_path, rows, base, name):
    rows[2][records.EDITED_IMAGE] = {"bytes": None, "path": name}
    (tmp_path / "secret.png").write_bytes(rows[0][records.EDITED_IMAGE]["bytes"])
    folder = parquet(tmp_path / "other" / "pairs.parquet", rows, PAIR_SCHEMA)
    refused(r"pairs\.parquet row 2: edited_image must name a file inside .*other, got", folder, base)


def test_pictures_of_any_mode_and_size_are_read(tmp_path, rows, base):
    modes = ("L", "P", "RGBA", "1", "CMYK", "I;16")
    for row, mode in zip(rows, modes, strict=False):
        for column, side in zip(PICTURES, (64, 32), strict=True):
            picture = images.from_bytes(row[column]["bytes"]).resize((side, side))
            buffer = io.BytesIO()
            picture.convert("L").convert(mode).save(buffer, "TIFF") if mode == "I;16" else picture.convert(
                mode
            ).save(buffer, "TIFF")
            row[column] = {"bytes": buffer.getvalue(), "path": "x.tiff"}
    folder = parquet(tmp_path / "other" / "pairs.parquet", rows, PAIR_SCHEMA)
    assert open_dataset(folder, base, resolution=32).condition.shape == (9, 2, 4, 16, 16)


@pytest.mark.parametrize(
    ("first", "second"), [((64, 48), (64, 64)), ((48, 64), (64, 48)), ((64, 64), (512, 500))]
)
def test_pictures_of_two_shapes_are_refused_by_row(tmp_path, rows, base, first, second):
    for column, size in zip(PICTURES, (first, second), strict=True):
        rows[4][column] = {"bytes": images.png_bytes(Image.new("RGB", size)), "path": ""}
    folder = parquet(tmp_path / "other" / "pairs.parquet", rows, PAIR_SCHEMA)
    refused(
        rf"row 4: both pictures must have one shape, got {first[0]} x {first[1]} and {second[0]} x",
        folder,
        base,
    )


@pytest.mark.parametrize(
    ("first", "second"), [((1000, 667), (512, 341)), ((64, 64), (512, 512)), ((65, 48), (64, 48))]
)
def test_pictures_of_one_shape_and_two_sizes_are_fitted(tmp_path, rows, base, first, second):
    for column, size in zip(PICTURES, (first, second), strict=True):
        rows[0][column] = {"bytes": images.png_bytes(Image.new("RGB", size, "teal")), "path": ""}
    folder = parquet(tmp_path / "other" / "pairs.parquet", rows[:1], PAIR_SCHEMA)
    data = open_dataset(folder, base, resolution=32)
    np.testing.assert_allclose(np.asarray(data.target_mean), 0.7 * np.asarray(data.condition), atol=4e-3)


@pytest.mark.parametrize("missing", OURS)
@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_a_missing_column_is_refused_by_name(tmp_path, rows, base, missing, kind):
    names = [n if o != missing else "something_else" for n, o in zip(THEIRS, OURS, strict=True)]
    if kind == "parquet":
        folder = parquet(tmp_path / "other" / "pairs.parquet", renamed(rows, names))
    else:
        folder = picture_folder(rows, tmp_path / "other", names=names)
    refused(rf"(parquet|jsonl) must have a column {missing} \(or .*\), got .*something_else", folder, base)


@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_columns_of_any_name_are_read_when_told(tmp_path, rows, base, kind):
    names = ("photo", "wish", "drawing")
    if kind == "parquet":
        folder = parquet(tmp_path / "other" / "pairs.parquet", renamed(rows, names))
    else:
        folder = picture_folder(rows, tmp_path / "other", names=names)
    told = dict(zip(OURS, names, strict=True))
    data = open_dataset(folder, base, resolution=32, columns=told)
    assert list(data.instructions) == [row[records.EDIT_PROMPT] for row in rows]
    back = {records.ORIGINAL_IMAGE: "drawing", records.EDITED_IMAGE: "photo"}
    turned = open_dataset(folder, base, resolution=32, columns=told | back)
    np.testing.assert_allclose(
        np.asarray(turned.target_mean), 0.7 * np.asarray(data.condition), atol=4e-3
    )  # the other way round, and not what the cache held
    with pytest.raises(ValueError, match=r"must have a column sketch, got .*photo.*--edited-image-column"):
        open_dataset(folder, base, resolution=32, columns=told | {records.EDITED_IMAGE: "sketch"})


BROKEN = [
    {"bytes": b"no picture", "path": "x"},
    {"bytes": b"", "path": "x"},
    {"bytes": None, "path": "x"},
    None,
]


@pytest.mark.parametrize("cell", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("column", PICTURES)
def test_a_damaged_picture_is_refused_by_row(tmp_path, rows, base, cell, column):
    rows[3][column] = cell
    folder = parquet(tmp_path / "other" / "pairs.parquet", rows, PAIR_SCHEMA)
    refused(rf"pairs\.parquet row 3: {column} must hold a picture", folder, base)


@pytest.mark.filterwarnings("ignore")  # Pillow says more about broken tags
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_flipped_bytes_of_a_picture_are_read_or_refused_by_row(rows, form, tmp_path):
    buffer, places = io.BytesIO(), random.Random(7)
    images.from_bytes(rows[0][records.EDITED_IMAGE]["bytes"]).save(buffer, form)
    told = []
    for _ in range(150):
        data = bytearray(buffer.getvalue())
        for _ in range(3):
            data[places.randrange(len(data))] ^= 1 << places.randrange(8)
        row = {**rows[0], records.EDITED_IMAGE: {"bytes": bytes(data), "path": ""}}
        try:
            reader.as_pair(row, "a.parquet row 0", tmp_path)
        except ValueError as error:
            told.append(str(error))
    assert told or form == "BMP"
    assert all(t.startswith("a.parquet row 0: ") for t in told)


@pytest.mark.parametrize("text", [None, "", "  \n"])
@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_a_missing_caption_is_refused_by_row(tmp_path, rows, base, text, kind):
    rows[3][records.EDIT_PROMPT] = text
    if kind == "parquet":
        folder = parquet(tmp_path / "other" / "pairs.parquet", rows, PAIR_SCHEMA)
    else:
        folder = picture_folder(rows, tmp_path / "other")
    refused(r"(parquet|jsonl) row 3: edit_prompt must be a text, got", folder, base)


def test_an_empty_shard_is_passed_over_and_a_folder_of_them_refused(tmp_path, rows, base, data):
    folder = parquet(tmp_path / "other" / "a.parquet", [], PAIR_SCHEMA)
    refused("must hold at least one pair, but its files have no rows", folder, base)
    parquet(folder / "b.parquet", rows, PAIR_SCHEMA)
    parquet(folder / "c.parquet", [], pa.schema([("nothing", pa.int32())]))
    same(open_dataset(folder, base, resolution=32), data)


@pytest.mark.parametrize("content", [b"", b"no parquet", b"PAR1", b"PAR1" * 9])
def test_a_shard_that_is_no_parquet_is_refused_by_name(tmp_path, base, content):
    (tmp_path / "pairs.parquet").write_bytes(content)
    refused(r"pairs\.parquet must be whole, but reading it failed", tmp_path, base)


def test_a_flipped_byte_inside_a_picture_is_refused(pair_folder, base, rows):
    path = sorted(pair_folder.glob("*.parquet"))[1]
    data = bytearray(path.read_bytes())
    data[data.index(rows[7][records.EDITED_IMAGE]["bytes"][200:220])] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"00001\.parquet must be whole, but reading it failed .*checksum"):
        open_dataset(pair_folder, base, resolution=32)


def test_a_shard_that_vanishes_is_one_line_and_costs_nothing_that_was_done(pair_folder, base, data):
    shards = find_shards(pair_folder)
    content = shards[1].path.read_bytes()
    shards[1].path.unlink()
    with pytest.raises(
        ValueError, match=r"00001\.parquet vanished while pairs were read; .*is encoded is kept"
    ):
        encode_shards(shards, Encoder(base, 32), pair_folder / "elsewhere")
    assert len(list(pair_folder.glob("elsewhere/*/*"))) == 1
    shards[1].path.write_bytes(content)
    same(open_dataset(pair_folder, base, resolution=32, cache=pair_folder / "elsewhere"), data)


def test_a_link_to_a_shard_that_is_gone_is_one_line(pair_folder, base):
    (pair_folder / "candidates-00002.parquet").symlink_to(pair_folder / "nowhere")
    refused(r"00002\.parquet vanished while pairs were read", pair_folder, base)


LINES = [b"{", b"[]", b"3", b"null", b'"a"', b"\xff\xfe", b"[" * 100_000, b"{}"]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_a_damaged_line_of_metadata_is_one_line(tmp_path, rows, base, line):
    folder = picture_folder(rows, tmp_path / "pictures")
    path = folder / "metadata.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*lines[:3], b"", line, *lines[3:]]))
    refused(r"metadata\.jsonl (row 3.* must |must be whole)", folder, base)


def test_metadata_of_two_kinds_is_refused(tmp_path, rows, base):
    folder = picture_folder(rows, tmp_path / "all" / "a", "csv")
    picture_folder(rows, tmp_path / "all" / "b", "jsonl")
    refused(r"must have metadata of one kind, has metadata\.csv, metadata\.jsonl", folder.parent, base)


def test_a_folder_without_pairs_is_not_found(tmp_path):
    (tmp_path / "scores-00000.parquet").touch()
    (tmp_path / ".hidden.parquet").touch()
    with pytest.raises(
        FileNotFoundError, match=r"must hold Parquet files with pairs, or .*, found none; make them"
    ):
        pair_files(tmp_path)


def test_a_dataset_that_is_still_on_the_hub_is_to_be_fetched_first():
    with pytest.raises(
        FileNotFoundError, match=r"there is none at some/pairs; .*hf download some/pairs --repo"
    ):
        pair_files(Path("some/pairs"))


def test_the_original_layout_is_pointed_to_its_importer(tmp_path, rows):
    folder = picture_folder(rows, tmp_path / "original" / "0000000").parent
    (folder / "seeds.json").write_text("[]")
    with pytest.raises(FileNotFoundError, match=r"in the original layout; .* `ip2p import-original`"):
        pair_files(folder)


def test_without_ids_and_captions_pairs_of_one_picture_and_instruction_are_one_prompt(tmp_path, rows, base):
    plain = [{**r, records.EDIT_PROMPT: "make it night"} for r in rows]
    folder = parquet(tmp_path / "other" / "pairs.parquet", renamed(plain, THEIRS))
    data = open_dataset(folder, base, resolution=32)
    assert sorted(map(len, data.groups)) == [1, 1, 1, 2, 2, 2]
    captioned = [{**r, records.TRIPLET_ID: None, records.ORIGINAL_PROMPT: "a house"} for r in plain]
    folder = parquet(tmp_path / "captioned" / "pairs.parquet", captioned, PAIR_SCHEMA)
    assert [len(g) for g in open_dataset(folder, base, resolution=32).groups] == [9]


def test_equal_ids_of_two_files_do_not_make_their_pairs_one_prompt(tmp_path, rows, base):
    """Files of triplets without ids number their lines, each from 0."""
    ids = [r[records.TRIPLET_ID] for r in rows]
    moved = [
        {**r, records.ORIGINAL_PROMPT: "a house", records.EDIT_PROMPT: f"make it {ids.index(t)}"}
        for r, t in zip(rows, ids, strict=True)
    ]
    both = [*rows, *moved]
    folder = parquet(tmp_path / "both" / "pairs.parquet", both, PAIR_SCHEMA)
    groups = open_dataset(folder, base, resolution=32).groups
    assert len(groups) == 2 * len(set(ids))


def test_another_model_shares_a_folder_without_harm(pair_folder, base, data):
    other = replace(base, name="another name of the same model")
    before = {p: p.stat().st_mtime_ns for p in pair_folder.glob(".latents/*/*/*")}
    same(open_dataset(pair_folder, other, resolution=32), data)
    assert {p: p.stat().st_mtime_ns for p in pair_folder.glob(".latents/*/*/*")} == before


def test_a_file_is_read_for_its_digest_once_and_again_when_it_changed(pair_folder, tmp_path, monkeypatch):
    asked = []
    whole = storage.sha256
    monkeypatch.setattr(storage, "sha256", lambda path: asked.append(path.name) or whole(path))

    def digests():
        asked.clear()
        with reader.remembered(tmp_path / "digests.json") as known:
            return [s.digest for s in find_shards(pair_folder, known)]

    first = digests()
    assert asked == ["candidates-00000.parquet", "candidates-00001.parquet"]
    assert digests() == first
    assert asked == []
    one, two = (shard_path(pair_folder, n) for n in (0, 1))
    one.write_bytes(two.read_bytes())
    assert digests() == [first[1], first[1]]
    assert asked == ["candidates-00000.parquet"]
    (tmp_path / "digests.json").write_text("[")
    assert digests() == [first[1], first[1]], "a damaged memory is none"


@pytest.mark.parametrize("rank", [0, 1])
def test_of_two_processes_each_encodes_its_part_of_the_shards(pair_folder, base, tmp_path, rank):
    waits = []
    crew = SimpleNamespace(process_index=rank, num_processes=2, wait_for_everyone=lambda: waits.append(rank))
    shards = find_shards(pair_folder)
    homes = encode_shards(shards, Encoder(base, 16), tmp_path, crew)
    assert [(h / "index.json").is_file() for h in homes] == [rank == 0, rank == 1]
    assert len(waits) == 2, "before the first one writes, and until the last one has written"


def test_a_cache_that_cannot_be_written_is_still_read(pair_folder, base, tmp_path):
    data = open_dataset(pair_folder, base, resolution=16, cache=tmp_path / "cache")
    memory = tmp_path / "cache" / "digests.json"
    memory.unlink()
    memory.mkdir()
    again = open_dataset(pair_folder, base, resolution=16, cache=tmp_path / "cache")
    assert again.mark == data.mark


@pytest.mark.parametrize("content", ["[]", "3", "[" * 50_000, '{"a": 1}', '{"a": []}', '{"a": [1, 2]}'])
def test_a_damaged_memory_of_digests_is_none(pair_folder, tmp_path, content):
    path = tmp_path / "digests.json"
    path.write_text(content.replace('"a"', json.dumps(str(shard_path(pair_folder, 0).resolve()))))
    with reader.remembered(path) as known:
        assert [s.digest for s in find_shards(pair_folder, known)] == [
            s.digest for s in find_shards(pair_folder)
        ]


def test_pairs_are_read_one_by_one_and_only_those_that_are_wanted(pair_folder, rows, monkeypatch):
    opened = []
    whole = reader.as_pair
    monkeypatch.setattr(reader, "as_pair", lambda row, *rest: opened.append(row) or whole(row, *rest))
    wanted, faults = rows[3][records.TRIPLET_ID], []
    found = list(reader.read_pairs(pair_folder, lambda p: p.startswith(f"{wanted}|"), faults))
    assert len(found) == len(opened) == sum(r[records.TRIPLET_ID] == wanted for r in rows)
    captions = rows[3][records.ORIGINAL_PROMPT], rows[3][records.EDITED_PROMPT]
    assert (found[0].caption, found[0].edited_caption) == captions
    assert faults == []


def test_the_caption_after_the_edit_changes_no_cached_latents(tmp_path, rows):
    """It was not read before: picture folders that were encoded then are not encoded anew."""
    digests = []
    for drop in (False, True):
        folder = tmp_path / str(drop)
        folder.mkdir()
        lines = []
        for i, row in enumerate(rows):
            for column in PICTURES:
                (folder / f"{i}-{column}.png").write_bytes(row[column]["bytes"])
            named = {f"{c}_file_name": f"{i}-{c}.png" for c in PICTURES}
            texts = {n: row[n] for n in (records.EDIT_PROMPT, records.ORIGINAL_PROMPT)}
            late = {} if drop else {records.EDITED_PROMPT: row[records.EDITED_PROMPT]}
            lines.append({**named, **texts, **late})
        (folder / "metadata.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        digests.append([s.digest for s in find_shards(folder)])
    assert digests[0] == digests[1]
