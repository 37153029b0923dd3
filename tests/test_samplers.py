"""Samplers by name: exact for a known answer, diffusers' own results, rows that do not depend on each other."""

from dataclasses import asdict

import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline

from ip2p_lib import images
from ip2p_lib.diffusion import seeded_noise
from ip2p_lib.editing import edit, edit_latents, film
from ip2p_lib.presets import EditConfig
from ip2p_lib.samplers import OTHERS, SAMPLERS, make_scheduler, sample, timesteps_of

CONFIG = EditConfig(
    guidance_scale=3.0, image_guidance_scale=1.5, num_inference_steps=6, resolution=32, multiple=16
)


def knowing(scheduler, answer):
    """A network that knows the clean latents: any sampler must end there, at every step of its estimate too."""

    def predict(scaled, timestep, step):
        low = scheduler.alphas_cumprod[timestep.floor().long()].double()
        high = scheduler.alphas_cumprod[timestep.ceil().long()].double()
        fraction = (timestep - timestep.floor()).double()
        log_sigma = (1 - fraction) * ((1 - low) / low).log() / 2 + fraction * ((1 - high) / high).log() / 2
        kept = 1 / (1 + (2 * log_sigma).exp())
        noise = (scaled.double() - kept.sqrt() * answer) / (1 - kept).sqrt()
        if scheduler.config.prediction_type == "epsilon":
            return noise.float()
        return (kept.sqrt() * noise - (1 - kept).sqrt() * answer).float()

    return predict


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_a_network_that_knows_the_answer_is_led_there(backbone, name, steps):
    answer = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    found = list(
        sample(name, knowing(backbone.scheduler, answer), backbone.scheduler, seeds=(1, 2), shape=(4, 8, 8),
               num_inference_steps=steps)
    )  # fmt: skip
    assert [s.index for s in found] == list(range(steps))
    assert found[-1].sigma == 0
    levels = [s.sigma for s in found]
    assert levels == sorted(levels, reverse=True)
    for step in found:
        torch.testing.assert_close(step.denoised.double(), answer, rtol=0, atol=2e-2)
    torch.testing.assert_close(found[-1].latents.double(), answer, rtol=0, atol=8e-2)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_network_that_predicts_something_unknown_is_refused(base, name):
    scheduler = type(base.scheduler).from_config(base.scheduler.config, prediction_type="sample")
    steps = sample(name, lambda *_: None, scheduler, seeds=(1,), shape=(4, 8, 8), num_inference_steps=2)
    with pytest.raises(
        ValueError, match="prediction_type must be one of epsilon, v_prediction; got 'sample'"
    ):
        next(steps)


@pytest.mark.parametrize("name", OTHERS)
def test_an_edit_is_what_diffusers_pipeline_makes_with_that_scheduler(any_editor, picture, name):
    size = images.edit_size(*picture.size, 32, 16)
    source = images.fit(images.to_rgb(picture), size)
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=any_editor.vae, text_encoder=any_editor.text_encoder, tokenizer=any_editor.tokenizer,
        unet=any_editor.unet, scheduler=make_scheduler(name, any_editor.scheduler), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    pixels = images.to_tensor([source])
    shape = (4, pixels.shape[2] // any_editor.factor, pixels.shape[3] // any_editor.factor)
    theirs = pipeline(
        "make it night", image=(pixels + 1) / 2, latents=seeded_noise([7], shape), num_inference_steps=6,
        guidance_scale=3.0, image_guidance_scale=1.5, output_type="latent",
    ).images  # fmt: skip
    *_, last = edit_latents(
        any_editor, any_editor.image_latents(pixels), any_editor.encode_text(["make it night"]),
        any_editor.encode_text([""]), guidance_scales=[3.0], image_guidance_scales=[1.5], seeds=[7],
        num_inference_steps=6, sampler=name,
    )  # fmt: skip
    torch.testing.assert_close(last.latents, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_row_does_not_depend_on_its_batch_mates_and_the_recipe_tells_the_sampler(editor, picture, name):
    two = edit(editor, picture, "make it night", config=CONFIG, seed=[3, 4], sampler=name)
    one = edit(editor, picture, "make it night", config=CONFIG, seed=4, sampler=name)[0]
    a, b = (images.to_tensor([r.picture]) for r in (two[1], one))
    torch.testing.assert_close(a, b, rtol=0, atol=1.01 / 127.5)
    assert asdict(one.recipe)["sampler"] == name
    *_, (step, picture_of_last) = film(editor, picture, "make it night", config=CONFIG, seed=4, sampler=name)
    assert step.index == 5
    assert images.png_bytes(picture_of_last) == images.png_bytes(one.picture)


def test_samplers_differ_and_an_unknown_one_is_refused(editor, picture):
    made = {
        n: images.png_bytes(edit(editor, picture, "make it night", config=CONFIG, sampler=n)[0].picture)
        for n in SAMPLERS
    }
    assert len(set(made.values())) == len(SAMPLERS)
    with pytest.raises(ValueError, match=r"one of euler_ancestral, euler, .*; got 'heun'"):
        edit(editor, picture, "make it night", config=CONFIG, sampler="heun")
    with pytest.raises(ValueError, match=r"must lie in 1\.\.1000, got 1001"):
        edit(editor, picture, "make it night", config=CONFIG, sampler="ddim", num_inference_steps=1001)


@pytest.mark.parametrize("name", list(OTHERS))
def test_every_number_of_steps_is_taken_exactly(backbone, name):
    """diffusers' trailing spacing has one timestep too many, -1, for 61 and some others."""
    total = len(backbone.scheduler.alphas_cumprod)
    for n in (*range(1, 130), 242, 466, 487, 914, total):
        visited = timesteps_of(name, backbone.scheduler, n)
        assert len(visited) == n, n
        assert visited.min() >= 0, n
    answer = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    *_, last = sample(
        name, knowing(backbone.scheduler, answer), backbone.scheduler, seeds=(1,), shape=(4, 8, 8),
        num_inference_steps=61,
    )  # fmt: skip
    assert (last.index, last.count, last.sigma) == (60, 61, 0)
    torch.testing.assert_close(last.latents.double(), answer, rtol=0, atol=8e-2)


@pytest.mark.parametrize("name", list(OTHERS))
def test_a_model_trained_down_to_pure_noise_is_sampled_with_its_own_levels(backbone, name):
    trained = type(backbone.scheduler).from_config(backbone.scheduler.config, rescale_betas_zero_snr=True)
    made, plain = make_scheduler(name, trained), make_scheduler(name, backbone.scheduler)
    torch.testing.assert_close(made.alphas_cumprod[:-1], trained.alphas_cumprod[:-1])
    assert made.alphas_cumprod[500] < plain.alphas_cumprod[500]
