"""Sweeps: rows that say what their pictures say, runs that resume, and one bad picture that spoils nothing else."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ip2p_lib import images
from ip2p_lib.backbone import ClipEncoder, load_clip
from ip2p_lib.baselines import Edited, exact_answer, nothing, prompt_to_prompt, sdedit
from ip2p_lib.evaluation import psnr
from ip2p_lib.evaluation.cases import Case, open_case, world_cases
from ip2p_lib.evaluation.report import report
from ip2p_lib.evaluation.rows import EditRow, distances, measure, released_range
from ip2p_lib.evaluation.sweep import Instruments, block_path, measured, read_points, sweep
from ip2p_lib.evaluation.tables import tables
from ip2p_lib.fitting import NoRoomError
from ip2p_lib.presets import EditConfig, Preset
from ip2p_lib.scenes import edit_mask, render
from ip2p_lib.similarity import preprocess, score_edits

CONFIG = EditConfig(resolution=32, multiple=16)


@pytest.fixture(scope="module")
def instruments(clip, judge):
    return Instruments(clip, judge, CONFIG)


@pytest.fixture(scope="module")
def cases():
    return list(world_cases(7, 31))


@pytest.fixture(scope="module")
def painter(base):
    return sdedit(base, guidance_scale=3.0, num_inference_steps=4)


def filed(case, folder, **changes):
    """The case with its pictures in files, so that they can be spoiled."""
    folder.mkdir(exist_ok=True)
    for name, scene in (("picture", case.scenes.before), ("truth", case.scenes.after)):
        render(scene, 32).save(folder / f"{case.triplet.id}-{name}.png")
    mask = Image.fromarray(edit_mask(case.scenes.before, case.scenes.after, 32))
    mask.save(folder / f"{case.triplet.id}-mask.png")
    paths = {n: folder / f"{case.triplet.id}-{n}.png" for n in ("picture", "truth", "mask")}
    return replace(case, **paths, **changes)


def everything(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.jsonl"))}


def run(*arguments, **options):
    return list(sweep(*arguments, **options))


def test_a_perfect_edit_has_no_distance_and_no_edit_has_that_of_the_picture(cases, instruments):
    seeds = range(7)
    for perfect in measured(exact_answer(), 0.0, cases, seeds, instruments):
        assert (perfect.l1, perfect.l1_inside, perfect.fault) == (0.0, 0.0, "")
        assert perfect.unedited_l1 > 0
        assert perfect.psnr > 90
    for kept in measured(nothing(), 0.0, cases, seeds, instruments):
        assert kept.l1 == pytest.approx(kept.unedited_l1)
        assert kept.l1 > 0
        assert kept.clip_sim_image == pytest.approx(1, abs=1e-5)
        assert kept.clip_sim_dir == pytest.approx(0, abs=1e-5)  # nothing moved, so there is no direction


def test_distances_are_those_of_the_textbook():
    before, after, truth = (torch.full((3, 2, 4), v) for v in (0.0, 0.0, 0.0))
    truth[:, :, :2], after[:, :, :2], after[0, 0, 3] = 1.0, 0.5, 0.3
    mask = np.zeros((2, 4), bool)
    mask[:, :2] = True
    found = distances(before, after, truth, mask)
    assert found["l1_inside"] == pytest.approx(0.5)
    assert found["l1_outside"] == pytest.approx(0.3 / 3 / 4)
    assert found["l1"] == pytest.approx((0.5 + 0.3 / 3 / 4) / 2)
    assert found["unedited_l1"] == pytest.approx(0.5)
    assert found["psnr"] == pytest.approx(psnr(after[None], truth[None]).item())
    assert distances(before, after, truth, np.ones((2, 4), bool))["l1_outside"] is None
    assert distances(before, after, truth, np.zeros((2, 4), bool))["l1_inside"] is None
    assert "l1_inside" not in distances(before, after, truth, None)


def test_inside_and_outside_make_the_whole(cases, instruments, painter):
    for row, case in zip(measured(painter, 0.75, cases, range(7), instruments), cases, strict=True):
        share = edit_mask(case.scenes.before, case.scenes.after, 32).mean()
        inside, outside = (v or 0.0 for v in (row.l1_inside, row.l1_outside))
        assert row.l1 == pytest.approx(share * inside + (1 - share) * outside, abs=1e-5)


def test_similarities_are_those_of_the_filter(cases, instruments, painter):
    """The rows' way, all at once and with its own preprocessing, against `score_edits` one by one."""
    rows = measured(painter, 0.5, cases, range(7), instruments)
    for i, (row, case) in enumerate(zip(rows, cases, strict=True)):
        before = render(case.scenes.before, 32)
        after = painter.run([before], [case.triplet], 0.5, [i])[0].picture
        pixels = [images.to_unit(images.to_tensor([p])) for p in (before, after)]
        (slow,) = score_edits(instruments.clip, *pixels, [case.triplet.input], [case.triplet.output])
        assert row.clip_sim_dir == pytest.approx(
            slow.clip_sim_dir, abs=2e-2
        )  # a byte of the picture may differ
        assert row.clip_sim_image == pytest.approx(slow.clip_sim_image, abs=2e-3)


