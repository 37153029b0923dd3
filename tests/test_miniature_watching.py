"""How a training of the shipped models is watched: log, samples and the record that goes with the weights."""

import torch
from torch import nn

from ip2p_lib.miniature import watching
from ip2p_lib.miniature.cards import _card
from ip2p_lib.miniature.watching import sheet_path, watch, write_record
from ip2p_lib.optimisation import FitConfig, fit
from ip2p_lib.storage import read_json


def steps_of(folder, steps=500):
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.zero_()

    def loss_at(step):
        x = torch.randn(8, 2, generator=torch.Generator().manual_seed(step))
        return nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))

    return model, fit(
        model, loss_at, FitConfig(steps=steps, learning_rate=0.01, ema_decay=0.9), folder=folder
    )


def test_a_watched_training_logs_its_losses_and_draws_with_the_average(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "SHEET_EVERY", 200)
    model, steps = steps_of(tmp_path / "run")
    drawn = []

    def sheet(report):
        assert not report.model.training
        drawn.append((report.step, model.weight.clone()))
        sheet_path(tmp_path, "line", report).write_bytes(b"picture")

    last = watch(tmp_path, "line", steps, 500, sheet, {"steps": 500, "batch_size": 8, "seed": 0})
    log = read_json(tmp_path / "line-log.json")
    assert [s for s, _ in log["loss"]] == list(range(50, 501, 50))
    assert log["loss"][-1][1] < log["loss"][0][1]
    assert log["hours"] > 0
    assert [s for s, _ in drawn] == [200, 400]
    assert len(list((tmp_path / "sheets").iterdir())) == 2
    assert model.training
    assert last.step == 500
    assert not torch.equal(drawn[-1][1], model.weight), "the average was drawn, and put away again"


def test_the_record_holds_every_part_and_becomes_a_card(tmp_path):
    for name in ("first", "second"):
        _, steps = steps_of(tmp_path / name, steps=250)
        watch(tmp_path, name, steps, 250, None, {"steps": 250, "batch_size": 8, "seed": 4})
    write_record(tmp_path, tmp_path, ("first", "second"))
    record = read_json(tmp_path / "training.json")
    assert list(record) == ["first", "second"]
    record["second"]["about"] = "what was left"
    card = _card("A line", "It adds.", record, {})
    assert "| first | 0.00 | 250 | 8 | 4 |" in card
    assert "second: what was left." in card
