"""`ip2p edit`: one picture or a folder, its recipe repeated, both scales in a grid, the sampler as a film."""

import json
from copy import deepcopy

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from ip2p_lib import cli, images
from ip2p_lib.unet import save_pipeline


@pytest.fixture(scope="module")
def model(editor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "editor"
    save_pipeline(editor, folder)
    return folder


@pytest.fixture
def edit(model):
    def run(*arguments, steps=2):
        command = ["edit", *arguments, "--model", model, *(("--steps", steps) if steps else ())]
        return CliRunner().invoke(cli.app, [str(a) for a in command])

    return run


@pytest.fixture
def photo(tmp_path, picture):
    picture.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def pixels(path):
    return np.asarray(images.open_picture(path))


def test_a_recipe_repeats_an_edit_to_the_byte_and_may_be_varied(edit, photo, tmp_path):
    first, again, other = (tmp_path / f"{n}.png" for n in ("first", "again", "other"))
    assert edit(photo, "make it night", "-t", 3, "-i", "1.2", "--seed", 5, "--out", first).exit_code == 0
    assert edit(photo, "--recipe", first, "--out", again, steps=None).exit_code == 0
    assert again.read_bytes() == first.read_bytes()
    assert edit(photo, "--recipe", again, "--seed", 6, "--out", other, steps=None).exit_code == 0
    recipe = images.read_recipe(other)
    assert recipe == {**images.read_recipe(first), "seed": 6}
    assert (recipe["guidance_scale"], recipe["resolution"]) == (3, 64)
    assert not np.array_equal(pixels(other), pixels(first))


def test_restored_detail_is_in_the_recipe_and_repeated(edit, photo, tmp_path):
    plain, restored, again = (tmp_path / f"{n}.png" for n in ("plain", "restored", "again"))
    assert edit(photo, "make it night", "--out", plain).exit_code == 0
    assert edit(photo, "--recipe", plain, "--restore-detail", "--out", restored, steps=None).exit_code == 0
    assert images.read_recipe(restored) == {**images.read_recipe(plain), "restore_detail": True}
    assert not np.array_equal(pixels(restored), pixels(plain))
    assert edit(photo, "--recipe", restored, "--out", again, steps=None).exit_code == 0
    assert again.read_bytes() == restored.read_bytes()
    assert edit(photo, "--recipe", restored, "--no-restore-detail", "--out", again, steps=None).exit_code == 0
    assert again.read_bytes() == plain.read_bytes()


def test_a_recipe_of_another_editor_or_no_recipe_is_refused(edit, photo, tmp_path):
    made = tmp_path / "made.png"
    edit(photo, "make it night", "--out", made)
    images.save_with_recipe(Image.open(made), made, {**images.read_recipe(made), "model": "another"})
    result = edit(photo, "--recipe", made, "--out", tmp_path / "x.png")
    assert result.exit_code == 1
    assert "made.png was made by editor another, this is editor; see --model" in result.stderr
    images.save_with_recipe(Image.open(made), made, {"instruction": "make it night"})
    assert "but it lacks guidance_scale, " in edit(photo, "--recipe", made).stderr
    assert "must carry a recipe, found none" in edit(photo, "--recipe", photo).stderr
    assert "say what to change" in edit(photo).stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("null", "a recipe must be an object, got NoneType"),
        ("[" * 100_000, "recursion"),
        ("{bad", "Expecting property name"),
        ('{"guidance_scale": "x"}', "guidance_scale must be of kind float, got 'x'"),
        ('{"seed": true}', "seed must be of kind int, got True"),
        ('{"instruction": 5}', "instruction must be of kind str, got 5"),
    ],
)
def test_a_recipe_of_another_form_is_refused_in_one_line(edit, photo, tmp_path, text, message):
    chunks = PngInfo()
    chunks.add_text(images.RECIPE_KEY, text)
    Image.open(photo).save(tmp_path / "odd.png", pnginfo=chunks)
    result = edit(photo, "--recipe", tmp_path / "odd.png")
    assert result.exit_code == 1
    assert "odd.png must carry a recipe as `ip2p edit` writes it, but: " in result.stderr
    assert message in result.stderr
    assert "did not make" in edit(photo, "make it night", "--out", tmp_path / "odd.png").stderr


