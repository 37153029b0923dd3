"""Loading: real formats in, one clear refusal for everything that is missing, damaged, altered or of another kind."""

import copy
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch

from ip2p_lib import backbone as models
from ip2p_lib import storage
from ip2p_lib.miniature.clip import as_text_encoder, hidden_states
from ip2p_lib.presets import FULL, MINIATURE, Preset
from ip2p_lib.unet import save_pipeline


@pytest.fixture(scope="module")
def saved(base, editor, tmp_path_factory):
    """A folder with a text-to-image model and an editor."""
    folder = tmp_path_factory.mktemp("models")
    save_pipeline(base, folder / "text_to_image")
    save_pipeline(editor, folder / "editor")
    storage.write_manifest(folder)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    """The same, free to be broken."""
    return shutil.copytree(saved, tmp_path / "models")


def preset_of(folder) -> Preset:
    return replace(
        MINIATURE,
        text_to_image=str(folder / "text_to_image"),
        editor=str(folder / "editor"),
        clip=str(folder / "clip"),
        manifest=str(folder),
    )


def test_a_saved_model_loads_frozen_and_ready(saved, base):
    loaded = models.load_text_to_image(preset_of(saved))
    for part in (loaded.text_encoder, loaded.vae, loaded.unet):
        assert not part.training
        assert not any(p.requires_grad for p in part.parameters())
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    assert loaded.name == "text_to_image"
    assert (loaded.factor, loaded.latent_channels) == (2, 4)
    assert loaded.scheduler.config.prediction_type == base.scheduler.config.prediction_type
    assert loaded.tokenizer.model_max_length == base.tokenizer.model_max_length


def test_the_asked_dtype_reaches_every_part(saved):
    loaded = models.load_editor(preset_of(saved), dtype=torch.bfloat16)
    dtypes = {p.dtype for part in (loaded.text_encoder, loaded.vae, loaded.unet) for p in part.parameters()}
    assert dtypes == {torch.bfloat16}
    assert loaded.encode_text(["a house"]).dtype == torch.bfloat16


def test_an_editor_must_take_a_picture_beside_the_noise(saved):
    assert models.load_editor(preset_of(saved)).unet.config.in_channels == 8
    with pytest.raises(
        ValueError, match=r"must have 8 input channels, .* has 4; is it a text-to-image model\?"
    ):
        models.load_editor(preset_of(saved), str(saved / "text_to_image"))


def test_a_text_to_image_model_takes_the_noise_alone(saved):
    assert models.load_text_to_image(preset_of(saved)).unet.config.in_channels == 4
    with pytest.raises(ValueError, match=r"must have 4 input channels, .* has 8; is it an editor\?"):
        models.load_text_to_image(preset_of(saved), str(saved / "editor"))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_refused_by_name(copied, part):
    shutil.rmtree(copied / "editor" / part)
    with pytest.raises(FileNotFoundError, match=rf"editor must be a diffusers folder, but it has no {part}/"):
        models.load_backbone(str(copied / "editor"))


@pytest.mark.parametrize(
    "name", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"]
)
@pytest.mark.parametrize("damage", ["missing", "cut", "noise"])
def test_damaged_weights_are_refused_by_name(copied, name, damage):
    path = copied / "editor" / f"{name}.safetensors"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            content[: len(content) // 2] if damage == "cut" else bytes(255 - b for b in content[:999])
        )
    with pytest.raises(ValueError, match=rf"editor/{name.split('/')[0]} "):
        models.load_backbone(str(copied / "editor"))


def test_a_tokenizer_without_its_files_is_refused(copied):
    """It would load all the same, know no word, and every instruction would be called unreadable."""
    for path in (copied / "editor" / "tokenizer").iterdir():
        path.unlink()
    with pytest.raises(
        ValueError, match=r"editor/tokenizer must hold the vocabulary .* but has 2; is tokenizer.json"
    ):
        models.load_backbone(str(copied / "editor"))


def test_a_tokenizer_that_tells_no_length_has_that_of_its_text_encoder(copied):
    folder = copied / "editor"
    before = models.load_backbone(str(folder)).encode_text(["make it night"])
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    model = models.load_backbone(str(folder))
    assert model.encode_text(["make it night"]).shape == before.shape
    with pytest.raises(ValueError, match=r"must fit in \d+ tokens"):
        models.check_instruction(model, "make it night and " * 30)


