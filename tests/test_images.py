"""Pictures of every kind come in as upright RGB, ranges change here alone, and sizes follow the released rule."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from ip2p_lib import images

SIZES = [
    ((512, 512), (512, 512)),
    ((1024, 768), (512, 384)),
    ((640, 480), (512, 384)),
    ((1920, 1080), (512, 320)),
    ((600, 400), (576, 384)),  # the short side is rounded up, so the long side exceeds 512
    ((300, 200), (576, 384)),
    ((4000, 500), (512, 64)),
    ((1000, 667), (512, 384)),  # floats give 320 here
]


def saved(image, path, **options):
    image.save(path, **options)
    return images.open_picture(path)


def pixel(image, x=0, y=0):
    assert image.mode == "RGB"
    return image.getpixel((x, y))


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_edit_size_follows_the_released_rule(before, after):
    assert images.edit_size(*before, 512, 64) == after
    assert images.edit_size(*before[::-1], 512, 64) == after[::-1]


def test_edit_size_is_exact_where_floats_lose_a_multiple():
    for width in range(400, 1400, 7):
        for height in range(300, width, 13):
            short = math.ceil(Fraction(512 * height, width) / 64) * 64
            long = int(Fraction(width * short, height)) // 64 * 64
            assert images.edit_size(width, height, 512, 64) == (long, short)


def test_edit_size_obeys_other_resolutions_and_multiples():
    assert images.edit_size(640, 480, 64, 32) == (64, 64)
    assert images.edit_size(64, 64, 128, 32) == (128, 128)


@pytest.mark.parametrize("arguments", [(0, 5, 512, 64), (5, -1, 512, 64), (5, 5, 0, 64), (5, 5, 512, 0)])
def test_a_side_that_is_not_positive_is_refused(arguments):
    with pytest.raises(ValueError, match="must be positive"):
        images.edit_size(*arguments)


def test_a_missing_picture_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must be a picture file, found none at .*p\.png"):
        images.open_picture(tmp_path / "p.png")


@pytest.mark.parametrize(
    "content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0 jpeg?"]
)
def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path, content):
    (tmp_path / "p.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"p\.png must be a picture"):
        images.open_picture(tmp_path / "p.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "TIFF"])
def test_a_picture_cut_short_is_refused_by_name(tmp_path, picture, kind):
    path = tmp_path / "p"
    picture.save(path, kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"p must be a picture"):
        images.open_picture(path)


def test_an_enormous_picture_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 1_000)
    Image.new("RGB", (50, 20)).save(tmp_path / "fits.png")
    Image.new("RGB", (50, 21)).save(tmp_path / "huge.png")
    assert images.open_picture(tmp_path / "fits.png").size == (50, 20)
    with pytest.raises(ValueError, match=r"huge\.png must have at most 1,000 pixels, got 50 x 21"):
        images.open_picture(tmp_path / "huge.png")


def test_a_decompression_bomb_is_refused_like_any_enormous_picture(tmp_path, monkeypatch):
    Image.new("RGB", (50, 21)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"bomb\.png must have at most"):
        images.open_picture(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match="row 3 must"):
        images.from_bytes((tmp_path / "bomb.png").read_bytes(), "row 3")


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_a_picture_without_area_is_refused(size):
    with pytest.raises(ValueError, match=f"must have an area, got {size[0]} x {size[1]}"):
        images.to_rgb(Image.new("RGB", size))


def test_rotation_of_the_camera_is_undone(tmp_path):
    image = Image.new("RGB", (40, 20), "red")
    image.paste("blue", (0, 0, 20, 20))  # left half
    exif = Image.Exif()
    exif[0x0112] = 6  # shown upright after a quarter turn clockwise
    upright = saved(image, tmp_path / "p.jpg", exif=exif, quality=100)
    assert upright.size == (20, 40)
    assert pixel(upright, 10, 5)[2] > 200  # the left half went up
    assert pixel(upright, 10, 35)[0] > 200


def test_transparency_is_laid_on_white(tmp_path):
    clear, half = Image.new("RGBA", (4, 4), (0, 0, 0, 0)), Image.new("LA", (4, 4), (0, 128))
    assert pixel(saved(clear, tmp_path / "a.png")) == (255, 255, 255)
    assert pixel(saved(half, tmp_path / "b.png")) == pytest.approx((127, 127, 127), abs=1)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 10, 10])
    assert pixel(saved(palette, tmp_path / "c.gif", transparency=1)) == (255, 255, 255)
    assert pixel(saved(palette, tmp_path / "d.png")) == (200, 10, 10)


@pytest.mark.parametrize(
    ("mode", "value", "name", "expected"),
    [
        ("L", 90, "p.png", (90, 90, 90)),
        ("1", 1, "p.png", (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), "p.tif", (255, 0, 0)),
        ("I;16", 32896, "p.png", (128, 128, 128)),
        ("I;16", 1285, "p.tif", (5, 5, 5)),
        ("F", 77.0, "p.tif", (77, 77, 77)),
        ("F", -9.0, "p.tif", (0, 0, 0)),
        ("F", 0.5, "p.tif", (128, 128, 128)),
    ],
)
def test_every_mode_comes_in_with_its_brightness(tmp_path, mode, value, name, expected):
    assert pixel(saved(Image.new(mode, (6, 6), value), tmp_path / name)) == expected


def test_tensors_hold_the_declared_range_and_give_every_byte_back():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([ramp, ramp.T, 255 - ramp], axis=-1))
    pixels = images.to_tensor([image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    assert pixels.shape == (2, 3, 16, 16)
    assert (pixels.min().item(), pixels.max().item()) == (-1, 1)
    assert np.array_equal(images.to_pictures(pixels)[0], image)
    assert torch.equal(pixels[1], pixels[0].flip(-1))


def test_tensors_outside_the_range_are_clipped():
    wild = torch.tensor([-7.0, 0.0, 7.0]).view(1, 3, 1, 1)
    assert pixel(images.to_pictures(wild)[0]) == (0, 128, 255)
    assert images.to_unit(wild).flatten().tolist() == [0, 0.5, 1]


def test_a_batch_of_two_sizes_is_refused():
    with pytest.raises(ValueError, match=r"share one size, got \[\(4, 4\), \(4, 5\)\]"):
        images.to_tensor([Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5))])


def test_fit_crops_around_the_centre():
    image = Image.new("RGB", (60, 20), "white")
    image.paste("red", (20, 0, 40, 20))
    assert np.array_equal(images.fit(image, (20, 20)), np.full((20, 20, 3), (255, 0, 0)))
    assert images.fit(image, (60, 20)) is image


def test_a_grid_shows_every_picture_in_its_place():
    sheet = images.grid([Image.new("RGB", (4, 4), c) for c in ("red", "lime", "blue")], 2, gap=1)
    assert sheet.size == (9, 9)
    assert [sheet.getpixel(xy) for xy in ((0, 0), (5, 0), (0, 5), (5, 5))] == [
        (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255),
    ]  # fmt: skip


def test_bytes_in_shards_lose_nothing(picture):
    assert np.array_equal(images.from_bytes(images.png_bytes(picture)), picture)


def test_bytes_that_are_no_picture_are_refused_by_name():
    with pytest.raises(ValueError, match=r"row 3 must hold a picture"):
        images.from_bytes(b"nothing", "row 3")


def test_a_picture_carries_its_recipe(tmp_path, picture):
    recipe = {"instruction": "make it ≥ night", "seed": 3, "guidance_scale": 7.5}
    images.save_with_recipe(picture, tmp_path / "e.png", recipe)
    assert images.read_recipe(tmp_path / "e.png") == recipe
    assert np.array_equal(images.open_picture(tmp_path / "e.png"), picture)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_picture_without_a_usable_recipe_is_refused(tmp_path, picture):
    picture.save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="must carry a recipe, found none"):
        images.read_recipe(tmp_path / "plain.png")
    for name in ("text.png", "absent.png"):
        with pytest.raises(ValueError, match=f"{name} must be a picture with a recipe"):
            images.read_recipe(tmp_path / name)


def test_a_ribbon_of_a_picture_is_refused():
    with pytest.raises(ValueError, match="at most 20 times, got 10000 x 10"):
        images.edit_size(10_000, 10, 512, 64)
