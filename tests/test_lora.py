"""An adapter does nothing until trained, is all that learns, and is the same merged or read back."""

import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline
from safetensors import safe_open

from ip2p_lib.backbone import load_backbone
from ip2p_lib.lora import adapter_weights, add_lora, merge_lora, save_lora
from ip2p_lib.unet import as_editor_unet, save_pipeline


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def predict(unet):
    with torch.no_grad():
        return unet(draw(1, 2, 8, 8, 8), 321, draw(2, 2, 32, 32)).sample


def adapted(editor, rank=4, alpha=8, **options):
    """An adapter on a copy of the editor."""
    return add_lora(as_editor_unet(editor.unet, 4), rank, alpha, **{"train_conv_in": False, **options}).eval()


def perturbed(editor, **options):
    """The same as if it had been trained: none of its weights is zero."""
    unet = adapted(editor, **options)
    for number, weight in enumerate(adapter_weights(unet).values()):
        weight.data.copy_(0.2 * draw(number, *weight.shape))
    return unet


def test_an_untrained_adapter_changes_nothing(base, editor):
    assert torch.equal(predict(adapted(editor)), predict(editor.unet))
    wide = as_editor_unet(base.unet, 4).eval()
    before = predict(wide)
    assert torch.equal(predict(add_lora(wide, 4, 4, train_conv_in=True)), before)


def test_every_attention_projection_has_one(editor):
    names = {n.split(".lora_")[0].split("transformer_blocks.0.")[1] for n in adapter_weights(adapted(editor))}
    assert names == {f"attn{n}.{p}" for n in (1, 2) for p in ("to_q", "to_k", "to_v", "to_out.0")}
    projections = [
        n for n, _ in editor.unet.named_modules() if n.endswith((".to_q", ".to_k", ".to_v", ".to_out.0"))
    ]
    assert len(adapter_weights(adapted(editor))) == 2 * len(projections) > 0


