"""The real architectures, with random weights, through the very functions that the miniature uses."""

import copy
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from ip2p_lib import filtering, images, records
from ip2p_lib.attention import self_attention_layers
from ip2p_lib.backbone import Backbone, load_clip
from ip2p_lib.editing import edit
from ip2p_lib.pairs import candidate_shards, synthesise
from ip2p_lib.presets import FULL
from ip2p_lib.records import Triplet
from ip2p_lib.single_file.architecture import TEXT_ENCODER, UNET, VAE
from ip2p_lib.unet import widen_unet

pytestmark = pytest.mark.slow

CAT = Triplet("0000001", "a photograph of a cat", "make it a dog", "a photograph of a dog")


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def random_unet(seed):
    """Random weights of a sensible size, written once: the usual initialisation would write them twice."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET)
    unet.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in unet.named_parameters():
            if p.ndim > 1:
                reach = p[0].numel() ** -0.5
                p.uniform_(-reach, reach, generator=generator)
            else:
                p.fill_(float(name.endswith("weight")))
    return unet


@pytest.fixture(scope="module")
def full(tokenizer):
    """Stable Diffusion 1.5's parts around a small vocabulary."""
    longer = copy.deepcopy(tokenizer)
    longer.model_max_length = TEXT_ENCODER["max_position_embeddings"]
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(1)
        text, vae = CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER)), AutoencoderKL(**VAE)
    scheduler = EulerAncestralDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
    unet = random_unet(2)
    for part in (text, vae, unet):
        part.eval().requires_grad_(False)
    return Backbone(longer, text, vae, unet, scheduler, "full")


@pytest.fixture(scope="module")
def full_editor(full):
    """The same with a picture beside the noise."""
    return full.with_unet(widen_unet(full.unet, 4).eval().requires_grad_(False), "full-editor")


@pytest.fixture(scope="module")
def candidates(full, tmp_path_factory):
    """One pair of 64 px in two steps, by the stage itself."""
    folder = tmp_path_factory.mktemp("full")
    config = replace(
        FULL.pairs, candidates_per_triplet=1, num_inference_steps=2, resolution=64, cfg_scale_range=(7.5, 7.5)
    )
    *_, last = synthesise([CAT], full, config, folder)
    assert last.candidates == 1
    return folder


def test_widening_adds_what_the_paper_adds():
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET)
    assert parameters(unet) == 859_520_964
    assert parameters(widen_unet(unet, 4)) == 859_520_964 + 11_520


def test_the_parts_have_the_published_sizes(full):
    assert parameters(full.unet) == pytest.approx(859.52e6, rel=1e-4)
    assert parameters(full.vae) == pytest.approx(83.65e6, rel=1e-4)
    assert parameters(full.text_encoder) == pytest.approx(123.06e6, rel=1e-4)
    assert (full.factor, full.latent_channels) == (8, 4)
    assert len(self_attention_layers(full.unet)) == 16
    assert full.encode_text(["a cat"]).shape == (1, 77, 768)


def test_a_forward_pass_at_256_pixels_is_finite(full):
    noisy = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        out = full.unet(noisy, 500, full.encode_text(["a cat"])).sample
    assert out.shape == (1, 4, 32, 32)
    assert out.isfinite().all()
    assert out.std() > 0


def test_the_widened_unet_is_the_old_one_for_any_picture(full, full_editor):
    generator = torch.Generator().manual_seed(4)
    noisy, picture = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    states = full.encode_text(["a cat"])
    with torch.no_grad():
        wide = full_editor.unet(torch.cat([noisy, 9 * picture], 1), 500, states).sample
        assert torch.equal(wide, full.unet(noisy, 500, states).sample)


def test_an_edit_of_one_step_gives_a_picture(full_editor):
    picture = Image.linear_gradient("L").resize((90, 64))
    config = replace(FULL.edit, resolution=64)
    result = edit(full_editor, picture, "make it night", config=config, num_inference_steps=1)[0]
    assert result.picture.size == images.edit_size(90, 64, 64, 64)
    assert np.asarray(result.picture).std() > 0
    assert result.recipe.guidance_scale == 7.5


def test_a_pair_is_made_by_prompt_to_prompt(candidates):
    (row,) = pq.read_table(candidate_shards(candidates)[0]).to_pylist()
    first, second = (
        images.from_bytes(row[c]["bytes"]) for c in (records.ORIGINAL_IMAGE, records.EDITED_IMAGE)
    )
    assert first.size == second.size == (64, 64)
    assert not np.array_equal(first, second)


def test_the_pair_is_scored_by_clip_vit_l_14(candidates):
    clip = load_clip(replace(FULL, clip="ViT-L-14"))
    assert parameters(clip.model) == pytest.approx(427.6e6, rel=1e-3)
    assert clip.size == 224
    assert list(filtering.score(candidates, clip)) == [(1, 1)]
    (scores,) = filtering.read_scores(candidates)
    assert all(-1 <= scores[name] <= 1 for name in records.SIMILARITIES)
    assert filtering.select([scores], replace(FULL.filter, min_text=-1, min_direction=-1, min_image=-1)) == [
        (CAT.id, 0)
    ]
