"""The schedule and the sampler, against published numbers, diffusers, and a denoiser that knows the answer."""

import pytest
import torch
from diffusers import DDPMScheduler, EulerAncestralDiscreteScheduler
from diffusers.schedulers import scheduling_euler_ancestral_discrete as theirs

from ip2p_lib.diffusion import (
    Schedule,
    ancestral_step,
    denoised_from,
    euler_ancestral,
    sampling_sigmas,
    seeded_noise,
    training_target,
)

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (4, 8, 8)


def scheduler(prediction_type="epsilon"):
    return EulerAncestralDiscreteScheduler(
        **BETAS, prediction_type=prediction_type, timestep_spacing="linspace"
    )


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def perfect(clean, prediction_type):
    """A network that knows the clean latents: a pure function of its input."""
    kept = scheduler().alphas_cumprod.double()
    log_sigmas = ((1 - kept) / kept).sqrt().log()

    def predict(scaled, timestep, step):
        low, high = int(timestep.floor()), int(timestep.ceil())
        sigma = torch.lerp(log_sigmas[low], log_sigmas[high], timestep.double() - low).exp().float()
        noise = (scaled * (sigma**2 + 1) ** 0.5 - clean) / sigma
        if prediction_type == "epsilon":
            return noise
        return (noise - sigma * clean) / (sigma**2 + 1) ** 0.5

    return predict


def test_sampling_sigmas_are_the_released_codes():
    sigmas, timesteps = sampling_sigmas(scheduler(), 100)
    assert len(sigmas) == 101
    assert len(timesteps) == 100
    torch.testing.assert_close(
        sigmas[:5], torch.tensor([14.61464, 13.7525, 12.9524, 12.2094, 11.5188]), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        sigmas[96:], torch.tensor([0.17116, 0.13862, 0.09869, 0.0291672, 0.0]), rtol=5e-5, atol=1e-9
    )


def test_sampling_sigmas_fall_to_zero_and_timesteps_to_the_first():
    sigmas, timesteps = sampling_sigmas(scheduler(), 13)
    assert (sigmas.diff() < 0).all()
    assert (timesteps[0].item(), timesteps[-1].item(), sigmas[-1].item()) == (999, 0, 0)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_a_number_of_steps_outside_the_schedule_is_refused(steps):
    with pytest.raises(ValueError, match=rf"1\.\.1000, got {steps}"):
        sampling_sigmas(scheduler(), steps)


def test_the_first_ancestral_step_is_k_diffusions():
    sigmas, _ = sampling_sigmas(scheduler(), 100)
    down, up = ancestral_step(sigmas[0].item(), sigmas[1].item())
    assert down == pytest.approx(12.9412, abs=1e-4)
    assert up == pytest.approx(4.65365, abs=1e-4)


def test_an_ancestral_step_splits_the_next_noise_level():
    sigmas, _ = sampling_sigmas(scheduler(), 17)
    for now, following in zip(sigmas[:-2].tolist(), sigmas[1:-1].tolist(), strict=True):
        down, up = ancestral_step(now, following)
        assert down**2 + up**2 == pytest.approx(following**2)
    assert ancestral_step(0.5, 0.0) == (0.0, 0.0)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_noising_and_target_are_diffusers(prediction_type):
    ours = Schedule.of(scheduler(prediction_type))
    ddpm = DDPMScheduler(**BETAS, prediction_type=prediction_type)
    latents, noise = draw(1, 6, *SHAPE), draw(2, 6, *SHAPE)
    timesteps = torch.tensor([0, 1, 250, 500, 998, 999])
    torch.testing.assert_close(
        ours.add_noise(latents, noise, timesteps), ddpm.add_noise(latents, noise, timesteps)
    )
    expected = noise if prediction_type == "epsilon" else ddpm.get_velocity(latents, noise, timesteps)
    torch.testing.assert_close(training_target(ours, latents, noise, timesteps), expected)


def test_an_unknown_prediction_type_is_refused():
    with pytest.raises(ValueError, match="one of epsilon, v_prediction; got 'sample'"):
        Schedule.of(DDPMScheduler(**BETAS, prediction_type="sample"))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("timestep", [0, 400, 999])
