"""An adapter's frozen weights lie in two bytes under mixed precision, and training does not notice."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ip2p_lib import cli
from ip2p_lib.backbone import load_backbone
from ip2p_lib.dataset import open_dataset
from ip2p_lib.lora import adapter_weights, add_lora, computing, store_frozen
from ip2p_lib.optimisation import compute_dtype, computes_in_bf16
from ip2p_lib.presets import EditConfig, TrainConfig
from ip2p_lib.training import EditSheet, train_editor
from ip2p_lib.unet import as_editor_unet, save_pipeline

CONFIG = TrainConfig(
    steps=3,
    batch_size=4,
    gradient_accumulation_steps=1,
    mixed_precision="bf16",
    resolution=32,
    learning_rate=1e-2,
)


def adapted(start, train_conv_in):
    return add_lora(as_editor_unet(start.unet, 4), 2, 2, train_conv_in=train_conv_in)


def size(unet):
    return sum(p.numel() * p.element_size() for p in unet.parameters() if p.ndim > 1)


@pytest.mark.parametrize("train_conv_in", [True, False])
def test_losses_and_weights_are_the_same_to_the_bit_in_half_of_the_memory(
    base, editor, pair_folder, train_conv_in
):
    start = base if train_conv_in else editor
    data = open_dataset(pair_folder, base, resolution=32)
    runs = []
    for unet in (adapted(start, train_conv_in), store_frozen(adapted(start, train_conv_in), torch.bfloat16)):
        backbone = base.with_unet(unet, "start")
        losses = [report.loss.item() for report in train_editor(unet, backbone, data, CONFIG)]
        runs.append((losses, {n: p.detach() for n, p in unet.named_parameters() if p.requires_grad}, unet))
    (losses, whole, plain), (found, reduced, small) = runs
    assert found == losses
    assert all(p.dtype == torch.float32 for p in reduced.values())
    assert all(torch.equal(reduced[n], whole[n]) for n in whole)
    frozen = [p for p in small.parameters() if not p.requires_grad]
    assert {p.dtype for p in frozen if p.ndim > 1} == {torch.bfloat16}
    assert {p.dtype for p in frozen if p.ndim == 1} == {torch.float32}
    assert size(small) < 0.6 * size(plain)


def test_in_float32_nothing_changes(editor):
    unet = store_frozen(adapted(editor, False), compute_dtype("no"))
    assert {p.dtype for p in unet.parameters()} == {torch.float32}
    assert not computing(unet)._enabled
    assert not computing(as_editor_unet(editor.unet, 4).bfloat16())._enabled


def test_the_dtype_is_that_of_mixed_precision():
    assert [compute_dtype(p) for p in ("no", "bf16", "fp16")] == [
        torch.float32,
        torch.bfloat16,
        torch.float16,
    ]
    assert compute_dtype("auto") == (torch.bfloat16 if computes_in_bf16() else torch.float32)


def test_a_sheet_is_drawn_with_weights_of_both_kinds(base, editor, pair_folder):
    data = open_dataset(pair_folder, base, resolution=32)
    sheet = EditSheet(base, data, EditConfig(num_inference_steps=2, resolution=32, multiple=16), count=2)
    whole = sheet(adapted(editor, False).eval())
    small = sheet(store_frozen(adapted(editor, False), torch.bfloat16).eval())
    assert small.isfinite().all()
    assert (small - whole).abs().mean() < 0.05


def test_the_command_trains_and_writes_a_whole_editor(base, pair_folder, tmp_path):
    save_pipeline(base, tmp_path / "base")
    command = (
        f"train --data {pair_folder} --out {tmp_path / 'out'} --model {tmp_path / 'base'} --steps 2 --batch-size 2"
        " --accumulate 1 --lora-rank 2 --precision bf16 --resolution 32 --sheet-every 1 --held-out 0.3 --decay-steps 0"
    )
    done = CliRunner().invoke(cli.app, command.split())
    assert done.exit_code == 0, done.exception
    made = load_backbone(str(Path(tmp_path / "out" / "editor"))).unet
    assert made.config.in_channels == 8
    assert not adapter_weights(made)
