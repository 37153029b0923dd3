"""Fine-tuning: the joint dropout, the loss, what a step sees, and that a killed run ends at the same bits."""

from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn import functional as F

from ip2p_lib.backbone import weights_mark
from ip2p_lib.dataset import open_dataset
from ip2p_lib.diffusion import Schedule, training_target
from ip2p_lib.lora import add_lora, store_frozen
from ip2p_lib.presets import TrainConfig
from ip2p_lib.storage import read_json, write_json
from ip2p_lib.training import (
    EditLoss,
    check_run,
    conditioning_dropout,
    draw_timesteps,
    edit_loss,
    fit_config,
    train_editor,
    validation_loss,
    write_card,
)
from ip2p_lib.training import loss as loss_module
from ip2p_lib.unet import save_pipeline, widen_unet

CONFIG = TrainConfig(
    steps=6, batch_size=3, gradient_accumulation_steps=1, learning_rate=1e-3, conv_in_learning_rate=1e-2,
    ema_decay=0.9, resolution=16, checkpoint_every=2, seed=3,
)  # fmt: skip


@pytest.fixture
def data(pair_folder, base):
    return open_dataset(pair_folder, base, resolution=16)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Recorder(torch.nn.Module):
    """Stands before a UNet and keeps what it was asked; a pure pass-through."""

    def __init__(self, unet):
        super().__init__()
        self.unet, self.device, self.asked = unet, unet.device, []

    def forward(self, sample, timesteps, states):
        self.asked.append((sample, timesteps, states))
        return self.unet(sample, timesteps, states)


@pytest.mark.parametrize(
    ("u", "text", "image"),
    [
        (0.0, True, False),
        (0.06, True, True),
        (0.12, False, True),
        (0.2, False, False),
        (0.05, True, True),  # events begin at their lower end
        (0.1, False, True),
        (0.9999, False, False),
    ],
)
def test_one_draw_decides_both_drops(u, text, image):
    drop_text, drop_image = conditioning_dropout(torch.tensor([u], dtype=torch.float64), prob=0.05)
    assert (drop_text.item(), drop_image.item()) == (text, image)


def test_the_three_events_are_disjoint_and_equally_likely():
    draws = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drop_text, drop_image = conditioning_dropout(draws, prob=0.05)
    for event in (drop_text & ~drop_image, drop_text & drop_image, ~drop_text & drop_image):
        assert event.double().mean().item() == pytest.approx(0.05, abs=0.002)
    assert (~drop_text & ~drop_image).double().mean().item() == pytest.approx(0.85, abs=0.004)


def test_the_ends_of_the_range_drop_nothing_and_everything():
    draws = torch.linspace(0, 0.999, 50)
    assert not any(d.any() for d in conditioning_dropout(draws, prob=0.0))
    drop_text, drop_image = conditioning_dropout(draws, prob=1 / 3)
    assert (drop_text | drop_image).all()


@pytest.mark.parametrize("prob", [0.5, -0.01, float("nan")])
def test_a_dropout_outside_its_range_is_refused(prob):
    with pytest.raises(ValueError, match=rf"\[0, 1/3\].*{prob}"):
        conditioning_dropout(torch.zeros(1), prob=prob)


