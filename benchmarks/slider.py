"""Seconds from moving a slider to another picture on the page: fifty moves by keyboard, under Voilà, in Chromium.

    python benchmarks/slider.py            # writes benchmarks/results/slider.json and docs/images/editor.png

The browser, the server and the kernel share the machine, as on a laptop.
"""

import argparse
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from tqdm import tqdm

from ip2p_lib import storage
from ip2p_lib.presets import MINIATURE

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from jupyter_in_browser import page, server  # noqa: E402

MOVES = 50
PICTURE = ".jupyter-widgets img[alt]"
# In the page itself, so that no trip to the test's process is measured: press, and wait for another picture.
WATCH = """async () => {
  const shown = () => document.querySelector('.jupyter-widgets img[alt]').src;
  const handle = document.querySelectorAll('.widget-hslider .noUi-handle')[0];
  const before = shown(), start = performance.now();
  handle.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true}));
  while (shown() === before) {
    if (performance.now() - start > 20000) return -1;
    await new Promise(resolve => setTimeout(resolve, 5));
  }
  return (performance.now() - start) / 1000;
}"""


def measure(screenshot: Path) -> list[float]:
    """Seconds of each move, the editor at rest before it."""
    with (
        tempfile.TemporaryDirectory() as home,
        server("voila", "app.ipynb", Path(home)) as address,
        page(address) as shown,
    ):
        shown.wait_for_selector(PICTURE, timeout=120_000)
        shown.get_by_label("Picture", exact=True).first.select_option("car")
        shown.get_by_label("View").select_option("with the answer")
        box = shown.get_by_placeholder("what to change")
        box.fill("make it night")
        box.press("Enter")
        shown.wait_for_selector("text=done: make it night", timeout=60_000)
        shown.wait_for_timeout(500)
        shown.screenshot(path=screenshot, clip={"x": 0, "y": 0, "width": 1100, "height": 840})
        shown.get_by_label("View").select_option("side by side")
        to_zero = round(10 * MINIATURE.edit.guidance_scale)  # there is room for fifty moves above
        for _ in range(to_zero):
            shown.locator(".widget-hslider .noUi-handle").first.press("ArrowLeft")
        time.sleep(3)
        taken = []
        for _ in tqdm(range(MOVES), desc="moves", unit="move"):
            taken.append(shown.evaluate(WATCH))
            time.sleep(1.5)
    return taken


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "slider.json")
    parser.add_argument("--screenshot", type=Path, default=ROOT / "docs" / "images" / "editor.png")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    arguments = parser.parse_args()
    taken = measure(arguments.screenshot)
    if min(taken) < 0:
        raise SystemExit("a move did not change the picture within 20 seconds")
    found = storage.environment()
    record = {
        "name": "slider_seconds",
        "value": round(median(taken), 3),
        "worst": round(max(taken), 3),
        "n": len(taken),
        "unit": "s",
        "machine": f"{found['machine']}{', ' + arguments.note if arguments.note else ''}",
        "versions": found["versions"],
        "commit": found["commit"],
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python benchmarks/slider.py",
    }
    storage.write_json(arguments.out, record)
    tqdm.write(f"median {record['value']} s, worst {record['worst']} s over {len(taken)} moves")


if __name__ == "__main__":
    main()