def test_a_folder_is_edited_and_finished_edits_are_not_made_again(edit, photo, picture, tmp_path):
    folder, out = tmp_path / "album", tmp_path / "out"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.roll(np.asarray(picture), 9 * number, 1)).save(folder / f"{number}.jpg")
    (folder / "notes.txt").write_text("no picture, and not taken for one")
    assert edit(folder, "make it night", "--out", out).exit_code == 0
    made = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.iterdir()}
    assert sorted(made) == ["0.png", "1.png", "2.png"]
    (out / "1.png").unlink()
    (folder / "2.jpg").unlink()
    picture.save(folder / "2.jpg")  # another picture of that name
    result = edit(folder, "make it night", "--out", out)
    assert [line.endswith("is there already") for line in result.stdout.splitlines()] == [True, False, False]
    assert (out / "1.png").read_bytes() == made["1.png"][1]
    assert (out / "2.png").read_bytes() != made["2.png"][1]
    assert "already" not in edit(folder, "make it day", "--out", out).stdout
    alone = tmp_path / "alone.png"
    edit(folder / "1.jpg", "make it day", "--out", alone)
    assert alone.read_bytes() == (out / "1.png").read_bytes()


@pytest.fixture
def retrained(model, editor, tmp_path):
    """An editor of the same name and other weights."""
    unet = deepcopy(editor.unet)
    unet.conv_out.weight.data.mul_(1.01)
    save_pipeline(editor.with_unet(unet, "editor"), tmp_path / "again" / "editor")
    return tmp_path / "again" / "editor"


def test_another_editor_of_the_same_name_makes_its_own_edits(edit, photo, retrained, tmp_path):
    folder, out = tmp_path / "album", tmp_path / "out"
    folder.mkdir()
    photo.rename(folder / "a.png")
    edit(folder, "make it night", "--out", out)
    before = pixels(out / "a.png")
    other = ["edit", folder, "make it night", "--out", out, "--model", retrained, "--steps", 2]
    told = [CliRunner().invoke(cli.app, [str(a) for a in other]).stdout for _ in range(2)]
    assert ["already" in t for t in told] == [False, True]
    assert not np.array_equal(pixels(out / "a.png"), before)
    result = edit(folder / "a.png", "--recipe", out / "a.png", "--out", tmp_path / "x.png")
    assert "a.png was made by an editor editor of other weights; see --model" in result.stderr


def test_an_edit_has_the_resolution_asked_for_and_its_recipe_repeats_it(edit, photo, tmp_path):
    large, again = tmp_path / "large.png", tmp_path / "again.png"
    assert edit(photo, "make it night", "--resolution", 128, "--out", large).exit_code == 0
    assert max(images.open_picture(large).size) >= 128
    assert edit(photo, "--recipe", large, "--out", again, steps=None).exit_code == 0
    assert again.read_bytes() == large.read_bytes()
    assert "EditConfig.resolution must be at least 1, got 0" in edit(photo, "x", "--resolution", 0).stderr


def test_an_edit_has_the_precision_asked_for(edit, photo, tmp_path):
    made = {}
    for name in ("no", "bf16"):
        result = edit(photo, "make it night", "--precision", name, "--out", tmp_path / f"{name}.png")
        assert result.exit_code == 0, result.stderr
        made[name] = pixels(tmp_path / f"{name}.png").astype(int)
    assert 0 < np.abs(made["no"] - made["bf16"]).mean() < 8
    assert "must be no, bf16, fp16 or auto" in edit(photo, "make it night", "--precision", "int8").stderr


