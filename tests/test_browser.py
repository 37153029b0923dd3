"""The editor in a real browser: notebook 05 in JupyterLab, the page alone under Voilà."""

import re
import time

import pytest
from jupyter_in_browser import browser_path, page, server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        browser_path() is None,
        reason="no Chromium or Chrome installed; install one (Debian: apt-get install chromium) or set IP2P_BROWSER",
    ),
]
PICTURE = ".jupyter-widgets img[alt]"


def status(shown):
    """The editor's words; exercises say how they stand outside of its widgets."""
    return shown.locator('.jupyter-widgets [role="status"]').last.inner_text()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def button(shown, label):
    return shown.get_by_role("button", name=label, exact=True).last


def instruct(shown, text):
    box = shown.get_by_placeholder("what to change").last
    box.fill(text)
    box.press("Enter")


def handle(shown, number):
    """What one drags of a slider: 0 is s_T, 1 is s_I."""
    return shown.locator(".widget-hslider .noUi-handle").nth(number)


def play(shown):
    """What a person does, in one go; every step is checked by what the page says."""
    picture = shown.locator(PICTURE).last
    instruct(shown, "make it night")
    wait_for(lambda: "done: make it night" in status(shown))
    assert "of the picture changed visibly" in status(shown)
    first = picture.get_attribute("src")

    handle(shown, 0).focus()
    for _ in range(5):
        shown.keyboard.press("ArrowRight")
    wait_for(lambda: "done" in status(shown) and picture.get_attribute("src") != first)

    button(shown, "Re-roll").click()
    wait_for(lambda: "done" in status(shown))
    rerolled = picture.get_attribute("src")
    assert rerolled != first
    button(shown, "Undo").click()
    wait_for(lambda: "shown again" in status(shown))
    assert picture.get_attribute("src") != rerolled

    steps = shown.get_by_label("Steps").last
    steps.fill("900")
    steps.press("Enter")
    wait_for(lambda: button(shown, "Stop").is_enabled())
    button(shown, "Stop").click()
    wait_for(lambda: status(shown) == "stopped", seconds=10)
    steps.fill("4")
    steps.press("Enter")
    wait_for(lambda: "done" in status(shown))

    with shown.expect_file_chooser() as chooser:
        shown.get_by_role("button", name=re.compile("Upload a picture")).last.click()
    chooser.value.set_files([{"name": "bad.png", "mimeType": "image/png", "buffer": b"I am no picture"}])
    wait_for(lambda: "bad.png must hold a picture" in status(shown))
    instruct(shown, "add a rainbow")
    wait_for(lambda: "done: add a rainbow" in status(shown))


def run_all(shown):
    """Forget the outputs that were committed, then run all cells.

    Asked before the kernel is connected, JupyterLab says nothing and does nothing.
    """
    shown.evaluate("void window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    wait_for(lambda: not re.search(r"\[\d+\]", " ".join(shown.locator(".jp-InputPrompt").all_inner_texts())))
    for _ in range(12):
        shown.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        shown.wait_for_timeout(5_000)
        if re.search(r"\[[\d*]+\]", " ".join(shown.locator(".jp-InputPrompt").all_inner_texts())):
            return
    raise AssertionError("no cell was run in a minute")


def test_notebook_05_in_jupyterlab(tmp_path):
    notebook = "05_interactive_editing.ipynb"
    with server("lab", notebook, tmp_path) as address, page(address) as shown:
        shown.wait_for_selector(".jp-Notebook .jp-Cell", timeout=90_000)
        shown.wait_for_function(
            "window.jupyterapp && window.jupyterapp.commands.hasCommand('notebook:run-all-cells')"
        )
        shown.wait_for_selector("text=Python 3", timeout=60_000)
        run_all(shown)
        prompts = shown.locator(".jp-InputPrompt")
        wait_for(lambda: "[*]" not in "".join(prompts.all_inner_texts()), seconds=500)
        shown.wait_for_selector("text=num_inference_steps': 10", timeout=500_000)  # the last cell's words
        assert not shown.locator(
            ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']"
        ).count()
        play(shown)
        assert shown.errors == []


def test_the_page_under_voila(tmp_path):
    with server("voila", "app.ipynb", tmp_path) as address, page(address) as shown:
        shown.wait_for_selector(PICTURE, timeout=120_000)
        play(shown)
        assert shown.errors == []


@pytest.mark.parametrize("name", ["chromium"])
def test_the_keyboard_reaches_every_control(tmp_path, name):
    with server("voila", "app.ipynb", tmp_path) as address, page(address) as shown:
        shown.wait_for_selector(PICTURE, timeout=120_000)
        reached = set()
        for _ in range(60):
            shown.keyboard.press("Tab")
            reached.add(
                shown.evaluate("document.activeElement.innerText || document.activeElement.className")
            )
        assert {"Edit", "Re-roll", "Edit further", "Map of scales", "Save PNG", "Copy as code"} <= reached
        assert any("noUi-handle" in r for r in reached)
