"""`ip2p evaluate` and its plots: the ends of the scale by the shipped judge, continuation, one line for mistakes."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ip2p_lib import cli
from ip2p_lib.baselines import SYSTEMS
from ip2p_lib.baselines.systems import RELEASED_SWEEP, spread
from ip2p_lib.dataset import is_held_out
from ip2p_lib.evaluation.cases import world_cases
from ip2p_lib.evaluation.figures import LOOKS, draw, ranges, tradeoff, truth_curve
from ip2p_lib.pairs import shard_path, writing_shard
from ip2p_lib.presets import MINIATURE
from ip2p_lib.records import EDIT_PROMPT, EDITED_IMAGE, EDITED_PROMPT, ORIGINAL_IMAGE, TRIPLET_ID
from ip2p_lib.scenes.world import KINDS


def evaluate(*arguments):
    return CliRunner().invoke(cli.app, ["evaluate", *map(str, arguments)])


def options(folder):
    return ("--out", folder / "rows", "--results", folder, "--seed", 5)


def measure(value):
    return {"value": value, "low": value - 0.02, "high": value + 0.03, "n": 4}


def point(system, dial, **values):
    return {"system": system, "dial": dial, "edits": 4, **{k: measure(v) for k, v in values.items()}}


@pytest.fixture
def result():
    return {
        "points": [
            point(
                name, dial, clip_sim_dir=dial / 5, clip_sim_image=1 - dial / 4, released_sim_dir=dial / 9,
                released_sim_image=1 - dial / 9, requested=dial / 3, l1_outside=dial / 8,
            )
            for name in ("ours", "sdedit")
            for dial in (1.0, 1.5, 2.0)
        ]
    }  # fmt: skip


def test_the_ends_of_the_scale_are_measured_and_a_second_run_continues(tmp_path):
    first = evaluate(*options(tmp_path), "--systems", "nothing,truth", "--edits", 12, "--figures", tmp_path)
    assert first.exit_code == 0, first.output
    found = json.loads((tmp_path / "tradeoff.json").read_text())
    kept, perfect = found["points"]
    assert (kept["system"], perfect["system"]) == ("nothing", "truth")
    assert kept["exact"]["value"] < 0.2 < 0.8 < perfect["exact"]["value"]
    assert kept["clip_sim_dir"]["value"] == 0 < 0.3 < perfect["clip_sim_dir"]["value"]
    assert (perfect["l1"]["value"], kept["l1"]) == (0, kept["unedited_l1"])
    assert "ip2p evaluate --systems nothing,truth --edits 12" in found["command"]
    assert (tmp_path / "tradeoff.png").is_file()
    rows = {p: p.stat().st_mtime_ns for p in (tmp_path / "rows").rglob("*.jsonl")}
    second = evaluate(*options(tmp_path), "--systems", "nothing,truth", "--edits", 12)
    assert second.exit_code == 0
    assert rows == {p: p.stat().st_mtime_ns for p in (tmp_path / "rows").rglob("*.jsonl")}
    assert json.loads((tmp_path / "tradeoff.json").read_text())["points"] == found["points"]
    other = evaluate(*options(tmp_path), "--systems", "nothing", "--edits", 13)
    assert other.exit_code == 1
    assert "holds results of another configuration" in other.output


def test_pairs_of_any_dataset_are_edited_one_of_each_prompt(tmp_path, rows):
    """Nine pairs of six prompts, one with a damaged picture: named, the rest measured by CLIP and against the answers."""
    rows[0][ORIGINAL_IMAGE]["bytes"] = b"no picture"
    with writing_shard(shard_path(tmp_path / "pairs", 0)) as shard:
        shard.add(rows)
    run = evaluate(*options(tmp_path), "--pairs", tmp_path / "pairs", "--systems", "nothing", "--edits", 9)
    assert run.exit_code == 0, run.output
    assert "row 0: original_image" in run.output
    assert "5 edits of" in run.output
    found = json.loads((tmp_path / "tradeoff.json").read_text())["points"][0]
    assert found["edits"] == 5
    assert found["l1"] == found["unedited_l1"]
    assert found["clip_sim_image"]["value"] == pytest.approx(1, abs=1e-3)
    assert "exact" not in found, "nobody can say whether an edit of these is exact"
    kept = [r[TRIPLET_ID] for r in rows[1:] if is_held_out(r[TRIPLET_ID], 0.5)]
    half = (
        *options(tmp_path / "half"),
        "--pairs",
        tmp_path / "pairs",
        "--held-out",
        0.5,
        "--systems",
        "nothing",
    )
    assert f"{len(set(kept))} edits of" in evaluate(*half).output


def test_the_same_prompts_with_other_pictures_are_another_study(tmp_path, rows):
    """Else the rows of one dataset would pass for those of another; where the folder lies plays no part."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with writing_shard(shard_path(tmp_path / name, 0)) as shard:
            shard.add(rows)
        for row in rows:
            row[ORIGINAL_IMAGE]["bytes"] = row[EDITED_IMAGE]["bytes"]
    few = ("--systems", "nothing", "--edits", 3)
    first = evaluate(*options(tmp_path), "--pairs", tmp_path / "one", *few)
    assert first.exit_code == 0, first.output
    other = evaluate(*options(tmp_path), "--pairs", tmp_path / "two", *few)
    assert "holds results of another configuration" in other.output
    shutil.move(tmp_path / "rows", tmp_path / "moved")
    shutil.move(tmp_path / "one", tmp_path / "elsewhere")
    again = evaluate("--out", tmp_path / "moved", "--seed", 5, "--pairs", tmp_path / "elsewhere", *few)
    assert again.exit_code == 0, again.output


