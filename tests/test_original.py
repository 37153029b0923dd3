"""The released code's layout: what it holds survives both ways, and debris of killed runs is understood."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from ip2p_lib import cli, filtering, images, records, storage
from ip2p_lib.dataset import open_dataset
from ip2p_lib.filtering.original import MEASURES
from ip2p_lib.pairs import writing_shard
from ip2p_lib.presets import FilterConfig

PICTURES = (records.ORIGINAL_IMAGE, records.EDITED_IMAGE)
TEXTS = (records.ORIGINAL_PROMPT, records.EDIT_PROMPT, records.EDITED_PROMPT)
SCORES = {"clip_sim_0": 0.25, "clip_sim_1": 0.5, "clip_sim_dir": 0.1 + 0.2, "clip_sim_image": 0.75}
PROMPT = {
    "input": "a cat",
    "edit": "make it night",
    "output": "a cat at night",
    "url": "https://example.org/a",
}


def keep(rows, folder: Path) -> Path:
    """Rows as kept pairs in two shards."""
    folder.mkdir()
    for number, part in enumerate((rows[:4], rows[4:])):
        with writing_shard(folder / f"pairs-{number:05d}.parquet", filtering.KEPT_SCHEMA) as shard:
            shard.add({**SCORES, **row} for row in part)
    return folder


def read(folder: Path) -> list[dict]:
    return [r for s in sorted(folder.glob("pairs-*.parquet")) for r in pq.read_table(s).to_pylist()]


@pytest.fixture
def kept(rows, tmp_path):
    """Nine kept pairs of six triplets."""
    return keep(rows, tmp_path / "kept")


@pytest.fixture
def original(tmp_path):
    """What the released script leaves: two triplets with pairs, one without, numbers as they were drawn."""
    for home, seeds in (("0000003", (3000000000, 7)), ("0000004", ()), ("0000012", (5,))):
        folder = tmp_path / "original" / home
        folder.mkdir(parents=True)
        (folder / "prompt.json").write_text(json.dumps(PROMPT))
        for seed in seeds:
            add_pair(folder, seed)
    return tmp_path / "original"


def add_pair(folder: Path, seed: int, **changed) -> None:
    for side in (0, 1):
        Image.new("RGB", (16, 16), (seed % 256, 90 * side, 50)).save(
            folder / f"{seed}_{side}.jpg", quality=100
        )
    with (folder / "metadata.jsonl").open("a") as file:
        row = {"seed": seed, "p2p_threshold": 0.3, "cfg_scale": 8.0, **SCORES}
        file.write(json.dumps({**row, **changed}) + "\n")


def released_listing(folder: Path) -> list:
    """prepare_dataset.py of the released code."""
    seeds = []
    for home in folder.iterdir():
        if home.is_dir():
            found = [path.name.split("_")[0] for path in sorted(home.glob("*_0.jpg"))]
            if found:
                seeds.append([home.name, found])
    return sorted(seeds)


def arrived(original: Path, tmp_path: Path) -> list[dict]:
    """Rows of an import, counted as it says."""
    shutil.rmtree(tmp_path / "ours", ignore_errors=True)
    number = filtering.read_original(original, tmp_path / "ours")
    rows = read(tmp_path / "ours")
    assert len(rows) == number
    return rows


def test_there_and_back_keeps_everything_but_the_candidates_numbers(rows, kept, tmp_path):
    assert filtering.write_original(kept, tmp_path / "original") == 9
    found = arrived(tmp_path / "original", tmp_path)
    assert [r[records.CANDIDATE] for r in found] == [r[records.CANDIDATE] for r in rows]
    for back, row in zip(found, read(kept), strict=True):
        for name in (records.TRIPLET_ID, *TEXTS, records.SEED, *MEASURES):
            assert back[name] == row[name]
        assert json.loads(back[records.SOURCE]) == json.loads(row[records.SOURCE])
        for column in PICTURES:
            ours, theirs = (
                np.asarray(images.from_bytes(r[column]["bytes"])).astype(int) for r in (row, back)
            )
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() <= 6


def test_pictures_that_are_jpegs_already_keep_their_bytes_both_ways(original, tmp_path):
    arrived(original, tmp_path)
    filtering.write_original(tmp_path / "ours", tmp_path / "again")
    for new, old in (("0000000", "0000003"), ("0000001", "0000012")):
        for picture in (original / old).glob("*.jpg"):
            assert (tmp_path / "again" / new / picture.name).read_bytes() == picture.read_bytes()


def test_the_released_code_finds_its_own_files(rows, kept, tmp_path):
    """Its listing, what its loaders read, and the fields its script writes."""
    out = tmp_path / "original"
    filtering.write_original(kept, out)
    listing = json.loads((out / "seeds.json").read_text())
    assert listing == released_listing(out)
    assert [name for name, _ in listing] == [f"{i:07d}" for i in range(6)]
    for (name, seeds), row in zip(listing, (r for r in rows if not r[records.CANDIDATE]), strict=True):
        prompt = json.loads((out / name / "prompt.json").read_text("ascii"))
        assert [prompt[k] for k in ("input", "edit", "output")] == [row[c] for c in TEXTS]
        metadata = [json.loads(line) for line in (out / name / "metadata.jsonl").read_text().splitlines()]
        assert [list(m) for m in metadata] == [["seed", *MEASURES]] * len(seeds)
        assert [str(m["seed"]) for m in metadata] == seeds
        assert len(list((out / name).glob("*.jpg"))) == 2 * len(seeds)


def test_two_exports_are_the_same_bytes(kept, tmp_path):
    made = []
    for name in ("a", "b"):
        filtering.write_original(kept, tmp_path / name)
        files = [p for p in (tmp_path / name).rglob("*") if p.is_file() and p.name != "run.json"]
        made.append({p.relative_to(tmp_path / name): p.read_bytes() for p in files})
    assert made[0] == made[1]
    assert len(made[0]) == 1 + 6 * 2 + 9 * 2


def test_forks_of_one_seed_get_names_of_their_own(rows, tmp_path):
    """And the released listing, which sorts by file name, agrees with ours about them."""
    forks = [
        {**rows[0], "candidate": i, "seed": s, "p2p_threshold": i / 8} for i, s in enumerate((7, 7, 70, 7))
    ]
    out = tmp_path / "original"
    assert filtering.write_original(keep(forks, tmp_path / "kept"), out) == 4
    assert {p.name for p in out.glob("*/*_1.jpg")} == {"7_1.jpg", "7-1_1.jpg", "70_1.jpg", "7-2_1.jpg"}
    assert json.loads((out / "seeds.json").read_text()) == released_listing(out)
    back = {(r[records.SEED], r[records.P2P_THRESHOLD]) for r in arrived(out, tmp_path)}
    assert back == {(7, 0.0), (7, 0.125), (70, 0.25), (7, 0.375)}


def test_a_triplet_whose_pairs_lie_apart_is_one_folder(rows, tmp_path):
    filtering.write_original(keep([rows[1], rows[3], rows[0], rows[2]], tmp_path / "kept"), tmp_path / "out")
    assert [len(seeds) for _, seeds in released_listing(tmp_path / "out")] == [2, 1, 1]


def test_texts_of_all_languages_and_their_addresses_survive(rows, tmp_path):
    texts = dict(zip(TEXTS, ("ein Fluß\u2028bei Nacht", "把它变成猫", "a \U0001f431 “quoted”"), strict=True))
    source = {"url": "https://example.org/ü?a=1", "writer": "é"}
    row = {**rows[0], **texts, records.TRIPLET_ID: "Zürich/1", records.SOURCE: json.dumps(source)}
    filtering.write_original(keep([row], tmp_path / "kept"), tmp_path / "original")
    prompt = json.loads((tmp_path / "original" / "0000000" / "prompt.json").read_text("ascii"))
    assert (prompt["url"], prompt["source"]) == (source["url"], {"writer": "é"})
    (back,) = arrived(tmp_path / "original", tmp_path)
    assert [back[c] for c in (records.TRIPLET_ID, *TEXTS)] == ["Zürich/1", *texts.values()]
    assert json.loads(back[records.SOURCE]) == source


def test_what_is_read_trains_and_opens_with_datasets(original, base, tmp_path):
    from datasets import load_dataset

    arrived(original, tmp_path)
    data = open_dataset(tmp_path / "ours", base, resolution=16)
    assert sorted(map(len, data.groups)) == [1, 2]
    assert data.instructions == [PROMPT["edit"]] * 3
    files = [str(p) for p in (tmp_path / "ours").glob("*.parquet")]
    opened = load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert opened[0][records.ORIGINAL_IMAGE].getpixel((3, 3)) == pytest.approx(
        (3000000000 % 256, 0, 50), abs=2
    )
    assert isinstance(opened[0]["clip_sim_dir"], float)


def test_a_row_says_what_the_released_files_said(original, tmp_path):
    rows = arrived(original, tmp_path)
    assert [r[records.TRIPLET_ID] for r in rows] == ["0000003", "0000003", "0000012"]
    assert [r[records.SEED] for r in rows] == [3000000000, 7, 5]
    assert [r[records.CANDIDATE] for r in rows] == [0, 1, 0]
    assert set(rows[0]) == set(filtering.KEPT_SCHEMA.names)
    for row, name in zip(rows, ("0000003/3000000000", "0000003/7", "0000012/5"), strict=True):
        assert [row[n] for n in MEASURES] == [0.3, 8.0, *SCORES.values()]
        assert json.loads(row[records.SOURCE]) == {"url": PROMPT["url"]}
        for side, column in enumerate(PICTURES):
            assert row[column]["path"] == f"{name}_{side}.jpg"
            assert row[column]["bytes"] == (original / row[column]["path"]).read_bytes()
    assert storage.read_json(tmp_path / "ours" / "run.json")["config"]["stage"] == "filter"
    assert not list((tmp_path / "ours").glob("*-*.json"))


@pytest.mark.parametrize("kind", [str, int])
def test_seeds_are_understood_as_texts_and_as_numbers(original, tmp_path, kind):
    listed = [["0000003", [kind(7), kind(3000000000)]], ["0000012", [kind(5)]]]
    (original / "seeds.json").write_text(json.dumps(listed))
    assert [r[records.SEED] for r in arrived(original, tmp_path)] == [7, 3000000000, 5]


def test_seeds_json_says_which_pairs_count_and_none_counts_twice(original, tmp_path):
    (original / "seeds.json").write_text(
        json.dumps([["0000003", ["7", "7"]], ["0000003", [7]], ["0000004", []]])
    )
    assert [r[records.SEED] for r in arrived(original, tmp_path)] == [7]


def test_a_picture_without_its_edited_one_is_skipped_listed_or_not(original, tmp_path):
    (original / "0000012" / "5_1.jpg").unlink()
    (original / "0000003" / "7_0.jpg").unlink()
    assert [r[records.SEED] for r in arrived(original, tmp_path)] == [3000000000]
    (original / "0000003" / "7_1.jpg").unlink()
    (original / "seeds.json").write_text(json.dumps([["0000003", ["3000000000"]], ["0000012", ["5"]]]))
    assert [r[records.SEED] for r in arrived(original, tmp_path)] == [3000000000]


def test_rows_that_a_second_run_appended_count_once_and_the_last_wins(original, tmp_path):
    add_pair(original / "0000012", 5, cfg_scale=9.0)
    rows = arrived(original, tmp_path)
    assert [r[records.CFG_SCALE] for r in rows] == [8.0, 8.0, 9.0]


def test_what_metadata_does_not_say_is_null(original, base, tmp_path):
    (original / "0000012" / "metadata.jsonl").unlink()
    (original / "0000003" / "metadata.jsonl").write_text(
        '\n{"seed": "7", "clip_sim_dir": 1, "clip_sim_0": null}\n'
    )
    rows = arrived(original, tmp_path)
    assert [[r[n] for n in MEASURES] for r in rows] == [
        [None] * 6,
        [None, None, None, None, 1.0, None],
        [None] * 6,
    ]
    assert len(open_dataset(tmp_path / "ours", base, resolution=16)) == 2
    assert filtering.write_original(tmp_path / "ours", tmp_path / "again") == 3
    assert arrived(tmp_path / "again", tmp_path)[0]["clip_sim_dir"] is None


@pytest.mark.parametrize("name", ["caption", "input"])
def test_the_caption_is_found_by_either_name(original, tmp_path, name):
    prompt = {name: "a river", "edit": "add boats", "output": "a river with boats", "url": None, "id": None}
    (original / "0000012" / "prompt.json").write_text(json.dumps(prompt))
    row = arrived(original, tmp_path)[-1]
    assert (row[records.ORIGINAL_PROMPT], row[records.TRIPLET_ID]) == ("a river", "0000012")
    assert row[records.SOURCE] == "{}"


def test_what_lies_around_is_no_pair(original, tmp_path):
    (original / "0000003" / "._7_0.jpg").write_bytes(b"resource fork")
    (original / "0000003" / "._7_1.jpg").write_bytes(b"resource fork")
    (original / ".cache").mkdir()
    add_pair(original / ".cache", 1)
    (original / "readme.txt").touch()
    (original / "0000004" / "prompt.json").write_text("{")  # nobody needs it
    assert len(arrived(original, tmp_path)) == 3


def test_shards_are_cut_by_triplet_and_empty_ones_left_out(original, tmp_path, monkeypatch):
    monkeypatch.setattr("ip2p_lib.filtering.original.TRIPLETS_PER_SHARD", 1)
    seen = []
    filtering.read_original(original, tmp_path / "ours", lambda parts: seen.extend(parts) or parts)
    names = sorted(p.name for p in (tmp_path / "ours").iterdir())
    assert names == ["pairs-00000.parquet", "pairs-00002.parquet", "run.json"]
    assert len(seen) == 3


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def zeroed(path):
    path.write_bytes(path.read_bytes()[:-40] + bytes(40))


SPOILED = [
    ("0000012/5_1.jpg", cut, r"0000012/5_1\.jpg must be a whole JPEG, but is cut off .* delete its pair"),
    ("0000012/5_0.jpg", zeroed, r"0000012/5_0\.jpg must be a whole JPEG"),
    ("0000012/5_0.jpg", b"", r"0000012/5_0\.jpg must be a whole JPEG"),
    ("0000012/prompt.json", b'{"input": "a', r"prompt\.json: Unterminated string .*; mend it or delete"),
    ("0000012/prompt.json", b"[]", r"0000012/prompt\.json: must be an object, got list"),
    ("0000012/prompt.json", b"\xff\xfe\xff", r"0000012/prompt\.json: 'utf-"),
    ("0000012/prompt.json", b'{"edit": "a", "output": "b"}', r"prompt\.json: .* non-empty text 'input'"),
    ("0000012/prompt.json", rb'{"input": "\ud83d", "edit": "a", "output": "b"}', r"json: .* surrogates"),
    ("0000012/prompt.json", Path.unlink, r"0000012/prompt\.json must be readable \(No such file .*restore"),
    ("0000012/metadata.jsonl", b'{"seed": 5}\n{"seed"', r"metadata\.jsonl line 2 must be an object"),
    ("0000012/prompt.json", b"[" * 100_000, r"prompt\.json: .*recursion"),
    ("0000012/metadata.jsonl", b"[5]\n", r"metadata\.jsonl line 1 must be an object"),
    ("0000012/metadata.jsonl", b'{"cfg_scale": 1}', r"metadata\.jsonl line 1 must be an object with a seed"),
    ("0000012/metadata.jsonl", b'{"seed": 5, "cfg_scale": "much"}', r"metadata\.jsonl line 1 .* numbers"),
    ("seeds.json", b"[", r"seeds\.json must be a list of .* must hold JSON"),
    ("seeds.json", b'{"0000012": ["5"]}', r"seeds\.json must be a list of \[folder, \[seeds\]\]"),
    ("seeds.json", b"[5]", r"seeds\.json must be a list of"),
    ("seeds.json", b'[["0000012", "5"]]', r"seeds\.json must be a list of"),
    ("seeds.json", b'[["../kept", ["5"]]]', r"seeds\.json must be a list of .*got '\.\./kept'"),
    ("seeds.json", b'[["0000012", ["5", "6"]]]', r"0000012/6_0\.jpg must be readable .*seeds\.json that lists"),
    ("seeds.json", b'[["0000099", ["5"]]]', r"0000099/prompt\.json must be readable .*seeds\.json that lists"),
    ("seeds.json", b'[["0000012", ["five"]]]', r"0000012 must have whole numbers as seeds, .* 'five'"),
    ("seeds.json", b"[]", r"original must hold folders with SEED_0\.jpg and SEED_1\.jpg, found no such pair"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spoil", "message"), SPOILED)
def test_what_is_spoiled_is_refused_by_name_and_leaves_nothing(original, tmp_path, name, spoil, message):
    if callable(spoil):
        spoil(original / name)
    else:
        (original / name).write_bytes(spoil)
    with pytest.raises(ValueError, match=message) as refusal:
        filtering.read_original(original, tmp_path / "ours")
    assert "\n" not in str(refusal.value)
    assert [p.name for p in tmp_path.iterdir()] == ["original"]


def test_two_folders_with_one_id_are_refused(original, tmp_path):
    (original / "0000012" / "prompt.json").write_text(json.dumps({**PROMPT, "id": "0000003"}))
    with pytest.raises(ValueError, match=r"0000012 must have an id of its own .* '0000003' occurs twice"):
        filtering.read_original(original, tmp_path / "ours")


def test_a_folder_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="must be a folder, found none at"):
        filtering.read_original(tmp_path / "none", tmp_path / "ours")
    with pytest.raises(FileNotFoundError, match=r"must hold pairs-\*\.parquet, found none"):
        filtering.write_original(tmp_path / "none", tmp_path / "original")


def test_a_folder_of_something_else_is_never_replaced(kept, original, tmp_path):
    for number in (1, 2):
        filtering.write_original(kept, tmp_path / f"out{number}")
        filtering.write_original(kept, tmp_path / f"out{number}")  # its own work may be renewed
        filtering.read_original(original, tmp_path / "ours")
    (tmp_path / "out2" / "notes.txt").touch()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for write, source, out in (
        (filtering.write_original, kept, original),
        (filtering.write_original, kept, tmp_path / "ours"),
        (filtering.write_original, kept, tmp_path / "out2"),
        (filtering.read_original, original, tmp_path / "out1"),
        (filtering.read_original, original, original / "0000003"),
        (filtering.write_original, kept, original / "0000003" / "7_0.jpg"),
    ):
        with pytest.raises(ValueError, match="holds something else"):
            write(source, out)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_what_is_read_is_never_replaced(kept, original, tmp_path):
    filtering.write_original(kept, tmp_path / "out")
    shutil.move(kept, tmp_path / "out" / "kept")
    with pytest.raises(ValueError, match=r"must lie apart from .*, which it would replace"):
        filtering.write_original(tmp_path / "out" / "kept", tmp_path / "out")
    filtering.read_original(original, tmp_path / "ours")
    shutil.move(original, tmp_path / "ours" / "original")
    for out in (tmp_path / "ours", tmp_path / "ours" / "original"):
        with pytest.raises(ValueError, match=r"must lie apart from .*, which it would replace"):
            filtering.read_original(tmp_path / "ours" / "original", out)


def test_pairs_of_one_triplet_with_other_texts_are_refused(rows, tmp_path):
    rows[2][records.EDIT_PROMPT] = "make it something else"
    with pytest.raises(ValueError, match=r"pairs of triplet '.*' must share texts and source, but differ"):
        filtering.write_original(keep(rows, tmp_path / "kept"), tmp_path / "original")
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_pairs_without_the_columns_of_kept_ones_are_refused(pair_folder, tmp_path):
    for shard in pair_folder.glob("*.parquet"):
        shard.rename(shard.with_name(shard.name.replace("candidates", "pairs")))
    with pytest.raises(ValueError, match=r"must hold pairs of `ip2p filter`, but lacks clip_sim_0"):
        filtering.write_original(pair_folder, tmp_path / "original")


def test_a_picture_that_cannot_be_read_is_not_exported(rows, tmp_path):
    rows[1][records.EDITED_IMAGE] = {"bytes": b"no", "path": "x/7_1.png"}
    with pytest.raises(ValueError, match=r"x/7_1\.png must hold a picture"):
        filtering.write_original(keep(rows, tmp_path / "kept"), tmp_path / "original")
    assert not (tmp_path / "original").exists()


def ip2p(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def test_the_shell_goes_both_ways_from_the_filters_own_output(pair_folder, clip, tmp_path):
    list(filtering.score(pair_folder, clip))
    scores = filtering.read_scores(pair_folder)
    keys = [(s[records.TRIPLET_ID], s[records.CANDIDATE]) for s in scores]
    filtering.export_kept(pair_folder, keys, tmp_path / "kept", FilterConfig())
    there = ip2p("export-original", "--kept", tmp_path / "kept", "--out", tmp_path / "deep" / "original")
    back = ip2p("import-original", "--folder", tmp_path / "deep" / "original", "--out", tmp_path / "ours")
    assert [r.exit_code for r in (there, back)] == [0, 0]
    assert all(r.stdout.startswith("9 pairs in ") and "shard" in r.stderr for r in (there, back))
    assert [[r[n] for n in filtering.SCORE_COLUMNS] for r in read(tmp_path / "ours")] == [
        [s[n] for n in filtering.SCORE_COLUMNS] for s in scores
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("export-original", "--kept", "{}/none", "--out", "{}/out"),
            "must hold pairs-*.parquet, found none",
        ),
        (("import-original", "--folder", "{}/none", "--out", "{}/out"), "must be a folder, found none at"),
        (
            ("import-original", "--folder", "{}/original", "--out", "{}/file/out"),
            "output folder must be writable",
        ),
        (("export-original", "--kept", "{}/kept", "--out", "{}/file"), "holds something else"),
    ],
)
def test_the_shell_says_a_mistake_in_one_line(kept, original, tmp_path, arguments, message):
    (tmp_path / "file").touch()
    result = ip2p(*(a.replace("{}", str(tmp_path)) for a in arguments))
    assert result.exit_code == 1, result.exception
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
