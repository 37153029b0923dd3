"""Text2LIVE: losses worked out by hand, gradients that reach the pixels, a training that does what it is for."""

import math

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional as F

from ip2p_lib import images
from ip2p_lib.backbone import ClipEncoder
from ip2p_lib.baselines import layer_losses as losses
from ip2p_lib.baselines import text2live
from ip2p_lib.baselines.text2live import LiveConfig, Objective, live_layers, new_painter
from ip2p_lib.evaluation.cases import world_cases
from ip2p_lib.scenes import render
from ip2p_lib.similarity import image_features

CONFIG = LiveConfig(iterations=6, views=3, width=8, scales=2)


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def transformer():
    """A random open_clip vision transformer, as the published ones are built."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(2)
        model = open_clip.CLIP(
            embed_dim=16,
            vision_cfg={"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8},
            text_cfg={"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1},
        ).eval()
    return ClipEncoder(model.requires_grad_(False), None, 32, (0.5,) * 3, (0.25,) * 3)


def test_an_opaque_layer_hides_the_picture_and_a_clear_one_shows_it(pixels):
    colour = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    for opacity, seen in ((1.0, colour), (0.0, pixels), (0.25, 0.25 * colour + 0.75 * pixels)):
        layer = torch.cat([colour, torch.full((1, 1, 32, 32), opacity)], dim=1)
        torch.testing.assert_close(losses.composite(layer, pixels), seen)
    clear = torch.cat([colour, torch.zeros(1, 1, 32, 32)], dim=1)
    assert losses.over_green(clear)[0, :, 5, 7].tolist() == pytest.approx([0, 177 / 255, 64 / 255])


def test_sparsity_by_hand():
    l1, l0 = losses.sparsity(torch.tensor([0.0, 0.0, 0.2, 1.0]))
    assert l1.item() == pytest.approx(0.3)
    by_hand = [2 / (1 + math.exp(-5 * a)) - 1 for a in (0.2, 1.0)]
    assert l0.item() == pytest.approx(sum(by_hand) / 4)
    assert [v.item() for v in losses.sparsity(torch.zeros(5))] == [0, 0]


def test_text_and_direction_losses_by_hand():
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert [losses.text_loss(a, b).item() for a, b in ((x, x), (x, y), (x, -x))] == pytest.approx([0, 1, 2])
    assert losses.text_loss(torch.cat([x, y]), x).item() == pytest.approx(0.5)  # a mean over views
    zero = torch.zeros(1, 2)
    for change, lost in ((x, 0), (y, 1), (-x, 2), (x + y, 1 - math.sqrt(0.5))):
        assert losses.direction_loss(y, y + change, zero, 3 * x).item() == pytest.approx(lost, abs=1e-6)


def test_structure_by_hand():
    """Places (1, 0), (1, 1), (0, 1) against three equal ones: cosines 1/sqrt 2 and 0 become 1."""
    before = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
    flat = torch.ones(1, 3, 2)
    by_hand = (4 * (1 - math.sqrt(0.5)) ** 2 + 2 * 1) / 9
    assert losses.structure_loss(before, flat).item() == pytest.approx(by_hand)
    assert losses.structure_loss(before, 7 * before).item() == pytest.approx(
        0, abs=1e-12
    )  # length is no structure


def test_the_first_view_is_the_whole_and_all_lie_inside(pixels):
    maps = losses.random_views(64, torch.Generator().manual_seed(4))
    views = losses.take_views(pixels, maps, 32)
    torch.testing.assert_close(views[:1], pixels, rtol=1e-4, atol=1e-4)
    assert views.min() >= pixels.min() - 1e-6
    assert views.max() <= pixels.max() + 1e-6
    side, corner = maps[:, 0, 0].abs(), maps[:, :, 2].abs()
    assert (side[:, None] + corner <= 1 + 1e-6).all()
    assert side.min() >= 0.6
    flipped = (maps[:, 0, 0] < 0).float().mean().item()
    assert 0.25 < flipped < 0.75
    assert (maps[:, 1, 1] > 0).all()  # never upside down


def test_a_flipped_view_is_the_mirror_image(pixels):
    mirror = torch.tensor([[[-1.0, 0, 0], [0, 1.0, 0]]])
    torch.testing.assert_close(losses.take_views(pixels, mirror, 32), pixels.flip(3), rtol=1e-4, atol=1e-4)


def test_features_are_those_of_the_measure_and_gradients_reach_the_pixels(clip, pixels):
    leaf = pixels.clone().requires_grad_()
    features = losses.embed(clip, leaf)
    torch.testing.assert_close(features.detach(), image_features(clip, pixels), rtol=1e-4, atol=1e-5)
    features[0, 0].backward()
    assert leaf.grad.abs().max() > 0
    assert all(p.grad is None for p in clip.model.parameters())


@pytest.mark.parametrize("kind", ["resnet", "transformer"])
def test_places_follow_the_picture_in_both_kinds_of_clip(clip, transformer, pixels, kind):
    one = {"resnet": clip, "transformer": transformer}[kind]
    leaf = torch.cat([pixels, pixels.flip(3)]).requires_grad_()
    places = losses.places_of(one, leaf)
    assert places.shape[0] == 2
    assert places.shape[1] == {"resnet": 16, "transformer": 17}[kind]
    assert losses.structure_loss(places[:1], places[1:]) > 0
    places.square().mean().backward()
    assert leaf.grad.abs().max() > 0
    torch.testing.assert_close(losses.places_of(one, pixels), places[:1].detach(), rtol=1e-4, atol=1e-5)
    hooked = [m for m in one.model.modules() if m._forward_hooks]
    assert hooked == []


def test_keys_are_those_of_the_last_attention(transformer, pixels):
    """Against the attention's own projection: queries, keys and values stacked, the middle third."""
    block, seen = transformer.model.visual.transformer.resblocks[-1], []
    handle = block.attn.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append(args[0] if args else kwargs["query"]), with_kwargs=True
    )
    keys = losses.places_of(transformer, pixels)
    handle.remove()
    whole = F.linear(seen[0], block.attn.in_proj_weight, block.attn.in_proj_bias)
    torch.testing.assert_close(keys, whole.chunk(3, dim=-1)[1])


