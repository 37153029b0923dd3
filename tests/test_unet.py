"""The widened UNet is the old one until trained, and what is written opens in diffusers and gives the same picture."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.schedulers import scheduling_euler_ancestral_discrete as theirs
from torch import nn

from ip2p_lib import images
from ip2p_lib.backbone import load_backbone
from ip2p_lib.diffusion import seeded_noise
from ip2p_lib.editing import edit, edit_latents
from ip2p_lib.unet import as_editor_unet, extend_input_channels, load_unet_weights, save_pipeline, widen_unet


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def conv():
    layer = nn.Conv2d(4, 16, 3, padding=1)
    with torch.no_grad():
        layer.weight.copy_(draw(1, 16, 4, 3, 3))
        layer.bias.copy_(draw(2, 16))
    return layer


@pytest.mark.parametrize("condition", [0.0, 1.0, 1e4])
def test_the_widened_unet_is_the_old_one_for_any_picture(base, condition):
    wide = widen_unet(base.unet, 4).eval()
    noisy, states = draw(3, 2, 4, 8, 8), draw(4, 2, 32, 32)
    picture = condition * draw(5, 2, 4, 8, 8)
    with torch.no_grad():
        ours = wide(torch.cat([noisy, picture], dim=1), 321, states).sample
        assert torch.equal(ours, base.unet(noisy, 321, states).sample)


def test_only_the_first_layer_grows(base):
    wide = widen_unet(base.unet, 4)
    old, new = base.unet.state_dict(), wide.state_dict()
    assert [n for n in old if old[n].shape != new[n].shape] == ["conv_in.weight"]
    assert all(torch.equal(old[n], new[n]) for n in old if n != "conv_in.weight")
    assert torch.equal(old["conv_in.weight"], new["conv_in.weight"][:, :4])
    assert not new["conv_in.weight"][:, 4:].any()
    assert (
        sum(p.numel() for p in wide.parameters()) - sum(p.numel() for p in base.unet.parameters())
        == 32 * 4 * 9
    )
    assert wide.config.in_channels == 8
    assert base.unet.config.in_channels == 4


def test_the_configuration_builds_a_widened_unet_again(base):
    wide = widen_unet(base.unet, 4)
    with torch.device("meta"):
        again = UNet2DConditionModel.from_config(wide.config)
    assert again.conv_in.weight.shape == wide.conv_in.weight.shape
    assert dict(again.config)["in_channels"] == 8


def test_the_widened_unet_is_a_trainable_copy(base):
    wide = widen_unet(base.unet, 4)
    assert all(p.requires_grad for p in wide.parameters())
    assert not any(p.requires_grad for p in base.unet.parameters())
    assert not {p.data_ptr() for p in wide.parameters()} & {p.data_ptr() for p in base.unet.parameters()}


def test_the_new_channels_learn_at_once(base):
    wide = widen_unet(base.unet, 4)
    wide(draw(1, 1, 8, 8, 8), 100, draw(2, 1, 32, 32)).sample.square().mean().backward()
    assert (wide.conv_in.weight.grad[:, 4:].abs().amax(dim=(0, 2, 3)) > 0).all()


def test_weights_and_bias_are_copied_into_any_convolution(conv):
    conv.stride = (2, 2)
    wide = extend_input_channels(conv.double(), 3)
    noisy, extra = draw(3, 2, 4, 9, 9).double(), draw(4, 2, 3, 9, 9).double()
    assert torch.equal(wide(torch.cat([noisy, extra], dim=1)), conv(noisy))
    assert torch.equal(wide.bias, conv.bias)
    assert wide.weight.dtype == torch.float64


def test_a_convolution_without_bias_stays_without():
    assert extend_input_channels(nn.Conv2d(4, 8, 1, bias=False), 4).bias is None


@pytest.mark.parametrize("extra", [0, -4])
def test_no_new_channel_is_refused(base, conv, extra):
    with pytest.raises(ValueError, match=f"extra_channels must be at least 1, got {extra}"):
        extend_input_channels(conv, extra)
    with pytest.raises(ValueError, match="extra_channels must be at least 1"):
        widen_unet(base.unet, extra)


def test_a_grouped_convolution_is_refused():
    with pytest.raises(ValueError, match="must not be grouped, got groups=2"):
        extend_input_channels(nn.Conv2d(4, 8, 1, groups=2), 4)


@pytest.mark.parametrize("condition", [0.0, 1.0, 1e4])
def test_an_editor_from_text_to_image_ignores_the_picture_at_first(base, condition):
    unet = as_editor_unet(base.unet, 4).eval()
    noisy, states = draw(3, 2, 4, 8, 8), draw(4, 2, 32, 32)
    with torch.no_grad():
        ours = unet(torch.cat([noisy, condition * draw(5, 2, 4, 8, 8)], dim=1), 321, states).sample
        assert torch.equal(ours, base.unet(noisy, 321, states).sample)
    assert torch.equal(unet.conv_in.bias, base.unet.conv_in.bias)
    assert unet.config.in_channels == 8


def test_an_editor_from_an_editor_is_the_same_and_a_copy(editor):
    unet = as_editor_unet(editor.unet, 4).eval()
    both, states = draw(3, 2, 8, 8, 8), draw(4, 2, 32, 32)
    with torch.no_grad():
        assert torch.equal(unet(both, 321, states).sample, editor.unet(both, 321, states).sample)
    assert unet.config.in_channels == 8
    assert all(p.requires_grad for p in unet.parameters())
    assert not any(p.requires_grad for p in editor.unet.parameters())
    assert not {p.data_ptr() for p in unet.parameters()} & {p.data_ptr() for p in editor.unet.parameters()}


def test_a_unet_of_other_channels_is_refused(base, editor):
    with pytest.raises(
        ValueError, match=r"4 channels \(text-to-image\) or 8 \(an editor\), got one that takes 9"
    ):
        as_editor_unet(widen_unet(base.unet, 5), 4)
    with pytest.raises(
        ValueError, match=r"16 channels \(text-to-image\) or 32 \(an editor\), got one that takes 8"
    ):
        as_editor_unet(editor.unet, 16)


def test_loaded_weights_are_those_given_in_the_dtype_at_hand(base, editor):
    unet = as_editor_unet(base.unet, 4).eval()
    load_unet_weights(unet, {n: t.double() for n, t in editor.unet.state_dict().items()})
    loaded = unet.state_dict()
    assert all(torch.equal(t, loaded[n]) for n, t in editor.unet.state_dict().items())
    assert {t.dtype for t in loaded.values()} == {torch.float32}


def test_weights_that_do_not_fit_are_named_and_none_is_loaded(base, editor):
    weights = {n: t + 1 for n, t in base.unet.state_dict().items() if not n.startswith("time_embedding")}
    weights["class_embedding.weight"] = torch.zeros(3)
    before = {n: t.clone() for n, t in editor.unet.state_dict().items()}
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        load_unet_weights(editor.unet, weights)
    assert str(refusal.value) == (
        "weights must be those of this UNet, but: 4 missing (time_embedding.linear_1.weight,"
        " time_embedding.linear_1.bias, time_embedding.linear_2.weight, …); 1 unexpected"
        " (class_embedding.weight); 1 of another shape (conv_in.weight (32, 4, 3, 3), not (32, 8, 3, 3))"
    )
    assert all(torch.equal(t, before[n]) for n, t in editor.unet.state_dict().items())


def test_a_saved_editor_reloads_to_the_same_output(any_editor, tmp_path, picture, edit_config):
    save_pipeline(any_editor, tmp_path / "one")
    once = load_backbone(str(tmp_path / "one"))
    save_pipeline(once, tmp_path / "two")
    twice = load_backbone(str(tmp_path / "two"))
    for ours, reloaded in ((once.unet, twice.unet), (once.vae, twice.vae)):
        weights = reloaded.state_dict()
        assert all(torch.equal(t, weights[n]) for n, t in ours.state_dict().items())
    pictures = [edit(m, picture, "make it night", config=edit_config)[0].picture for m in (once, twice)]
    assert np.array_equal(*pictures)


def test_saving_leaves_the_model_as_it_was(editor, tmp_path):
    save_pipeline(editor, tmp_path / "editor")
    assert {p.dtype for m in (editor.unet, editor.vae, editor.text_encoder) for p in m.parameters()} == {
        torch.float32
    }
    assert {p.suffix for p in (tmp_path / "editor").rglob("*") if p.is_file()} <= {
        ".json",
        ".safetensors",
        ".txt",
    }


def test_a_save_that_fails_leaves_the_old_folder(editor, base, tmp_path):
    save_pipeline(editor, tmp_path / "editor")
    before = (tmp_path / "editor" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    with pytest.raises(AttributeError):
        save_pipeline(base.with_unet(None, "broken"), tmp_path / "editor")
    assert (tmp_path / "editor" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["editor"]


@pytest.mark.parametrize(("text", "image"), [(7.5, 1.5), (3.0, 1.0), (2.0, 2.0)])
def test_diffusers_opens_the_folder_and_returns_our_picture(
    any_editor, tmp_path, picture, text, image, monkeypatch
):
    """Ten steps have whole timesteps, where both interpolate to the same noise levels."""
    save_pipeline(any_editor, tmp_path / "editor")
    ours = load_backbone(str(tmp_path / "editor"))
    pipeline = StableDiffusionInstructPix2PixPipeline.from_pretrained(
        tmp_path / "editor", torch_dtype=torch.float32, safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    source = images.fit(picture, (48, 32))
    condition = ours.image_latents(images.to_tensor([source]))
    *_, last = edit_latents(
        ours,
        condition,
        ours.encode_text(["make it night"]),
        ours.encode_text([""]),
        guidance_scales=[text],
        image_guidance_scales=[image],
        seeds=[21],
        num_inference_steps=10,
    )
    draws = iter(range(1, 11))
    monkeypatch.setattr(
        theirs, "randn_tensor", lambda shape, **_: seeded_noise([21], tuple(shape[1:]), draw=next(draws))
    )
    result = pipeline(
        "make it night",
        image=source,
        num_inference_steps=10,
        guidance_scale=text,
        image_guidance_scale=image,
        latents=seeded_noise([21], tuple(condition.shape[1:])),
        output_type="pt",
    ).images
    torch.testing.assert_close((ours.decode_latents(last.latents) + 1) / 2, result, rtol=0, atol=1e-3)
    assert result.std() > 0.01


def test_a_text_to_image_model_is_written_as_one(base, tmp_path):
    save_pipeline(base, tmp_path / "model")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model", torch_dtype=torch.float32)
    assert isinstance(pipeline.unet, UNet2DConditionModel)
    assert pipeline.unet.config.in_channels == 4
    assert type(pipeline.scheduler).__name__ == "EulerAncestralDiscreteScheduler"