def test_weights_of_another_shape_are_refused(copied):
    config = copied / "editor" / "unet" / "config.json"
    storage.write_json(config, {**storage.read_json(config), "block_out_channels": [32, 96]})
    with pytest.raises(ValueError, match="editor/unet"):
        models.load_backbone(str(copied / "editor"))


def test_a_pickle_is_never_opened(copied):
    folder = copied / "editor" / "unet"
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    torch.save({"x": torch.zeros(1)}, folder / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="editor/unet must hold safetensors weights"):
        models.load_backbone(str(copied / "editor"))


def test_altered_weights_are_refused_before_they_are_opened(copied):
    path = copied / "editor" / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"must have the checksum in manifest.json"):
        models.load_editor(preset_of(copied))
    assert models.load_text_to_image(preset_of(copied)).name == "text_to_image"


@pytest.mark.parametrize("name", ["no/such/folder", "nobody-there/no-such-model", "nofolder"])
def test_a_model_that_is_nowhere_is_refused_with_a_remedy(name):
    with pytest.raises(FileNotFoundError, match=rf"{name} is neither a folder here nor in the hub's cache"):
        models.load_backbone(name)


def test_text_states_are_padded_cut_and_independent_of_batch_mates(base):
    length = base.tokenizer.model_max_length
    texts = ["", "a red house", "make it night " * 40]
    states = base.encode_text(texts)
    assert states.shape == (3, length, 32)
    for text, state in zip(texts, states, strict=True):
        torch.testing.assert_close(base.encode_text([text])[0], state, rtol=1e-5, atol=1e-5)
    assert not torch.equal(states[0], states[1])


def test_the_condition_is_the_unscaled_mode_and_the_target_is_scaled(base):
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    posterior = base.vae.encode(pixels).latent_dist
    mean, std = base.latent_moments(pixels)
    torch.testing.assert_close(base.image_latents(pixels), posterior.mean)
    torch.testing.assert_close(mean, posterior.mean * 0.7)
    torch.testing.assert_close(std, posterior.std * 0.7)


def test_decoding_undoes_the_scale_and_clips(base):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = base.vae.decode(latents / 0.7).sample
        wild = base.decode_latents(1e4 * latents)
    torch.testing.assert_close(base.decode_latents(latents), expected.clamp(-1, 1))
    assert wild.abs().max() == 1


def test_instructions_of_the_world_are_accepted(base):
    for text in ("make it night", "Make it NIGHT!", "add a rainbow", "turn the house into a cat, please"):
        models.check_instruction(base, text)
    with pytest.raises(ValueError, match="must contain words"):
        models.check_instruction(base, "...")


@pytest.mark.parametrize("text", ["", "  ", "?!", "…"])
def test_an_instruction_without_words_is_refused(base, text):
    with pytest.raises(ValueError, match=r"must contain words, got .*try 'make it night'"):
        models.check_instruction(base, text)


def test_an_instruction_of_unknown_words_is_refused_by_name(base):
    with pytest.raises(ValueError, match="unknown here: bzwqk, xkcdvf"):
        models.check_instruction(base, "bzwqk xkcdvf")


def test_an_instruction_that_does_not_fit_is_refused(base):
    with pytest.raises(ValueError, match=r"must fit in 32 tokens, got \d\d+; shorten it"):
        models.check_instruction(base, "make it night and " * 30)


def test_clip_needs_its_folder_and_files(tmp_path, clip_folder):
    lost = replace(FULL, clip="no-such-architecture/none")
    with pytest.raises(FileNotFoundError, match="neither in the cache nor reachable"):
        models.load_clip(lost)
    broken = shutil.copytree(clip_folder, tmp_path / "clip")
    path = broken / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"clip.* is damaged"):
        models.load_clip(replace(FULL, clip=str(broken)))


def test_clip_brings_its_own_size_and_tokens(clip):
    assert clip.size == 64
    tokens = clip.tokenize(["a red house", "make it night " * 40])
    assert tokens.shape == (2, 32)
    assert not clip.model.training
    assert not any(p.requires_grad for p in clip.model.parameters())


