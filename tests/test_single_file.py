"""One file for a whole editor: diffusers reads it back, and its names are those of the original code."""

import copy

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerAncestralDiscreteScheduler,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors import safe_open
from transformers import CLIPTextConfig, CLIPTextModel
from typer.testing import CliRunner

from ip2p_lib import cli
from ip2p_lib.backbone import Backbone, load_backbone
from ip2p_lib.lora import add_lora, merge_lora
from ip2p_lib.single_file import departures, original_weights, save_single_file
from ip2p_lib.single_file.architecture import TEXT_ENCODER, UNET, VAE
from ip2p_lib.unet import as_editor_unet, load_unet_weights, save_pipeline

UNET_PREFIX, VAE_PREFIX = "model.diffusion_model.", "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer.text_model."


class Listing(dict):
    """Names and shapes that the original's constructors make, in their order; all numbers passed in."""

    def add(self, name, *shape, bias=True):
        self[f"{name}.weight"] = shape
        if bias:
            self[f"{name}.bias"] = shape[:1]

    def unet_block(self, name, before, after, time):
        self.add(f"{name}.in_layers.0", before)
        self.add(f"{name}.in_layers.2", after, before, 3, 3)
        self.add(f"{name}.emb_layers.1", after, time)
        self.add(f"{name}.out_layers.0", after)
        self.add(f"{name}.out_layers.3", after, after, 3, 3)
        if before != after:
            self.add(f"{name}.skip_connection", after, before, 1, 1)

    def transformer(self, name, width, context):
        self.add(f"{name}.norm", width)
        self.add(f"{name}.proj_in", width, width, 1, 1)
        for number, source in ((1, width), (2, context)):
            attention = f"{name}.transformer_blocks.0.attn{number}"
            self.add(f"{attention}.to_q", width, width, bias=False)
            self.add(f"{attention}.to_k", width, source, bias=False)
            self.add(f"{attention}.to_v", width, source, bias=False)
            self.add(f"{attention}.to_out.0", width, width)
        self.add(f"{name}.transformer_blocks.0.ff.net.0.proj", 8 * width, width)  # two gates of 4 * width
        self.add(f"{name}.transformer_blocks.0.ff.net.2", width, 4 * width)
        for number in (1, 2, 3):
            self.add(f"{name}.transformer_blocks.0.norm{number}", width)
        self.add(f"{name}.proj_out", width, width, 1, 1)

    def vae_block(self, name, before, after):
        self.add(f"{name}.norm1", before)
        self.add(f"{name}.conv1", after, before, 3, 3)
        self.add(f"{name}.norm2", after)
        self.add(f"{name}.conv2", after, after, 3, 3)
        if before != after:
            self.add(f"{name}.nin_shortcut", after, before, 1, 1)

    def vae_middle(self, name, width, attended):
        self.vae_block(f"{name}.block_1", width, width)
        if attended:
            self.add(f"{name}.attn_1.norm", width)
            for layer in ("q", "k", "v", "proj_out"):
                self.add(f"{name}.attn_1.{layer}", width, width, 1, 1)
        self.vae_block(f"{name}.block_2", width, width)


def unet_listing(widths, layers, attended, context, channels):
    """As openaimodel.UNetModel builds itself: down with a stack of widths, and up again taking from it."""
    names, time, width, block = Listing(), 4 * widths[0], widths[0], 1
    names.add("time_embed.0", time, width)
    names.add("time_embed.2", time, time)
    names.add("input_blocks.0.0", width, channels, 3, 3)
    stack = [width]
    for level, after in enumerate(widths):
        for _ in range(layers):
            names.unet_block(f"input_blocks.{block}.0", width, after, time)
            if attended[level]:
                names.transformer(f"input_blocks.{block}.1", after, context)
            width, block = after, block + 1
            stack.append(width)
        if level < len(widths) - 1:
            names.add(f"input_blocks.{block}.0.op", width, width, 3, 3)
            block += 1
            stack.append(width)
    names.unet_block("middle_block.0", width, width, time)
    names.transformer("middle_block.1", width, context)
    names.unet_block("middle_block.2", width, width, time)
    block = 0
    for level in reversed(range(len(widths))):
        for layer in range(layers + 1):
            names.unet_block(f"output_blocks.{block}.0", width + stack.pop(), widths[level], time)
            width, inside = widths[level], 1
            if attended[level]:
                names.transformer(f"output_blocks.{block}.1", width, context)
                inside = 2
            if level > 0 and layer == layers:
                names.add(f"output_blocks.{block}.{inside}.conv", width, width, 3, 3)
            block += 1
    assert stack == []
    names.add("out.0", width)
    names.add("out.2", 4, width, 3, 3)
    return names


