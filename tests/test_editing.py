"""Edits: the guided sampler against a slow loop, rows that know nothing of each other, and what is refused."""

from copy import deepcopy
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image

from ip2p_lib import images
from ip2p_lib.diffusion import euler_ancestral
from ip2p_lib.editing import check_scales, edit, edit_latents
from ip2p_lib.guidance import dual_guidance
from ip2p_lib.presets import MINIATURE
from ip2p_lib.scenes import render, sample_scenes

INSTRUCTIONS = ["make it night", "add a rainbow", "turn the house into a cat"]


@pytest.fixture(scope="module")
def pictures():
    return [render(s, 32) for s in sample_scenes(3, 5)]


def conditions(editor, pictures):
    return editor.image_latents(images.to_tensor(pictures))


def sampled(editor, pictures, texts, s_text, s_image, seeds, steps=4):
    *_, last = edit_latents(
        editor,
        conditions(editor, pictures),
        editor.encode_text(texts),
        editor.encode_text([""]),
        guidance_scales=s_text,
        image_guidance_scales=s_image,
        seeds=seeds,
        num_inference_steps=steps,
    )
    return last.latents


def slow(editor, picture, text, s_text, s_image, seed, steps=4):
    """All three predictions, one by one, whatever the scales."""
    condition = conditions(editor, [picture])
    states, null = editor.encode_text([text]), editor.encode_text([""])

    def predict(scaled, timestep, step):
        with torch.no_grad():
            full, image_only, uncond = (
                editor.unet(torch.cat([scaled, c], 1), timestep, s).sample
                for c, s in ((condition, states), (condition, null), (torch.zeros_like(condition), null))
            )
        return dual_guidance(full, image_only, uncond, guidance_scale=s_text, image_guidance_scale=s_image)

    *_, last = euler_ancestral(
        predict, editor.scheduler, seeds=[seed], shape=tuple(condition.shape[1:]), num_inference_steps=steps
    )
    return last.latents


@pytest.mark.parametrize(
    ("s_text", "s_image"),
    [(7.5, 1.5), (7.5, 1.0), (2.0, 2.0), (1.0, 1.0), (0.0, 0.0), (0.0, 1.0), (3.0, 0.4), (0.5, 0.5)],
)
def test_an_edit_is_the_formula_of_three_predictions(any_editor, pictures, s_text, s_image):
    ours = sampled(any_editor, pictures[:1], INSTRUCTIONS[:1], [s_text], [s_image], [3])
    expected = slow(any_editor, pictures[0], INSTRUCTIONS[0], s_text, s_image, 3)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)  # fp32 over many steps


@pytest.mark.parametrize(
    ("s_text", "s_image", "rows"), [(7.5, 1.5, 3), (3.0, 0.4, 3), (7.5, 1.0, 2), (2.0, 2.0, 2), (1.0, 1.0, 1)]
)
def test_predictions_of_zero_weight_are_never_computed(editor, pictures, s_text, s_image, rows):
    seen = []
    hook = editor.unet.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    try:
        sampled(editor, pictures[:1], INSTRUCTIONS[:1], [s_text], [s_image], [3])
    finally:
        hook.remove()
    assert seen == [rows] * 4


def test_rows_with_their_own_scales_do_not_depend_on_each_other(any_editor, pictures):
    s_text, s_image, seeds = [7.5, 1.0, 2.0], [1.5, 1.0, 0.5], [3, 9, 3]
    together = sampled(any_editor, pictures, INSTRUCTIONS, s_text, s_image, seeds)
    for row in range(3):
        alone = sampled(
            any_editor, pictures[row : row + 1], INSTRUCTIONS[row : row + 1],
            s_text[row : row + 1], s_image[row : row + 1], seeds[row : row + 1],
        )  # fmt: skip
        torch.testing.assert_close(
            together[row : row + 1], alone, rtol=5e-4, atol=5e-4
        )  # other batch, other rounding


