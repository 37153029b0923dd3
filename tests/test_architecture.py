"""The house rules, read off the source: imports point upstream, and a few things occur nowhere."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ip2p_lib"
ORDER = (
    "storage", "fitting", "records", "scenes", "images", "diffusion", "samplers", "guidance", "optimisation", "presets", "memory_plan", "single_file", "judge", "backbone",
    "triplets", "attention", "pairs", "similarity", "filtering", "dataset", "unet", "lora", "editing",
    "baselines", "training", "evaluation", "quality", "miniature", "engines", "course", "cli",
)  # fmt: skip
SOURCES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN = {
    "global seeding": r"torch\.manual_seed\(|\bmanual_seed_all\(|np\.random\.seed\(",
    "pickled weights": r"torch\.load\(|(import|from) pickle\b|\bpickle\.\w|allow_pickle=True",
    "the question which preset it is": r"(preset|chosen)\.name\s*(==|!=|in\b)|==\s*MINIATURE|is\s+MINIATURE",
    "printing": r"^\s*print\(",
}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str:
    """The module or subpackage of the house that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source: str, package: str) -> set[str]:
    """Rooms that a source text imports, in whatever spelling; `package` is the dotted package it lies in."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            text = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if called in ("import_module", "__import__") and isinstance(text, str):
                found.append(text)
    return {parts[1] for name in found if (parts := name.split("."))[0] == "ip2p_lib" and len(parts) > 1}


@pytest.mark.parametrize(
    ("source", "package"),
    [
        ("import ip2p_lib.pairs", "ip2p_lib"),
        ("import ip2p_lib.pairs as p", "ip2p_lib"),
        ("import os, ip2p_lib.pairs.deep", "ip2p_lib"),
        ("from ip2p_lib import pairs", "ip2p_lib"),
        ("from ip2p_lib import (images as i, pairs as p)", "ip2p_lib"),
        ("from ip2p_lib.pairs import blocks", "ip2p_lib"),
        ("from . import pairs", "ip2p_lib"),
        ("from .pairs import blocks", "ip2p_lib"),
        ("from .. import pairs", "ip2p_lib.scenes"),
        ("from ..pairs import blocks", "ip2p_lib.scenes"),
        ("def f():\n    from ip2p_lib.pairs import blocks", "ip2p_lib"),
        ("if True:\n    import ip2p_lib.pairs", "ip2p_lib"),
        ("import importlib\nm = importlib.import_module('ip2p_lib.pairs')", "ip2p_lib"),
        ("m = __import__('ip2p_lib.pairs')", "ip2p_lib"),
    ],
)
def test_every_spelling_of_an_import_is_seen(source, package):
    assert "pairs" in imported_rooms(source, package)


def test_what_is_no_import_of_ours_is_not_seen():
    source = "import torch\nfrom os import path\nfrom ip2p_library import pairs\nx = 'ip2p_lib.pairs'"
    assert imported_rooms(source, "ip2p_lib") == set()


def test_every_module_has_its_place_in_the_order():
    assert {room(p) for p in SOURCES} - {"__init__", "__main__"} == set(ORDER)


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_imports_point_upstream(path):
    own = room(path)
    package = ".".join(("ip2p_lib", *path.relative_to(PACKAGE).parts[:-1]))
    allowed = set(ORDER[: ORDER.index(own) + 1]) if own in ORDER else set()
    assert imported_rooms(path.read_text(encoding="utf-8"), package) <= allowed


def test_no_stage_knows_how_the_miniature_is_made_or_taught_or_who_makes_the_pairs():
    top = {"miniature", "engines", "course"}
    for path in SOURCES:
        if room(path) not in (*top, "cli"):
            assert not imported_rooms(path.read_text(encoding="utf-8"), "ip2p_lib") & top


@pytest.mark.parametrize("what", FORBIDDEN)
def test_some_things_occur_nowhere(what):
    found = [
        f"{named(path)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(FORBIDDEN[what], line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("global seeding", "    torch.manual_seed(0)"),
        ("global seeding", "np.random.seed(1)"),
        ("pickled weights", "state = torch.load('x.pt')"),
        ("pickled weights", "import pickle"),
        ("the question which preset it is", "if preset.name == 'miniature':"),
        ("printing", "    print('done')"),
    ],
)
def test_the_search_finds_what_it_should(what, line):
    assert re.search(FORBIDDEN[what], line)


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_a_file_stays_short_and_says_what_it_is_for(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text))


def test_only_backbone_and_what_trains_or_resumes_opens_weight_files():
    openers = {
        room(p) for p in SOURCES if re.search(r"load_file\(|safe_open\(", p.read_text(encoding="utf-8"))
    }
    assert openers == {"backbone", "optimisation", "single_file"}


def test_only_images_and_its_likes_for_bulk_pictures_change_value_ranges():
    changes = {named(p) for p in SOURCES if re.search(r"127\.5", p.read_text(encoding="utf-8"))}
    assert changes == {"ip2p_lib/images.py", "ip2p_lib/miniature/pictures.py"}


def test_every_module_has_its_tests():
    tested = {p.stem.removeprefix("test_") for p in (ROOT / "tests").glob("test_*.py")}
    assert set(ORDER) - {"miniature", "course", "quality"} <= tested
