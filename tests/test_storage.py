"""Files are whole or absent, and shipped bytes are checked."""

import json
import re
from pathlib import Path

import pytest

from ip2p_lib import storage


def fail_after(path: Path) -> None:
    path.write_text("half")
    raise RuntimeError("stopped")


def test_a_file_is_replaced_only_when_the_block_succeeds(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with storage.atomic_file(path) as partial:
        partial.write_text("one")
        assert not path.exists()
    with pytest.raises(RuntimeError, match="stopped"), storage.atomic_file(path) as partial:
        fail_after(partial)
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_replaced_only_when_the_block_succeeds(tmp_path):
    path = tmp_path / "deep" / "folder"
    with storage.atomic_folder(path) as partial:
        (partial / "a").write_text("one")
        assert not path.exists()
    with pytest.raises(RuntimeError, match="stopped"), storage.atomic_folder(path) as partial:
        fail_after(partial / "a")
    assert (path / "a").read_text() == "one"
    with storage.atomic_folder(path) as partial:
        (partial / "b").write_text("two")
    assert [p.name for p in path.iterdir()] == ["b"]
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_run_left_does_not_leak_into_the_next(tmp_path):
    with storage.atomic_folder(tmp_path / "folder") as partial:
        leftover = partial
    leftover.mkdir()
    (leftover / "stale").touch()
    with storage.atomic_folder(tmp_path / "folder") as partial:
        (partial / "fresh").touch()
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["fresh"]


def test_json_keeps_order_and_letters(tmp_path):
    value = {"b": [1, 2.5, None], "a": "Zürich"}
    storage.write_json(tmp_path / "v.json", value)
    text = (tmp_path / "v.json").read_text(encoding="utf-8")
    assert list(storage.read_json(tmp_path / "v.json").items()) == list(value.items())
    assert "Zürich" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_file_that_is_not_json_is_refused_by_name(tmp_path, content):
    (tmp_path / "v.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"v\.json must hold JSON"):
        storage.read_json(tmp_path / "v.json")


def test_a_missing_json_file_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"v\.json"):
        storage.read_json(tmp_path / "v.json")


def test_a_fingerprint_follows_the_value_and_not_the_order_of_its_keys():
    one = storage.fingerprint({"a": 1, "b": [1, 2], "c": Path("x")})
    assert one == storage.fingerprint({"c": Path("x"), "b": [1, 2], "a": 1})
    assert one != storage.fingerprint({"a": 1, "b": [2, 1], "c": Path("x")})
    assert re.fullmatch("[0-9a-f]{16}", one)


def test_a_quick_digest_follows_every_byte_and_the_order_of_blocks(tmp_path):
    def digest(data):
        (tmp_path / "file").write_bytes(data)
        return storage.quick_digest(tmp_path / "file")

    blocks = [bytes([n]) * storage.BLOCK for n in range(3)]
    whole = b"".join(blocks) + b"end"
    marks = [digest(whole), digest(b"".join(blocks[::-1]) + b"end"), digest(whole[:-1]), digest(b"")]
    for place in (0, storage.BLOCK + 5, len(whole) - 1):
        changed = bytearray(whole)
        changed[place] ^= 1
        marks.append(digest(bytes(changed)))
    assert len(set(marks)) == len(marks)
    assert digest(whole) == marks[0]


def test_the_digest_is_sha_256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert storage.sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


@pytest.fixture
def shipped(tmp_path) -> Path:
    """Two small models with their manifest."""
    for name in ("unet/a.bin", "unet/b.bin", "vae/c.bin", "vae/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    storage.write_manifest(tmp_path)
    return tmp_path


def test_a_manifest_names_every_visible_file_but_itself(shipped):
    assert list(storage.read_json(shipped / "manifest.json")) == ["unet/a.bin", "unet/b.bin", "vae/c.bin"]
    storage.write_manifest(shipped)
    assert len(storage.read_json(shipped / "manifest.json")) == 3


def test_untouched_files_pass(shipped):
    storage.check_manifest(shipped)
    (shipped / "unet" / "a.bin").write_text("other")
    storage.check_manifest(shipped, "vae/")
    with pytest.raises(ValueError, match=r"a.bin"):
        storage.check_manifest(shipped)


def test_an_altered_file_is_refused_with_the_remedy(shipped):
    (shipped / "unet" / "b.bin").write_text("unet/b.biM")
    with pytest.raises(ValueError, match=r"b\.bin must have the checksum .*git checkout -- data"):
        storage.check_manifest(shipped, "unet/")


def test_a_missing_file_is_refused_with_the_remedy(shipped):
    (shipped / "vae" / "c.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"c\.bin is missing; restore it with `git checkout -- data`"):
        storage.check_manifest(shipped)


def test_a_missing_manifest_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"manifest\.json, found none; .*git checkout -- data"):
        storage.check_manifest(tmp_path)


def test_a_manifest_that_is_silent_about_a_folder_vouches_for_nothing(shipped):
    with pytest.raises(FileNotFoundError, match="editor/"):
        storage.check_manifest(shipped, "editor/")


def test_a_run_record_holds_configuration_versions_commit_and_command(tmp_path):
    storage.record_run(tmp_path / "run", {"seed": 3})
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"] == {"seed": 3}
    assert {"torch", "diffusers", "open_clip_torch"} <= record["versions"].keys()
    assert "absent" not in record["versions"].values()
    assert re.fullmatch(r"unknown|[0-9a-f]{10,}\+?", record["commit"])
    assert record["command"]


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("http://me:secret@host:8000/v1", "http://host:8000/v1"),
        ("https://me:sec@ret@host/v1", "https://host/v1"),
        ("http://host/a@b", "http://host/a@b"),
        ("me@host", "me@host"),
    ],
)
def test_a_record_names_a_server_without_its_password(address, kept):
    assert storage.without_passwords(f"ip2p triplets --server {address} --count 4") == (
        f"ip2p triplets --server {kept} --count 4"
    )
