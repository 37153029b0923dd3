"""Watching a run: means over stretches, a log that TensorBoard reads, sheets that leave the run alone, a card."""

from dataclasses import replace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ip2p_lib.dataset import open_dataset
from ip2p_lib.presets import EditConfig, TrainConfig
from ip2p_lib.training import EditSheet, drawn, train_editor, watched, write_card
from ip2p_lib.unet import as_editor_unet

CONFIG = TrainConfig(
    steps=7, batch_size=2, gradient_accumulation_steps=1, learning_rate=1e-3, decay_steps=2, ema_decay=0.9,
    resolution=16, checkpoint_every=7,
)  # fmt: skip
EDIT = EditConfig(guidance_scale=3.0, image_guidance_scale=1.5, num_inference_steps=2, resolution=16)


@pytest.fixture
def data(pair_folder, base):
    return open_dataset(pair_folder, base, resolution=16)


def run(base, data, folder=None):
    return train_editor(as_editor_unet(base.unet, 4), base, data, CONFIG, folder)


def test_every_report_passes_and_stretches_have_their_mean(base, data):
    losses = [r.loss.item() for r in run(base, data)]
    found = list(watched(run(base, data), CONFIG, every=3))
    assert [report.step for report, _ in found] == list(range(1, 8))
    told = {p.step: p for _, p in found if p}
    assert list(told) == [3, 6, 7]
    assert told[3].loss == pytest.approx(sum(losses[:3]) / 3, rel=1e-5)
    assert told[7].loss == pytest.approx(losses[6], rel=1e-5)
    assert told[3].learning_rate == pytest.approx(1e-3)
    assert told[7].learning_rate < 0.7e-3
    assert told[7].seconds_left == 0 < told[3].seconds_left
    assert "pairs/s" in str(told[3])


def test_tensorboard_reads_the_log(base, data, tmp_path):
    sheet = EditSheet(base, data, EDIT, count=2)
    progress = [
        p for _, p in watched(run(base, data), CONFIG, tmp_path, every=3, sheet=sheet, sheet_every=5) if p
    ]
    log = EventAccumulator(str(tmp_path))
    log.Reload()
    assert [(e.step, round(e.value, 5)) for e in log.Scalars("loss")] == [
        (p.step, round(p.loss, 5)) for p in progress
    ]
    assert {"learning_rate", "pairs_per_second"} <= set(log.Tags()["scalars"])
    assert [(e.step, e.width, e.height) for e in log.Images("edits")] == [(5, 32, 80), (7, 32, 80)]


def test_drawing_shows_the_average_and_changes_nothing(base, data):
    *_, report = run(base, data)
    before = {n: p.detach().clone() for n, p in report.model.named_parameters()}
    seen = {}

    def look(model):
        seen.update({n: p.detach().clone() for n, p in model.named_parameters()}, training=model.training)
        return torch.zeros(1)

    drawn(report, look)
    assert seen.pop("training") is False
    assert report.model.training
    assert all(torch.equal(seen[n], s) for n, s in zip(report.ema.names, report.ema.shadow, strict=True))
    assert all(torch.equal(p, before[n]) for n, p in report.model.named_parameters())


def test_a_watched_run_with_sheets_ends_at_the_same_weights(base, data, tmp_path):
    *_, plain = run(base, data)
    sheet = EditSheet(base, data, EDIT, count=2)
    *_, (seen, _) = watched(run(base, data), CONFIG, tmp_path, sheet=sheet, sheet_every=2)
    assert all(
        torch.equal(a, b) for a, b in zip(plain.model.parameters(), seen.model.parameters(), strict=True)
    )


def test_the_rows_of_a_sheet_are_what_they_say(editor, base, data):
    sheet = EditSheet(base, data, EDIT, count=3)
    rows = sheet(editor.unet)[0].unflatten(1, (5, 16))  # (3, rows, 16, W)
    pairs, ways = data.picks(0, 3, 0, flip=False)
    mean, _, condition = data.latents(pairs, ways)
    shown = base.decode_latents(condition * base.vae.config.scaling_factor)
    torch.testing.assert_close(rows[:, 0].unflatten(2, (3, 16)).permute(2, 0, 1, 3), shown)
    torch.testing.assert_close(
        rows[:, 4].unflatten(2, (3, 16)).permute(2, 0, 1, 3), base.decode_latents(mean)
    )
    texts = replace(data, instructions=["make it night"] * len(data.instructions))
    other = EditSheet(base, texts, EDIT, count=3)(editor.unet)[0].unflatten(1, (5, 16))
    changed = [not torch.allclose(rows[:, i], other[:, i], atol=1e-5) for i in range(5)]
    assert changed == [False, False, False, True, False]


def test_a_card_tells_how_the_run_was_made(base, data, tmp_path):
    list(run(base, data, tmp_path / "run"))
    write_card(tmp_path / "run", tmp_path / "README.md", [(3, 0.5), (7, 0.25)], 0.3)
    card = (tmp_path / "README.md").read_text()
    for told in ("| optimiser steps | 7 |", "| conditioning dropout, each of three events | 0.05 |", "| seed | 0 |",
                 "0.5000 around step 3, 0.2500 around step 7", "without dropout: 0.3000", base.name, "| torch | "):  # fmt: skip
        assert told in card
    with pytest.raises(FileNotFoundError):
        write_card(tmp_path / "nothing", tmp_path / "x.md")