@pytest.mark.parametrize(("fraction", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_the_asked_share_of_timesteps_comes_from_the_noisier_half(fraction, share):
    timesteps = draw_timesteps(20_000, 1000, fraction, torch.Generator().manual_seed(1))
    assert timesteps.min() >= 0
    assert 990 < timesteps.max() < 1000
    assert (timesteps >= 500).float().mean().item() == pytest.approx(share, abs=0.012)


def test_the_loss_is_the_squared_error_of_the_prediction(any_editor):
    schedule = Schedule.of(any_editor.scheduler)
    latents, noise, condition, states = (
        draw(1, 2, 4, 8, 8),
        draw(2, 2, 4, 8, 8),
        draw(3, 2, 4, 8, 8),
        draw(4, 2, 32, 32),
    )
    timesteps = torch.tensor([10, 900])
    with torch.no_grad():
        found = edit_loss(
            any_editor.unet, schedule, latents=latents, condition=condition, text_states=states, noise=noise,
            timesteps=timesteps,
        )  # fmt: skip
        kept = any_editor.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        predicted = any_editor.unet(torch.cat([noisy, condition], 1), timesteps, states).sample
    torch.testing.assert_close(
        found, F.mse_loss(predicted, training_target(schedule, latents, noise, timesteps))
    )


def test_a_step_sees_the_unscaled_picture_and_the_instruction(editor, data, base):
    recorder = Recorder(editor.unet)
    config = replace(CONFIG, conditioning_dropout=0.0, flip=False)
    EditLoss(recorder, base, data, config)(4)
    sample, _, states = recorder.asked[0]
    pairs, flips = data.picks(4, 3, CONFIG.seed, flip=False)
    torch.testing.assert_close(sample[:, 4:], data.latents(pairs, flips)[2])
    torch.testing.assert_close(
        states, base.encode_text([data.instructions[p] for p in pairs]), rtol=1e-4, atol=1e-4
    )


def test_dropped_text_is_the_empty_instruction_and_a_dropped_picture_is_zeros(editor, data, base):
    recorder = Recorder(editor.unet)
    loss = EditLoss(recorder, base, data, replace(CONFIG, conditioning_dropout=1 / 3))
    null = base.encode_text([""])[0]
    seen = set()
    for step in range(20):
        loss(step)
        sample, _, states = recorder.asked[-1]
        for row in range(3):
            without_text = torch.allclose(states[row], null, atol=1e-5)
            without_picture = not sample[row, 4:].any()
            seen.add((without_text, without_picture))
    assert seen == {(True, False), (True, True), (False, True)}


def test_a_step_is_the_same_whenever_it_is_computed(editor, data, base):
    forth = EditLoss(editor.unet, base, data, CONFIG)
    losses = [forth(s).item() for s in range(4)]
    assert [EditLoss(editor.unet, base, data, CONFIG)(s).item() for s in (3, 2, 1, 0)] == losses[::-1]
    assert len(set(losses)) == 4
    assert EditLoss(editor.unet, base, data, replace(CONFIG, seed=4))(0).item() != losses[0]


def trained(base, data, config=CONFIG, folder=None, stop_at=None):
    """The UNet's weights, the averages and the last report of a run."""
    unet, last = widen_unet(base.unet, 4), None
    run = train_editor(unet, base, data, config, folder)
    for last in run:
        if last.step == stop_at:
            run.close()
            break
    return unet.state_dict(), last


@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, base, data, stop_at):
    whole, whole_report = trained(base, data)
    trained(base, data, folder=tmp_path, stop_at=stop_at)
    resumed, report = trained(base, data, folder=tmp_path)
    assert all(torch.equal(whole[n], resumed[n]) for n in whole)
    assert all(map(torch.equal, whole_report.ema.shadow, report.ema.shadow))
    assert torch.equal(whole_report.loss, report.loss)


def test_training_moves_the_new_channels_and_the_rest(base, data):
    start = widen_unet(base.unet, 4).state_dict()
    end, _ = trained(base, data)
    assert (end["conv_in.weight"][:, 4:] != 0).all()
    assert all(not torch.equal(start[n], end[n]) for n in start if n.endswith("weight"))
    assert not any(p.requires_grad for p in base.unet.parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the fused kernel stays")
def test_attention_and_layout_fitted_to_a_cpu_learn_the_same(base, data):
    found = {}
    for way in ("fused", "written out"):
        unet = widen_unet(base.unet, 4).train().requires_grad_(True)
        if way == "written out":
            steps = train_editor(unet, base, data, replace(CONFIG, steps=1, learning_rate=0.0))
            next(steps)
            assert unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
            unet.load_state_dict(widen_unet(base.unet, 4).state_dict())
            unet.zero_grad()
        loss = EditLoss(unet, base, data, CONFIG)(0)
        loss.backward()
        kinds = {type(p).__name__ for p in unet.attn_processors.values()}
        found[way] = loss, torch.cat([p.grad.flatten() for p in unet.parameters()]), kinds
    (fused, fused_gradient, before), (ours, gradient, after) = found.values()
    assert before != after == {"AttnProcessor"}
    torch.testing.assert_close(ours, fused, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, fused_gradient, rtol=1e-3, atol=1e-5)
    steps.close()
    assert all(p.is_contiguous() for p in unet.parameters())


def test_an_editor_can_be_saved_in_the_middle_of_its_training(tmp_path, base, data):
    unet = widen_unet(base.unet, 4)
    steps = train_editor(unet, base, data, CONFIG)
    next(steps)
    save_pipeline(base.with_unet(unet, "half trained"), tmp_path / "editor")
    saved = UNet2DConditionModel.from_pretrained(tmp_path / "editor" / "unet").state_dict()
    assert all(torch.equal(saved[n], t.half().float()) for n, t in unet.state_dict().items())


def test_the_first_layer_may_learn_faster(base, data):
    slow, _ = trained(base, data, replace(CONFIG, steps=1, conv_in_learning_rate=None))
    fast, _ = trained(base, data, replace(CONFIG, steps=1))
    ratio = fast["conv_in.weight"][:, 4:].abs().mean() / slow["conv_in.weight"][:, 4:].abs().mean()
    assert ratio.item() == pytest.approx(10, rel=0.01)
    assert torch.equal(fast["conv_out.weight"], slow["conv_out.weight"])


def test_a_rate_of_zero_leaves_the_first_layer_as_it_was(base, data):
    unet = widen_unet(base.unet, 4)
    before = unet.conv_in.weight.clone()
    *_, last = train_editor(unet, base, data, replace(CONFIG, steps=2, conv_in_learning_rate=0.0))
    assert torch.equal(last.model.conv_in.weight, before)
    assert not torch.equal(last.model.conv_out.weight, base.unet.conv_out.weight)


def test_a_folder_of_another_configuration_is_refused(tmp_path, base, data):
    trained(base, data, folder=tmp_path, stop_at=2)
    for change in ({"learning_rate": 2e-3}, {"batch_size": 2}, {"seed": 9}, {"conditioning_dropout": 0.1}):
        with pytest.raises(ValueError, match="another"):
            trained(base, data, replace(CONFIG, **change), folder=tmp_path)


def test_a_run_is_not_continued_on_other_crops_autoencoder_or_text_encoder(tmp_path, base, data, pair_folder):
    trained(base, data, folder=tmp_path, stop_at=2)
    vae, encoder = deepcopy(base.vae), deepcopy(base.text_encoder)
    for network in (vae, encoder):
        next(network.parameters()).data.mul_(1.5)
    others = (
        (base, open_dataset(pair_folder, base, resolution=16, crops=2)),
        (base, open_dataset(pair_folder, replace(base, vae=vae), resolution=16)),
        (replace(base, text_encoder=encoder), data),
    )
    for model, pairs in others:
        with pytest.raises(ValueError, match="another configuration"):
            trained(model, pairs, folder=tmp_path)


def test_what_a_run_learned_goes_only_into_the_networks_it_began_with_and_is_of_its_pairs(
    tmp_path, base, data, pair_folder
):
    unet = widen_unet(base.unet, 4)
    check_run(unet, base, data, tmp_path)  # no run, which whoever loads its weights says
    next(train_editor(unet, base, data, CONFIG, tmp_path))
    check_run(widen_unet(base.unet, 4), base, data, tmp_path)
    encoder = deepcopy(base.text_encoder)
    next(encoder.parameters()).data.mul_(1.5)
    with pytest.raises(ValueError, match=r"its text_encoder was .*see --model"):
        check_run(unet, replace(base, text_encoder=encoder), data, tmp_path)
    with pytest.raises(ValueError, match=r"its base was tiny.* this one's is other; see --model"):
        check_run(unet, replace(base, name="other"), data, tmp_path)
    fewer = open_dataset(pair_folder, base, resolution=16, held_out=0.5, part="train")
    with pytest.raises(
        ValueError, match=r"the pairs it learned from, but its prompts was .*see --data, --held-out"
    ):
        check_run(unet, base, fewer, tmp_path)


def test_a_run_that_ended_before_its_first_checkpoint_may_begin_anew_otherwise(tmp_path, base, data):
    next(train_editor(widen_unet(base.unet, 4), base, data, CONFIG, tmp_path))  # claims, and saves nothing
    other = replace(CONFIG, gradient_accumulation_steps=2 * CONFIG.gradient_accumulation_steps)
    for report in train_editor(widen_unet(base.unet, 4), base, data, other, tmp_path):
        last = report
    assert last.step == other.steps
    with pytest.raises(ValueError, match="holds results of another configuration"):
        next(train_editor(widen_unet(base.unet, 4), base, data, CONFIG, tmp_path))


def test_an_adapters_run_goes_on_whether_or_not_what_it_leaves_was_shortened(tmp_path, base, data):
    """With several devices frozen weights stay in float32, on one they are kept in two bytes."""

    def adapted():
        unet = widen_unet(base.unet, 4)
        add_lora(unet, 2, 2, train_conv_in=True)
        return unet

    mark = weights_mark(adapted())
    short = store_frozen(adapted(), torch.bfloat16)
    config = replace(CONFIG, mixed_precision="bf16")
    for _ in train_editor(short, base, data, config, tmp_path, mark=mark):
        pass
    check_run(adapted(), base, data, tmp_path)
    more = replace(config, steps=config.steps + 1)
    *_, last = train_editor(adapted(), base, data, more, tmp_path)
    assert last.step == more.steps


@pytest.mark.parametrize("found", ["tiny", ["tiny", "0c30"]])
def test_a_card_names_the_model_that_was_trained(tmp_path, found):
    config = {"base": found, "steps": 1}
    record = {"config": config, "command": "ip2p train", "commit": "c", "machine": "m", "versions": {}}
    write_json(tmp_path / "run.json", record)
    write_card(tmp_path, tmp_path / "README.md")
    assert "base_model: tiny\n" in (tmp_path / "README.md").read_text("utf-8")


def test_a_run_records_its_configuration(tmp_path, base, data):
    trained(base, data, folder=tmp_path, stop_at=1)
    record = read_json(tmp_path / "run.json")["config"]
    assert (record["seed"], record["prompts"], record["base"]) == (3, 6, base.name)


def test_the_optimiser_gets_the_training_configuration():
    config = fit_config(replace(CONFIG, warmup_steps=7, decay_steps=3, mixed_precision="bf16"))
    for name in ("steps", "learning_rate", "ema_decay", "checkpoint_every", "gradient_accumulation_steps"):
        assert getattr(config, name) == getattr(CONFIG, name)
    assert (config.warmup_steps, config.decay_steps, config.mixed_precision) == (7, 3, "bf16")
    assert config.max_grad_norm is None


def test_the_validation_loss_is_repeatable_and_drops_nothing(editor, data, base):
    first = validation_loss(editor.unet, base, data, CONFIG, batches=3)
    assert validation_loss(editor.unet, base, data, CONFIG, batches=3) == first
    other = validation_loss(editor.unet, base, data, replace(CONFIG, conditioning_dropout=1 / 3), batches=3)
    assert other == first
    assert np.isfinite(first)


def test_the_validation_loss_is_of_whole_batches_whatever_number_of_processes_they_were_cut_for(
    editor, data, base, monkeypatch
):
    config = replace(CONFIG, batch_size=4)
    alone = validation_loss(editor.unet, base, data, config, batches=2)
    monkeypatch.setattr(loss_module, "processes", lambda: SimpleNamespace(num_processes=2, process_index=0))
    assert validation_loss(editor.unet, base, data, config, batches=2) == pytest.approx(alone, rel=1e-5)
