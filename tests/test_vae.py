"""The miniature's autoencoder goes on with its decoder alone: latents stay, pictures come nearer."""

import copy

import torch

from ip2p_lib.miniature.pictures import BASE_SEED, as_tensor, drawn_scenes
from ip2p_lib.miniature.vae import DecoderRecipe, build_vae, rebuilding_loss, set_scale, train_decoder

RECIPE = DecoderRecipe(pictures=16, batch_size=8, steps=60)


def small_vae():
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(3)
        return build_vae((8, 8, 8)).eval()


@torch.no_grad()
def rebuilt(vae, pixels):
    latents = vae.encode(pixels).latent_dist.mode()
    return latents, vae.decode(latents).sample


def test_the_decoder_alone_learns_and_the_latents_stay_to_the_byte(tmp_path):
    vae = small_vae()
    pixels = as_tensor(drawn_scenes(16, BASE_SEED, tmp_path)[1][:8].copy())
    set_scale(vae, pixels)
    before = copy.deepcopy(vae)
    *_, last = train_decoder(RECIPE, vae, tmp_path)
    last.ema.swap()
    vae.eval()
    old, new = rebuilt(before, pixels), rebuilt(vae, pixels)
    assert torch.equal(old[0], new[0])
    assert vae.config.scaling_factor == before.config.scaling_factor
    assert rebuilding_loss(new[1], pixels) < 0.8 * rebuilding_loss(old[1], pixels)


def test_a_resumed_decoder_is_the_uninterrupted_one(tmp_path):
    whole, cut = small_vae(), small_vae()
    *_, _ = train_decoder(RECIPE, whole, tmp_path / "whole")
    for report in train_decoder(RECIPE, cut, tmp_path / "cut"):
        if report.step == 17:
            break
    *_, last = train_decoder(RECIPE, small_vae(), tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), last.model.parameters(), strict=True))
