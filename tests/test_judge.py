"""The judge: what a verdict says of a scene, and that the shipped one fails on wrong pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ip2p_lib import images
from ip2p_lib.evaluation import all_attributes_right, scene_pixels
from ip2p_lib.judge import Judge, Verdict, labels_of, read_attributes, right_by_attribute
from ip2p_lib.scenes import Scene, edits, sample_scenes
from ip2p_lib.scenes.world import ATTRIBUTES, EXTRAS, KIND_OF_ATTRIBUTE

SCENE = Scene("house", "red", "meadow", "day", "clear", "plain", ("fence",))
READ = {name: getattr(SCENE, name) for name in ATTRIBUTES}


@pytest.fixture(scope="module")
def untrained():
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        return Judge((8, 16, 16, 16)).eval()


def changed(kinds, count, seed):
    """One edit of these kinds for each scene that has one."""
    found = []
    for i, scene in enumerate(sample_scenes(count, seed)):
        options = [e for e in edits(scene) if e.kind in kinds]
        if options:
            found.append(options[np.random.default_rng((seed, i)).integers(len(options))])
    return found


def test_a_verdict_agrees_with_its_own_scene_alone():
    verdict = Verdict(READ, frozenset(["fence"]))
    assert verdict.agrees(SCENE)
    assert verdict.agrees(replace(SCENE, layout=99))  # where things stand is not judged


@pytest.mark.parametrize("name", list(ATTRIBUTES))
def test_a_verdict_names_the_attribute_that_differs(name):
    verdict = Verdict({**READ, name: ATTRIBUTES[name][-1]}, frozenset(["fence"]))
    assert verdict.differs(SCENE) == [name]
    assert not verdict.agrees(SCENE)


def test_missing_and_surplus_extras_are_both_wrong():
    assert Verdict(READ, frozenset()).differs(SCENE) == ["fence"]
    assert Verdict(READ, frozenset(["fence", "kite"])).differs(SCENE) == ["kite"]
    assert sorted(Verdict(READ, frozenset(["lamp"])).differs(SCENE)) == ["fence", "lamp"]
    assert Verdict({**READ, "time": "night"}, frozenset()).differs(SCENE) == ["time", "fence"]


def test_shares_by_attribute_count_an_extra_only_where_a_scene_has_it():
    scenes = [
        SCENE,
        SCENE,
        replace(SCENE, extras=()),
        replace(SCENE, colour="blue", extras=("fence", "kite")),
    ]
    verdicts = [Verdict(READ, frozenset(seen)) for seen in (["fence"], [], ["kite"], ["kite"])]
    shares = right_by_attribute(verdicts, scenes)
    assert shares["colour"] == 3 / 4
    assert shares["place"] == 1
    assert shares["fence"] == 1 / 3
    assert shares["kite"] == 1  # one invented elsewhere is not this number's business
    assert not {"lamp", "rainbow"} & set(shares)


def test_labels_are_the_scenes_own_values():
    scenes = sample_scenes(20, 4)
    labels = labels_of(scenes)
    for row, scene in enumerate(scenes):
        for name, values in ATTRIBUTES.items():
            assert values[labels[name][row]] == getattr(scene, name)
        assert tuple(e for e, here in zip(EXTRAS, labels["extras"][row], strict=True) if here) == scene.extras


def test_there_is_one_head_for_each_attribute(untrained):
    logits = untrained(torch.zeros(3, 3, 64, 64))
    assert {n: tuple(v.shape) for n, v in logits.items()} == {
        **{name: (3, len(values)) for name, values in ATTRIBUTES.items()},
        "extras": (3, len(EXTRAS)),
    }


def test_a_reading_does_not_depend_on_its_batch(untrained):
    pixels = scene_pixels(sample_scenes(7, 5))
    assert read_attributes(untrained, pixels) == read_attributes(untrained, pixels, batch_size=2)


def test_larger_pictures_are_reduced_by_area(untrained):
    small = scene_pixels(sample_scenes(5, 6))
    large = small.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert read_attributes(untrained, large) == read_attributes(untrained, small)


def test_the_shipped_judge_reads_true_pictures(shipped_judge):
    scenes = sample_scenes(200, 906)
    for size in (64, 128):
        assert np.mean(all_attributes_right(shipped_judge, scene_pixels(scenes, size), scenes)) > 0.95


@pytest.mark.parametrize("name", [*ATTRIBUTES, "extras"])
def test_the_shipped_judge_flags_a_picture_that_differs_in_one_thing(shipped_judge, name):
    """It need not be perfect, but must see nearly every wrong picture, and say what is wrong with it."""
    kinds = ("add", "remove") if name == "extras" else (KIND_OF_ATTRIBUTE[name],)
    wrong = changed(kinds, 60, 907)
    verdicts = read_attributes(shipped_judge, scene_pixels([e.before for e in wrong]))
    flagged = [not v.agrees(e.after) for v, e in zip(verdicts, wrong, strict=True)]
    named = [
        bool(set(v.differs(e.after)) & ({*EXTRAS} if name == "extras" else {name}))
        for v, e in zip(verdicts, wrong, strict=True)
    ]
    assert np.mean(flagged) >= 0.95
    assert np.mean(named) >= 0.95


def test_the_shipped_judge_does_not_read_noise_or_empty_paper_as_right(shipped_judge):
    scenes = sample_scenes(256, 908)
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(256, 3, 64, 64, generator=generator) * 2 - 1
    flat = torch.linspace(-1, 1, 256).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)
    for pixels in (noise, flat):
        assert sum(all_attributes_right(shipped_judge, pixels, scenes)) <= 1


def test_the_shipped_judge_does_not_read_another_scene_as_right(shipped_judge):
    scenes = sample_scenes(256, 909)
    assert sum(all_attributes_right(shipped_judge, scene_pixels(scenes).roll(1, 0), scenes)) == 0


def test_the_shipped_judge_survives_bytes(shipped_judge):
    scenes = sample_scenes(20, 910)
    pixels = scene_pixels(scenes)
    stored = images.to_tensor([images.from_bytes(images.png_bytes(p)) for p in images.to_pictures(pixels)])
    assert read_attributes(shipped_judge, stored) == read_attributes(shipped_judge, pixels)
