"""A single file given as a model: every weight in its place, or a refusal that names what is wrong."""

import json
import struct

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_single_file import (
    TEXT_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    ip2p,
    same_weights,
    text_listing,
    unet_listing,
    vae_listing,
)

from ip2p_lib.backbone import load_backbone, load_editor
from ip2p_lib.presets import FULL
from ip2p_lib.single_file import original_weights, save_single_file
from ip2p_lib.single_file.architecture import clip_tokenizer
from ip2p_lib.unet import save_pipeline

NETWORKS = ("unet", "vae", "text_encoder")
LAYER = f"{UNET_PREFIX}out.2.bias"


def full_size_file(path, channels):
    """Stable Diffusion 1.5 as a file with holes: names and shapes as the original's code builds them, all zero."""
    parts = {
        UNET_PREFIX: unet_listing((320, 640, 1280, 1280), 2, (True, True, True, False), 768, channels),
        VAE_PREFIX: vae_listing((128, 256, 512, 512), 2, True),
        TEXT_PREFIX: text_listing(49408, 77, 768, 3072, 12),
    }
    header, end = {"__metadata__": {"modelspec.prediction_type": "v"}}, 0
    for prefix, listing in parts.items():
        for name, shape in listing.items():
            size = 2 * int(np.prod(shape))
            header[prefix + name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + size]}
            end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(file.tell() + end)


@pytest.fixture
def saved(editor, tmp_path):
    """The tiny editor as a file in float32, and its configuration beside it."""
    save_pipeline(editor, tmp_path / "mine")
    save_single_file(editor, tmp_path / "mine.safetensors", dtype=torch.float32)
    return tmp_path / "mine.safetensors"


def rewritten(path, change):
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    return str(path)


@pytest.mark.parametrize("fixture", ["base", "editor", "shipped_editor"])
def test_what_was_written_is_read_to_the_bit(fixture, request, tmp_path):
    model = request.getfixturevalue(fixture)
    save_pipeline(model, tmp_path / "mine")
    save_single_file(model, tmp_path / "mine.safetensors", dtype=torch.float32)
    read = load_backbone(str(tmp_path / "mine.safetensors"))
    assert read.name == "mine"
    assert all(same_weights(getattr(read, n), getattr(model, n)) for n in NETWORKS)
    assert torch.equal(read.encode_text(["make it night"]), model.encode_text(["make it night"]))
    assert read.scheduler.config.prediction_type == model.scheduler.config.prediction_type
    for part in NETWORKS:
        network = getattr(read, part)
        assert not network.training
        assert not any(t.is_meta or t.requires_grad for t in [*network.parameters(), *network.buffers()])


def test_half_precision_reads_as_the_folder_does(editor, tmp_path):
    save_pipeline(editor, tmp_path / "mine")
    save_single_file(editor, tmp_path / "mine.safetensors")
    folder, file = load_backbone(str(tmp_path / "mine")), load_backbone(str(tmp_path / "mine.safetensors"))
    assert all(same_weights(getattr(folder, n), getattr(file, n)) for n in NETWORKS)


def test_what_training_left_in_a_checkpoint_is_passed_over(saved, editor):
    def carry(weights):
        weights["model_ema.diffusion_modelout2bias"] = torch.full((4,), 9.0)
        weights[f"{TEXT_PREFIX}embeddings.position_ids"] = torch.arange(32)[None]
        weights["betas"] = torch.zeros(1000)

    assert same_weights(load_editor(FULL, rewritten(saved, carry)).unet, editor.unet)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [4, 8])
def test_alone_a_file_is_stable_diffusion_of_full_size(channels, tmp_path):
    full_size_file(tmp_path / "sd.safetensors", channels)
    model = load_backbone(str(tmp_path / "sd.safetensors"), dtype=torch.float16)
    assert model.unet.config.in_channels == channels
    assert sum(p.numel() for p in model.unet.parameters()) == 859_520_964 + (channels - 4) * 2880
    assert model.scheduler.config.prediction_type == "v_prediction"
    assert (model.factor, model.latent_channels, model.tokenizer.model_max_length) == (8, 4, 77)


def test_the_tokenizer_is_clips():
    ours, theirs = clip_tokenizer(), open_clip.get_tokenizer("ViT-L-14")
    for text in ("make it night", "Turn the cat's hat into 12 roses, très chic!", "", "word " * 100):
        ids = ours(text, padding="max_length", truncation=True, max_length=77, return_tensors="pt").input_ids
        expected = theirs([text])
        end = int((expected == 49407).int().argmax()) + 1
        assert torch.equal(ids[:, :end], expected[:, :end])
        assert (ids[:, end:] == 49407).all()  # Stable Diffusion pads with the end's token


def renamed(weights):
    weights[f"{UNET_PREFIX}out.9.bias"] = weights.pop(LAYER)


