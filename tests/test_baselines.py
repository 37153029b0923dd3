"""What we compare with: SDEdit against diffusers', ends of every dial, rows that do not depend on each other."""

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionImg2ImgPipeline

from ip2p_lib import images
from ip2p_lib.baselines import (
    SYSTEMS,
    Models,
    exact_answer,
    nothing,
    our_editor,
    prompt_to_prompt,
    sdedit,
    sdedit_latents,
    system,
)
from ip2p_lib.baselines.sdedit import first_step
from ip2p_lib.editing import edit
from ip2p_lib.evaluation import sample_captions
from ip2p_lib.images import by_size
from ip2p_lib.presets import MINIATURE
from ip2p_lib.samplers import make_scheduler
from ip2p_lib.scenes import render
from ip2p_lib.triplets import edit_of

SEEDS = [11, 12, 13]
CAPTIONS = ["a red house in a meadow", "a blue cat on a beach", "a green car at night"]
OPTIONS = {"guidance_scale": 4.0, "num_inference_steps": 4}


@pytest.fixture(scope="module")
def latents():
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def pictures(triplets):
    return [render(edit_of(t).before, 32) for t in triplets[:3]]


def by_diffusers(base, scheduler, latents, *, strength, steps, guidance_scale=4.0):
    """Their pipeline from the same parts, latents and noise; what a seed draws is spelled out here again."""
    pipeline = StableDiffusionImg2ImgPipeline(
        vae=base.vae, text_encoder=base.text_encoder, tokenizer=base.tokenizer, unet=base.unet,
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt=CAPTIONS, image=latents, strength=strength, num_inference_steps=steps,
        guidance_scale=guidance_scale, output_type="latent",
        generator=[torch.Generator().manual_seed(s * 1_000_003) for s in SEEDS],
    ).images  # fmt: skip


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpm++"])
@pytest.mark.parametrize("strength", [0.5, 0.8, 1.0])
def test_sdedit_is_that_of_diffusers(backbone, latents, sampler, strength):
    ours = sdedit_latents(
        backbone, latents, CAPTIONS, strength=strength, guidance_scale=4.0, seeds=SEEDS,
        num_inference_steps=10, sampler=sampler,
    )  # fmt: skip
    theirs = by_diffusers(
        backbone, make_scheduler(sampler, backbone.scheduler), latents, strength=strength, steps=10
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert (ours - latents).abs().mean() > 0.05


def test_the_last_ancestral_step_is_that_of_diffusers(backbone, latents):
    """Only the last, since every other adds noise of its own."""
    ours = sdedit_latents(
        backbone, latents, CAPTIONS, strength=0.25, guidance_scale=4.0, seeds=SEEDS, num_inference_steps=4
    )
    scheduler = EulerAncestralDiscreteScheduler.from_config(backbone.scheduler.config)
    theirs = by_diffusers(backbone, scheduler, latents, strength=0.25, steps=4)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_no_strength_changes_nothing(base, latents):
    kept = sdedit_latents(base, latents, CAPTIONS, strength=0.0, seeds=SEEDS, **OPTIONS)
    torch.testing.assert_close(kept, latents, rtol=0, atol=0)


def test_full_strength_from_nothing_is_text_to_image(base):
    blank = torch.zeros(3, 4, 8, 8)
    from_blank = sdedit_latents(base, blank, CAPTIONS, strength=1.0, seeds=SEEDS, **OPTIONS)
    painted = sample_captions(base, CAPTIONS, resolution=16, seed=SEEDS[0], **OPTIONS)
    torch.testing.assert_close(base.decode_latents(from_blank), painted, rtol=1e-4, atol=1e-4)


def test_a_scale_of_one_needs_no_empty_caption(base, latents):
    """Both ways to the same prediction: by the short cut, and by the whole formula just beside it."""
    options = {"strength": 0.75, "seeds": SEEDS, "num_inference_steps": 4, "sampler": "ddim"}
    short = sdedit_latents(base, latents, CAPTIONS, guidance_scale=1.0, **options)
    long = sdedit_latents(base, latents, CAPTIONS, guidance_scale=1.0 + 1e-6, **options)
    torch.testing.assert_close(short, long, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_is_a_share(strength):
    with pytest.raises(ValueError, match=r"strength must lie in 0\.\.1"):
        first_step(strength, 10)


def test_an_unknown_sampler_or_text_is_refused(base, latents):
    with pytest.raises(ValueError, match="sampler must be one of"):
        sdedit_latents(base, latents, CAPTIONS, strength=0.5, seeds=SEEDS, sampler="none", **OPTIONS)
    with pytest.raises(ValueError, match="text must be one of output, edit, none; got 'input'"):
        sdedit(base, text="input")


def as_array(edited):
    return np.stack([np.asarray(e.picture, dtype=int) for e in edited])


@pytest.fixture(scope="module")
def systems(base, editor, edit_config):
    return {
        "ours": our_editor(editor, edit_config),
        "ours-text": our_editor(editor, edit_config, dial="s_T"),
        "sdedit": sdedit(base, **OPTIONS),
        "sdedit-instruction": sdedit(base, text="edit", **OPTIONS),
        "no-text": sdedit(base, text="none", **OPTIONS),
        "prompt-to-prompt": prompt_to_prompt(base, **OPTIONS),
        "nothing": nothing(),
        "truth": exact_answer(),
    }


@pytest.mark.parametrize("name", [n for n in SYSTEMS if n != "text2live"])
def test_a_result_depends_on_its_own_row_alone(systems, triplets, pictures, name):
    one = systems[name]
    assert one.name == name
    value = one.values[len(one.values) // 2]
    together = one.run(pictures, triplets[:3], value, SEEDS)
    alone = one.run(pictures[1:2], triplets[1:2], value, SEEDS[1:2])
    assert np.abs(as_array(together)[1] - as_array(alone)[0]).max() <= 1  # of 255: sums in another order
    assert [e.picture.size for e in together] == [p.size for p in pictures]
    assert all((e.source is not None) == one.own_sources for e in together)


@pytest.mark.parametrize("name", ["ours", "ours-text", "sdedit", "sdedit-instruction", "no-text"])
def test_a_dial_does_something(systems, triplets, pictures, name):
    one = systems[name]
    low, high = (as_array(one.run(pictures, triplets[:3], v, SEEDS)) for v in (one.values[0], one.values[-1]))
    assert np.abs(low - high).max() > 2


def test_texts_matter_where_they_should(base, triplets, pictures):
    """Without text, one caption is as good as another; under a caption it is not."""
    other = triplets[3:6]
    for text, same in (("output", False), ("edit", False), ("none", True)):
        one = sdedit(base, text=text, guidance_scale=30.0, num_inference_steps=4)
        a, b = (as_array(one.run(pictures, t, 0.75, SEEDS)) for t in (triplets[:3], other))
        assert np.array_equal(a, b) is same


def test_pictures_of_different_sizes_keep_their_order(base, triplets, pictures, picture):
    mixed = [pictures[0], images.fit(picture, (48, 32)), pictures[1]]
    edited = sdedit(base, **OPTIONS).run(mixed, triplets[:3], 0.5, SEEDS)
    alone = sdedit(base, **OPTIONS).run(mixed[1:2], triplets[1:2], 0.5, SEEDS[1:2])
    assert [e.picture.size for e in edited] == [(32, 32), (48, 32), (32, 32)]
    assert np.abs(np.asarray(edited[1].picture, int) - np.asarray(alone[0].picture, int)).max() <= 1
    assert sorted(r for rows in by_size(mixed, 1) for r in rows) == [0, 1, 2]


def test_our_dials_are_the_editor_s_own_scales(editor, edit_config, triplets, pictures, systems):
    instructions = [t.edit for t in triplets[:3]]
    for name, scales in (("ours", {"image_guidance_scale": 2.0}), ("ours-text", {"guidance_scale": 2.0})):
        by_hand = edit(editor, pictures, instructions, config=edit_config, seed=SEEDS, **scales)
        run = systems[name].run(pictures, triplets[:3], 2.0, SEEDS)
        assert np.array_equal(as_array(run), as_array(by_hand))
    with pytest.raises(ValueError, match="dial must be s_I or s_T, got 's_X'"):
        our_editor(editor, edit_config, dial="s_X")


def test_the_oracle_s_source_does_not_depend_on_its_dial(systems, triplets, pictures):
    low, high = (systems["prompt-to-prompt"].run(pictures, triplets[:3], v, SEEDS) for v in (0.0, 1.1))
    for a, b in zip(low, high, strict=True):
        assert np.abs(np.asarray(a.source, int) - np.asarray(b.source, int)).max() <= 1


def test_the_ends_of_the_scale(triplets, pictures):
    kept = nothing().run(pictures, triplets[:3], 0.0, SEEDS)
    drawn = exact_answer().run(pictures, triplets[:3], 0.0, SEEDS)
    assert [e.picture.tobytes() for e in kept] == [p.tobytes() for p in pictures]
    assert [e.picture.tobytes() for e in drawn] == [
        render(edit_of(t).after, 32).tobytes() for t in triplets[:3]
    ]


def test_a_mark_tells_weights_and_settings_apart(base, editor, edit_config):
    marks = [
        sdedit(base).mark,
        sdedit(base, guidance_scale=3.0).mark,
        sdedit(base, text="edit").mark,
        sdedit(base.with_unet(editor.unet, "other")).mark,
        our_editor(editor, edit_config).mark,
    ]
    assert len(set(marks)) == len(marks)
    assert sdedit(base).mark == sdedit(base).mark


def test_systems_are_found_by_name():
    assert system("nothing", Models(MINIATURE)).name == "nothing"
    with pytest.raises(ValueError, match=r"a system must be one of ours, .*; got 'magic'"):
        system("magic", Models(MINIATURE))