def test_the_released_range_is_what_the_script_feeds(clip):
    pixels = torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(1))
    blind = ClipEncoder(clip.model, clip.tokenize, clip.size, (0.0,) * 3, (1.0,) * 3)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (clip.mean, clip.std))
    by_hand = (
        2 * preprocess(pixels, blind) - 1 - mean
    ) / std  # squashed without normalising, then as released
    torch.testing.assert_close(released_range(clip, pixels), by_hand)
    assert (released_range(clip, pixels) - preprocess(pixels, clip)).abs().max() > 0.5


def test_a_sweep_has_a_row_for_every_edit_and_value(cases, instruments, painter, tmp_path):
    done = run(painter, (0.25, 0.75), cases, tmp_path, instruments, block=3)
    assert [(d.dial, d.edits, d.resumed) for d in done] == [
        (v, n, False) for v in (0.25, 0.75) for n in (3, 3, 1)
    ]
    points = read_points(tmp_path)
    assert {v: [r.id for r in rows] for v, rows in points.items()} == {
        v: [c.triplet.id for c in cases] for v in (0.25, 0.75)
    }
    assert points[0.25] != points[0.75]


def test_blocks_do_not_change_what_is_measured(cases, instruments, painter, tmp_path):
    for block in (3, 64):
        run(painter, (0.5,), cases, tmp_path / str(block), instruments, block=block)
    a, b = (read_points(tmp_path / str(block))[0.5] for block in (3, 64))
    for one, other in zip(a, b, strict=True):
        assert (one.id, one.exact, one.requested) == (other.id, other.exact, other.requested)
        assert one.l1 == pytest.approx(other.l1, abs=2e-3)  # a byte of the picture may differ


def test_a_stopped_run_goes_on_to_the_same_bytes_and_doubles_nothing(cases, instruments, painter, tmp_path):
    run(painter, (0.25, 0.75), cases, tmp_path / "whole", instruments, block=3)
    stopped = sweep(painter, (0.25, 0.75), cases, tmp_path / "cut", instruments, block=3)
    for _ in range(2):
        next(stopped)
    stopped.close()
    (tmp_path / "cut" / "at-0.25" / ".rows-00002.jsonl.1.partial").write_text("torn")
    again = run(painter, (0.25, 0.75), cases, tmp_path / "cut", instruments, block=3)
    assert [d.resumed for d in again] == [True, True, False, False, False, False]
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")
    third = run(painter, (0.25, 0.75), cases, tmp_path / "cut", instruments, block=3)
    assert all(d.resumed for d in third)
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")


def test_a_value_may_be_added_later(cases, instruments, painter, tmp_path):
    run(painter, (0.25,), cases, tmp_path, instruments)
    before = everything(tmp_path)
    run(painter, (0.25, 0.5), cases, tmp_path, instruments)
    after = everything(tmp_path)
    assert sorted(read_points(tmp_path)) == [0.25, 0.5]
    assert {k: after[k] for k in before} == before


def test_points_share_their_noise(cases, instruments, base, tmp_path):
    """With one strength under two names, rows at both values agree."""
    one = sdedit(base, guidance_scale=3.0, num_inference_steps=4)
    fixed = replace(one, run=lambda p, t, value, seeds: one.run(p, t, 0.75, seeds))
    run(fixed, (0.1, 0.2), cases, tmp_path, instruments)
    a, b = read_points(tmp_path).values()
    assert [replace(r, dial=0.0) for r in a] == [replace(r, dial=0.0) for r in b]


@pytest.mark.parametrize("what", ["weights", "cases", "seed", "clip"])
def test_another_configuration_is_refused(cases, instruments, painter, tmp_path, what):
    run(painter, (0.25,), cases[:2], tmp_path, instruments)
    changed = {
        "weights": (replace(painter, mark="other"), cases[:2], instruments, 0),
        "cases": (painter, cases[:3], instruments, 0),
        "seed": (painter, cases[:2], instruments, 1),
        "clip": (painter, cases[:2], replace(instruments, config=EditConfig(resolution=64)), 0),
    }[what]
    with pytest.raises(ValueError, match="holds results of another configuration"):
        run(changed[0], (0.25,), changed[1], tmp_path, changed[2], seed=changed[3])


