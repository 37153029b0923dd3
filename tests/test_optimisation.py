"""The training loop: its averages, its rates, and that a killed run ends where an uninterrupted one does."""

import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ip2p_lib.optimisation import Ema, FitConfig, LossWatch, checkpoints, fit, loop
from ip2p_lib.optimisation.checkpoints import _write
from ip2p_lib.storage import read_json

CONFIG = FitConfig(steps=8, learning_rate=0.05, checkpoint_every=3, ema_decay=0.9, max_grad_norm=1.0)


def network(seed=0):
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator))
    return model


def loss_of(model, batch_size=16):
    """Regression on data keyed by the step."""

    def loss_at(step):
        x = torch.randn(batch_size, 3, generator=torch.Generator().manual_seed(step))
        return nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))

    return loss_at


def trained(config, folder=None, *, stop_at=None):
    """Weights, averages and losses after a run; `stop_at` kills it after that many of its steps."""
    model, losses, last = network(), [], None
    run = fit(model, loss_of(model), config, folder=folder)
    for last in run:
        losses.append(last.loss.item())
        if last.step == stop_at:
            run.close()
            break
    return [p.detach().clone() for p in model.parameters()], [s.clone() for s in last.ema.shadow], losses


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, r"FitConfig\.steps must be at least 1, got 0"),
        ({"warmup_steps": -5}, r"FitConfig\.warmup_steps must be at least 0, got -5"),
        ({"mixed_precision": "fp8"}, r"no, bf16, fp16 or auto; got 'fp8'"),
        ({"ema_decay": 1.0}, r"FitConfig\.ema_decay must lie in \[0, 1\), got 1\.0"),
        ({"ema_decay": -0.1}, r"got -0\.1"),
        ({"decay_steps": 9}, r"FitConfig\.decay_steps must lie in 0\.\.steps \(8\), got 9"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


def test_defaults_are_the_papers():
    config = FitConfig(steps=10)
    assert (config.learning_rate, config.weight_decay, config.ema_decay) == (1e-4, 1e-2, 0.9999)
    assert config.max_grad_norm is None
    assert {config.rate_at(s) for s in range(10)} == {1.0}


def test_clipping_to_zero_means_none():
    weights, _, losses = trained(replace(CONFIG, max_grad_norm=0.0))
    assert losses[-1] < losses[0]
    assert equal(weights, trained(replace(CONFIG, max_grad_norm=None))[0])
    assert not equal(weights, trained(replace(CONFIG, max_grad_norm=0.01))[0])


def test_an_accelerator_that_is_no_cuda_gpu_is_left_alone():
    code = (
        "import torch; torch.accelerator.is_available = lambda: True; torch.backends.mps.is_available = lambda: True\n"
        "from ip2p_lib.optimisation import make_accelerator; print(make_accelerator('no').device.type)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.stdout.strip() == "cpu", done.stderr


def test_the_rate_warms_up_in_equal_steps_and_may_fall_to_a_hundredth():
    warm = FitConfig(steps=100, warmup_steps=4)
    assert [warm.rate_at(s) for s in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    falling = FitConfig(steps=100, decay_steps=100)
    rates = [falling.rate_at(s) for s in range(101)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1
    assert rates[50] == pytest.approx(0.505)
    assert rates[100] == pytest.approx(0.01)
    late = FitConfig(steps=300, decay_steps=100)
    assert {late.rate_at(s) for s in range(200)} == {1.0}
    assert [late.rate_at(200 + s) for s in range(101)] == rates


def test_the_average_follows_the_ramp_of_the_released_code():
    model = nn.Linear(2, 1, bias=False)
    ema, slow = Ema(model, 0.9), model.weight.detach().clone()
    for n in range(1, 120):
        with torch.no_grad():
            model.weight += math.sin(n)
        decay = min(0.9, (1 + n) / (10 + n))
        slow = decay * slow + (1 - decay) * model.weight.detach()
        ema.update()
    torch.testing.assert_close(ema.shadow[0], slow)


def test_swapping_exchanges_weights_and_average_and_back():
    model = network()
    ema = Ema(model, 0.5)
    with torch.no_grad():
        model[0].weight += 1
    live, mean = model[0].weight.detach().clone(), ema.shadow[0].clone()
    ema.swap()
    assert equal([model[0].weight, ema.shadow[0]], [mean, live])
    ema.swap()
    assert equal([model[0].weight, ema.shadow[0]], [live, mean])


def test_training_lowers_the_loss_and_moves_the_average():
    start = [p.detach().clone() for p in network().parameters()]
    weights, averages, losses = trained(replace(CONFIG, steps=200))
    assert sum(losses[-20:]) < 0.1 * sum(losses[:20])
    assert not equal(start, averages)
    assert not equal(weights, averages)


@pytest.mark.parametrize("stop_at", [2, 3, 5, 7])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, stop_at):
    whole = trained(CONFIG)
    trained(CONFIG, tmp_path, stop_at=stop_at)
    resumed = trained(CONFIG, tmp_path)
    assert len(resumed[2]) == 8 - stop_at // 3 * 3
    assert equal(whole[0], resumed[0])
    assert equal(whole[1], resumed[1])
    assert whole[2][-1] == resumed[2][-1]


def test_a_finished_run_hands_its_result_over_once(tmp_path):
    first = trained(CONFIG, tmp_path)
    again = trained(CONFIG, tmp_path)
    assert len(again[2]) == 1
    assert equal(first[0], again[0])
    assert equal(first[1], again[1])


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    trained(replace(CONFIG, checkpoint_every=1), tmp_path)
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-00000007", "checkpoint-00000008"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_users_copy_of_a_checkpoint_is_neither_the_newest_nor_deleted(tmp_path):
    whole = trained(CONFIG)
    trained(CONFIG, tmp_path, stop_at=4)
    copy = shutil.copytree(checkpoints(tmp_path)[0], tmp_path / "checkpoint-best")
    assert equal(whole[0], trained(CONFIG, tmp_path)[0])
    assert copy.is_dir()
    assert checkpoints(tmp_path)[-1].name == "checkpoint-00000008"


def test_a_checkpoint_that_does_not_fit_on_the_disk_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"must have room for a checkpoint, but: "):
        _write({"a": torch.zeros(2)}, tmp_path / "none" / "checkpoint-1" / "model.safetensors")


def test_a_half_written_checkpoint_is_not_resumed_from(tmp_path):
    whole = trained(CONFIG)
    trained(CONFIG, tmp_path, stop_at=4)
    (tmp_path / "checkpoint-00000004").mkdir()
    (tmp_path / "checkpoint-00000004" / "model.safetensors").write_bytes(b"half")
    assert equal(whole[0], trained(CONFIG, tmp_path)[0])


def test_another_configuration_in_the_same_folder_is_refused(tmp_path):
    trained(CONFIG, tmp_path)
    with pytest.raises(ValueError, match="another learning_rate, ema_decay; continue with the same"):
        trained(replace(CONFIG, learning_rate=0.1, ema_decay=0.5), tmp_path)


def test_another_model_in_the_same_folder_is_refused(tmp_path):
    trained(CONFIG, tmp_path)
    other = nn.Linear(3, 1)
    with pytest.raises(ValueError, match="must hold a checkpoint of this model"):
        next(fit(other, loss_of(other), CONFIG, folder=tmp_path))


def broken_from(step, factor, model):
    good = loss_of(model)
    return lambda micro: good(micro) * (factor if micro >= step else 1)


@pytest.mark.parametrize("factor", [math.nan, math.inf, 1e6])
def test_a_loss_that_goes_wrong_stops_the_run_and_spares_the_last_checkpoint(tmp_path, factor):
    config, model = replace(CONFIG, steps=40), network()
    broken = broken_from(19, factor, model)
    with pytest.raises(FloatingPointError) as caught:
        list(fit(model, broken, config, folder=tmp_path, describe=lambda step: f"rows of {step}"))
    message = str(caught.value)
    assert "must stay finite and below 10 times its first values" in message
    assert "at step 20 on rows of 19; start from the last good checkpoint, " in message
    assert "checkpoint-00000018, in another folder, at a lower learning rate" in message
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-00000015", "checkpoint-00000018"]
    weights = load_file(tmp_path / "checkpoint-00000018" / "model.safetensors")
    assert all(w.isfinite().all() for w in weights.values())
    assert equal(trained(config, tmp_path)[0], trained(config)[0])  # and the run goes on from there


def test_a_loss_that_creeps_up_is_an_explosion_too_and_a_noisy_one_is_not():
    watch = LossWatch(10.0, torch.device("cpu"))
    for step in range(1, 201):
        watch.see(step, torch.tensor(1 + 0.9 * math.sin(step)))
    assert watch.first_bad() is None
    for step in range(201, 400):
        watch.see(step, torch.tensor(1.1 ** (step - 200)))
    assert 201 < watch.first_bad()[0] < 240


def test_the_judgement_of_a_continued_run_is_that_of_an_uninterrupted_one():
    losses = [torch.tensor(1.0 + 0.1 * n) for n in range(400)]
    whole, first = (LossWatch(10.0, torch.device("cpu")) for _ in range(2))
    for step, loss in enumerate(losses, 1):
        whole.see(step, loss)
        if step <= 7:
            first.see(step, loss)
    second = LossWatch(10.0, torch.device("cpu"), first.state())
    for step, loss in enumerate(losses[7:], 8):
        second.see(step, loss)
    assert second.first_bad() == whole.first_bad() is not None


def test_a_run_may_be_made_longer_while_its_rates_so_far_stay_the_same(tmp_path):
    longer = replace(CONFIG, steps=14, decay_steps=4)
    trained(CONFIG, tmp_path)
    assert equal(trained(longer, tmp_path)[0], trained(longer)[0])
    with pytest.raises(ValueError, match="another steps or decay_steps"):
        trained(replace(longer, decay_steps=12), tmp_path)
    with pytest.raises(ValueError, match="another steps or decay_steps"):
        trained(replace(longer, steps=30, decay_steps=4), tmp_path)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_serves(tmp_path):
    whole = trained(CONFIG)
    trained(CONFIG, tmp_path, stop_at=7)
    newest = checkpoints(tmp_path)[-1]
    (newest / "optimizer.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(
        ValueError, match=r"checkpoint-00000006 must be a whole.*optimizer.*delete that folder"
    ):
        trained(CONFIG, tmp_path)
    shutil.rmtree(newest)
    assert equal(whole[0], trained(CONFIG, tmp_path)[0])


def test_what_a_killed_run_was_writing_is_cleared_away(tmp_path):
    trained(CONFIG, tmp_path, stop_at=4)
    for name in (".checkpoint-00000006.77.partial", ".checkpoint-00000001.old"):
        (tmp_path / name).mkdir()
    trained(CONFIG, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-00000006", "checkpoint-00000008"]


def test_accumulated_steps_are_one_step_on_the_whole_batch():
    small, large = network(), network()
    data = torch.randn(24, 3, generator=torch.Generator().manual_seed(1))

    def part(model, x):
        return nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))

    one = replace(CONFIG, steps=1)
    (a,) = fit(
        small, lambda micro: part(small, data[micro * 8 :][:8]), replace(one, gradient_accumulation_steps=3)
    )
    (b,) = fit(large, lambda micro: part(large, data), one)
    torch.testing.assert_close(a.loss, b.loss)
    torch.testing.assert_close(list(small.parameters()), list(large.parameters()))


def test_frozen_parameters_stay_and_groups_have_their_own_rate():
    model = network()
    model[0].requires_grad_(False)
    before = [p.detach().clone() for p in model.parameters()]
    groups = [{"params": [model[2].weight], "lr": 0.05}, {"params": [model[2].bias], "lr": 0.0}]
    list(fit(model, loss_of(model), replace(CONFIG, weight_decay=0.0), groups=groups))
    same = [torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert same == [True, True, False, True]


def test_one_process_may_train_at_several_precisions():
    seen = []
    for precision in ("bf16", "no", "bf16"):
        model = network()
        good = loss_of(model)

        def loss_at(step, model=model, good=good):
            seen.append(model(torch.ones(1, 3)).dtype)
            return good(step)

        list(fit(model, loss_at, replace(CONFIG, steps=1, mixed_precision=precision)))
    assert seen == [torch.bfloat16, torch.float32, torch.bfloat16]


def test_the_loss_scale_of_fp16_goes_on_where_it_was(tmp_path, monkeypatch):
    """A scaler on the CPU in the place of fp16's on a GPU: it doubles every second step, also over a stop."""
    made = []

    def scaled(_):
        accelerator = whole("no")
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=2)
        made.append(accelerator.scaler)
        return accelerator

    whole = loop.make_accelerator
    monkeypatch.setattr(loop, "make_accelerator", scaled)
    model = nn.Linear(2, 1)

    def loss_at(step):
        return model(torch.ones(4, 2)).square().mean()

    for steps in (4, 6):
        config = FitConfig(steps=steps, learning_rate=1e-3, checkpoint_every=4)
        for _ in fit(model, loss_at, config, folder=tmp_path):
            pass
    assert [s.get_scale() for s in made] == [64, 128]
    assert read_json(tmp_path / "checkpoint-00000004" / "state.json")["loss_scale"]["scale"] == 64