def test_pairs_without_captions_and_the_exact_answer_to_them_are_refused(tmp_path, rows):
    for row in rows[1:]:
        row[EDITED_PROMPT] = ""
    for name, part in (("pairs", rows), ("bare", rows[1:])):
        (tmp_path / name).mkdir()
        with writing_shard(shard_path(tmp_path / name, 0)) as shard:
            shard.add(part)
    pairs = ("--pairs", tmp_path / "pairs", "--systems", "nothing")
    run = evaluate(*options(tmp_path), *pairs)
    assert "1 edits of" in run.output
    assert "must have texts in original_prompt and edited_prompt" in run.output
    run = evaluate(*options(tmp_path / "b"), "--pairs", tmp_path / "bare")
    assert run.exit_code == 1
    assert "must hold a usable pair" in run.output
    assert "must have texts in original_prompt" in run.output
    run = evaluate(*options(tmp_path), *pairs[:2], "--systems", "nothing,truth")
    assert "only the picture world knows" in run.output


@pytest.mark.slow
def test_pairs_are_swept_drawn_and_an_edit_that_is_refused_spares_the_sheet(tmp_path, rows):
    rows[0][EDIT_PROMPT] = "zxqv wqkj"
    (tmp_path / "pairs").mkdir()
    with writing_shard(shard_path(tmp_path / "pairs", 0)) as shard:
        shard.add(rows)
    drawn = ("--figures", tmp_path, "--sheets", tmp_path / "sheets")
    few = ("--systems", "ours,sdedit,nothing", "--edits", 4, "--points", 2)
    run = evaluate(*options(tmp_path), "--pairs", tmp_path / "pairs", *few, *drawn)
    assert run.exit_code == 0, run.output
    assert "unknown here: zxqv" in run.output
    assert (tmp_path / "sheets" / "systems.png").is_file()
    assert (tmp_path / "tradeoff.png").is_file()
    found = json.loads((tmp_path / "tradeoff.json").read_text())
    assert found["compared"][0]["edits"] == 3
    assert "--pairs pairs" in found["command"]


def test_at_the_released_scale_the_sweep_is_the_released_one():
    assert spread(1.5, RELEASED_SWEEP) == (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2)