def test_another_kind_of_network_is_refused(clip, pixels):
    class Other(torch.nn.Module):
        visual = torch.nn.Linear(2, 2)

    blind = ClipEncoder(Other(), None, 32, clip.mean, clip.std)
    with pytest.raises(ValueError, match="needs CLIP's vision transformer or ResNet, got Linear"):
        losses.places_of(blind, pixels)


def test_an_empty_layer_costs_what_the_picture_itself_does(clip, pixels, triplets):
    objective = Objective(clip, pixels, triplets[0], CONFIG, seed=0)
    empty = torch.cat([pixels, torch.zeros(1, 1, 32, 32)], dim=1)
    parts = {n: v.item() for n, v in objective.parts(empty).items()}
    assert (parts["opacity_l1"], parts["opacity_l0"]) == (0, 0)
    assert parts["structure"] == pytest.approx(0, abs=1e-10)
    assert parts["direction"] == pytest.approx(1, abs=1e-3)  # nothing moved, so no direction


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (40, 72)])
def test_a_layer_has_the_picture_s_size_and_range(size):
    painter = new_painter(CONFIG, size, 0, "cpu")
    layer = painter(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(5)))
    assert layer.shape == (1, 4, *size)
    assert 0 <= layer.min() <= layer.max() <= 1
    assert layer[:, 3].mean() < 0.3  # begins nearly transparent


def test_a_training_can_be_repeated_and_leaves_the_generator_alone(clip, pixels, triplets):
    state = torch.get_rng_state()
    first, second = (list(live_layers(clip, pixels, triplets[0], CONFIG, seed=3)) for _ in range(2))
    assert [s.objective for s in first] == [s.objective for s in second]
    assert torch.equal(first[-1].layer, second[-1].layer)
    assert torch.equal(torch.get_rng_state(), state)
    other = list(live_layers(clip, pixels, triplets[0], CONFIG, seed=4))
    assert not torch.equal(first[-1].layer, other[-1].layer)


def test_the_dial_is_the_share_of_the_training(clip, triplets):
    picture = render(next(world_cases(1, 1)).scenes.before, 32)
    one = text2live(clip, CONFIG)
    other = text2live(clip, CONFIG)  # from the largest down: one training passes by all
    results, passed = (
        {v: s.run([picture], triplets[:1], v, [3])[0].picture for v in order}
        for s, order in ((one, (0.0, 0.5, 1.0)), (other, (1.0, 0.5, 0.0)))
    )
    steps = list(live_layers(clip, images.to_unit(images.to_tensor([picture])), triplets[0], CONFIG, seed=3))
    unit = images.to_unit(images.to_tensor([picture]))
    for value, step in ((0.0, 0), (0.5, 3), (1.0, 6)):
        by_hand = images.to_pictures(images.from_unit(losses.composite(steps[step].layer, unit)))[0]
        assert results[value].tobytes() == passed[value].tobytes() == by_hand.tobytes()
    with pytest.raises(ValueError, match=r"share of iterations must lie in 0\.\.1, got 1\.5"):
        one.run([picture], triplets[:1], 1.5, [3])


def test_effort_follows_the_side_and_counts_are_checked():
    small, large = LiveConfig.for_side(64), LiveConfig.for_side(512)
    assert (large.iterations, large.width, large.views) == (1_000, 128, 16)
    assert small.iterations < large.iterations
    with pytest.raises(ValueError, match=r"LiveConfig\.views must be at least 1, got 0"):
        LiveConfig(views=0)


@pytest.mark.slow
def test_a_training_lowers_its_objective_and_leaves_the_far_background_alone(shipped_clip):
    """Recolouring: the change gathers where the exact answer has it, and opacity stays low elsewhere."""
    config = LiveConfig(iterations=80, views=6, width=24, scales=3)
    cases = [c for c in world_cases(60, 8) if c.kind == "recolour"][:2]
    for case in cases:
        before, after = (render(s, 64) for s in (case.scenes.before, case.scenes.after))
        pixels = images.to_unit(images.to_tensor([before]))
        steps = list(live_layers(shipped_clip, pixels, case.triplet, config, seed=1))
        first, last = (np.mean([s.objective for s in part]) for part in (steps[:8], steps[-8:]))
        assert last < 0.9 * first
        moved = (losses.composite(steps[-1].layer, pixels) - pixels).abs().mean(1)[0].numpy()
        inside = np.abs(np.asarray(before, int) - np.asarray(after, int)).max(2) > 8
        assert moved[inside].mean() > moved[~inside].mean()
        assert moved[~inside].mean() < 0.15