def test_a_result_does_not_depend_on_its_batch_mates(editor, pictures, edit_config):
    arguments = {"config": edit_config, "seed": [4, 5, 6], "guidance_scale": [3.0, 7.5, 1.0]}
    together = edit(editor, pictures, INSTRUCTIONS, **arguments)
    in_twos = edit(editor, pictures, INSTRUCTIONS, **arguments, batch_size=2)
    for row in range(3):
        alone = edit(
            editor, pictures[row], INSTRUCTIONS[row], config=edit_config, seed=4 + row,
            guidance_scale=arguments["guidance_scale"][row],
        )[0]  # fmt: skip
        for other in (together[row], in_twos[row]):
            difference = np.abs(np.asarray(alone.picture, dtype=int) - np.asarray(other.picture, dtype=int))
            assert difference.max() <= 1  # one level of rounding
            assert other.recipe == alone.recipe


def test_picture_instruction_scales_and_seed_all_matter(editor, pictures, edit_config):
    first = {"pictures": pictures[0], "instructions": INSTRUCTIONS[0], "seed": 1, "guidance_scale": 3.0}
    first |= {"image_guidance_scale": 1.5, "num_inference_steps": 4}
    other = {"pictures": pictures[1], "instructions": INSTRUCTIONS[1], "seed": 2, "guidance_scale": 30.0}
    other |= {"image_guidance_scale": 4.0, "num_inference_steps": 3}
    picture = np.asarray(edit(editor, **first, config=edit_config)[0].picture)
    assert np.array_equal(picture, edit(editor, **first, config=edit_config)[0].picture)
    for name, value in other.items():
        changed = edit(editor, **{**first, name: value}, config=edit_config)[0].picture
        assert not np.array_equal(picture, changed), name


def test_one_picture_takes_many_instructions_and_one_instruction_many_pictures(editor, pictures, edit_config):
    many = edit(editor, pictures[0], INSTRUCTIONS, config=edit_config)
    assert [r.recipe.instruction for r in many] == INSTRUCTIONS
    spread = edit(editor, pictures, INSTRUCTIONS[0], config=edit_config, seed=[7, 8, 9])
    assert [r.recipe.seed for r in spread] == [7, 8, 9]


def test_pictures_of_several_sizes_come_back_in_order(editor, edit_config):
    sizes = [(64, 32), (40, 40), (128, 64), (32, 64)]
    results = edit(editor, [Image.new("RGB", s, "teal") for s in sizes], INSTRUCTIONS[0], config=edit_config)
    expected = [images.edit_size(*s, edit_config.resolution, edit_config.multiple) for s in sizes]
    assert [r.picture.size for r in results] == expected
    assert len(set(expected)) == 3


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_a_picture_of_any_mode_is_edited(editor, edit_config, mode):
    result = edit(editor, Image.new(mode, (40, 33)), INSTRUCTIONS[0], config=edit_config)[0]
    assert result.picture.mode == "RGB"
    assert result.picture.size == (32, 32)


def test_defaults_are_the_configurations(editor, pictures, edit_config):
    recipe = edit(editor, pictures[0], INSTRUCTIONS[0], config=edit_config)[0].recipe
    assert (recipe.guidance_scale, recipe.image_guidance_scale) == (7.5, 1.5)
    assert (recipe.num_inference_steps, recipe.seed, recipe.model) == (4, 0, editor.name)
    other = edit(
        editor, pictures[0], INSTRUCTIONS[0], config=edit_config, guidance_scale=0, image_guidance_scale=0.0
    )
    assert (other[0].recipe.guidance_scale, other[0].recipe.image_guidance_scale) == (0, 0)