def test_the_exact_answer_gives_back_the_clean_latents(prediction_type, timestep):
    schedule = Schedule.of(scheduler(prediction_type))
    clean, noise, at = draw(1, 1, *SHAPE).double(), draw(2, 1, *SHAPE).double(), torch.tensor([timestep])
    signal, spread = schedule.levels(at, clean)
    sigma = (spread / signal).item()
    answer = training_target(schedule, clean, noise, at)
    torch.testing.assert_close(denoised_from(answer, clean + sigma * noise, sigma, prediction_type), clean)


def test_a_row_of_noise_depends_on_its_seed_alone():
    together = seeded_noise([5, 9, 5, 2**32], SHAPE, draw=3)
    for row, seed in enumerate([5, 9, 5, 2**32]):
        assert torch.equal(together[row], seeded_noise([seed], SHAPE, draw=3)[0])
    assert torch.equal(together[0], together[2])
    assert not torch.equal(together[0], together[1])


def test_noise_ignores_and_leaves_alone_the_global_generator():
    before = torch.random.get_rng_state()
    first = seeded_noise([1], SHAPE)
    torch.rand(3)
    assert torch.equal(first, seeded_noise([1], SHAPE))
    torch.random.set_rng_state(before)
    seeded_noise([2], SHAPE)
    assert torch.equal(before, torch.random.get_rng_state())


def test_draws_and_seeds_give_unrelated_unit_normal_noise():
    rows = torch.stack([seeded_noise([s], (4096,), draw=d)[0] for s in range(4) for d in range(4)])
    assert rows.mean(1).abs().max() < 0.08
    assert (rows.std(1) - 1).abs().max() < 0.06
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 0.08


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_sampler_reaches_what_the_network_knows(prediction_type, steps):
    clean = draw(1, 2, *SHAPE)
    trace = list(
        euler_ancestral(
            perfect(clean, prediction_type),
            scheduler(prediction_type),
            seeds=[1, 2],
            shape=SHAPE,
            num_inference_steps=steps,
        )
    )
    assert [s.index for s in trace] == list(range(steps))
    torch.testing.assert_close(trace[-1].latents, clean, rtol=1e-3, atol=1e-3)
    assert trace[-1].sigma == 0


def test_a_late_start_noises_the_given_latents_to_that_level():
    clean = draw(1, 1, *SHAPE)
    options = {"seeds": [4], "shape": SHAPE, "num_inference_steps": 10, "first_step": 6, "start": clean}
    trace = list(euler_ancestral(perfect(clean, "epsilon"), scheduler(), **options))
    assert [s.index for s in trace] == [6, 7, 8, 9]
    torch.testing.assert_close(trace[-1].latents, clean, rtol=1e-3, atol=1e-3)
    distance = (trace[0].latents - clean).std().item()
    assert distance == pytest.approx(trace[0].sigma, rel=0.2)


def test_the_caller_may_stop_after_any_step():
    calls = []

    def predict(scaled, timestep, step):
        calls.append(step)
        return scaled

    steps = euler_ancestral(predict, scheduler(), seeds=[1], shape=SHAPE, num_inference_steps=50)
    next(steps)
    next(steps)
    steps.close()
    assert calls == [0, 1]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_ten_steps_are_diffusers_euler_ancestral(prediction_type, monkeypatch):
    """At 10 steps the timesteps are whole numbers, so that both interpolate to the same noise levels."""

    def network(scaled, timestep, step=0):
        return torch.sin(3 * scaled) + float(timestep) / 1000

    *_, ours = euler_ancestral(
        network, scheduler(prediction_type), seeds=[11], shape=SHAPE, num_inference_steps=10
    )
    draws = iter(range(1, 11))
    monkeypatch.setattr(
        theirs, "randn_tensor", lambda shape, **_: seeded_noise([11], tuple(shape[1:]), draw=next(draws))
    )
    reference = scheduler(prediction_type)
    reference.set_timesteps(10)
    latents = seeded_noise([11], SHAPE) * reference.init_noise_sigma
    for timestep in reference.timesteps:
        output = network(reference.scale_model_input(latents, timestep), timestep)
        latents = reference.step(output, timestep, latents).prev_sample
    torch.testing.assert_close(ours.latents, latents, rtol=1e-4, atol=1e-4)
