"""The pictures in `data/gallery`: drawn scenes to play with, whose edits have known answers."""

from dataclasses import asdict
from pathlib import Path

from ip2p_lib import storage
from ip2p_lib.scenes import Scene, render

GALLERY = {
    "castle": Scene("castle", "purple", "meadow", "day", "clear", "plain", ("kite",), 7),
    "car": Scene("car", "red", "city", "day", "clear", "plain", (), 21),
    "cat": Scene("cat", "orange", "forest", "sunset", "clear", "plain", ("fence",), 3),
    "rocket": Scene("rocket", "white", "desert", "night", "clear", "plain", (), 5),
    "sailboat": Scene("sailboat", "blue", "beach", "sunset", "clear", "watercolour", (), 12),
    "house": Scene("house", "yellow", "mountains", "day", "snow", "plain", ("lamp",), 9),
    "robot": Scene("robot", "green", "city", "night", "rain", "poster", (), 31),
    "mushroom": Scene("mushroom", "red", "forest", "day", "clear", "pencil", ("rainbow",), 17),
    "balloon": Scene("balloon", "pink", "mountains", "day", "clear", "pixel", (), 2),
    "umbrella": Scene("umbrella", "blue", "beach", "day", "rain", "plain", (), 14),
}


def draw_gallery(folder: Path, size: int = 64) -> None:
    """Write every gallery picture and the scenes behind them."""
    for name, scene in GALLERY.items():
        with storage.atomic_file(folder / f"{name}.png") as partial:
            render(scene, size).save(partial, "PNG")
    storage.write_json(folder / "scenes.json", {name: asdict(scene) for name, scene in GALLERY.items()})