def test_nothing_to_measure_and_equal_names_are_refused(cases, instruments, painter, tmp_path):
    with pytest.raises(ValueError, match="a sweep needs cases and values, got 0 and 1"):
        run(painter, (0.5,), [], tmp_path, instruments)
    with pytest.raises(ValueError, match="must differ from each other"):
        run(painter, (0.5, 0.5), cases, tmp_path, instruments)
    with pytest.raises(ValueError, match="must differ from each other"):
        run(painter, (0.5,), [*cases, cases[0]], tmp_path, instruments)
    with pytest.raises(FileNotFoundError, match="must hold rows of a sweep, found none"):
        read_points(tmp_path)


def test_a_damaged_block_is_named(cases, instruments, painter, tmp_path):
    run(painter, (0.5,), cases[:2], tmp_path, instruments)
    path = block_path(tmp_path, 0.5, 0)
    for text in ("{", "[1, 2]", json.dumps({"id": "x"})):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"rows-00000\.jsonl must hold rows of a sweep, but is damaged"):
            read_points(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "fault", "lost"),
    [
        (
            lambda c: c.picture.write_bytes(b"no picture"),
            "picture: .* must be a picture",
            ("l1", "clip_sim_dir"),
        ),
        (lambda c: c.picture.unlink(), "picture: input must be a picture file", ("l1", "clip_sim_dir")),
        (lambda c: c.truth.unlink(), "truth: input must be a picture file", ("l1",)),
        (lambda c: c.truth.write_bytes(b""), "truth: .* must be a picture", ("l1",)),
        (
            lambda c: render(c.scenes.after, 64).save(c.truth),
            r"truth must have the picture's size \(32, 32\), has \(64, 64\)",
            ("l1",),
        ),
        (lambda c: c.mask.unlink(), "mask: input must be a picture file", ("l1_inside",)),
    ],
)
def test_one_bad_file_is_named_and_spoils_nothing_else(
    cases, instruments, painter, tmp_path, spoil, fault, lost
):
    cases = [filed(c, tmp_path / "files") for c in cases[:3]]
    good = measured(painter, 0.5, cases, range(3), instruments)
    assert all(r.fault == "" and r.l1_inside is not None for r in good)
    spoil(cases[1])
    rows = measured(painter, 0.5, cases, range(3), instruments)
    assert re.search(fault, rows[1].fault)
    assert all(getattr(rows[1], name) is None for name in lost)
    for i in (0, 2):
        assert (rows[i].id, rows[i].fault) == (good[i].id, "")
        assert rows[i].l1 == pytest.approx(good[i].l1, abs=2e-3)


def test_one_corrupt_picture_among_many_is_named_and_the_means_are_of_the_rest(instruments, tmp_path):
    """From the files to the report: all but one counted, at every value of the dial, and a second run agrees."""
    many = list(world_cases(150, 32))
    bad = filed(many[77], tmp_path / "files")
    bad.picture.write_bytes(bad.picture.read_bytes()[:200])
    many[77] = bad
    dimmed = replace(nothing(), name="ours", values=(0.5, 1.0))
    done = run(dimmed, dimmed.values, many, tmp_path / "rows", instruments)
    assert [f for d in done for f in d.faults if not f.startswith(f"{bad.triplet.id}: picture: ")] == []
    assert sum(len(d.faults) for d in done) == 2
    found = report({"ours": read_points(tmp_path / "rows")})
    for point in found["points"]:
        assert (point["edits"], point["l1"]["n"], point["clip_sim_image"]["n"]) == (150, 149, 149)
        assert len(point["faults"]) == 1
    assert [d.faults for d in run(dimmed, dimmed.values, many, tmp_path / "rows", instruments)] == [
        d.faults for d in done
    ]


def test_a_system_that_nothing_was_measured_of_does_not_take_the_others_report_along(
    cases, instruments, tmp_path
):
    def refuse(pictures, triplets, value, seeds):
        raise ValueError("out of order today")

    systems = {
        name: replace(nothing(), name=name, values=(0.5, 1.0), run=change)
        for name, change in (("ours", nothing().run), ("sdedit", nothing().run), ("text2live", refuse))
    }
    for name, one in systems.items():
        run(one, one.values, cases, tmp_path / name, instruments)
    found = report({name: read_points(tmp_path / name) for name in systems})
    lines = {c["against"]: c for c in found["compared"]}
    assert lines["text2live"]["fault"] == (
        "text2live: a curve needs at least one edit that was measured at every point, has none"
    )
    assert not lines["text2live"]["above_everywhere"]
    assert lines["sdedit"]["edits"] == len(cases)
    last = [p for p in found["points"] if p["system"] == "text2live"][-1]
    assert last["faults"] == [f"{c.triplet.id}: edit: out of order today" for c in cases]
    assert "out of order" not in tables(found)["compared"]
    assert "| text2live | text2live: a curve needs at least one edit" in tables(found)["compared"]