def vae_listing(widths, layers, attended):
    """As Encoder and Decoder of model.py build themselves, around 4 latent channels."""
    names, width, last = Listing(), widths[0], widths[-1]
    names.add("encoder.conv_in", width, 3, 3, 3)
    for level, after in enumerate(widths):
        for layer in range(layers):
            names.vae_block(f"encoder.down.{level}.block.{layer}", width, after)
            width = after
        if level < len(widths) - 1:
            names.add(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    names.vae_middle("encoder.mid", last, attended)
    names.add("encoder.norm_out", last)
    names.add("encoder.conv_out", 8, last, 3, 3)
    names.add("decoder.conv_in", last, 4, 3, 3)
    names.vae_middle("decoder.mid", last, attended)
    for level in reversed(range(len(widths))):
        for layer in range(layers + 1):
            names.vae_block(f"decoder.up.{level}.block.{layer}", width, widths[level])
            width = widths[level]
        if level > 0:
            names.add(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    names.add("decoder.norm_out", width)
    names.add("decoder.conv_out", 3, width, 3, 3)
    names.add("quant_conv", 8, 8, 1, 1)
    names.add("post_quant_conv", 4, 4, 1, 1)
    return names


def text_listing(words, length, width, inside, layers):
    """A CLIP text tower in transformers' names, without the position_ids of older versions."""
    names = Listing()
    names.add("embeddings.token_embedding", words, width, bias=False)
    names.add("embeddings.position_embedding", length, width, bias=False)
    for layer in (f"encoder.layers.{n}" for n in range(layers)):
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            names.add(f"{layer}.self_attn.{projection}", width, width)
        names.add(f"{layer}.layer_norm1", width)
        names.add(f"{layer}.mlp.fc1", inside, width)
        names.add(f"{layer}.mlp.fc2", width, inside)
        names.add(f"{layer}.layer_norm2", width)
    names.add("final_layer_norm", width)
    return names


def part(weights, prefix):
    return {n.removeprefix(prefix): tuple(t.shape) for n, t in weights.items() if n.startswith(prefix)}


@pytest.fixture(scope="module")
def full_editor(tokenizer):
    """Stable Diffusion 1.5 with a picture beside the noise: shapes only, no numbers."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNET, in_channels=8)
        vae, text = AutoencoderKL(**VAE), CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER))
    scheduler = EulerAncestralDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    return Backbone(tokenizer, text, vae, unet, scheduler, "full")


@pytest.fixture(params=["editor", "shipped_editor"])
def model(request):
    """A tiny editor that attends everywhere, and the miniature's."""
    return request.getfixturevalue(request.param)


def opened(path, folder):
    """What diffusers makes of a single file and a folder's configuration."""
    pipeline = StableDiffusionInstructPix2PixPipeline.from_single_file(
        str(path), config=str(folder), torch_dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def answers(model):
    """Text states, latents and prediction of a model or pipeline."""
    ids = model.tokenizer("make it night", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        states = model.text_encoder(ids).last_hidden_state
        latents = model.vae.encode(draw(1, 1, 3, 32, 32)).latent_dist.mode()
        noisy = torch.cat([draw(2, *latents.shape), latents], dim=1)
        predicted = model.unet(noisy, 321, states).sample
        return states, latents, predicted, model.vae.decode(latents).sample


def same_weights(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(t, theirs[n]) for n, t in ours.items())


def test_names_and_shapes_are_those_of_the_original_at_full_size(full_editor):
    weights = original_weights(full_editor)
    unet, vae, text = (part(weights, p) for p in (UNET_PREFIX, VAE_PREFIX, TEXT_PREFIX))
    assert (len(unet), len(vae), len(text)) == (686, 248, 196)
    assert len(weights) == 686 + 248 + 196
    assert unet["input_blocks.0.0.weight"] == (320, 8, 3, 3)
    assert unet == unet_listing((320, 640, 1280, 1280), 2, (True, True, True, False), 768, 8)
    assert vae == vae_listing((128, 256, 512, 512), 2, True)
    assert text == text_listing(49408, 77, 768, 3072, 12)


def test_names_and_shapes_follow_the_same_rule_at_any_size(editor, shipped_editor):
    tiny, shipped = original_weights(editor), original_weights(shipped_editor)
    assert part(tiny, UNET_PREFIX) == unet_listing((32, 64), 1, (True, True), 32, 8)
    assert part(tiny, VAE_PREFIX) == vae_listing((16, 32), 1, True)
    config = shipped_editor.unet.config
    attended = [kind.startswith("CrossAttn") for kind in config.down_block_types]
    assert part(shipped, UNET_PREFIX) == unet_listing(
        tuple(config.block_out_channels), config.layers_per_block, attended, config.cross_attention_dim, 8
    )
    config = shipped_editor.vae.config
    assert part(shipped, VAE_PREFIX) == vae_listing(
        tuple(config.block_out_channels), config.layers_per_block, config.mid_block_add_attention
    )
    config = shipped_editor.text_encoder.config
    assert part(shipped, TEXT_PREFIX) == text_listing(
        config.vocab_size, config.max_position_embeddings, config.hidden_size, config.intermediate_size,
        config.num_hidden_layers,
    )  # fmt: skip


def test_diffusers_reads_the_file_as_it_reads_the_folder(model, tmp_path):
    save_pipeline(model, tmp_path / "editor")
    save_single_file(model, tmp_path / "editor.safetensors")
    folder = load_backbone(str(tmp_path / "editor"))
    pipeline = opened(tmp_path / "editor.safetensors", tmp_path / "editor")
    for name in ("unet", "vae", "text_encoder"):
        assert same_weights(getattr(folder, name), getattr(pipeline, name))
    for ours, theirs in zip(answers(folder), answers(pipeline), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.std() > 0
    assert pipeline.scheduler.config.prediction_type == model.scheduler.config.prediction_type


def test_float32_keeps_every_bit(editor, tmp_path):
    save_pipeline(editor, tmp_path / "editor")
    save_single_file(editor, tmp_path / "editor.safetensors", dtype=torch.float32)
    pipeline = opened(tmp_path / "editor.safetensors", tmp_path / "editor")
    for name in ("unet", "vae", "text_encoder"):
        assert same_weights(getattr(editor, name), getattr(pipeline, name))


@pytest.mark.parametrize("fixture", ["base", "editor", "shipped_editor"])
def test_diffusers_own_translation_fits_the_unet_again(fixture, request):
    unet = request.getfixturevalue(fixture).unet
    weights = original_weights(request.getfixturevalue(fixture))
    fresh = UNet2DConditionModel.from_config(unet.config)
    load_unet_weights(fresh, convert_ldm_unet_checkpoint(dict(weights), unet.config))
    assert same_weights(unet, fresh)


def test_the_file_holds_half_precision_and_says_what_its_weights_predict(any_editor, tmp_path):
    save_single_file(any_editor, tmp_path / "editor.safetensors")
    with safe_open(tmp_path / "editor.safetensors", "pt") as file:
        assert {file.get_tensor(n).dtype for n in file.keys()} == {torch.float16}  # noqa: SIM118
        expected = {"epsilon": "epsilon", "v_prediction": "v"}[any_editor.scheduler.config.prediction_type]
        assert file.metadata() == {"modelspec.prediction_type": expected}
    assert {p.dtype for p in any_editor.unet.parameters()} == {torch.float32}


def test_equal_models_give_equal_bytes(editor, tmp_path):
    save_single_file(editor, tmp_path / "one.safetensors")
    save_single_file(copy.deepcopy(editor), tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_a_merged_adapter_is_part_of_the_file(editor, tmp_path):
    unet = add_lora(as_editor_unet(editor.unet, 4), 2, 2, train_conv_in=False)
    unet.up_blocks[0].attentions[0].transformer_blocks[0].attn2.to_v.lora_B["default"].weight.data.fill_(0.1)
    weights = original_weights(editor.with_unet(merge_lora(unet), "merged"))
    plain = original_weights(editor)
    changed = [n for n in plain if not torch.equal(plain[n], weights[n])]
    assert changed == [f"{UNET_PREFIX}output_blocks.0.1.transformer_blocks.0.attn2.to_v.weight"]


def test_what_programs_assume_fits_stable_diffusion_and_nothing_else(full_editor, shipped_editor):
    assert departures(full_editor) == []
    found = departures(shipped_editor)
    assert "vae.scaling_factor is 0.44007, not 0.18215" in found
    assert "scheduler.prediction_type is v_prediction, not epsilon" in found
    assert any(line.startswith("unet.block_out_channels is [") for line in found)


def built(**changes):
    """A tiny UNet of another architecture."""
    sizes = {
        "block_out_channels": (16, 32), "layers_per_block": 1, "cross_attention_dim": 32, "attention_head_dim": 4,
        "norm_num_groups": 8, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    with torch.device("meta"):
        return UNet2DConditionModel(**{**sizes, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_embed_type": "timestep"}, r"class_embedding.linear_1.weight of UNet2DConditionModel has no counter"),
        ({"encoder_hid_dim": 8, "encoder_hid_dim_type": "text_proj"}, "encoder_hid_proj.weight of UNet2D"),
        ({"down_block_types": ("CrossAttnDownBlock2D", "AttnDownBlock2D")}, r"down_blocks\.1\.attentions\.0\.group_norm"),
        ({"use_linear_projection": True}, "use_linear_projection must be false"),
        ({"layers_per_block": (1, 2)}, r"layers_per_block must be one number for all levels, got \(1, 2\)"),
    ],
)  # fmt: skip
def test_an_architecture_without_names_there_is_refused(editor, changes, message):
    with pytest.raises(ValueError, match=message):
        original_weights(editor.with_unet(built(**changes), "other"))


def test_an_adapter_must_be_merged_first(editor):
    unet = add_lora(as_editor_unet(editor.unet, 4), 2, 2, train_conv_in=False)
    with pytest.raises(
        ValueError, match=r"attn1.to_q.base_layer.weight .* no counterpart .* adapters merged"
    ):
        original_weights(editor.with_unet(unet, "adapted"))


def test_a_refusal_leaves_the_old_file(editor, tmp_path):
    path = tmp_path / "editor.safetensors"
    path.write_bytes(b"old")
    large = copy.deepcopy(editor.unet)
    large.conv_out.bias.data[0] = 1e5  # too large for float16
    with pytest.raises(
        ValueError, match=r"finite in torch.float16, but model.diffusion_model.out.2.bias is not"
    ):
        save_single_file(editor.with_unet(large, "large"), path)
    with pytest.raises(ValueError, match=r"must end in .safetensors, got editor.ckpt"):
        save_single_file(editor, tmp_path / "editor.ckpt")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("editor.safetensors", b"old")]
    save_single_file(editor.with_unet(large, "large"), path, dtype=torch.bfloat16)
    assert path.stat().st_size > 1000


@pytest.fixture(scope="module")
def folders(base, editor, tmp_path_factory):
    """The tiny models as folders."""
    folder = tmp_path_factory.mktemp("models")
    save_pipeline(base, folder / "base")
    save_pipeline(editor, folder / "editor")
    return folder


def ip2p(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def test_the_shell_writes_the_same_file(folders, tmp_path):
    result = ip2p("export-editor", folders / "editor", tmp_path / "new" / "e.safetensors")
    assert result.exit_code == 0, result.stderr
    first, second = result.stdout.strip().splitlines()
    assert first == f"editor in {tmp_path}/new/e.safetensors"
    assert "unet.block_out_channels is [32, 64], not [320, 640, 1280, 1280], and " in second
    save_single_file(load_backbone(str(folders / "editor")), tmp_path / "ours.safetensors")
    assert (tmp_path / "new" / "e.safetensors").read_bytes() == (tmp_path / "ours.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{}/none", "{}/e.safetensors"), "neither a folder here nor in the hub's cache"),
        (("{models}/base", "{}/e.safetensors"), "is it a text-to-image model?"),
        (("{models}/editor", "{}/e.ckpt"), "must end in .safetensors, got e.ckpt"),
        (("{models}/editor", "{}/file/e.safetensors"), "output folder must be writable"),
        (("{models}/editor", "{}/e.safetensors", "--precision", "int8"), "must be one of fp16, bf16, fp32; got 'int8'"),
    ],
)  # fmt: skip
def test_the_shell_says_a_mistake_in_one_line(folders, tmp_path, arguments, message):
    (tmp_path / "file").touch()
    result = ip2p("export-editor", *(a.format(tmp_path, models=folders) for a in arguments))
    assert result.exit_code == 1, result.exception
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not list(tmp_path.glob("e.*"))
