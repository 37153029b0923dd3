"""The decoder trained alone: what it changes, and what it must not."""

from copy import deepcopy

import torch

from ip2p_lib.evaluation import psnr, scene_pixels
from ip2p_lib.miniature.vae import DecoderRecipe, build_vae, train_decoder
from ip2p_lib.scenes.world import sample_scenes

RECIPE = DecoderRecipe(pictures=48, batch_size=8, steps=30)


def a_vae():
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return build_vae((8, 8, 16))


def decoded(vae, latents):
    with torch.no_grad():
        return vae.decode(latents).sample


def test_the_decoder_learns_and_no_latent_changes(tmp_path):
    vae, pixels = a_vae(), scene_pixels(sample_scenes(16, 905))
    before = deepcopy(vae)
    *_, last = train_decoder(RECIPE, vae, tmp_path)
    last.ema.swap()
    names = {n for n, p in before.state_dict().items() if not torch.equal(p, vae.state_dict()[n])}
    assert names
    assert all(n.startswith(("decoder.", "post_quant_conv.")) for n in names)
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mode()
        assert torch.equal(latents, before.encode(pixels).latent_dist.mode())
    worse, better = (psnr(decoded(v, latents), pixels).mean() for v in (before, vae))
    assert better > worse + 1