def test_a_truth_that_nobody_knows_leaves_clip_and_judge(cases, instruments, painter, tmp_path):
    case = filed(cases[0], tmp_path / "files")
    (row,) = measured(painter, 0.5, [replace(case, truth=None)], [0], instruments)
    assert row.fault == "no truth is known"
    assert None not in (row.clip_sim_dir, row.exact)
    assert (row.l1, row.psnr) == (None, None)


def test_an_edit_that_the_system_refuses_is_named_and_the_others_are_made(cases, instruments, painter):
    def picky(pictures, triplets, value, seeds):
        if any(t.id == cases[1].triplet.id for t in triplets):
            raise ValueError("an instruction must contain words")
        return painter.run(pictures, triplets, value, seeds)

    rows = measured(replace(painter, run=picky), 0.5, cases[:3], range(3), instruments)
    assert [r.fault for r in rows] == ["", "edit: an instruction must contain words", ""]
    assert [r.id for r in rows] == [c.triplet.id for c in cases[:3]]


def test_a_full_memory_is_no_fault_of_an_edit_and_another_time_it_is_made(
    cases, instruments, painter, tmp_path
):
    def full(*_):
        raise NoRoomError("the GPU's memory must hold one of the edits")

    with pytest.raises(NoRoomError):
        list(sweep(replace(painter, run=full), (0.5,), cases[:3], tmp_path, instruments))
    (done,) = sweep(painter, (0.5,), cases[:3], tmp_path, instruments)
    assert (done.resumed, done.faults) == (False, ())


def test_a_result_of_another_size_is_named(cases, instruments):
    opened = [open_case(c, CONFIG) for c in cases[:3]]
    results = [Edited(o.picture) for o in opened]
    results[1] = Edited(opened[1].picture.resize((48, 48)))
    rows = measure(opened, results, 1.0, instruments.clip, instruments.judge)
    assert [r.fault for r in rows] == ["", "result must have its input's size (32, 32), has (48, 48)", ""]
    assert (rows[0].l1, rows[1].l1) == (rows[0].unedited_l1, None)


def test_a_similarity_that_is_no_number_is_left_out_by_name(cases, instruments, clip_folder):
    broken = load_clip(Preset(name="tiny", text_to_image="", editor="", clip=str(clip_folder)))
    broken.model.visual.attnpool.c_proj.bias.data.fill_(float("nan"))
    (row,) = measured(nothing(), 0.0, cases[:1], [0], replace(instruments, clip=broken))
    assert row.fault.startswith("clip_sim_dir is not a number; clip_sim_image is not a number")
    assert (row.clip_sim_dir, row.clip_sim_image) == (None, None)
    assert row.l1 > 0


def test_pictures_of_any_shape_are_measured_together(cases, instruments, painter, picture, tmp_path):
    """A wide photograph without scenes or judge's answer, between two drawn ones."""
    picture.save(tmp_path / "wide.png")
    photo = Case(
        replace(cases[1].triplet, source={}), picture=tmp_path / "wide.png", truth=tmp_path / "wide.png"
    )
    rows = measured(painter, 0.5, [cases[0], photo, cases[2]], range(3), instruments)
    assert [r.fault for r in rows] == ["", "", ""]
    assert (rows[1].kind, rows[1].exact, rows[1].l1_inside) == ("any", None, None)
    assert rows[1].unedited_l1 == 0 < rows[1].l1


def test_without_a_judge_the_rest_is_measured(cases, instruments):
    (row,) = measured(nothing(), 0.0, cases[:1], [0], replace(instruments, judge=None))
    assert (row.exact, row.requested) == (None, None)
    assert row.l1 > 0


def test_the_oracle_is_measured_against_its_own_source(cases, instruments, base):
    oracle = prompt_to_prompt(base, guidance_scale=3.0, num_inference_steps=3)
    same = [replace(c, triplet=replace(c.triplet, output=c.triplet.input)) for c in cases[:3]]
    for row in measured(oracle, 0.0, same, range(3), instruments):  # equal captions: equal pictures
        assert row.clip_sim_image == pytest.approx(1, abs=1e-5)
        assert (row.l1, row.unedited_l1, row.exact) == (None, None, 0.0)


def test_a_row_survives_its_file(cases, instruments, painter, tmp_path):
    run(painter, (0.5,), cases[:3], tmp_path, instruments)
    fresh = measured(painter, 0.5, cases[:3], range(3), instruments)
    for kept, made in zip(read_points(tmp_path)[0.5], fresh, strict=True):
        assert (kept.id, kept.kind, kept.fault) == (made.id, made.kind, made.fault)
        assert kept.l1 == pytest.approx(made.l1, abs=1e-6)
    with pytest.raises(ValueError, match="must have the fields of EditRow, got id"):
        EditRow.from_row({"id": "x"})
