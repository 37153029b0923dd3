"""The memory plan: counted on the real architectures by runs without numbers; what it chooses, what it refuses."""

import re

import open_clip
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from typer.testing import CliRunner

from ip2p_lib import cli
from ip2p_lib.backbone import build_clip, pick_device
from ip2p_lib.cli import plan as cli_plan
from ip2p_lib.editing import large
from ip2p_lib.lora import TARGETS
from ip2p_lib.memory_plan import GIB, STAGES, counts, needs, plan
from ip2p_lib.memory_plan.dry_run import Allocations, filled, inference_bytes, training_bytes, training_peak
from ip2p_lib.single_file.architecture import UNET, empty_networks

SMALL = {
    "block_out_channels": (32, 64, 64, 64), "norm_num_groups": 8, "cross_attention_dim": 32, "attention_head_dim": 4,
}  # fmt: skip


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def small_unet():
    with torch.device("meta"):
        return UNet2DConditionModel(**{**UNET, **SMALL})


def total(stage, **options):
    return sum(needs(stage, **options).values())


def ip2p(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def test_the_counts_are_those_of_the_architectures():
    networks = empty_networks(8)
    assert parameters(networks["unet"]) == counts.EDITOR_UNET == 859_532_484
    assert parameters(empty_networks(4)["unet"]) == counts.UNET == pytest.approx(859.5e6, rel=1e-3)
    assert parameters(networks["vae"]) == counts.VAE == pytest.approx(83.65e6, rel=1e-3)
    assert parameters(networks["text_encoder"]) == counts.TEXT_ENCODER == pytest.approx(123.06e6, rel=1e-3)
    assert parameters(networks["unet"].conv_in) == counts.FIRST_LAYER
    adapted = [m for n, m in networks["unet"].named_modules() if n.endswith(TARGETS)]
    assert sum(m.in_features + m.out_features for m in adapted) == counts.LORA_PER_RANK
    assert (counts.TILED_ABOVE, counts.TILE) == (large.WHOLE, large.TILE)


def test_clip_is_as_large_as_counted():
    with torch.device("meta"):
        assert parameters(build_clip(open_clip.get_model_config("ViT-L-14"))) == counts.CLIP


def test_tensors_are_counted_while_they_live_and_once():
    given = torch.zeros(10)
    with Allocations([given]) as held:
        view = given[2:]
        first = view + 1  # 32 bytes
        second = first.view(2, 4) * 2  # 32 more
        assert held.now == 64
        del first
        assert held.now == 32
        third = torch.cat([second, second])  # 64
    assert (held.now, held.peak) == (96, 96)
    assert len(third) == 4


@pytest.mark.parametrize("side", [8, 16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_run_without_numbers_holds_what_a_real_one_holds(side, checkpointing):
    def peak():
        unet = filled(small_unet(), torch.float32)
        inputs = torch.zeros(2, 4, side, side), torch.zeros(2, dtype=torch.long), torch.zeros(2, 77, 32)
        return training_peak(unet, inputs, "bf16", checkpointing)

    with FakeTensorMode():
        expected = peak()
    assert peak() == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_what_the_editors_unet_holds_is_a_line_in_latent_pixels():
    for rows, resolution in ((1, 256), (3, 512)):
        found = inference_bytes(empty_networks(8)["unet"], resolution, rows)
        assert found == pytest.approx(rows * counts.FORWARD * (resolution // 8) ** 2, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "checkpointing"), list(counts.KEPT))
def test_what_training_keeps_is_a_line_too(precision, checkpointing):
    pixel, row = counts.KEPT[precision, checkpointing]
    for batch, resolution in ((2, 256), (1, 384)):
        found = training_bytes(
            empty_networks(8)["unet"], resolution, batch, precision=precision, checkpointing=checkpointing
        )
        casts = 0 if precision == "no" else 2 * counts.EDITOR_UNET
        expected = casts + batch * (pixel * (resolution // 8) ** 2 + row)
        assert found == pytest.approx(expected, rel=0.03)


@pytest.mark.slow
def test_the_autoencoder_holds_what_was_counted():
    for half, channels, side, rate in (("encoder", 3, 256, counts.ENCODE), ("decoder", 4, 32, counts.DECODE)):
        with FakeTensorMode(), torch.no_grad():
            network = getattr(filled(empty_networks()["vae"], torch.bfloat16), half)
            given = torch.zeros(1, channels, side, side, dtype=torch.bfloat16)
            with Allocations(network.parameters()) as held:
                network(given)
        assert held.peak == pytest.approx(rate * 32**2, rel=0.03)


@pytest.mark.parametrize("stage", STAGES)
def test_more_pictures_and_larger_ones_never_take_less(stage):
    batches = [total(stage, batch=n) for n in (1, 2, 4, 64)]
    assert batches == sorted(set(batches))
    pixels = [total(stage, resolution=r) for r in (64, 256, 512, 768)]
    assert pixels == sorted(pixels)


def test_tiles_bound_what_a_large_picture_takes():
    assert needs("edit", resolution=768)["while it runs"] > counts.DECODE * 64**2
    growth = total("edit", resolution=1024) - total("edit", resolution=776)
    assert growth < counts.DECODE * (128**2 - 97**2)


@pytest.mark.parametrize("resolution", [256, 512])
def test_training_takes_more_than_using_and_each_remedy_helps(resolution):
    whole = total("train", resolution=resolution, batch=8)
    assert whole > 5 * total("edit", resolution=resolution)
    for remedy in ({"gradient_checkpointing": True}, {"lora_rank": 16}, {"processes": 4}):
        assert total("train", resolution=resolution, batch=8, **remedy) < whole
    assert total("edit", precision="no") > 1.9 * total("edit", precision="fp16") - 2 * counts.RESERVE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": "dream"}, "stage must be one of edit, pairs, filter, train; got 'dream'"),
        ({"resolution": 500}, "multiple of 8 and at least 64, got 500"),
        ({"resolution": 0}, "multiple of 8 and at least 64, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"lora_rank": 0}, "lora_rank must be at least 1, got 0"),
        ({"processes": 0}, "processes must be at least 1, got 0"),
        ({"precision": "int8"}, "precision must be one of bf16, fp16, no; got 'int8'"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        needs(**{"stage": "train", **options})


@pytest.mark.parametrize("memory", [0, -8, float("nan"), float("inf")])
def test_memory_must_be_a_number_of_gib(memory):
    with pytest.raises(ValueError, match="memory must be a positive number of GiB"):
        plan("edit", memory, resolution=512, batch=1)


@pytest.mark.parametrize("memory", [8, 12, 24, 40, 80])
def test_a_training_plan_fits_and_keeps_the_pairs_of_a_step(memory):
    found = plan("train", memory, resolution=256, batch=1024)
    assert found.fits
    assert found.total <= memory * GIB
    options = dict(o.split() for o in found.options if " " in o)
    assert int(options["--batch-size"]) * int(options["--accumulate"]) == 1024


def test_more_memory_never_gives_a_more_frugal_way():
    def frugality(memory):
        found = plan("train", memory, resolution=256, batch=1024).options
        micro = int(next(o.split()[1] for o in found if o.startswith("--batch-size")))
        return any("lora" in o for o in found), "--gradient-checkpointing" in found, -micro

    order = [frugality(memory) for memory in (4, 8, 12, 16, 24, 32, 40, 80)]
    assert [o[0] for o in order] == sorted((o[0] for o in order), reverse=True)
    assert order[0][0]
    assert order[-1] == (False, False, -128)


def test_where_only_an_adapter_fits_it_says_how_many_cards_train_all_weights():
    found = plan("train", 8, resolution=256, batch=1024)
    assert found.fits
    assert "--lora-rank 16" in found.options
    count = int(re.match(r"(\d+) such cards hold all weights in parts", found.notes[-1])[1])
    options = {"resolution": 256, "gradient_checkpointing": True}
    assert (
        total("train", processes=count, **options) <= 8 * GIB < total("train", processes=count - 1, **options)
    )
    assert "such cards" not in " ".join(plan("train", 24, resolution=256, batch=1024).notes)


def test_where_nothing_fits_it_says_so():
    found = plan("train", 3, resolution=256, batch=1024)
    assert not found.fits
    assert found.notes[-1].startswith("not even in parts do several such cards hold all weights")


def test_frozen_weights_lie_in_the_dtype_they_are_computed_in():
    options = {"resolution": 256, "lora_rank": 16}
    mixed, plain = (needs("train", precision=p, **options) for p in ("bf16", "no"))
    assert mixed["frozen weights"] * 2 == plain["frozen weights"]
    assert mixed["frozen weights"] / 2 + counts.FIRST_LAYER == counts.EDITOR_UNET
    assert needs("train", resolution=256)["frozen weights"] == 0


def test_the_shell_tells_the_plan_and_its_options_are_the_commands(monkeypatch):
    result = ip2p("plan", "--stage", "train", "--preset", "full", "--memory", 24)
    assert result.exit_code == 0, result.stderr
    assert "fits 24 GiB" in result.stdout
    shown = set(re.findall(r"--[a-z-]+", result.stdout.split("ip2p train")[1].splitlines()[0]))
    monkeypatch.setenv("COLUMNS", "200")
    assert shown <= set(re.findall(r"--[a-z-]+", ip2p("train", "--help").stdout))
    for stage in STAGES:
        assert "in all" in ip2p("plan", "--stage", stage, "--memory", 8).stdout


def test_the_shell_refuses_in_one_line():
    result = ip2p("plan", "--stage", "train", "--memory", "-3")
    assert (result.exit_code, result.stderr) == (
        1,
        "error: memory must be a positive number of GiB, got -3.0\n",
    )
    assert "stage must be one of" in ip2p("plan", "--stage", "dream", "--memory", "8").stderr


def test_a_full_size_stage_says_what_it_takes_before_it_loads_anything(tmp_path, monkeypatch):
    picture = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(picture)
    command = (
        "edit",
        picture,
        "make it night",
        "--preset",
        "full",
        "--model",
        tmp_path,
        "--out",
        tmp_path / "b.png",
    )
    result = ip2p(*command)
    expected = total("edit", precision={"cpu": "no"}.get(pick_device()[0].type, "bf16")) / GIB
    assert f"edit at 512 pixels takes about {expected:.1f} GiB" in result.stdout
    assert result.exit_code == 1, "there is no model in that folder"
    assert result.stderr.count("\n") == 1
    monkeypatch.setattr(cli_plan, "_free", lambda _: 2.0 * GIB)
    assert "which is too little: `ip2p plan --stage edit --memory 2` says what fits" in ip2p(*command).stdout
    assert "GiB" not in ip2p(*command[:3], "--model", tmp_path, "--out", tmp_path / "b.png").stdout


def test_a_wrong_precision_is_one_line_at_full_size_too(tmp_path):
    command = (
        "train",
        "--data",
        tmp_path,
        "--out",
        tmp_path / "out",
        "--preset",
        "full",
        "--precision",
        "fp8",
    )
    assert "must be no, bf16, fp16 or auto; got 'fp8'" in ip2p(*command).stderr