@pytest.mark.parametrize("train_conv_in", [False, True])
def test_only_the_adapter_learns_and_the_first_layer_when_asked(editor, train_conv_in):
    unet = adapted(editor, train_conv_in=train_conv_in)
    before = {n: p.detach().clone() for n, p in unet.named_parameters()}
    optimiser = torch.optim.SGD([p for p in unet.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # at the first step the second factor is zero, and hides the first
        optimiser.zero_grad()
        (unet(draw(1, 2, 8, 8, 8), 321, draw(2, 2, 32, 32)).sample - 1).square().mean().backward()
        optimiser.step()
    moved = {n for n, p in unet.named_parameters() if not torch.equal(p, before[n])}
    assert moved == adapter_weights(unet).keys() | (
        {"conv_in.weight", "conv_in.bias"} if train_conv_in else set()
    )


def test_the_picture_channels_of_a_widened_unet_learn_at_once(base):
    unet = add_lora(as_editor_unet(base.unet, 4), 2, 2, train_conv_in=True)
    unet(draw(1, 1, 8, 8, 8), 100, draw(2, 1, 32, 32)).sample.square().mean().backward()
    assert (unet.conv_in.weight.grad[:, 4:].abs().amax(dim=(0, 2, 3)) > 0).all()


def test_merged_or_not_the_prediction_is_the_same(editor):
    unet = perturbed(editor)
    expected = predict(unet)
    merged = merge_lora(unet)
    torch.testing.assert_close(predict(merged), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, predict(editor.unet), atol=1e-2)
    assert torch.equal(predict(unet), expected)
    assert not any(p.requires_grad for p in merged.parameters())


def test_merging_leaves_a_plain_unet_that_differs_in_its_projections(editor):
    plain, merged = editor.unet.state_dict(), merge_lora(perturbed(editor)).state_dict()
    assert list(merged) == list(plain)
    changed = {n for n in plain if not torch.equal(plain[n], merged[n])}
    assert changed == {n for n in plain if n.endswith(tuple(f".{p}.weight" for p in ("to_q", "to_k", "to_v", "to_out.0")))}  # fmt: skip


@pytest.mark.parametrize(("rank", "alpha"), [(4, 4), (4, 8), (3, 1)])
def test_diffusers_reads_the_file_and_predicts_the_same(editor, tmp_path, rank, alpha):
    unet = perturbed(editor, rank=rank, alpha=alpha)
    save_lora(unet, tmp_path / "night.safetensors")
    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=editor.vae, text_encoder=editor.text_encoder, tokenizer=editor.tokenizer,
        unet=as_editor_unet(editor.unet, 4).eval(), scheduler=editor.scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.load_lora_weights(tmp_path / "night.safetensors")
    torch.testing.assert_close(predict(pipeline.unet), predict(unet), rtol=1e-4, atol=1e-5)
    pipeline.unload_lora_weights()
    assert torch.equal(predict(pipeline.unet), predict(editor.unet))
    assert [p.name for p in tmp_path.iterdir()] == ["night.safetensors"]


def test_the_file_holds_the_adapter_and_nothing_else(editor, tmp_path):
    unet = perturbed(editor)
    save_lora(unet, tmp_path / "night.safetensors")
    with safe_open(tmp_path / "night.safetensors", "pt") as file:
        names = list(file.keys())
        size = sum(file.get_tensor(n).numel() for n in names)
    assert all(n.startswith("unet.") and ".lora." in n for n in names)
    assert size == sum(p.numel() for p in adapter_weights(unet).values())


def test_an_adapter_and_a_first_layer_end_up_in_a_whole_editor(base, tmp_path):
    unet = add_lora(as_editor_unet(base.unet, 4), 4, 4, train_conv_in=True).eval()
    unet.conv_in.weight.data[:, 4:] = 0.05 * draw(3, 32, 4, 3, 3)
    save_pipeline(base.with_unet(merge_lora(unet), "merged"), tmp_path / "editor")
    opened = load_backbone(str(tmp_path / "editor")).unet
    assert opened.config.in_channels == 8
    torch.testing.assert_close(predict(opened), predict(unet), rtol=1e-2, atol=1e-2)  # written in fp16


def test_first_weights_follow_from_the_seed_alone(editor):
    state = torch.get_rng_state()
    one, same, other = (adapter_weights(adapted(editor, seed=s)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not any(torch.equal(one[n], other[n]) for n in one if ".lora_A." in n)


def test_the_adapter_of_a_bf16_model_learns_in_float32(editor):
    unet = add_lora(as_editor_unet(editor.unet, 4).bfloat16(), 2, 2, train_conv_in=False)
    assert {p.dtype for p in adapter_weights(unet).values()} == {torch.float32}
    assert (
        unet(draw(1, 1, 8, 8, 8).bfloat16(), 9, draw(2, 1, 32, 32).bfloat16()).sample.dtype == torch.bfloat16
    )


@pytest.mark.parametrize(("rank", "alpha"), [(0, 1), (4, 0), (-2, 4)])
def test_rank_and_alpha_must_be_positive(editor, rank, alpha):
    with pytest.raises(ValueError, match=f"rank and alpha must be at least 1, got {rank} and {alpha}"):
        adapted(editor, rank=rank, alpha=alpha)


def test_what_cannot_learn_to_edit_is_refused(base, editor):
    with pytest.raises(
        ValueError, match="must take 8 channels, got one that takes 4; pass it through as_editor"
    ):
        add_lora(base.unet, 4, 4, train_conv_in=True)
    with pytest.raises(ValueError, match=r"the first layer ignores the picture.*set train_conv_in"):
        add_lora(as_editor_unet(base.unet, 4), 4, 4, train_conv_in=False)
    with pytest.raises(ValueError, match="must be without an adapter, but it has one"):
        add_lora(adapted(editor), 4, 4, train_conv_in=False)
    assert not adapter_weights(base.unet)


def test_a_file_that_would_lack_something_is_refused(editor, tmp_path):
    path = tmp_path / "night.safetensors"
    with pytest.raises(ValueError, match=r"conv_in.weight, conv_in.bias were trained as well; .* merge_lora"):
        save_lora(adapted(editor, train_conv_in=True), path)
    with pytest.raises(ValueError, match="must see what was trained, but the adapter is frozen"):
        save_lora(adapted(editor).requires_grad_(False), path)
    with pytest.raises(ValueError, match="must have an adapter, but it has none"):
        save_lora(editor.unet, path)
    with pytest.raises(ValueError, match="must have an adapter, but it has none"):
        merge_lora(editor.unet)
    with pytest.raises(ValueError, match=r"must end in .safetensors, got night.bin"):
        save_lora(adapted(editor), tmp_path / "night.bin")
    assert not list(tmp_path.iterdir())
