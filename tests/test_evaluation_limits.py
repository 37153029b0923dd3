"""What the editor cannot do: side effects by hand, shifts that are found, sizes, sheets, figures, one line for mistakes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ip2p_lib import cli, images, storage
from ip2p_lib.baselines import exact_answer, nothing, our_editor, sdedit
from ip2p_lib.course.sheets import examples_sheet, failures_sheet, sizes_sheet, systems_sheet
from ip2p_lib.evaluation import beyond, side_effects
from ip2p_lib.evaluation.beyond import Granted, Wish, grant, shift_of, subject_mask, wishes
from ip2p_lib.evaluation.cases import world_cases
from ip2p_lib.evaluation.limit_figures import ablation_curve, effects_matrix
from ip2p_lib.evaluation.limit_tables import TABLES, ablations_table, blocks
from ip2p_lib.evaluation.rows import EditRow
from ip2p_lib.evaluation.side_by_side import (
    best_dial,
    enlarged,
    examples,
    good_and_bad,
    make,
    one_of_each_kind,
)
from ip2p_lib.evaluation.side_effects import Besides, besides, effects, matrix, pulls
from ip2p_lib.evaluation.sizes import measure_sizes, shown, ways
from ip2p_lib.evaluation.sweep import Instruments, measured
from ip2p_lib.evaluation.tables import captions
from ip2p_lib.judge import Verdict
from ip2p_lib.miniature.ablations import ABLATIONS
from ip2p_lib.presets import EditConfig, FilterConfig
from ip2p_lib.scenes import render
from ip2p_lib.scenes.world import ATTRIBUTES, KINDS, Scene, SceneEdit

ROOT = Path(__file__).resolve().parent.parent
CONFIG = EditConfig(resolution=32, multiple=32, num_inference_steps=2)
PLAIN = Scene("cat", "red", "meadow", "day", "clear", "plain", ("lamp",), layout=3)


@pytest.fixture(scope="module")
def instruments(clip, judge):
    return Instruments(clip, judge, CONFIG)


@pytest.fixture(scope="module")
def cases():
    return list(world_cases(40, 31))


def seen(scene, **changes):
    changed = replace(scene, **changes)
    return Verdict({n: getattr(changed, n) for n in ATTRIBUTES}, frozenset(changed.extras))


def row(one, kind="time", dial=1.0, **values):
    return EditRow(id=one, kind=kind, dial=dial, **values)


def measure(value):
    return {"value": value, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1), "n": 9}


# Side by side


def test_the_best_value_has_most_exact_edits_then_most_requested():
    points = {
        0.1: [row("a", exact=0.0, requested=0.0), row("b", exact=1.0, requested=1.0)],
        0.5: [row("a", exact=0.0, requested=1.0), row("b", exact=1.0, requested=1.0)],
        0.9: [row("a", exact=0.0, requested=1.0), row("b", exact=0.0, requested=1.0)],
    }
    assert best_dial(points) == 0.5
    blind = {1.0: [row("a", clip_sim_dir=0.1)], 2.0: [row("a", clip_sim_dir=0.3)], 3.0: [row("a", fault="x")]}
    assert best_dial(blind) == 2.0
    with pytest.raises(ValueError, match="a best value needs measured points, got none"):
        best_dial({})


def test_one_edit_of_each_kind_in_the_worlds_order(cases):
    chosen = one_of_each_kind(cases)
    assert [cases[i].kind for i in chosen] == list(KINDS)
    assert all(cases[i].kind not in [c.kind for c in cases[:i]] for i in chosen)


def test_pictures_made_again_are_those_that_were_measured(base, cases, instruments):
    one = sdedit(base, guidance_scale=3.0, num_inference_steps=4)
    rows = measured(one, 0.5, cases[:6], range(9, 15), instruments)
    again = make(one, 0.5, cases, [1, 4], instruments, seed=9)
    for made, i in zip(again, (1, 4), strict=True):
        assert made.row.id == rows[i].id == cases[i].triplet.id
        assert made.row.l1 == pytest.approx(rows[i].l1, abs=2e-3)  # a byte of the picture may differ


def test_what_the_judge_says_is_told_in_words(cases, instruments):
    (made,) = make(exact_answer(), 0.0, cases, [0], instruments)
    for values, said in (
        ({"exact": 1.0, "requested": 1.0}, "exact"),
        ({"exact": 0.0, "requested": 1.0}, "done, and more"),
        ({"exact": 0.0, "requested": 0.0}, "not done"),
        ({}, ""),
        ({"exact": 0.0, "requested": 0.0, "fault": "l1 is not a number"}, "l1 is not a number"),
    ):
        assert replace(made, row=row("a", **values)).said == said


def test_good_and_bad_differ_in_kind_and_leave_out_what_was_not_measured():
    rows = [
        row("a", "time", exact=1.0), row("b", "time", exact=1.0), row("c", "add", exact=1.0),
        row("d", "add", exact=0.0), row("e", "add", fault="picture: gone"), row("f", "time", exact=0.0, fault="x"),
    ]  # fmt: skip
    assert good_and_bad(rows) == (["a", "c"], ["d"])
    assert good_and_bad(rows, 3) == (["a", "c", "b"], ["d"])
    assert good_and_bad([]) == ([], [])


def test_what_a_sheet_of_examples_shows_is_told_in_words():
    rows = [row("a", exact=1.0, requested=1.0), row("b", exact=0.0, requested=1.0), row("c", exact=0.0, requested=0.0)]  # fmt: skip
    texts = {"a": "make it night", "b": "let it snow", "c": "add a kite"}
    found = examples({0.1: rows[2:], 0.4: rows}, texts)
    assert (found["dial"], [e["id"] for e in found["edits"]]) == (0.4, ["a", "b", "c"])
    words_of = captions({"examples": {"no-text": {"of": "noise alone", **found}}})
    words = "“make it night” exact; “let it snow” done, and more; “add a kite” not done"
    assert words_of == {
        "examples_no_text": f"![Noise alone, dial at 0.4: {words}](images/examples_no_text.png)"
    }
    assert examples({1.0: [row("a", fault="x")]}, texts)["edits"] == []


def test_the_page_of_baselines_says_what_its_pictures_show():
    words_of = captions(storage.read_json(ROOT / "data" / "results" / "systems" / "tradeoff.json"))
    page = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
    assert [name for name, text in words_of.items() if f"<!-- {name} -->\n\n{text}\n" not in page] == []
    assert set(words_of) == {p.stem for p in (ROOT / "docs" / "images").glob("examples_*.png")}


def test_a_reduced_edit_comes_back_at_its_pictures_size(editor, cases):
    one = our_editor(editor, CONFIG)
    large = [render(c.scenes.before, 64) for c in cases[:2]]
    small = [images.fit(p, (32, 32)) for p in large]
    triplets = [c.triplet for c in cases[:2]]
    back = enlarged(one, CONFIG).run(large, triplets, 1.5, [0, 1])
    plain = one.run(small, triplets, 1.5, [0, 1])
    assert [e.picture.size for e in back] == [(64, 64)] * 2
    for a, b in zip(back, plain, strict=True):
        expected = b.picture.resize((64, 64), Image.Resampling.LANCZOS)
        assert np.array_equal(np.asarray(a.picture), np.asarray(expected))
    assert enlarged(one, CONFIG).mark != one.mark


def test_sheets_have_a_column_for_each_system_and_refuse_to_be_empty(base, cases, instruments):
    systems = (exact_answer(), sdedit(base, guidance_scale=3.0, num_inference_steps=2))
    columns = [make(s, 0.5, cases, [0, 1, 2], instruments) for s in systems]
    assert systems_sheet(columns).width == 3 * (120 + 8) + 8
    assert examples_sheet(columns[1][:2], columns[1][2:]).width == 6 * (104 + 8) + 8
    for empty in ([], [[]]):
        with pytest.raises(ValueError, match="need at least one edit by one of them"):
            systems_sheet(empty)


# Sizes


def test_sizes_are_multiples_and_the_last_way_enlarges():
    assert [(w.size, w.edited_at) for w in ways(EditConfig(resolution=64, multiple=32))] == [
        (64, 64), (96, 96), (128, 128), (128, 64),
    ]  # fmt: skip
    assert [w.name for w in ways(CONFIG)] == ["32 px", "64 px", "32 px, enlarged to 64"]


def test_every_size_is_measured_against_its_own_exact_answer(editor, clip, judge, cases, tmp_path):
    found = list(measure_sizes(editor, CONFIG, clip, judge, cases[:3], tmp_path))
    assert found == list(measure_sizes(editor, CONFIG, clip, judge, cases[:3], tmp_path))
    assert [f["way"] for f in found] == [w.name for w in ways(CONFIG)]
    for line in found:
        assert (
            line["exact"]["n"]
            == line["autoencoder_keeps"]["n"]
            == line["judge_reads"]["n"]
            == line["l1_over_unedited_l1"]["n"]
            == 3
        )
        assert line["l1_over_unedited_l1"]["low"] <= line["l1_over_unedited_l1"]["value"]
        assert line["faults"] == []
        assert len(line["shown"]) == len(shown(cases[:3]))
        assert set(line["shown"]) <= {"exact", "done, and more", "not done"}
    assert len({json.dumps(f["l1_over_unedited_l1"]) for f in found}) == 3


def test_the_sheet_of_sizes_shows_every_way(editor, cases, instruments):
    sheet = sizes_sheet(editor, CONFIG, instruments, cases, 0)
    assert sheet.width == (len(ways(CONFIG)) + 2) * (64 + 8) + 8


# Wishes


def test_a_moved_part_is_found_where_it_went():
    before = images.to_tensor([render(PLAIN, 64)])[0]
    mask = subject_mask(PLAIN, 64)
    assert 0.02 < mask.mean() < 0.5
    for shift in (-9, 0, 4):
        assert shift_of(before, torch.roll(before, shift, 2), mask, 15) == shift
    with pytest.raises(ValueError, match="must have pixels, its mask has none"):
        shift_of(before, before, np.zeros((64, 64), bool), 15)


def test_a_part_is_never_looked_for_over_the_edge():
    mask = np.zeros((8, 8), bool)
    mask[3:5, 1:3] = True
    flat = torch.zeros(3, 8, 8)
    before = flat.clone()
    before[:, torch.from_numpy(mask)] = 1
    after = flat.clone()
    after[:, 3:5, 0:2] = 1
    assert shift_of(before, after, mask, 7) == -1
    assert shift_of(before, flat, mask, 7) == 0  # nowhere better than here


def test_wishes_are_made_of_the_same_pictures_and_told_by_kind(editor, judge):
    wished = list(wishes(2, 5))
    assert [w.kind for w in wished] == [*beyond.WISHES] * 2
    assert wished[0].scene == wished[2].scene != wished[3].scene
    assert all(w.scene.subject in w.instruction and "lamp" in w.scene.extras for w in wished)
    found = grant(editor, judge, wished, CONFIG)
    assert all(g.before.size == g.after.size == (32, 32) for g in found)
    told = beyond.told(found)
    assert list(told) == list(beyond.WISHES)
    assert all(told[k]["moved"]["n"] == 2 for k in told)
    assert failures_sheet(found).width == 4 * (112 + 8) + 8


def test_a_subject_that_left_its_place_is_counted():
    wish = Wish("move", PLAIN, "move the cat to the left")
    old = render(PLAIN, 64)
    found = [Granted(wish, old, old, shift, ()) for shift in (-20, -7, -6, 0, 7)]
    assert [g.moved for g in found] == [True, True, False, False, True]
    others = [Granted(replace(wish, kind=k), old, old, 0, ("time",)) for k in ("count", "swap")]
    told = beyond.told([*found, *others])
    assert (told["move"]["moved"]["value"], told["move"]["moved_left"]["value"]) == (0.6, 0.4)
    assert told["swap"]["another_scene"]["value"] == 1
    assert told["swap"]["changed"] == {"time": 1}
    assert told["swap"]["shown"] == [{"subject": "cat", "judge": "another time"}]
    assert [s["judge"] for s in told["move"]["shown"]] == [
        "the same scene, subject 20 px to the left", "the same scene, subject 7 px to the left", "the same scene", "the same scene",
    ]  # fmt: skip
    assert replace(found[3], changed=("lamp", "colour")).said == "a lamp came or went, another colour"


# Side effects


@pytest.mark.parametrize(
    ("kind", "after", "read", "changed"),
    [
        ("time", {"time": "night"}, {"time": "night"}, {}),
        ("time", {"time": "night"}, {}, {}),  # not done, and nothing else either
        ("time", {"time": "night"}, {"time": "night", "weather": "rain"}, {"weather": "rain"}),
        ("time", {"time": "night"}, {"extras": ()}, {"extras": "-lamp"}),
        ("add", {"extras": ("lamp", "kite")}, {"extras": ("lamp", "kite")}, {}),
        ("add", {"extras": ("lamp", "kite")}, {"extras": ("fence", "kite")}, {"extras": "+fence -lamp"}),
        ("remove", {"extras": ()}, {"extras": (), "subject": "car"}, {"subject": "car"}),
    ],
)
def test_what_nobody_asked_for_is_told_by_attribute(kind, after, read, changed):
    edit = SceneEdit(kind, PLAIN, replace(PLAIN, **after), "", "")
    assert besides(seen(PLAIN), seen(PLAIN, **read), edit) == Besides(kind, changed)


def test_a_matrix_counts_only_edits_that_were_not_about_the_column():
    found = [
        Besides("time", {}), Besides("time", {"weather": "rain"}), Besides("weather", {"time": "night", "extras": "+kite"}),
        Besides("weather", {"time": "day"}),
    ]  # fmt: skip
    lines = {line["kind"]: line for line in matrix(found)}
    assert list(lines) == ["time", "weather", "all"]
    assert "time" not in lines["time"]["besides"]
    assert lines["time"]["besides"]["weather"]["value"] == 0.5
    assert lines["weather"]["besides"]["time"]["value"] == 1
    assert (lines["all"]["besides"]["time"]["n"], lines["all"]["besides"]["time"]["value"]) == (2, 1)
    assert lines["all"]["besides"]["anything"]["value"] == 0.75
    went = {p["column"]: p for p in pulls([*found, Besides("weather", {"time": "night"})])}
    assert (went["time"]["to"], went["time"]["changes"], went["time"]["share"]["n"]) == ("night", 3, 3)
    assert "colour" not in went


def flat(*arguments, **options):
    return [b for block in effects(*arguments, **options) for b in block]


def test_doing_nothing_changes_nothing_besides(cases, instruments, tmp_path):
    found = flat(nothing(), 0.0, cases[:40], tmp_path, instruments)
    assert [b.kind for b in found] == [c.kind for c in cases[:40]]
    assert all(not b.changed for b in found)


def test_a_stopped_probe_goes_on_and_another_one_is_refused(base, cases, instruments, tmp_path):
    one = sdedit(base, guidance_scale=3.0, num_inference_steps=2)
    whole = flat(one, 0.9, cases[:34], tmp_path / "whole", instruments)
    stopped = effects(one, 0.9, cases[:34], tmp_path / "cut", instruments)
    next(stopped)
    stopped.close()
    assert flat(one, 0.9, cases[:34], tmp_path / "cut", instruments) == whole
    (tmp_path / "whole" / "besides-00001.json").write_text('[{"kind": "time"}]')
    with pytest.raises(ValueError, match=r"besides-00001\.json must hold side effects, but is damaged"):
        flat(one, 0.9, cases[:34], tmp_path / "whole", instruments)
    for wrong in ((replace(one, mark="other"), 0.9), (one, 0.5)):
        with pytest.raises(ValueError, match="holds results of another configuration"):
            flat(*wrong, cases[:34], tmp_path / "cut", instruments)


def test_the_filter_leaves_out_what_it_would_not_keep(cases, instruments, tmp_path):
    strict, lax = FilterConfig(min_image=1.0), FilterConfig(min_text=-1, min_direction=-1, min_image=-1)
    one = exact_answer()
    assert flat(one, 0.0, cases[:9], tmp_path / "a", instruments, filtered=strict) == []
    kept = flat(one, 0.0, cases[:9], tmp_path / "b", instruments, filtered=lax)
    assert kept == flat(one, 0.0, cases[:9], tmp_path / "c", instruments)


def test_side_effects_need_a_judge_and_the_world(base, cases, instruments, tmp_path):
    blind, foreign = replace(instruments, judge=None), replace(cases[0], scenes=None)
    for wrong in ((cases[:1], tmp_path, blind), ([foreign], tmp_path, instruments)):
        with pytest.raises(ValueError, match="side effects need a judge, and cases of the picture world"):
            flat(nothing(), 0.0, *wrong)
    floor = side_effects.rebuilt_answer(base)
    (edited,) = floor.run([render(cases[0].scenes.before, 32)], [cases[0].triplet], 0.0, [0])
    assert edited.picture.size == (32, 32)


# Figures and tables


def test_the_matrix_is_drawn_with_numbers_and_to_the_same_bytes(tmp_path):
    found = [Besides("time", {"weather": "rain"}), Besides("time", {}), Besides("add", {"extras": "+kite"})]
    result = {"editor": side_effects.told(found), "floor": side_effects.told(found[1:])}
    a, b = (effects_matrix(result, tmp_path / f"{n}.png").read_bytes() for n in "ab")
    assert a == b
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"), dtype=int)
    assert np.ptp(pixels, axis=2).max() <= 2  # greys alone: nothing is said by colour
    table = TABLES["side_effects"]({**result, "kept_pairs": side_effects.told([])})
    assert "pairs it learns from" not in table
    assert "| weather | 0.33 (0.06 to 0.79) | 0.00 (0.00 to 0.66) | rain, 1.00 (0.21 to 1.00) |" in table
    with pytest.raises(ValueError, match="needs measured edits, found none"):
        effects_matrix({}, tmp_path / "c.png")


@pytest.fixture
def ablations():
    """Made-up runs of the paper's ablations, as the result file has them."""
    exact = {"all": 0.5, "tenth": 0.4, "hundredth": 0.1, "unfiltered": 0.35, "no_dropout": 0.45, "random_start": 0.2, "drawn": 0.7}  # fmt: skip
    return {
        name: {
            "about": f"run {name}",
            "steps": 1000,
            "prompts": 20,
            **dict.fromkeys(("l1_over_unedited_l1", "clip_sim_dir", "clip_sim_image"), measure(0.6)),
            "exact": measure(v),
            "requested": measure(v + 0.2),
        }
        for name, v in exact.items()
    }


