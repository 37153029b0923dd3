"""Tiny random models in the real formats, a small pair dataset, and the shipped models as a user loads them."""

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that asks the hub must fail at once, everywhere alike

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel

from ip2p_lib import images, records
from ip2p_lib.backbone import (
    Backbone,
    ClipEncoder,
    load_clip,
    load_editor,
    load_judge,
    load_text_to_image,
    load_writer,
)
from ip2p_lib.judge import Judge
from ip2p_lib.miniature.clip import ClipRecipe, build_clip, clip_config, save_clip
from ip2p_lib.miniature.texts import ordinary_text
from ip2p_lib.miniature.tokenizer import learn_tokenizer
from ip2p_lib.miniature.writer import WriterRecipe, build_writer, learn_writer_tokenizer
from ip2p_lib.pairs import shard_path, writing_shard
from ip2p_lib.presets import MINIATURE, EditConfig, Preset
from ip2p_lib.records import read_triplets
from ip2p_lib.scenes import caption, render, sample_scenes
from ip2p_lib.triplets import edit_of, world_triplets
from ip2p_lib.unet import widen_unet

TINY_CLIP = ClipRecipe(embed_dim=32, vision_width=8, text_width=64, text_layers=2)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """A CLIPTokenizer that knows the world's words."""
    scenes = sample_scenes(300, 5)
    texts = [text(s, i) for i, s in enumerate(scenes) for text in (caption, ordinary_text)]
    return learn_tokenizer(texts, tmp_path_factory.mktemp("tokenizer") / "learnt", vocab_size=900)


def tiny_unet() -> UNet2DConditionModel:
    """Self- and cross-attention at two resolutions; random weights of the ambient generator."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def tiny_backbone(tokenizer, prediction_type: str) -> Backbone:
    """A whole text-to-image model with random frozen weights, two pixels per latent."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(3)
        end = tokenizer.eos_token_id
        encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, projection_dim=32,
                num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=end - 1, eos_token_id=end, pad_token_id=end,
            )
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(16, 32), layers_per_block=1, latent_channels=4, norm_num_groups=8,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            scaling_factor=0.7,
        )  # fmt: skip
        unet = tiny_unet()
    for part in (encoder, vae, unet):
        part.eval().requires_grad_(False)
    scheduler = EulerAncestralDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type=prediction_type, timestep_spacing="linspace",
    )  # fmt: skip
    return Backbone(tokenizer, encoder, vae, unet, scheduler, f"tiny-{prediction_type}")


def tiny_editor(base: Backbone) -> Backbone:
    """The same with eight input channels, the new ones random so that the picture matters."""
    unet = widen_unet(base.unet, base.latent_channels).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(4)
    new = unet.conv_in.weight[:, base.latent_channels :]
    new.copy_(0.05 * torch.randn(new.shape, generator=generator))
    return base.with_unet(unet, f"{base.name}-editor")


@pytest.fixture(scope="session", params=["epsilon", "v_prediction"])
def backbone(request, tokenizer):
    """The tiny text-to-image model, once for each kind of prediction."""
    return tiny_backbone(tokenizer, request.param)


@pytest.fixture(scope="session")
def base(tokenizer):
    """The tiny text-to-image model where the kind of prediction plays no part."""
    return tiny_backbone(tokenizer, "v_prediction")


@pytest.fixture(scope="session")
def editor(base):
    """The tiny editor."""
    return tiny_editor(base)


@pytest.fixture(scope="session")
def any_editor(backbone):
    """The tiny editor, once for each kind of prediction."""
    return tiny_editor(backbone)


@pytest.fixture(scope="session")
def edit_config():
    """Sizes that suit the tiny editor."""
    return EditConfig(num_inference_steps=4, resolution=32, multiple=16)


@pytest.fixture(scope="session")
def clip_folder(tokenizer, tmp_path_factory):
    """A random open_clip model in the folder form that ships."""
    config = clip_config(TINY_CLIP, len(tokenizer))
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(6)
        model = build_clip(config).eval()
    folder = tmp_path_factory.mktemp("clip") / "clip"
    save_clip(model, config, folder)
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


@pytest.fixture(scope="session")
def clip(clip_folder) -> ClipEncoder:
    """The tiny CLIP, loaded from its folder."""
    return load_clip(Preset(name="tiny", text_to_image="", editor="", clip=str(clip_folder)))


@pytest.fixture(scope="session")
def judge() -> Judge:
    """An untrained judge, for what holds of any."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return Judge((8, 16, 16, 16)).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def seed_triplets():
    """The hand-written triplets of the picture world."""
    return list(read_triplets(Path(MINIATURE.seed_triplets)))


@pytest.fixture
def tiny_writer(seed_triplets):
    """A small random Llama with the miniature's tokenizer; made anew, since tuning changes it in place."""
    recipe = WriterRecipe(hidden=64, layers=2, vocabulary=500)
    language = build_writer(recipe, learn_writer_tokenizer(recipe.vocabulary, seed_triplets))
    language.model.eval().requires_grad_(False)
    return language


@pytest.fixture(scope="session")
def shipped_writer():
    """The miniature's writer of triplets."""
    return load_writer(MINIATURE)


@pytest.fixture(scope="session")
def triplets():
    """Triplets of the world."""
    return list(world_triplets(6, 77))


def pair_rows(triplets, size: int = 32) -> list[dict]:
    """Rows in the candidates' format whose pictures are true renders; two for every other triplet."""
    rows = []
    for number, triplet in enumerate(triplets):
        edit = edit_of(triplet)
        first, second = (images.png_bytes(render(s, size)) for s in (edit.before, edit.after))
        rows += [
            {
                records.TRIPLET_ID: triplet.id,
                records.CANDIDATE: candidate,
                records.ORIGINAL_PROMPT: triplet.input,
                records.ORIGINAL_IMAGE: {"bytes": first, "path": f"{number}_0.png"},
                records.EDIT_PROMPT: triplet.edit,
                records.EDITED_PROMPT: triplet.output,
                records.EDITED_IMAGE: {"bytes": second, "path": f"{number}_1.png"},
                records.SEED: candidate,
                records.P2P_THRESHOLD: 0.5,
                records.CFG_SCALE: 4.0,
                records.SOURCE: json.dumps(dict(triplet.source)),
            }
            for candidate in range(1 + number % 2)
        ]
    return rows


@pytest.fixture
def rows(triplets):
    """Nine pairs of six triplets."""
    return pair_rows(triplets)


@pytest.fixture
def pair_folder(rows, tmp_path) -> Path:
    """The nine pairs as two shards, named as candidates."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    for number, part in enumerate((rows[:5], rows[5:])):
        with writing_shard(shard_path(folder, number)) as shard:
            shard.add(part)
    return folder


@pytest.fixture
def picture() -> Image.Image:
    """A picture no model has seen: smooth colours, wider than high."""
    row, column = np.mgrid[:48, :72]
    return Image.fromarray(np.stack([row * 5, column * 3, 255 - row * 2], axis=-1).astype(np.uint8))


@pytest.fixture(scope="session")
def shipped_base():
    """The miniature's text-to-image model; a missing or altered weight fails the test."""
    return load_text_to_image(MINIATURE)


@pytest.fixture(scope="session")
def shipped_editor():
    """The miniature's editor."""
    return load_editor(MINIATURE)


@pytest.fixture(scope="session")
def shipped_clip():
    """The miniature's CLIP."""
    return load_clip(MINIATURE)


@pytest.fixture(scope="session")
def shipped_judge():
    """The miniature's judge."""
    return load_judge(MINIATURE)