@pytest.mark.slow
def test_every_dial_is_swept_and_compared(tmp_path):
    """The shipped models, two edits at two points: all parts of the result are there."""
    names = "ours,sdedit,prompt-to-prompt,truth"
    page = tmp_path / "page.md"
    marks = ("examples_ours", "examples_sdedit", "examples_prompt_to_prompt")
    page.write_text("".join(f"<!-- {m} -->\n<!-- /{m} -->\n" for m in marks))
    drawn = ("--figures", tmp_path, "--sheets", tmp_path / "sheets", "--captions", page)
    run = evaluate(*options(tmp_path), "--systems", names, "--edits", 2, "--points", 2, *drawn)
    assert run.exit_code == 0, run.output
    assert {p.name for p in (tmp_path / "sheets").iterdir()} == {
        "systems.png", "examples_ours.png", "examples_sdedit.png", "examples_prompt_to_prompt.png",
    }  # fmt: skip
    assert re.search(
        r"systems\.png: ours at [\d.]+, sdedit at [\d.]+, truth at 0", run.output.replace("\n", "")
    )
    assert page.read_text().count("![") == len(marks)
    found = json.loads((tmp_path / "tradeoff.json").read_text())
    ours = spread(MINIATURE.edit.image_guidance_scale, RELEASED_SWEEP)
    assert [(p["system"], p["dial"]) for p in found["points"]] == [
        ("ours", ours[0]), ("ours", ours[-1]), ("sdedit", 0.1), ("sdedit", 0.9), ("prompt-to-prompt", 0.0),
        ("prompt-to-prompt", 1.1), ("truth", 0.0),
    ]  # fmt: skip
    assert [c["against"] for c in found["compared"]] == ["sdedit"]
    assert all("l1" not in p for p in found["points"] if p["system"] == "prompt-to-prompt")
    assert "ours against sdedit" in run.output or "sdedit: no direction in common" in run.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--edits", 0), "--edits must be at least 1, got 0"),
        (("--slow-edits", -1), "--slow-edits must be at least 1, got -1"),
        (("--points", 0), "--points must be at least 1, got 0"),
        (("--at", "a,b"), "--at must be numbers with commas between, got 'a,b'"),
        (("--systems", "magic"), "a system must be one of ours, ours-text, sdedit"),
        (("--preset", "tiny"), "preset must be one of miniature, full; got 'tiny'"),
        (("--held-out", 0.1), "--held-out is a share of the prompts of --pairs, which is not given"),
        (("--pairs", "nowhere", "--held-out", 5), "held_out must be a share above 0 and up to 1, got 5"),
        (("--pairs", "nowhere", "--held-out", 0), "held_out must be a share above 0 and up to 1, got 0"),
    ],
)
def test_a_mistake_gets_one_line(tmp_path, arguments, said):
    run = evaluate(*options(tmp_path), *arguments)
    assert run.exit_code == 1
    assert run.output.startswith("error: ")
    assert said in run.output
    assert len(run.output.splitlines()) == 1


def test_a_sheet_has_a_row_for_each_kind_and_a_column_for_each_system(tmp_path):
    run = evaluate(*options(tmp_path), "--systems", "nothing,truth", "--edits", 12, "--sheets", tmp_path)
    assert run.exit_code == 0, run.output
    assert len({c.kind for c in world_cases(12, 5)}) < len(KINDS)  # the edits measured lack a kind
    with Image.open(tmp_path / "systems.png") as sheet:
        assert sheet.size == (2 * (120 + 8) + 8, 20 + 8 + len(KINDS) * (120 + 3 * 13 + 8))
    assert [p.name for p in tmp_path.glob("*.png")] == [
        "systems.png"
    ]  # neither has a dial to be good or bad at


def test_every_system_has_a_look_of_its_own():
    assert set(LOOKS) == set(SYSTEMS)
    lines = [(marker, line) for _, marker, line in LOOKS.values() if line != "none"]
    assert len(set(lines)) == len({marker for marker, _ in lines}) == len(lines)


def test_plots_show_what_there_is(result, tmp_path):
    paths = draw(result, tmp_path)
    assert [p.name for p in paths] == ["tradeoff.png", "tradeoff_truth.png", "tradeoff_ranges.png"]
    for path in paths:
        pixels = np.asarray(Image.open(path).convert("L"))
        assert pixels.shape[1] == 704
        assert (pixels < 100).mean() > 0.002  # something is drawn
    only = {"points": [p for p in result["points"] if p["system"] == "sdedit"]}
    for p in only["points"]:
        del p["requested"]
    assert [p.name for p in draw(only, tmp_path)] == ["tradeoff.png"]


def test_a_plot_can_be_repeated_to_the_byte(result, tmp_path):
    a, b = (tradeoff(result, tmp_path / f"{n}.png").read_bytes() for n in "ab")
    assert a == b


def test_a_plot_of_nothing_is_refused(tmp_path):
    empty = {"points": []}
    with pytest.raises(
        ValueError, match="a curve needs points with clip_sim_dir and clip_sim_image, found none"
    ):
        tradeoff(empty, tmp_path / "x.png")
    with pytest.raises(ValueError, match="needs a judge and exact masks"):
        truth_curve(empty, tmp_path / "x.png")
    with pytest.raises(ValueError, match="measure the system 'ours' first"):
        ranges(empty, tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []
