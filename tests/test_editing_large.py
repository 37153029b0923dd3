"""Large pictures: tiles of bounded size, close to one piece; at the usual sizes nothing changes."""

from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image

from ip2p_lib import images
from ip2p_lib.editing import edit, film, large
from ip2p_lib.editing.large import decoded, encoded, tiled
from ip2p_lib.presets import EditConfig
from ip2p_lib.scenes import render, sample_scenes


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 32 pixels for what has more than 48 x 48."""
    monkeypatch.setattr(large, "TILE", 32)
    monkeypatch.setattr(large, "WHOLE", 48 * 48)


@pytest.fixture
def seen(editor):
    """Sides of what encoder and decoder were given."""
    found = {"encoder": [], "decoder": []}
    hooks = [
        getattr(editor.vae, name).register_forward_pre_hook(
            lambda _, x, n=name: found[n].append(tuple(x[0].shape))
        )
        for name in found
    ]
    yield found
    for hook in hooks:
        hook.remove()


def settings_of(vae):
    return vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size


def test_a_large_picture_is_edited_in_tiles_of_bounded_size(editor, small_tiles, seen):
    before, source = settings_of(editor.vae), render(sample_scenes(1, 5)[0], 96).resize((96, 64))
    config = EditConfig(num_inference_steps=2, resolution=96, multiple=16)
    result = edit(editor, source, ["make it night", "add a rainbow"], config=config)
    assert [r.picture.size for r in result] == [(96, 64)] * 2
    assert not np.array_equal(result[0].picture, result[1].picture)
    assert len(seen["encoder"]) > 1
    assert all(batch == 1 and max(sides) <= 32 for batch, _, *sides in seen["encoder"])
    assert all(batch == 1 and max(sides) <= 32 // editor.factor for batch, _, *sides in seen["decoder"])
    assert settings_of(editor.vae) == before


def test_at_the_usual_size_there_are_no_tiles(editor, small_tiles, seen):
    config = EditConfig(num_inference_steps=1, resolution=48, multiple=16)
    edit(editor, Image.new("RGB", (48, 48), "teal"), "make it night", config=config)
    assert seen == {"encoder": [(1, 3, 48, 48)], "decoder": [(1, 4, 24, 24)]}


def test_the_usual_size_is_what_the_released_rule_makes_of_resolution_512():
    """Pictures of all shapes but the longest strips stay in one piece."""
    sizes = [(512, 512), (1024, 768), (640, 480), (1920, 1080), (600, 400), (300, 200)]
    assert all(w * h <= large.WHOLE for w, h in (images.edit_size(*s, 512, 64) for s in sizes))
    assert large.WHOLE < 1024 * 768


def test_settings_return_after_an_error_and_when_a_film_is_left(editor, small_tiles):
    before = settings_of(editor.vae)
    with suppress(ZeroDivisionError), tiled(editor.vae, 10_000):
        assert settings_of(editor.vae) == (True, 32, 32 // editor.factor)
        1 / 0  # noqa: B018
    assert settings_of(editor.vae) == before
    config = EditConfig(num_inference_steps=3, resolution=96, multiple=16)
    frames = film(editor, Image.new("RGB", (96, 64), "teal"), "make it night", config=config)
    next(frames)
    assert settings_of(editor.vae) == before
    frames.close()


def test_what_cannot_be_cut_into_tiles_stays_in_one_piece():
    with tiled(torch.nn.Identity(), 10**9) as in_tiles:
        assert not in_tiles


@pytest.mark.slow
def test_the_shipped_autoencoder_hardly_shows_its_tiles(shipped_editor, monkeypatch):
    picture = render(sample_scenes(1, 911)[0], 256).resize((1024, 768))
    whole_latents = shipped_editor.image_latents(images.to_tensor([picture]))
    latents = encoded(shipped_editor, picture)
    assert not torch.equal(latents, whole_latents)
    assert (latents - whole_latents).abs().mean() < 0.05 * whole_latents.std()
    scaled = whole_latents * shipped_editor.vae.config.scaling_factor
    in_tiles = images.to_tensor(decoded(shipped_editor, scaled))
    whole = shipped_editor.decode_latents(scaled)
    assert (in_tiles - whole).abs().mean() < 0.02  # of a range of 2


@pytest.mark.slow
def test_a_picture_of_1024_x_768_is_edited(shipped_editor):
    config = EditConfig(
        guidance_scale=1.0, image_guidance_scale=1.0, num_inference_steps=1, resolution=1024, multiple=64
    )
    picture = render(sample_scenes(1, 911)[0], 256).resize((1024, 768))
    result = edit(shipped_editor, picture, "make it night", config=config)[0]
    assert result.picture.size == (1024, 768)
