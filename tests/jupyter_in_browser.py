"""Start JupyterLab or Voilà on a copy of a notebook, and look at it with an installed Chromium."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WHOLE = {"windowingMode": "none"}  # cells out of sight are drawn too
QUIET = {"fetchNews": "false", "checkForUpdates": False}


def browser_path() -> str | None:
    """An installed Chromium or Chrome, or the one that IP2P_BROWSER names."""
    found = (shutil.which(name) for name in (os.environ.get("IP2P_BROWSER") or "", *BROWSERS))
    return next((path for path in found if path), None)


@contextmanager
def page(url: str) -> Iterator[object]:
    """A page of a fresh browser; what it logs as errors is in `page.errors`."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path(), args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        shown = browser.new_page(viewport={"width": 1100, "height": 1400})
        shown.errors = []
        shown.on("pageerror", lambda error: shown.errors.append(str(error)))
        shown.goto(url, timeout=240_000)  # Voilà answers once the notebook has run
        yield shown
        browser.close()


@contextmanager
def server(kind: str, notebook: str, home: Path) -> Iterator[str]:
    """JupyterLab ("lab") or Voilà ("voila") with a copy of a notebook, ours or a path, in `home`; yields its address."""
    source = NOTEBOOKS / notebook
    notebook = source.name
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shutil.copy(source, home / notebook)
    command = {"lab": _lab, "voila": _voila}[kind](home, notebook, port)
    log = (home / f"{kind}.log").open("w")
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
    }
    process = subprocess.Popen(command, cwd=home, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(
            address + ("/api" if kind == "lab" else "/voila/static/voila.js"), process, home / f"{kind}.log"
        )
        yield f"{address}/doc/tree/{notebook}" if kind == "lab" else address
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        log.close()


def _lab(home: Path, _notebook: str, port: int) -> list[str]:
    for extension, name, values in (
        ("notebook-extension", "tracker", WHOLE), ("apputils-extension", "notification", QUIET),
    ):  # fmt: skip
        folder = home / "settings" / "@jupyterlab" / extension
        folder.mkdir(parents=True)
        (folder / f"{name}.jupyterlab-settings").write_text(json.dumps(values))
    return [
        sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--allow-root",
        "--IdentityProvider.token=", "--ServerApp.password=", "--expose-app-in-browser",
        f"--ServerApp.root_dir={home}", f"--LabApp.user_settings_dir={home / 'settings'}",
    ]  # fmt: skip


def _voila(home: Path, notebook: str, port: int) -> list[str]:
    return [
        sys.executable, "-m", "voila", notebook, "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1",
    ]  # fmt: skip


def _wait_for(address: str, process: subprocess.Popen, log: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=2)
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"the server did not come up:\n{log.read_text()[-2000:]}")