def test_a_bad_picture_in_a_folder_does_not_stop_the_others(edit, photo, tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    photo.rename(folder / "b.png")
    (folder / "a.png").write_text("no picture")
    result = edit(folder, "make it night", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "1 of 2 pictures were not edited, the first: " in result.stderr
    assert (tmp_path / "out" / "b.png").is_file()


def test_a_folder_without_pictures_or_with_one_name_twice_is_refused(edit, photo, tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    assert "must hold pictures (.png, " in edit(folder, "make it night").stderr
    for name in ("a.png", "a.jpg"):
        Image.open(photo).convert("RGB").save(folder / name)
    assert "different names, but a occurs more than once" in edit(folder, "make it night").stderr


def test_the_grid_shows_sixteen_points_and_the_strip_ends_with_the_edit(edit, photo, tmp_path):
    out = tmp_path / "e.png"
    assert edit(photo, "make it night", "--out", out, "--grid", "--strip", 9, steps=4).exit_code == 0
    grid, strip = (images.open_picture(tmp_path / f"e-{n}.png") for n in ("grid", "strip"))
    assert grid.width == 4 * (112 + 8) + 8
    assert strip.width == 4 * (112 + 8) + 8  # no more frames than steps
    edited = images.open_picture(out)
    scale = 112 / max(edited.size)
    height = round(edited.height * scale)
    left, top = 8 + 3 * 120, 8 + (112 - height) // 2
    last = strip.crop((left, top, left + 112, top + height))
    assert np.array_equal(last, edited.resize(last.size, Image.Resampling.NEAREST))


@pytest.mark.parametrize("size", [(72, 48), (300, 100), (90, 200)])
def test_a_result_may_be_put_back_at_the_pictures_own_size(edit, picture, tmp_path, size):
    path, out = tmp_path / "p.png", tmp_path / "e.png"
    picture.resize(size).save(path)
    assert edit(path, "make it night", "--out", out, "--full-size").exit_code == 0
    assert images.open_picture(out).size == size
    json.dumps(images.read_recipe(out))


def test_putting_back_an_unchanged_picture_gives_it_back(picture):
    same = images.paste_back(picture, images.fit(picture, picture.size))
    assert np.array_equal(same, images.to_rgb(picture))
    wide = Image.new("RGB", (300, 100), "red")
    middle = images.paste_back(wide, Image.new("RGB", (64, 64), "blue"))
    assert middle.getpixel((99, 50)) == (255, 0, 0) == middle.getpixel((200, 50))
    assert middle.getpixel((101, 50)) == (0, 0, 255) == middle.getpixel((198, 50))


def test_no_picture_of_the_users_is_written_over(edit, photo, picture, tmp_path):
    own, before = tmp_path / "own.png", photo.read_bytes()
    picture.save(own)
    kept = own.read_bytes()
    for target, message in (
        (photo, "--out must be another file than the picture"),
        (own, "own.png holds what `ip2p edit` did not make; choose another --out"),
        (tmp_path / "edit.jpg", "--out must end in .png"),
    ):
        result = edit(photo, "make it night", "--out", target)
        assert (result.exit_code, message in result.stderr) == (1, True)
    assert (photo.read_bytes(), own.read_bytes()) == (before, kept)
    album = tmp_path / "album"
    album.mkdir()
    photo.rename(album / "a.png")
    result = edit(album, "make it night", "--out", album)
    assert "1 of 1 pictures were not edited" in result.stderr
    assert (album / "a.png").read_bytes() == before
    assert (
        edit(album / "a.png", "make it night", "--out", tmp_path).exit_code == 0
    )  # a folder takes it by its name
    assert images.read_recipe(tmp_path / "a.png")["instruction"] == "make it night"


def test_figures_asked_for_later_are_made_and_unread_kinds_are_named(edit, photo, tmp_path):
    album, out = tmp_path / "album", tmp_path / "out"
    album.mkdir()
    photo.rename(album / "a.png")
    (album / "b.HEIC").touch()
    assert (
        "1 files of kinds that are not read, first b.HEIC"
        in edit(album, "make it night", "--out", out).stderr
    )
    assert edit(album, "make it night", "--out", out, "--strip", 2).exit_code == 0
    assert (out / "a-strip.png").is_file()


def test_a_figure_of_another_edit_is_made_anew(edit, photo, tmp_path):
    album, out = tmp_path / "album", tmp_path / "out"
    album.mkdir()
    photo.rename(album / "a.png")
    for words, options in (
        ("make it night", ("--grid", "--strip", 2)), ("make it snow", ()), ("make it snow", ("--grid", "--strip", 3)),
    ):  # fmt: skip
        assert edit(album, words, "--out", out, *options).exit_code == 0
    for name in ("grid", "strip"):
        assert images.read_recipe(out / f"a-{name}.png")["instruction"] == "make it snow"
    assert images.read_recipe(out / "a-strip.png")["frames"] == 3
    again = edit(album, "make it snow", "--out", out, "--grid", "--strip", 3)
    assert "is there already" in again.stdout