def test_the_converted_text_tower_is_open_clips(clip, clip_folder, tokenizer):
    """Pooled and projected, the transformers model must give open_clip's own text features."""
    config = storage.read_json(clip_folder / "open_clip_config.json")["model_cfg"]
    encoder = as_text_encoder(clip.model, config, tokenizer.eos_token_id)
    tokens = clip.tokenize(["a red house at night", "make it a pencil sketch", "", "add a rainbow " * 30])
    with torch.no_grad():
        states = encoder(tokens).last_hidden_state
        pooled = states[torch.arange(4), tokens.argmax(dim=1)] @ clip.model.text_projection
        torch.testing.assert_close(pooled, clip.model.encode_text(tokens), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(states, hidden_states(clip.model, tokens), rtol=1e-4, atol=1e-5)
    assert pooled.std(0).mean() > 1e-3


def test_a_preset_without_a_world_has_no_judge(saved):
    with pytest.raises(FileNotFoundError, match="preset full has no judge"):
        models.load_judge(FULL)
    with pytest.raises(FileNotFoundError, match="has no judge"):
        models.load_judge(preset_of(saved))


def test_openais_clip_is_built_with_the_activation_its_weights_were_trained_with(monkeypatch):
    kinds = []
    create = open_clip.create_model

    def untrained(name, pretrained=None, **options):
        model = create(name, **options)
        kinds.append({type(m).__name__ for m in model.modules() if "GELU" in type(m).__name__})
        return model

    monkeypatch.setattr(open_clip, "create_model", untrained)
    for tag in ("openai", "laion2b_s34b_b79k"):
        clip = models.load_clip(replace(FULL, clip=f"ViT-B-32/{tag}"))
        assert clip.mean == tuple(open_clip.get_pretrained_cfg("ViT-B-32", tag)["mean"])
    assert kinds == [{"QuickGELU"}, {"GELU"}]


def test_a_mark_sees_signs_order_and_precision():
    layer = torch.nn.Linear(3, 2)
    others = [copy.deepcopy(layer) for _ in range(3)]
    with torch.no_grad():
        others[0].weight.neg_()
        others[1].weight.copy_(layer.weight.flip(1))
    others[2].half()
    assert len({models.weights_mark(m) for m in (layer, *others)}) == 4
    assert models.weights_mark(copy.deepcopy(layer)) == models.weights_mark(layer)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "scheduler", "scale"])
def test_a_model_s_mark_sees_each_of_its_parts(base, part):
    """Else a sweep made with another decoder would pass for one that was made already."""
    other = replace(base, **({part: copy.deepcopy(getattr(base, part))} if part != "scale" else {}))
    assert models.model_mark(other) == models.model_mark(base)
    if part == "scheduler":
        other.scheduler.register_to_config(prediction_type="sample")
    elif part == "scale":
        other = replace(base, vae=copy.deepcopy(base.vae))
        other.vae.register_to_config(scaling_factor=0.5)
    else:
        next(getattr(other, part).parameters()).data.neg_()
    assert models.model_mark(other) != models.model_mark(base)


def test_the_device_is_chosen_with_a_reason():
    device, dtype, reason = models.pick_device()
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert (dtype == torch.float32) == (device.type == "cpu")
    assert "GPU" in reason


def test_everything_shipped_is_what_its_manifest_says():
    storage.check_manifest(Path(MINIATURE.manifest))
    shipped = storage.read_json(Path(MINIATURE.manifest) / "manifest.json")
    assert {name.split("/")[0] for name in shipped} >= {"text_to_image", "editor", "clip", "judge"}
    assert not [n for n in shipped if n.endswith((".bin", ".pt", ".ckpt", ".pkl"))]


def test_the_shipped_editor_has_the_text_to_image_models_other_parts(shipped_base, shipped_editor):
    for name in ("vae", "text_encoder"):
        ours, theirs = (getattr(m, name).state_dict() for m in (shipped_base, shipped_editor))
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert shipped_editor.unet.config.in_channels == 8
    assert shipped_base.unet.config.in_channels == 4


def test_the_shipped_text_encoder_is_the_shipped_clips_text_tower(shipped_base, shipped_clip):
    tokens = shipped_clip.tokenize(["a red house at night", "make it a pencil sketch", ""])
    with torch.no_grad():
        ours = shipped_base.text_encoder(tokens).last_hidden_state
        theirs = hidden_states(shipped_clip.model, tokens)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_texts_are_encoded_alike_while_another_thread_checks_instructions(backbone):
    right, done = backbone.encode_text([""]), threading.Event()

    def check():
        while not done.is_set():
            models.check_instruction(backbone, "make it night")

    thread = threading.Thread(target=check)
    thread.start()
    try:
        for _ in range(100):
            assert torch.equal(backbone.encode_text([""]), right)
    finally:
        done.set()
        thread.join()
