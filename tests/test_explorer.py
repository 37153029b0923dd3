"""Controls over pictures: what they show, say and refuse, and what stands where no kernel runs."""

import pytest
from IPython import display as ipython
from PIL import Image

from ip2p_lib.course.explorer import Choice, Explorer, Still, browse, stacked
from ip2p_lib.course.figures import Shown

SIDES = {"small": 4, "large": 8}


def square(side, colour="red"):
    return Shown(Image.new("RGB", (side, side), colour), f"a {colour} square of {side}")


def explorer(**more):
    colours = Choice("Colour", {"red": "red", "blue": "blue"}, start="blue", is_slider=False)
    return Explorer(square, {"side": Choice("Side", SIDES), "colour": colours}, **more)


def test_controls_have_labels_and_start_where_they_should():
    shown = explorer()
    side, colour = shown.controls.values()
    assert (side.description, side.value) == ("Side", "small")
    assert (colour.description, colour.value) == ("Colour", "blue")
    assert "arrow keys" in side.tooltip
    assert shown.shown.alt == "a blue square of 4"


def test_a_move_changes_picture_and_words():
    shown = explorer()
    shown.controls["side"].value = "large"
    assert 'alt="a blue square of 8"' in shown.view.value
    assert shown.status.value == '<span role="status" aria-live="polite">a blue square of 8</span>'
    assert shown.set(side="small", colour="red").image.size == (4, 4)
    assert shown.controls["colour"].value == "red"


def test_what_cannot_be_chosen_is_refused():
    with pytest.raises(ValueError, match="Side must be one of small, large; got 'huge'"):
        explorer().set(side="huge")
    with pytest.raises(ValueError, match="Side must start at one of small, large; got 'huge'"):
        Choice("Side", SIDES, start="huge")
    with pytest.raises(ValueError, match="needs at least one picture, got none"):
        Choice("Side", {})
    with pytest.raises(ValueError, match="needs at least one control, got none"):
        Explorer(square, {})


def failing(side):
    if side == 8:
        raise RuntimeError("no such <square>")
    return square(side)


def test_an_error_of_a_move_is_said_aloud(monkeypatch):
    monkeypatch.delenv("IP2P_TESTING", raising=False)
    shown = Explorer(failing, {"side": Choice("Side", SIDES)})
    shown.controls["side"].value = "large"
    assert "Please note: no such &lt;square&gt;" in shown.status.value
    monkeypatch.setenv("IP2P_TESTING", "1")
    shown.controls["side"].value = "small"
    with pytest.raises(RuntimeError, match="no such"):
        shown.controls["side"].value = "large"


def test_below_the_controls_lies_a_still_picture(monkeypatch):
    seen = []
    monkeypatch.setattr(ipython, "display", lambda *things: seen.extend(things))
    shown = explorer(still=square(2))
    shown._ipython_display_()
    box, still = seen
    assert box is shown.box
    assert isinstance(still, Still)
    assert still._repr_html_().startswith(
        '<details><summary>As a still picture</summary><img alt="a red square of 2"'
    )
    assert repr(still) == "picture: a red square of 2"


def test_pages_are_browsed_and_the_ends_stand_below_each_other():
    pages = {name: square(side) for name, side in (("a", 4), ("b", 6), ("c", 8))}
    shown = browse(pages, "size")
    assert shown.set(page="b") is pages["b"]
    assert shown.still.image.size == (8, 4 + 8 + 8)
    assert shown.still.alt == "size a: a red square of 4. size c: a red square of 8"
    assert browse({"a": pages["a"]}, "size").still.image.size == (4, 4)
    with pytest.raises(ValueError, match="slider over size needs at least one picture"):
        browse({}, "size")
    with pytest.raises(ValueError, match="a stack needs at least one picture, got none"):
        stacked({})
