"""An editing session: what it shows is what `edit` makes, the last request wins, the way back is exact."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ip2p_lib.course.answers import answer_to, in_words
from ip2p_lib.course.history import as_code
from ip2p_lib.course.session import EditSession
from ip2p_lib.course.views import VIEWS, compose, difference, wipe
from ip2p_lib.editing import edit
from ip2p_lib.presets import MINIATURE
from ip2p_lib.scenes import Scene, render

CASTLE = Scene("castle", "purple", "meadow", "day", "clear", "plain", ("kite",), 7)
FAST = replace(MINIATURE, edit=replace(MINIATURE.edit, num_inference_steps=2))


@pytest.fixture
def session(editor):
    made = EditSession(editor, FAST, rest=0.02)
    made.events = []
    made.listen(made.events.append)
    made.open(render(CASTLE, 64), scene=CASTLE, name="castle")
    made.set(instruction="make it night")
    yield made
    made.close()


def kinds(session):
    return [e.kind for e in session.events]


def same(a, b, tolerance=1):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max() <= tolerance


def test_a_run_shows_what_edit_makes_with_its_recipe(session):
    entry = session.run(wait=True, timeout=60)
    (made,) = edit(session.editor, render(CASTLE, 64), "make it night", config=FAST.edit)
    assert same(entry.result.picture, made.picture)
    assert entry.result.recipe == made.recipe
    assert session.history.current is entry


def test_progress_counts_steps_and_the_edit_comes_last(session):
    session.set(num_inference_steps=3)
    session.run(wait=True, timeout=60)
    steps = [(e.step, e.count) for e in session.events if e.kind == "progress"]
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert kinds(session)[-1] == "edit"


def test_a_preview_is_followed_by_the_full_edit(session):
    session.set(num_inference_steps=6)
    entry = session.result(session.preview(), timeout=60)
    assert [k for k in kinds(session) if k != "progress"] == ["source", "preview", "edit"]
    (made,) = edit(
        session.editor, render(CASTLE, 64), "make it night", config=FAST.edit, num_inference_steps=6
    )
    assert same(entry.result.picture, made.picture)


def test_two_hundred_moves_end_at_the_last_value(session):
    session.set(num_inference_steps=6)
    for n in range(200):
        session.set(guidance_scale=n / 50)
        job = session.preview()
    entry = session.result(job, timeout=60)
    assert entry.settings.guidance_scale == 199 / 50
    assert len(session.history.entries) == 1
    assert session.last_error is None


def test_stop_takes_effect_within_a_step(session):
    session.set(num_inference_steps=500)
    seen = threading.Event()
    session.listen(lambda e: seen.set() if e.kind == "progress" else None)
    session.run()
    assert seen.wait(30)
    session.stop()
    before = kinds(session).count("progress")
    session.set(num_inference_steps=2)
    session.run(wait=True, timeout=60)
    assert kinds(session).count("progress") <= before + 1 + 2
    assert "stopped" in kinds(session)


def test_waiting_for_a_stopped_run_says_so(session):
    session.set(num_inference_steps=500)
    threading.Timer(0.3, session.stop).start()
    with pytest.raises(RuntimeError, match="stopped, or a later request"):
        session.run(wait=True, timeout=60)


def test_a_finished_edit_is_not_computed_again(session):
    session.run(wait=True, timeout=60)
    count = kinds(session).count("progress")
    session.run(wait=True, timeout=60)
    assert kinds(session).count("progress") == count
    assert len(session.history.entries) == 1


def test_undo_and_redo_restore_picture_and_settings(session):
    first = session.run(wait=True, timeout=60)
    session.set(instruction="make it snow", guidance_scale=3.0)
    second = session.run(wait=True, timeout=60)
    session.undo()
    assert session.history.current is first
    assert session.settings == first.settings
    session.undo()
    assert session.history.current is None
    assert kinds(session)[-1] == "source"
    with pytest.raises(ValueError, match="nothing to undo"):
        session.undo()
    session.redo()
    session.redo()
    assert session.history.current is second
    with pytest.raises(ValueError, match="nothing to redo"):
        session.redo()


def test_an_edit_after_undo_takes_the_place_of_what_was_undone(session):
    session.run(wait=True, timeout=60)
    session.undo()
    session.set(seed=5)
    entry = session.run(wait=True, timeout=60)
    assert session.history.entries == [entry]


def test_editing_further_starts_from_the_edit_and_the_world_follows(session):
    entry = session.run(wait=True, timeout=60)
    session.keep()
    assert same(session.source.picture, entry.result.picture, 0)
    assert session.source.scene == replace(CASTLE, time="night")
    session.set(instruction="add a rainbow")
    chained = session.run(wait=True, timeout=60)
    assert answer_to(chained.source.scene, "add a rainbow", (64, 64)).edit.after.extras == ("rainbow", "kite")
    session.undo()
    assert session.source.scene == CASTLE


def test_the_map_has_every_pair_of_scales_as_single_edits_would(session):
    event = session.result(session.guidance_map([0.5, 2], [1, 3]), timeout=60)
    assert event.scales == ((0.5, 1), (2, 1), (0.5, 3), (2, 3))
    (single,) = edit(
        session.editor, render(CASTLE, 64), "make it night", config=FAST.edit, guidance_scale=2,
        image_guidance_scale=3,
    )  # fmt: skip
    assert same(event.pictures[3], single.picture, 2)


def test_rerolled_seeds_repeat_from_session_to_session(session):
    seeds = [session.reroll() for _ in range(50)]
    assert len(set(seeds)) == 50
    session.set(seed=0)
    assert [session.reroll() for _ in range(50)] == seeds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instruction": ""}, "must contain words"),
        ({"instruction": "\x00\x07 !"}, "must contain words"),
        ({"instruction": "сделай ночь 把它变成夜晚"}, "must use words"),
        ({"instruction": "night " * 2_000}, "must fit in"),
        ({"guidance_scale": float("nan")}, "guidance_scale must lie"),
        ({"image_guidance_scale": -1}, "image_guidance_scale must lie"),
        ({"num_inference_steps": 0}, "steps must lie"),
        ({"seed": -1}, "seed must lie"),
        ({"sampler": "magic"}, "sampler must be one of"),
    ],
)
def test_unusable_settings_are_refused_and_change_nothing(session, change, message):
    before = session.settings
    with pytest.raises(ValueError, match=message):
        session.set(**change)
    assert session.settings == before
    session.run(wait=True, timeout=60)


def test_what_is_missing_is_said(editor):
    session = EditSession(editor, FAST)
    with pytest.raises(ValueError, match="choose or upload a picture"):
        session.run()
    session.open(render(CASTLE, 64))
    with pytest.raises(ValueError, match="must contain words"):
        session.run()
    with pytest.raises(ValueError, match="no edit to go on from"):
        session.keep()
    session.close()


def test_an_error_while_sampling_is_told_and_the_session_lives(session, monkeypatch):
    monkeypatch.setattr(session, "_steps", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
    with pytest.raises(MemoryError, match="no room"):
        session.run(wait=True, timeout=60)
    assert kinds(session)[-1] == "error"
    monkeypatch.undo()
    assert session.run(wait=True, timeout=60)


def test_the_code_repeats_the_edit(shipped_editor, tmp_path, monkeypatch):
    session = EditSession(shipped_editor, FAST)
    session.open(render(CASTLE, 64))
    session.set(instruction="make it night")
    entry = session.run(wait=True, timeout=60)
    session.close()
    render(CASTLE, 64).save(tmp_path / "castle.png")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(as_code(entry, "miniature", Path("castle.png")), names)
    assert same(names["result"].picture, entry.result.picture)
    assert (tmp_path / "edit.png").is_file()


def test_words_tell_what_changed_and_the_judge_is_asked(session, shipped_judge):
    entry = session.run(wait=True, timeout=60)
    exact = replace(entry, result=replace(entry.result, picture=render(replace(CASTLE, time="night"), 64)))
    assert "100% of what should, 0% of what should not" in in_words(exact)
    assert "reads exactly what was asked" in in_words(exact, shipped_judge)
    untouched = replace(entry, result=replace(entry.result, picture=entry.source.picture))
    assert "The judge misses: time" in in_words(untouched, shipped_judge)
    elsewhere = replace(untouched, source=replace(entry.source, scene=None))
    assert in_words(elsewhere, shipped_judge) == "0% of the picture changed visibly."


def test_views_show_both_pictures():
    black, white = Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), "white")
    half = np.asarray(wipe(black, white, 0.5))
    assert half[:, :32].min() == 255
    assert half[:, 33:].max() == 0
    assert same(wipe(black, white, 0), black, 0)
    assert same(wipe(black, white, 1), white, 0)
    faint = Image.new("RGB", (64, 64), (10, 0, 0))
    assert difference(black, faint).getpixel((0, 0)) == (40, 0, 0)
    answer = answer_to(CASTLE, "make it night", (64, 64))
    for view in VIEWS:
        picture, words = compose(view, black, white, answer, 0.5)
        assert picture.width % 2 == 0
        assert words
    with pytest.raises(ValueError, match="view must be one of"):
        compose("upside down", black, white, None, 0.5)
