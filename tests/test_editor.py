"""The editor's widgets, driven from code as a browser would drive them."""

import io
import time
from dataclasses import replace

import pytest
from PIL import Image

from ip2p_lib.course.controls import Controls
from ip2p_lib.course.editor import Editor, gallery
from ip2p_lib.course.session import EditSession
from ip2p_lib.images import read_recipe
from ip2p_lib.presets import MINIATURE
from ip2p_lib.scenes import render

FAST = replace(MINIATURE, edit=replace(MINIATURE.edit, num_inference_steps=2))


@pytest.fixture
def view(editor):
    made = Editor(EditSession(editor, FAST, rest=0.01))
    yield made
    made.close()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)


def finished(view):
    return len(view.session.history.entries)


def ask(view, text):
    before = finished(view)
    view.controls.instruction.value = text
    wait_for(lambda: finished(view) > before and "done" in view.controls.status.value)


def upload(view, data, name="mine.png"):
    file = {
        "name": name,
        "type": "image/png",
        "size": len(data),
        "content": memoryview(data),
        "last_modified": None,
    }
    view._on_upload({"new": (file,)})


def png(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_it_opens_with_a_picture_and_nothing_running(view):
    assert "alt=" in view.controls.pane.value
    assert "castle" in view.controls.status.value
    assert view.controls.stop.disabled
    assert finished(view) == 0


def test_an_instruction_runs_and_the_status_tells_in_words(view):
    ask(view, "make it night")
    assert "of the picture changed visibly" in view.controls.status.value
    assert 'role="status"' in view.controls.status.value
    assert view.controls.progress.value == view.controls.progress.max == 2
    assert view.controls.stop.disabled


def test_a_slider_previews_and_then_runs(view):
    ask(view, "make it night")
    view.controls.guidance_scale.value = 3.0
    wait_for(lambda: finished(view) == 2)
    assert view.session.history.current.settings.guidance_scale == 3.0


def test_controls_follow_undo_without_running(view):
    ask(view, "make it night")
    ask(view, "make it snow")
    view.controls.undo.click()
    assert view.controls.instruction.value == "make it night"
    view.controls.redo.click()
    assert view.controls.instruction.value == "make it snow"
    assert finished(view) == 2


def test_reroll_shows_its_seed_and_an_unlocked_seed_changes_with_each_run(view):
    ask(view, "make it night")
    view.controls.reroll.click()
    wait_for(lambda: finished(view) == 2)
    assert view.controls.seed.value == view.session.history.current.settings.seed != 0
    view.controls.lock.value = False
    view.controls.run.click()
    wait_for(lambda: finished(view) == 3)
    assert len({e.settings.seed for e in view.session.history.entries}) == 3


def test_a_locked_seed_stays(view):
    ask(view, "make it night")
    view.controls.run.click()
    time.sleep(0.05)
    assert view.controls.seed.value == 0


def test_a_place_on_the_map_opens(view):
    ask(view, "make it night")
    view.controls.map.click()
    wait_for(lambda: view.controls.more.children)
    cells = view.controls.more.children[1].children
    assert len(cells) == 16
    assert all("alt=" in cell.children[0].value for cell in cells)
    cells[3].children[1].click()
    wait_for(lambda: finished(view) == 2)
    own = MINIATURE.edit
    assert view.controls.guidance_scale.value == pytest.approx(2 * own.guidance_scale)
    assert view.controls.image_guidance_scale.value == pytest.approx(
        0.5 * own.image_guidance_scale, abs=0.005
    )


def test_an_edit_goes_on_from_another(view):
    ask(view, "make it night")
    view.controls.keep.click()
    assert view.controls.instruction.value == ""
    assert "castle, make it night" in view.controls.status.value
    ask(view, "add a rainbow")
    assert finished(view) == 2


def test_saving_and_code(view, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ask(view, "make it night")
    view.controls.save.click()
    (saved,) = tmp_path.glob("out/edits/*.png")
    assert read_recipe(saved)["instruction"] == "make it night"
    view.controls.code.click()
    code = view.controls.more.children[0].value
    assert "'make it night'" in code
    assert "images.open_picture(DATA / 'gallery/castle.png')" in code  # wherever the notebook is run
    compile(code, "code", "exec")
    view.model = "my/editor"
    view.controls.code.click()
    assert "load_editor(chosen, 'my/editor')" in view.controls.more.children[0].value
    view.controls.keep.click()
    ask(view, "add a rainbow")
    view.controls.code.click()
    assert "went on from another one, which is no file" in view.controls.status.value


def test_what_runs_is_what_the_controls_say(view, monkeypatch):
    monkeypatch.delenv("IP2P_TESTING", raising=False)
    ask(view, "make it night")
    view.controls.keep.click()
    before = finished(view)
    view.controls.guidance_scale.value += 0.5  # the box is empty, so nothing is asked for
    view.controls.instruction.value = "bzwqk xkcdvf"
    view.controls.image_guidance_scale.value += 0.1
    assert "unknown here" in view.controls.status.value  # and not the instruction before
    assert finished(view) == before


def test_the_picture_follows_undo(view):
    ask(view, "make it night")
    first, other = view.controls.picture.value, view.controls.picture.options[1]
    view.controls.picture.value = other
    view.controls.undo.click()
    assert view.controls.picture.value == view.session.source.name == first


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"hello, I am text", "must hold a picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "vector drawing"),
        (png(Image.new("RGB", (64, 64)))[:60], "must hold a picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(33 * 2**20), "at most 32 MB"),
        (png(Image.new("1", (30_000, 3_000))), "at most 50,000,000 pixels"),
        (png(Image.new("RGB", (2_000, 20))), "at most 20 times"),
    ],
)
def test_a_bad_upload_is_a_line_in_the_status_and_the_controls_live(view, data, message, monkeypatch):
    monkeypatch.delenv("IP2P_TESTING", raising=False)
    upload(view, data)
    assert message in view.controls.status.value
    assert "Please note" in view.controls.status.value
    ask(view, "make it night")


def test_an_upload_becomes_the_picture(view):
    upload(view, png(render(gallery()["cat"][1], 192)), "mine.png")
    assert "mine.png" in view.controls.status.value
    assert view.controls.picture.value is None
    assert view.session.source.scene is None
    ask(view, "make it night")


def test_the_first_frame_of_an_animation_is_taken(view):
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    upload(view, buffer.getvalue(), "moving.gif")
    red, _, blue = view.session.source.picture.getpixel((32, 32))
    assert red > 200 > blue


@pytest.mark.parametrize("text", ["!!!", "zzxqv qqvzx wwzyx", "night " * 2_000, "把它变成夜晚", "\x07\x08"])
def test_an_unusable_instruction_is_a_line_in_the_status(view, text, monkeypatch):
    monkeypatch.delenv("IP2P_TESTING", raising=False)
    view.controls.instruction.value = text
    assert "Please note" in view.controls.status.value
    assert view.session.last_error is not None
    ask(view, "make it night")


def test_a_failing_callback_raises_under_test(view, monkeypatch):
    monkeypatch.setenv("IP2P_TESTING", "1")
    with pytest.raises(ValueError, match="nothing to undo"):
        view._on_undo(None)


def test_markup_in_an_instruction_stays_text(view, monkeypatch):
    ask(view, "make it night <script>alert(1)</script>")
    assert "<script>" not in view.controls.status.value + view.controls.pane.value


def test_every_control_has_a_label(view):
    named = [
        w for w in vars(view.controls).values() if hasattr(w, "description") and w is not view.controls.status
    ]
    assert all(w.description for w in named if w not in (view.controls.pane,))


def test_suggestions_are_possible_for_the_picture(view):
    for name in gallery():
        view.controls.picture.value = name
        scene = gallery()[name][1]
        assert len(view.controls.instruction.options) >= 8
        assert not any(
            f"add {'a kite'}" in o for o in view.controls.instruction.options if "kite" in scene.extras
        )


def test_scales_of_the_full_preset_fit_their_sliders():
    from ip2p_lib.presets import FULL

    controls = Controls(FULL.edit, ())
    assert controls.guidance_scale.value == 7.5
    assert controls.guidance_scale.max == 15
