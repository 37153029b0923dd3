"""Benchmarks in MagicBrush's format: drawn and read back, single and multi turn, by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ip2p_lib import cli
from ip2p_lib.backbone import load_clip
from ip2p_lib.baselines import Edited, exact_answer, nothing
from ip2p_lib.evaluation.magicbrush import run_benchmark, summary
from ip2p_lib.evaluation.turns import SESSIONS, TURNS, draw_benchmark, read_turns
from ip2p_lib.presets import DATA, EditConfig, Preset
from ip2p_lib.scenes.language import is_held_out

CONFIG = EditConfig(resolution=32, multiple=16)


@pytest.fixture
def folder(tmp_path):
    draw_benchmark(tmp_path / "bench", 3, seed=4, turns=2, size=32)
    return tmp_path / "bench"


@pytest.fixture
def turns(folder):
    return read_turns(folder)


def test_the_shipped_benchmark_is_the_drawn_one_and_its_scores_are_of_all_its_turns(tmp_path):
    draw_benchmark(tmp_path / "bench", 2, seed=0)
    shipped = DATA / "benchmark"
    drawn = sorted(p.relative_to(tmp_path / "bench") for p in (tmp_path / "bench").rglob("*.png"))
    assert len(drawn) == 2 * (1 + 3 + 3)
    for name in drawn:
        assert np.array_equal(unit(tmp_path / "bench" / name), unit(shipped / name)), name
    found = json.loads((DATA / "results" / "benchmark.json").read_text(encoding="utf-8"))
    assert found["single_turn"]["l1"]["n"] == len(read_turns(shipped)) == 60
    assert found["multi_turn"]["l1"]["n"] == 20
    assert found["single_turn"]["l1"]["value"] < found["multi_turn"]["l1"]["value"]


def unit(path):
    return np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) / 255


def answering(turns, wrong=()):
    """A system that knows the answers, but for some turns."""
    known = {t.triplet.id: Image.open(t.truth).convert("RGB") for t in turns}

    def run(pictures, triplets, value, seeds):
        return [Edited(p if t.id in wrong else known[t.id]) for p, t in zip(pictures, triplets, strict=True)]

    return replace(nothing(), run=run)


def measured(system, turns, clip, **options):
    return list(run_benchmark(system, 0.0, turns, clip, CONFIG, **options))


def test_a_drawn_benchmark_has_the_files_and_names_of_the_format(folder, turns):
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    of_one = ["input", "mask1", "mask2", "output1", "output2"]
    assert names == [f"images/{i:05d}/{i:05d}-{n}.png" for i in range(3) for n in of_one]
    assert [(t.session, t.number) for t in turns] == [(f"{i:05d}", n) for i in range(3) for n in (1, 2)]
    assert all(is_held_out(t.instruction) for t in turns)
    for first, second in zip(turns[::2], turns[1::2], strict=True):
        assert (first.truth, first.edited_caption) == (second.source, second.caption)
        assert first.caption != first.edited_caption
        mask_path = folder / "images" / first.session / f"{first.session}-mask1.png"
        mask = np.asarray(Image.open(mask_path).convert("L")) > 127
        assert 0 < mask.mean() <= 1
        moved = np.abs(unit(first.source) - unit(first.truth)).max(2) > 8.5 / 255
        assert np.array_equal(mask, moved)


def test_sessions_and_turns_tell_the_same(folder, turns):
    (folder / SESSIONS).unlink()
    assert read_turns(folder) == turns


def test_drawing_can_be_repeated(folder, tmp_path):
    draw_benchmark(tmp_path / "again", 3, seed=4, turns=2, size=32)
    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(folder)).read_bytes()


def test_no_edit_is_as_far_from_each_answer_as_its_source(turns, clip):
    for score, turn in zip(measured(nothing(), turns, clip), turns, strict=True):
        off = unit(turn.source) - unit(turn.truth)
        assert score.l1 == pytest.approx(np.abs(off).mean(), abs=1e-5)
        assert score.l2 == pytest.approx((off**2).mean(), abs=1e-5)
        assert -1 <= score.clip_t <= 1


def test_the_answer_itself_is_perfect(turns, clip):
    for iterated, count in ((False, 6), (True, 3)):
        scores = measured(answering(turns), turns, clip, iterated=iterated)
        assert len(scores) == count
        assert all((s.l1, s.l2) == (0, 0) and s.clip_i == pytest.approx(1, abs=1e-5) for s in scores)


def test_turns_go_on_from_our_own_results(turns, clip):
    """First turn right, second not made: what is measured last is the first answer against the second."""
    second = [t for t in turns if t.number == 2]
    lazy = answering(turns, wrong={t.triplet.id for t in second})
    for score, turn in zip(measured(lazy, turns, clip, iterated=True), second, strict=True):
        assert score.l1 == pytest.approx(np.abs(unit(turn.source) - unit(turn.truth)).mean(), abs=1e-5)
    first = [t for t in turns if t.number == 1]
    for score, a, b in zip(measured(nothing(), turns, clip, iterated=True), first, second, strict=True):
        assert score.l1 == pytest.approx(np.abs(unit(a.source) - unit(b.truth)).mean(), abs=1e-5)


def test_batches_change_nothing(turns, clip):
    whole, single = (measured(nothing(), turns, clip, batch_size=n) for n in (32, 1))
    assert whole == single


def test_a_bad_turn_is_named_and_ends_its_session_alone(turns, clip):
    turns[0].source.write_bytes(b"no picture")
    single = measured(nothing(), turns, clip)
    assert [bool(s.fault) for s in single] == [True, False, False, False, False, False]
    assert "must be a picture" in single[0].fault
    multi = measured(nothing(), turns, clip, iterated=True)
    assert [(s.session, s.number, bool(s.fault)) for s in multi] == [
        ("00000", 1, True), ("00001", 2, False), ("00002", 2, False),
    ]  # fmt: skip
    found = summary(multi)
    assert (found["l1"]["n"], len(found["faults"])) == (2, 1)


def test_a_missing_answer_and_a_refusing_system_are_named(turns, clip):
    turns[3].truth.unlink()
    assert [bool(s.fault) for s in measured(nothing(), turns, clip)] == [
        False,
        False,
        False,
        True,
        False,
        False,
    ]
    refused = measured(exact_answer(), turns[:1], clip)  # a benchmark's triplets do not tell their scenes
    assert "must come from the picture world" in refused[0].fault


def test_an_answer_of_other_proportions_is_named_and_another_size_is_not(turns, clip):
    whole = measured(nothing(), turns, clip)
    for turn, size in ((turns[1], (64, 64)), (turns[3], (48, 32))):
        Image.open(turn.truth).resize(size).save(turn.truth)
    scores = measured(nothing(), turns, clip)
    faults = [s.fault for s in scores]
    assert faults[3] == "an answer must have its source's proportions, 32 x 32; got 48 x 32"
    assert [bool(f) for f in faults] == [False] * 3 + [True] + [False] * 2
    assert scores[1].l1 is not None
    assert [scores[i] for i in (0, 4, 5)] == [whole[i] for i in (0, 4, 5)]


def test_a_similarity_that_is_no_number_is_left_out_by_name(turns, clip_folder):
    broken = load_clip(Preset(name="tiny", text_to_image="", editor="", clip=str(clip_folder)))
    broken.model.visual.attnpool.c_proj.bias.data.fill_(float("nan"))
    scores = measured(nothing(), turns, broken)
    assert all(s.fault == "clip_i is not a number; clip_t is not a number" for s in scores)
    assert all((s.clip_i, s.clip_t) == (None, None) and s.l1 > 0 for s in scores)
    found = summary(scores)
    assert set(found) == {"faults", "l1", "l2"}


def test_a_benchmark_without_turns_is_refused(folder):
    for name, empty in ((SESSIONS, {}), (TURNS, [])):
        (folder / name).write_text(json.dumps(empty))
        with pytest.raises(ValueError, match=rf"{name} must hold at least one turn, has none"):
            read_turns(folder)
        (folder / name).unlink()


def test_without_descriptions_there_is_no_text_measure(folder, clip):
    (folder / "global_descriptions.json").unlink()
    bare = read_turns(folder)
    assert bare[0].triplet.output == bare[0].instruction
    scores = measured(nothing(), bare, clip)
    assert all(s.clip_t is None and s.clip_i is not None and not s.fault for s in scores)
    assert "clip_t" not in summary(scores)


def test_a_folder_that_is_no_benchmark_is_refused(folder, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"must be a benchmark with edit_sessions\.json or edit_turns"
    ):
        read_turns(tmp_path)
    (folder / SESSIONS).unlink()
    (folder / TURNS).write_text(json.dumps([{"input": "00000-input.png"}]))
    with pytest.raises(ValueError, match="must hold turns with input, output and instruction"):
        read_turns(folder)
    with pytest.raises(ValueError, match="a benchmark needs sessions and turns, got 0 and 3"):
        draw_benchmark(tmp_path / "x", 0, seed=1)


def test_the_command_draws_measures_and_refuses_to_draw_over(tmp_path):
    def run(*more):
        paths = (tmp_path / "bench", "--out", tmp_path / "found.json", "--system", "nothing")
        return CliRunner().invoke(cli.app, ["benchmark", *map(str, (*paths, *more))])

    done = run("--draw", 2)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["single_turn"]["l1"]["n"], found["multi_turn"]["l1"]["n"]) == (6, 2)
    assert found["multi_turn"]["l1"]["value"] > 0
    again = run("--draw", 2)
    assert again.exit_code == 1
    assert "--draw needs a new folder" in again.output


def test_what_the_size_of_an_edit_cuts_off_is_compared_as_it_was(tmp_path, clip):
    folder = tmp_path / "wide"
    draw_benchmark(folder, 1, seed=4, turns=1, size=64)
    (turn,) = read_turns(folder)
    for path in (turn.source, turn.truth):
        picture = Image.open(turn.source).convert("RGB").resize((100, 67))
        picture.save(path)
    (score,) = run_benchmark(nothing(), 0.0, [turn], clip, replace(EditConfig(), resolution=64, multiple=32))
    assert not score.fault
    assert score.l1 < 0.02  # resized to 96 x 64 and back, and not cut and zoomed


def test_a_system_that_paints_its_inputs_has_no_answer_in_a_benchmark(folder, tmp_path):
    result = CliRunner().invoke(
        cli.app, ["benchmark", str(folder), "--system", "prompt-to-prompt", "--out", str(tmp_path / "r.json")]
    )
    assert result.exit_code == 1
    assert "prompt-to-prompt paints its inputs itself" in result.stderr