def test_the_ablation_curve_is_drawn_from_a_whole_file(ablations, tmp_path):
    a, b = (ablation_curve(ablations, tmp_path / f"{n}.png").read_bytes() for n in "ab")
    assert a == b
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    assert (pixels < 100).mean() > 0.002


def test_an_ablation_curve_of_a_part_of_the_runs_is_refused(ablations, tmp_path):
    with pytest.raises(
        ValueError, match=r"needs the runs hundredth, tenth, all, .*; tenth, drawn not on file"
    ):
        ablation_curve(
            {n: r for n, r in ablations.items() if n not in ("tenth", "drawn")}, tmp_path / "a.png"
        )
    ablations["tenth"]["steps"] = 900
    with pytest.raises(ValueError, match=r"must have equal steps to be compared, got \[900, 1000\]"):
        ablation_curve(ablations, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_the_command_draws_the_curve_and_trains_nothing(ablations, tmp_path):
    def draw():
        arguments = [
            "ablations",
            "--out",
            tmp_path,
            "--figure",
            tmp_path / "a.png",
            "--work",
            tmp_path / "none",
        ]
        return CliRunner().invoke(cli.app, list(map(str, arguments)))

    assert "ablations.json" in draw().output.splitlines()[-1]  # no such file
    (tmp_path / "ablations.json").write_text(json.dumps({"all": ablations["all"]}))
    refused = draw()
    assert (refused.exit_code, len(refused.output.splitlines())) == (1, 1)
    assert "hundredth, tenth, unfiltered, no_dropout, random_start, drawn not on file" in refused.output
    (tmp_path / "ablations.json").write_text(json.dumps(ablations))
    assert draw().exit_code == 0
    assert (tmp_path / "a.png").is_file()
    assert json.loads((tmp_path / "ablations.json").read_text()) == ablations


def test_the_command_puts_the_table_on_its_page(ablations, tmp_path):
    page = tmp_path / "a.md"
    page.write_text("above\n<!-- ablations -->\nold\n<!-- /ablations -->\nbelow\n")
    (tmp_path / "ablations.json").write_text(json.dumps(ablations))
    run = CliRunner().invoke(cli.app, ["ablations", "--out", str(tmp_path), "--page", str(page)])
    assert run.exit_code == 0, run.output
    assert ablations_table(ablations) in page.read_text()
    assert "| run tenth | 20 | 0.40 (" in page.read_text()
    assert "old" not in page.read_text()


def test_the_page_of_ablations_shows_what_was_measured():
    result = storage.read_json(ROOT / "data" / "results" / "ablations.json")
    assert ablations_table(result) in (ROOT / "docs" / "ablations.md").read_text(encoding="utf-8")
    assert [r["command"] for r in result.values()] == [f"ip2p ablations --only {name}" for name in result]
    assert set(result) == {a.name for a in ABLATIONS}


MEASURED = [p for p in TABLES if (ROOT / "data" / "results" / f"{p}.json").is_file()]


def test_something_was_measured():
    assert "failures" in MEASURED


@pytest.mark.parametrize("part", MEASURED)
def test_the_page_shows_what_was_measured(part):
    result = storage.read_json(ROOT / "data" / "results" / f"{part}.json")
    page = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    assert [
        name for name, text in blocks(part, result).items() if f"<!-- {name} -->\n\n{text}\n" not in page
    ] == []
    assert result["command"].removesuffix(" --learned out/miniature/kept") == f"ip2p limits --only {part}"


# The command


def limits(*arguments):
    return CliRunner().invoke(cli.app, ["limits", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--only", "colours"),
            "--only must be one of sizes, failures, side_effects, familiar; got 'colours'",
        ),
        (("--wishes", 0), "--wishes must be at least 1, got 0"),
        (("--preset", "tiny"), "preset must be one of miniature, full; got 'tiny'"),
        (("--preset", "full"), "limits are measured by exact answers and a judge, and preset full has none"),
    ],
)
def test_a_mistake_gets_one_line(tmp_path, arguments, said):
    run = limits("--out", tmp_path, "--work", tmp_path, *arguments)
    assert run.exit_code == 1
    assert said in run.output
    assert len(run.output.splitlines()) == 1


@pytest.mark.slow
def test_every_part_is_measured_drawn_and_put_on_its_page(tmp_path, pair_folder):
    page = tmp_path / "page.md"
    names = (*TABLES, "sizes_picture", "failures_picture")
    page.write_text("".join(f"<!-- {n} -->\n<!-- /{n} -->\n" for n in names))
    counts = (
        "--edits",
        8,
        "--wishes",
        2,
        "--probes",
        2,
        "--pairs",
        1,
        "--known",
        6,
        "--learned",
        pair_folder,
    )
    run = limits(
        "--out", tmp_path, "--work", tmp_path / "work", *counts, "--figures", tmp_path, "--page", page
    )
    assert run.exit_code == 0, run.output
    assert {p.name for p in tmp_path.glob("*.png")} == {"sizes.png", "failures.png", "side_effects.png"}
    for part in TABLES:
        found = blocks(part, json.loads((tmp_path / f"{part}.json").read_text()))
        assert all(text in page.read_text() for text in found.values())
