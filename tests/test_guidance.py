"""Guidance with one and two conditions: the formula's fixed points, and the branches it needs."""

import pytest
import torch

from ip2p_lib.guidance import Branches, dual_guidance, single_guidance


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 4, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3)]


def by_branches(predictions, text, image):
    """Combine only the predictions that Branches asks for."""
    full, image_only, uncond = predictions
    branches = Branches.of(text, image)
    of = {(True, True): full, (False, True): image_only, (False, False): uncond}
    asked = [of[flags] for flags in zip(branches.has_text, branches.has_image, strict=True)]
    return branches.combine(torch.cat(asked)), len(asked)


def test_scales_of_one_return_the_fully_conditioned_prediction(predictions):
    out = dual_guidance(*predictions, guidance_scale=1.0, image_guidance_scale=1.0)
    torch.testing.assert_close(out, predictions[0])


def test_scales_of_zero_return_the_unconditional_prediction(predictions):
    out = dual_guidance(*predictions, guidance_scale=0.0, image_guidance_scale=0.0)
    torch.testing.assert_close(out, predictions[2], rtol=0, atol=0)


def test_text_scale_zero_and_image_scale_one_return_the_image_only_prediction(predictions):
    out = dual_guidance(*predictions, guidance_scale=0.0, image_guidance_scale=1.0)
    torch.testing.assert_close(out, predictions[1])


def test_reduces_to_ordinary_guidance_when_the_image_changes_nothing(predictions):
    full, uncond, _ = predictions
    out = dual_guidance(full, uncond, uncond, guidance_scale=7.5, image_guidance_scale=1.5)
    torch.testing.assert_close(out, single_guidance(full, uncond, 7.5))


def test_each_scale_moves_along_its_own_leg(predictions):
    full, image_only, uncond = predictions
    slow = dual_guidance(*predictions, guidance_scale=2.0, image_guidance_scale=1.5)
    more_text = dual_guidance(*predictions, guidance_scale=3.0, image_guidance_scale=1.5)
    more_image = dual_guidance(*predictions, guidance_scale=2.0, image_guidance_scale=2.5)
    torch.testing.assert_close(more_text - slow, full - image_only)
    torch.testing.assert_close(more_image - slow, image_only - uncond)


def test_ordinary_guidance_walks_from_uncond_through_cond(predictions):
    cond, uncond, _ = predictions
    torch.testing.assert_close(single_guidance(cond, uncond, 0.0), uncond)
    torch.testing.assert_close(single_guidance(cond, uncond, 1.0), cond)
    torch.testing.assert_close(single_guidance(cond, uncond, 3.0), 3 * cond - 2 * uncond)


def test_every_row_may_have_its_own_scale(predictions):
    text, image = torch.tensor([7.5, 1.0, 0.3]), torch.tensor([1.5, 0.0, 2.0])
    together = dual_guidance(*predictions, guidance_scale=text, image_guidance_scale=image)
    single = single_guidance(predictions[0], predictions[1], text)
    for row in range(3):
        alone = [p[row : row + 1] for p in predictions]
        expected = dual_guidance(
            *alone, guidance_scale=text[row].item(), image_guidance_scale=image[row].item()
        )
        torch.testing.assert_close(together[row : row + 1], expected)
        torch.testing.assert_close(
            single[row : row + 1], single_guidance(*alone[:2], text[row].item()), rtol=1e-6, atol=1e-6
        )


def test_a_batch_mismatch_is_refused_rather_than_broadcast(predictions):
    with pytest.raises(ValueError, match=r"one shape, got .*\(1, 4, 8, 8\)"):
        dual_guidance(
            predictions[0], predictions[1][:1], predictions[2], guidance_scale=7.5, image_guidance_scale=1.5
        )


@pytest.mark.parametrize(
    ("text", "image", "count"),
    [
        (7.5, 1.5, 3),
        (3.0, 0.5, 3),  # below 1 is a legal value
        (0.4, 0.7, 3),
        (7.5, 1.0, 2),  # nothing of "no condition"
        (2.0, 2.0, 2),  # nothing of "picture alone"
        (0.0, 1.5, 2),
        (0.5, 0.5, 2),
        (1.0, 1.0, 1),
        (0.0, 1.0, 1),
        (0.0, 0.0, 1),
    ],
)
def test_branches_give_the_formula_with_no_prediction_of_zero_weight(predictions, text, image, count):
    combined, asked = by_branches(predictions, [text] * 3, [image] * 3)
    expected = dual_guidance(*predictions, guidance_scale=text, image_guidance_scale=image)
    assert asked == count
    torch.testing.assert_close(combined, expected, rtol=1e-5, atol=1e-5)


def test_a_branch_is_kept_when_a_single_row_needs_it(predictions):
    text, image = [7.5, 1.0, 2.0], [1.0, 1.0, 2.0]
    combined, asked = by_branches(predictions, text, image)
    expected = dual_guidance(
        *predictions, guidance_scale=torch.tensor(text), image_guidance_scale=torch.tensor(image)
    )
    assert asked == 3
    torch.testing.assert_close(combined, expected, rtol=1e-5, atol=1e-5)


def test_two_branches_suffice_when_no_row_needs_the_third(predictions):
    text, image = [7.5, 3.0, 0.2], [1.0, 1.0, 1.0]
    combined, asked = by_branches(predictions, text, image)
    expected = dual_guidance(*predictions, guidance_scale=torch.tensor(text), image_guidance_scale=1.0)
    assert asked == 2
    torch.testing.assert_close(combined, expected, rtol=1e-5, atol=1e-5)


def test_branches_never_ask_for_text_without_a_picture():
    for text, image in ((7.5, 1.5), (3.0, 0.0), (1.0, 1.0), (0.0, 0.0)):
        branches = Branches.of([text], [image])
        assert all(i or not t for t, i in zip(branches.has_text, branches.has_image, strict=True))
