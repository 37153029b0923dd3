"""The four cosines, against a slow loop, and CLIP's preprocessing as the thresholds need it."""

import math

import pytest
import torch

from ip2p_lib import images
from ip2p_lib.evaluation import different_captions, scene_pixels
from ip2p_lib.scenes import sample_scenes
from ip2p_lib.similarity import image_features, preprocess, score_edits, similarities, text_features


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.functional.normalize(torch.randn(7, 16, generator=generator), dim=-1) for _ in range(4)]


@pytest.fixture
def pixels():
    return torch.rand(5, 3, 48, 80, generator=torch.Generator().manual_seed(1))


def undone(normalised, clip):
    return normalised * torch.tensor(clip.std).view(3, 1, 1) + torch.tensor(clip.mean).view(3, 1, 1)


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_similarities_are_those_of_a_slow_loop(features):
    found = similarities(*features)
    for row in range(7):
        i0, i1, t0, t1 = (f[row].tolist() for f in features)
        change = [[b - a for a, b in zip(*pair, strict=True)] for pair in ((i0, i1), (t0, t1))]
        expected = [cosine(i0, t0), cosine(i1, t1), cosine(*change), cosine(i0, i1)]
        assert [v[row].item() for v in found.values()] == pytest.approx(expected, abs=1e-5)
    assert list(found) == ["clip_sim_0", "clip_sim_1", "clip_sim_dir", "clip_sim_image"]


def test_no_change_has_direction_zero_and_never_nan(features):
    i0, _, t0, t1 = features
    same_picture, same_caption = similarities(i0, i0, t0, t1), similarities(i0, t1, t0, t0)
    assert same_picture["clip_sim_dir"].tolist() == [0] * 7
    assert same_caption["clip_sim_dir"].tolist() == [0] * 7
    torch.testing.assert_close(same_picture["clip_sim_image"], torch.ones(7))


def test_a_reversed_edit_keeps_its_direction(features):
    i0, i1, t0, t1 = features
    forth, back = similarities(i0, i1, t0, t1), similarities(i1, i0, t1, t0)
    torch.testing.assert_close(forth["clip_sim_dir"], back["clip_sim_dir"])
    torch.testing.assert_close(forth["clip_sim_0"], back["clip_sim_1"])


@pytest.mark.parametrize("range_", [(-1.0, 1.0), (0.0, 255.0)])
def test_clip_refuses_pictures_of_another_range(clip, pixels, range_):
    low, high = range_
    with pytest.raises(ValueError, match=r"takes pictures in \[0, 1\], got values from .*images\.to_unit"):
        preprocess(low + (high - low) * pixels, clip)


def test_preprocessing_squashes_to_a_square_and_normalises(clip):
    flat = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 20, 50)
    out = preprocess(flat, clip)
    assert out.shape == (1, 3, 64, 64)
    expected = [(v - m) / s for v, m, s in zip((0.2, 0.5, 0.9), clip.mean, clip.std, strict=True)]
    torch.testing.assert_close(out.amin((0, 2, 3)), torch.tensor(expected), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.amax((0, 2, 3)), torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_preprocessing_neither_crops_nor_smooths_nor_clamps(clip):
    edge = torch.zeros(1, 3, 256, 256)
    edge[..., 128:] = 1
    out = undone(preprocess(edge, clip), clip)
    assert out[..., :30].abs().max() < 1e-4  # the left half is still there
    assert (out[..., 34:] - 1).abs().max() < 1e-4
    wave = (torch.arange(256) % 4 % 3 > 0).float().expand(1, 3, 256, 256)
    back = undone(preprocess(wave, clip), clip)[..., 1:-1]
    assert back.min() > 1.1  # antialiasing would turn this into 0.5, a clamp into 1


def test_features_have_unit_length_and_ignore_batch_mates(clip, pixels):
    together = image_features(clip, pixels)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(image_features(clip, pixels, batch_size=2), together, rtol=1e-4, atol=1e-5)
    texts = ["a red house", "a cat at night", "a red house"]
    words = text_features(clip, texts)
    torch.testing.assert_close(words.norm(dim=1), torch.ones(3))
    assert torch.equal(words[0], words[2])
    torch.testing.assert_close(text_features(clip, texts[1:], batch_size=1), words[1:], rtol=1e-4, atol=1e-5)


def test_equal_texts_are_encoded_once(clip):
    seen = []
    hook = clip.model.transformer.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    try:
        text_features(clip, ["a cat", "a house", "a cat", "a cat"])
    finally:
        hook.remove()
    assert seen == [2]


def test_scores_of_edits_are_the_cosines_of_their_features(clip, pixels):
    before, after = pixels[:2], pixels[2:4]
    texts, edited = ["a red house", "a cat"], ["a red house at night", "a robot"]
    scores = score_edits(clip, before, after, texts, edited)
    parts = [image_features(clip, before), image_features(clip, after)]
    parts += [text_features(clip, texts), text_features(clip, edited)]
    expected = similarities(*parts)
    for row, score in enumerate(scores):
        for name, values in expected.items():
            assert getattr(score, name) == pytest.approx(values[row].item(), abs=1e-4)


def test_the_shipped_clip_prefers_true_captions(shipped_clip):
    scenes, captions = different_captions(sample_scenes(40, 905), 32)
    pictures = image_features(shipped_clip, images.to_unit(scene_pixels(scenes)))
    scores = pictures @ text_features(shipped_clip, captions).T
    assert (scores.argmax(1) == torch.arange(32)).float().mean() > 0.8