def reshaped(weights):
    weights[LAYER] = torch.zeros(5)


def halved(weights):
    for name in [n for n in weights if n.startswith(VAE_PREFIX)]:
        del weights[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, rf"must hold {LAYER}, but holds {UNET_PREFIX}out.9.bias, which this"),
        (lambda w: w.pop(LAYER), rf"must hold {LAYER}; is it whole, and Stable Diffusion 1.x"),
        (reshaped, rf"{LAYER} must be \(4,\), got \(5,\)"),
        (halved, rf"must hold {VAE_PREFIX}\S+ and \d+ more; is it whole"),
        (lambda w: w.update(extra=torch.zeros(1)), "holds extra, which this architecture does not have"),
    ],
)
def test_a_weight_out_of_place_is_refused_by_name(saved, change, message):
    with pytest.raises(ValueError, match=message):
        load_editor(FULL, rewritten(saved, change))


@pytest.mark.parametrize("keep", [4, 200, -1])
def test_a_file_cut_short_is_refused(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"mine.safetensors is damaged, cut short or no safetensors file"):
        load_editor(FULL, str(saved))


@pytest.mark.parametrize("ending", ["ckpt", "bin", "pt"])
def test_a_pickle_is_refused_with_a_line_that_converts_it(saved, editor, ending, tmp_path):
    pickled = tmp_path / f"other.{ending}"
    torch.save({"state_dict": original_weights(editor), "step": 3}, pickled)
    with pytest.raises(ValueError, match=r"is a pickle, which may run code .* convert it") as refusal:
        load_editor(FULL, str(pickled))
    line = str(refusal.value).split('-c "')[1].removesuffix('"')
    exec(line, {})
    saved.with_suffix("").rename(tmp_path / "other")
    assert same_weights(load_editor(FULL, str(tmp_path / "other.safetensors")).unet, editor.unet)


def test_a_file_that_is_not_there_or_badly_described_is_refused(saved):
    with pytest.raises(
        FileNotFoundError, match=r"none.safetensors must be a file of weights, but there is none"
    ):
        load_backbone("none.safetensors")
    (saved.with_suffix("") / "vae" / "config.json").unlink()
    with pytest.raises(ValueError, match="mine must describe the file beside it, with unet/, vae/"):
        load_backbone(str(saved))


def test_a_text_to_image_file_is_no_editor(base, tmp_path):
    save_pipeline(base, tmp_path / "base")
    save_single_file(base, tmp_path / "base.safetensors")
    with pytest.raises(ValueError, match=r"must have 8 input channels, \S+base.safetensors has 4"):
        load_editor(FULL, str(tmp_path / "base.safetensors"))


def test_a_first_layer_of_another_width_is_refused(tmp_path):
    save_file(
        {f"{UNET_PREFIX}input_blocks.0.0.weight": torch.zeros(320, 9, 3, 3)}, tmp_path / "a.safetensors"
    )
    with pytest.raises(ValueError, match=r"of 4 input channels, or an editor, of 8; .* is \(320, 9, 3, 3\)"):
        load_backbone(str(tmp_path / "a.safetensors"))


def test_the_shell_takes_a_file_wherever_it_takes_a_folder(any_editor, tmp_path):
    save_pipeline(any_editor, tmp_path / "one")
    save_single_file(any_editor, tmp_path / "one.safetensors")
    Image.linear_gradient("L").resize((64, 64)).save(tmp_path / "in.png")
    for model in ("one", "one.safetensors"):
        result = ip2p(
            "edit", tmp_path / "in.png", "make it night", "--model", tmp_path / model, "--steps", 2,
            "--out", tmp_path / f"{model}.png",
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
    folder, file = (Image.open(tmp_path / f"{model}.png").tobytes() for model in ("one", "one.safetensors"))
    assert folder == file
    assert ip2p("export-editor", tmp_path / "one.safetensors", tmp_path / "two.safetensors").exit_code == 0
    assert (tmp_path / "two.safetensors").read_bytes() == (tmp_path / "one.safetensors").read_bytes()


@pytest.mark.slow
def test_pairs_of_a_file_are_those_of_the_folder(base, tmp_path):
    save_pipeline(base, tmp_path / "base")
    save_single_file(base, tmp_path / "base.safetensors")
    (tmp_path / "t.jsonl").write_text(
        '{"input": "a red house", "edit": "make it blue", "output": "a blue house"}\n'
    )
    for model in ("base", "base.safetensors"):
        result = ip2p(
            "pairs", "--triplets", tmp_path / "t.jsonl", "--out", tmp_path / f"of-{model}", "--candidates", 1,
            "--steps", 2, "--model", tmp_path / model,
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
    first, second = (
        [p.read_bytes() for p in sorted((tmp_path / f"of-{m}").glob("*.parquet"))]
        for m in ("base", "base.safetensors")
    )
    assert first == second
    assert len(first) == 1
