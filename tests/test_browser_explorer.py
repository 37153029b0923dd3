"""A lesson's controls in a real JupyterLab: moved by keyboard alone, with words beside the picture and a still below."""

import nbformat
import pytest
from jupyter_in_browser import browser_path, page, server
from test_browser import run_all, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser_path() is None, reason="no Chromium or Chrome installed"),
]
SOURCE = """
from ip2p_lib.course.explorer import Choice, Explorer
from ip2p_lib.course.figures import Shown
from ip2p_lib.scenes import Scene, render

def drawn_at(time, weather):
    scene = Scene("castle", "purple", "meadow", time, weather, "plain", ("kite",), layout=7)
    return Shown(render(scene, 192), f"a castle, {time}, {weather}")

Explorer(drawn_at, {
    "time": Choice("Time of day", {w: w for w in ("day", "sunset", "night")}),
    "weather": Choice("Weather", {w: w for w in ("clear", "rain", "snow")}, is_slider=False),
})
"""


def words(shown):
    return shown.locator('.jupyter-widgets [role="status"]').last.inner_text()


def test_controls_are_moved_by_keyboard(tmp_path):
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SOURCE)])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    (tmp_path / "made").mkdir()
    nbformat.write(made, tmp_path / "made" / "tried.ipynb")
    with server("lab", str(tmp_path / "made" / "tried.ipynb"), tmp_path) as address, page(address) as shown:
        shown.wait_for_selector("text=Python 3", timeout=120_000)
        run_all(shown)
        handle = shown.locator(".widget-hslider .noUi-handle").first
        handle.wait_for(timeout=120_000)
        assert words(shown) == "a castle, day, clear"
        handle.focus()
        shown.keyboard.press("ArrowRight")
        wait_for(lambda: words(shown) == "a castle, sunset, clear")
        shown.get_by_label("Weather").select_option("snow")
        wait_for(lambda: words(shown) == "a castle, sunset, snow")
        picture = shown.locator(".jupyter-widgets img[alt]").last
        assert picture.get_attribute("alt") == "a castle, sunset, snow"
        still = shown.locator("details img[alt]").last
        assert not still.is_visible()
        shown.get_by_text("As a still picture").last.click()
        assert still.get_attribute("alt") == "a castle, day, clear"
        shown.screenshot(path=tmp_path / "shown.png")
        assert shown.errors == []