def test_a_saved_edit_can_be_repeated_from_its_recipe(editor, pictures, edit_config, tmp_path):
    result = edit(editor, pictures[0], INSTRUCTIONS[1], config=edit_config, seed=11, guidance_scale=3.3)[0]
    result.save(tmp_path / "e.png")
    recipe = images.read_recipe(tmp_path / "e.png")
    assert recipe == asdict(result.recipe)
    again = edit(
        editor, pictures[0], recipe["instruction"], config=edit_config, seed=recipe["seed"],
        guidance_scale=recipe["guidance_scale"], image_guidance_scale=recipe["image_guidance_scale"],
        num_inference_steps=recipe["num_inference_steps"],
    )[0]  # fmt: skip
    assert np.array_equal(again.picture, images.open_picture(tmp_path / "e.png"))


def test_leaving_the_loop_stops_the_edit(editor, pictures):
    calls = []
    hook = editor.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    steps = edit_latents(
        editor, conditions(editor, pictures[:1]), editor.encode_text(["a"]), editor.encode_text([""]),
        guidance_scales=[3.0], image_guidance_scales=[1.5], seeds=[0], num_inference_steps=50,
    )  # fmt: skip
    try:
        for step in steps:
            if step.index == 1:
                break
        steps.close()
    finally:
        hook.remove()
    assert len(calls) == 2


def test_an_edit_that_is_no_number_is_refused(editor, pictures, edit_config):
    broken = editor.with_unet(deepcopy(editor.unet), "broken")
    broken.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="numbers that broken computes must be finite"):
        edit(broken, pictures[0], INSTRUCTIONS[0], config=edit_config)


@pytest.mark.parametrize("name", ["guidance_scale", "image_guidance_scale"])
@pytest.mark.parametrize("value", [-0.1, 100.1, float("nan"), float("inf")])
def test_a_scale_without_meaning_is_refused_by_name(editor, pictures, edit_config, name, value):
    with pytest.raises(ValueError, match=rf"^{name} must lie in 0\.\.100, got {value}"):
        edit(editor, pictures[0], INSTRUCTIONS[0], config=edit_config, **{name: value})


def test_scales_from_zero_to_a_hundred_are_legal():
    assert check_scales([0, 0.3, 1, 100], [100.0, 0.9, 0.0]) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instructions": ""}, "must contain words"),
        ({"instructions": ["make it night", "  "]}, "must contain words"),
        ({"instructions": "bzwqk xkcdvf"}, "unknown here: bzwqk"),
        ({"instructions": "make it night and " * 30}, "must fit in 32 tokens"),
        ({"instructions": INSTRUCTIONS, "seed": [1, 2]}, r"seed must be one value or 3, one per edit; got 2"),
        (
            {"instructions": INSTRUCTIONS[:2], "guidance_scale": [1, 2, 3]},
            "instructions must be one value or 3",
        ),
        ({"num_inference_steps": 0}, r"num_inference_steps must lie in 1\.\.1000, got 0"),
        ({"pictures": Image.new("RGB", (0, 4))}, "must have an area"),
    ],
)
def test_what_cannot_be_edited_is_refused(editor, pictures, edit_config, change, message):
    arguments = {"pictures": pictures[0], "instructions": INSTRUCTIONS[0], "config": edit_config}
    with pytest.raises(ValueError, match=message):
        edit(editor, **{**arguments, **change})


def test_the_shipped_editor_changes_what_is_asked_and_keeps_the_rest(shipped_editor):
    """Every edit must alter its picture, and on the whole stay closer to its own input than to another."""
    scenes = [replace(s, style="plain", time="day") for s in sample_scenes(8, 911)]
    inputs = [render(s, 64) for s in scenes]
    results = edit(shipped_editor, inputs, "make it night", config=MINIATURE.edit)
    for before, result in zip(inputs, results, strict=True):
        assert not np.array_equal(before, result.picture)
        assert result.picture.size == before.size
    edited = images.to_tensor([r.picture for r in results])
    own, other = (
        (images.to_tensor(compared) - edited).abs().mean() for compared in (inputs, inputs[1:] + inputs[:1])
    )
    assert own < other
