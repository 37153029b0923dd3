"""Shards of candidates: whole, marked, held against their marks, and nobody else's; full disks, copies, flips."""

import random
import shutil
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_pairs import CONFIG, HOUSE, NIGHT

from ip2p_lib import records, storage
from ip2p_lib.pairs import (
    candidate_shards,
    is_whole,
    missing_shards,
    read_shard,
    shard_groups,
    shard_path,
    synthesise,
    writing_shard,
)
from ip2p_lib.pairs.shards import GROUP, check_shard

TWICE = [HOUSE, NIGHT]
SMALL = replace(CONFIG, candidates_per_triplet=1, num_inference_steps=1, triplets_per_shard=1)


def numbered(rows, count):
    return [{**rows[i % len(rows)], records.CANDIDATE: i} for i in range(count)]


def written(folder, pieces, number=0):
    path = shard_path(folder, number)
    with writing_shard(path) as shard:
        for piece in pieces:
            shard.add(piece)
    return path


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def finished(tmp_path, base):
    """Two shards of one pair each, as a run leaves them."""
    list(synthesise(TWICE, base, SMALL, tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture
def again(finished, base):
    """Run once more, and whether the folder is then what it was to begin with."""
    before = contents(finished)

    def run() -> bool:
        list(synthesise(TWICE, base, SMALL, finished))
        candidate_shards(finished)
        return contents(finished) == before

    return run


def refused(match, action, *args):
    """A refusal in one line."""
    with pytest.raises(ValueError, match=match) as caught:
        action(*args)
    assert "\n" not in str(caught.value)


def complaint(action, *args) -> str:
    try:
        action(*args)
    except ValueError as error:
        return str(error)
    return ""


def check_bytes(path):
    check_shard(path, every_byte=True)


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << place % 8
    path.write_bytes(data)


@pytest.mark.parametrize("size", [1, 7, GROUP, GROUP + 1, 1000])
def test_bytes_do_not_depend_on_how_rows_arrive(tmp_path, rows, size):
    many = numbered(rows, 2 * GROUP + 22)
    whole = written(tmp_path / "whole", [many])
    pieces = written(tmp_path / "pieces", (many[i : i + size] for i in range(0, len(many), size)))
    assert pieces.read_bytes() == whole.read_bytes()
    file = pq.ParquetFile(whole)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [GROUP, GROUP, 22]
    assert [len(g) for g in shard_groups(whole)] == [GROUP, GROUP, 22]
    assert read_shard(whole) == many


@pytest.mark.parametrize("count", [0, 1, GROUP, 2 * GROUP])
def test_a_shard_of_any_number_of_rows_is_read_back(tmp_path, rows, count):
    many = numbered(rows, count)
    path = written(tmp_path, [many])
    assert read_shard(path) == many
    sizes = [len(g) for g in shard_groups(path, [records.SEED])]
    assert sizes == [GROUP] * (count // GROUP) + [1] * (count % GROUP)
    assert check_shard(path, every_byte=True)["rows"] == count


def test_reading_and_writing_hold_no_more_than_a_group(tmp_path, rows):
    noise = random.Random(2)
    cell = records.ORIGINAL_IMAGE
    held = []

    def big(count):
        for row in numbered(rows, count):
            held.append(pa.total_allocated_bytes())
            yield {**row, cell: {"bytes": noise.randbytes(20_000), "path": "x"}}

    def peak(count):
        """Of Arrow's memory, in bytes, while a shard is written and read."""
        start = pa.total_allocated_bytes()
        held.clear()
        path = written(tmp_path, [big(count)])
        held.extend(pa.total_allocated_bytes() for _ in shard_groups(path))
        return max(held) - start

    assert peak(8 * GROUP) < 1.5 * peak(2 * GROUP)  # seen: equal; with pyarrow's defaults 2.5 times as much


def test_a_mark_comes_last_and_says_what_was_written(tmp_path, rows):
    path = shard_path(tmp_path, 3)
    with writing_shard(path) as shard:
        shard.add(rows)
        shard.note = {"sampled": 12}
        assert not path.exists()
    mark = storage.read_json(tmp_path / "candidates-00003.json")
    size, digest = path.stat().st_size, storage.sha256(path)
    assert mark == {"shard": path.name, "rows": 9, "bytes": size, "sha256": digest, "sampled": 12}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["candidates-00003.json", "candidates-00003.parquet"]


def test_a_failure_inside_leaves_neither_shard_nor_mark(tmp_path, rows):
    with pytest.raises(KeyError, match="seed"):
        written(tmp_path, [rows, ({}["seed"] for _ in rows)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [0, 1, 0.5, -1])
def test_a_truncated_shard_is_refused_with_a_remedy_that_works(finished, again, kept):
    path = shard_path(finished, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    refused(r"00001\.parquet must have \d+ bytes, has \d+: it is damaged", candidate_shards, finished)
    refused(r"00001\.parquet must be whole, but reading it failed", read_shard, path)
    assert again(), "a run makes it anew"


def test_a_flipped_byte_in_the_middle_is_refused(tmp_path, rows):
    path = written(tmp_path, [rows])
    flip(path, path.stat().st_size // 2)
    assert candidate_shards(tmp_path) == [path]  # a glance at sizes, since it is asked often
    refused("must be whole, but reading it failed .*checksum", read_shard, path)
    refused("must have the checksum in its mark, but its bytes differ", check_bytes, path)


def test_a_flip_anywhere_is_one_line_and_never_passes_for_whole(tmp_path, rows):
    path = written(tmp_path, [rows])
    whole, places, told = path.read_bytes(), random.Random(5), []
    for _ in range(200):
        flip(path, places.randrange(len(whole)))
        refused("its bytes differ", check_bytes, path)
        told.append(complaint(read_shard, path))  # headers and footer have no checksum: only the mark knows
        path.write_bytes(whole)
    assert all("must be whole, but reading it failed" in t and "\n" not in t for t in told if t)
    assert sum(map(bool, told)) > 20


DAMAGED = [
    b"", b"{", b"[]", b"3", b"null", b'""', b"{}", b"\xff\xfe", b"[" * 100_000, b'{"shard": "candidates-00001.parquet"}',
]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_mark_is_refused_with_a_remedy_that_works(finished, again, content):
    mark = finished / "candidates-00001.json"
    mark.write_bytes(content)
    refused(r"00001\.json must be the mark of a shard, but is damaged; delete it", candidate_shards, finished)
    mark.unlink()
    assert again()


@pytest.mark.parametrize("lost", ["candidates-00000.json", "candidates-00000.parquet"])
def test_a_shard_cut_off_between_its_two_writes_is_made_again(finished, again, lost):
    other = shard_path(finished, 1).stat().st_mtime_ns
    (finished / lost).unlink()
    assert not is_whole(shard_path(finished, 0))
    if lost.endswith("json"):
        refused(
            "00000.parquet has no mark that it is whole; run `ip2p pairs` again", candidate_shards, finished
        )
    assert again()
    assert shard_path(finished, 1).stat().st_mtime_ns == other


def test_a_shard_that_is_not_there_is_named(finished, again):
    assert missing_shards(finished) == []
    shard_path(finished, 0).unlink()
    assert missing_shards(finished) == [shard_path(finished, 0)]
    assert again()
    (finished / "run.json").unlink()
    assert missing_shards(finished) == [], "nobody knows how many there should be"


@pytest.mark.parametrize("suffixes", [("parquet",), ("parquet", "json")])
def test_a_copied_shard_is_refused_with_a_remedy_that_works(finished, again, suffixes):
    for suffix in suffixes:
        shutil.copy(finished / f"candidates-00000.{suffix}", finished / f"candidates-00002.{suffix}")
    expected = (
        "is a copy of candidates-00000.parquet; delete it" if "json" in suffixes else "or delete it if it"
    )
    refused(f"candidates-00002.parquet .*{expected}", candidate_shards, finished)
    for suffix in suffixes:
        (finished / f"candidates-00002.{suffix}").unlink()
    assert again()


def test_a_copy_in_the_place_of_another_shard_is_refused(finished, again):
    for suffix in ("parquet", "json"):
        shutil.copy(finished / f"candidates-00000.{suffix}", finished / f"candidates-00001.{suffix}")
    refused("00001.parquet is a copy of candidates-00000.parquet; delete it", candidate_shards, finished)
    shard_path(finished, 1).unlink()
    assert again()


@pytest.mark.parametrize("name", ["1", "000001", "backup", "00000 (1)", "00000-copy", "٠٠٠٠٠"])
def test_a_foreign_shard_is_refused_by_name(finished, again, name):
    shutil.copy(shard_path(finished, 0), finished / f"candidates-{name}.parquet")
    refused("is no shard of this folder's run; move it elsewhere", candidate_shards, finished)
    (finished / f"candidates-{name}.parquet").unlink()
    assert again()


def test_other_files_are_left_alone(finished, base):
    for name in ("notes.txt", "00002.json", ".hidden", "candidates.parquet", "old/candidates-00000.parquet"):
        (finished / name).parent.mkdir(exist_ok=True)
        (finished / name).write_text("mine")
    before = contents(finished)
    shard_path(finished, 0).with_suffix(".json").unlink()
    list(synthesise(TWICE, base, SMALL, finished))
    assert len(candidate_shards(finished)) == 2
    assert contents(finished) == before


def test_a_hundred_thousand_shards_have_their_order(tmp_path):
    for number in (100_000, 99_999, 1_234_567, 0):
        written(tmp_path, [], number)
    assert candidate_shards(tmp_path) == [shard_path(tmp_path, n) for n in (0, 99_999, 100_000, 1_234_567)]
