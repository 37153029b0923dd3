"""Every notebook as it is committed: clean outputs or none, readable by everybody, links that lead somewhere."""

import ast
import itertools
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from test_house import MACHINE_PATH

from ip2p_lib.course import figures, outputs
from ip2p_lib.evaluation.figures import LOOKS

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LESSONS = [p for p in NOTEBOOKS if re.match(r"\d\d_", p.name)]  # the others are windows
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "data" / "triplets").glob("*.md")]
)
FENCE = re.compile(r"^ {0,3}```.*?^ {0,3}```[^\n]*$", re.MULTILINE | re.DOTALL)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
every_lesson = pytest.mark.parametrize("path", LESSONS, ids=named)


def cells(path: Path, kind: str | None = None) -> list[dict]:
    """A notebook's cells; each source is one text."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**c, "source": "".join(c["source"])} for c in found if kind in (None, c["cell_type"])]


def prose(path: Path) -> str:
    """A page's Markdown, or that of all Markdown cells, without fenced code."""
    if path.suffix == ".ipynb":
        return FENCE.sub("", "\n\n".join(c["source"] for c in cells(path, "markdown")))
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def headings(text: str) -> list[tuple[int, str]]:
    """Level and words of each heading."""
    return [(len(m[1]), m[2].strip()) for m in re.finditer(r"(?m)^(#{1,6}) (.+)$", text)]


def anchors(text: str) -> set[str]:
    """What a link may name behind #: headings as GitHub spells them."""
    plain = (re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-") for _, words in headings(text))
    return set(plain)


@every_notebook
def test_a_notebook_is_small_and_its_outputs_are_clean_or_none(path):
    assert path.stat().st_size < outputs.MOST_BYTES
    assert outputs.faults(nbformat.read(path, as_version=4)) == []


@every_notebook
def test_a_notebook_runs_on_any_kernel_and_names_no_folder_of_a_machine(path):
    whole = json.loads(path.read_text(encoding="utf-8"))
    assert whole["metadata"]["kernelspec"]["name"] == "python3"
    assert set(whole["metadata"]["language_info"]) == {"name"}  # no version of somebody's Python
    assert MACHINE_PATH.search(json.dumps(whole)) is None


@every_notebook
def test_cells_have_names_of_their_own(path):
    names = [cell.get("id", "") for cell in cells(path)]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in names)
    assert len(set(names)) == len(names)


def jumps(levels: list[int]) -> list[int]:
    """Places at which a heading is more than one level below the one before."""
    return [i for i, (a, b) in enumerate(itertools.pairwise(levels), 1) if b > a + 1]


@every_notebook
def test_headings_begin_with_the_one_title_and_never_jump(path):
    levels = [level for level, _ in headings(prose(path))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert jumps(levels) == []
    numbers = [int(m[1]) for _, words in headings(prose(path)) if (m := re.match(r"(\d)\. ", words))]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_jump_between_headings_is_found():
    assert jumps([1, 2, 3, 2, 4, 5]) == [4]


@every_lesson
def test_the_first_cell_says_what_it_takes(path):
    first = cells(path)[0]
    assert first["cell_type"] == "markdown"
    assert re.search(r"\bminutes?\b", first["source"]), "say how many minutes it takes on two CPU cores"
    assert "downloaded" in first["source"]


def unnamed_pictures(text: str) -> list[str]:
    """Pictures in Markdown or HTML that lack words for those who do not see them."""
    markdown = [m[0] for m in re.finditer(r"!\[\s*\]\([^)]*\)", text)]
    tags = [m[0] for m in re.finditer(r"<img\b[^>]*>", text)]
    return markdown + [t for t in tags if not re.search(r"""\balt=["'][^"']+["']""", t)]


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=named)
def test_every_picture_has_words(path):
    assert unnamed_pictures(prose(path)) == []


def test_a_picture_without_words_is_found():
    text = '![](a.png) ![a castle](b.png) <img src="c.png"> <img src="d.png" alt="a cat"> <img alt="">'
    assert unnamed_pictures(text) == ["![](a.png)", '<img src="c.png">', '<img alt="">']


def bare_pictures(source: str) -> list[str]:
    """Code that shows a picture past the helpers that demand words for it: `Shown`, `drawn` and `browse`."""
    tree = ast.parse(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source))
    names = {ast.unparse(c.func).split(".")[-1]: c for c in ast.walk(tree) if isinstance(c, ast.Call)}
    found = [ast.unparse(c) for n, c in names.items() if n == "show"]
    if "subplots" in names and "drawn" not in names:
        found.append(ast.unparse(names["subplots"]))
    last = tree.body[-1].value if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    shown = [last, *(a for a in getattr(names.get("display"), "args", []))]
    for value in shown:
        called = ast.unparse(value.func).split(".")[-1] if isinstance(value, ast.Call) else ""
        is_picture = called in ("contact_sheet", "render", "open", "fromarray", "resize", "plot", "imshow")
        if is_picture or (isinstance(value, ast.Attribute) and value.attr == "picture"):
            found.append(ast.unparse(value))
    return found


@every_notebook
def test_every_figure_goes_through_a_helper_that_demands_words(path):
    assert [b for c in cells(path, "code") for b in bare_pictures(c["source"])] == []
    assert not any("%matplotlib" in c["source"] for c in cells(path, "code"))


def test_a_figure_past_the_helpers_is_found():
    assert bare_pictures("pyplot.plot(x)\npyplot.show()")
    assert bare_pictures("figure, axes = pyplot.subplots()\naxes.plot(x)")
    assert bare_pictures("rows = 1\ncontact_sheet([rows])")
    assert bare_pictures("display(render(scene, 64))")
    assert bare_pictures("edit(a, b)[0].picture")
    assert not bare_pictures("figure, axes = pyplot.subplots()\ndrawn(figure, 'a curve')")
    assert not bare_pictures("Shown(contact_sheet([rows]), 'rows of pictures')\n%time\nprint(1)")


def links(text: str) -> list[str]:
    """Targets of Markdown links and pictures that lead into this repository."""
    found = re.findall(r"\]\(<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\)", re.sub(r"`[^`\n]*`", "", text))
    return [t for t in found if not re.match(r"[a-z]+:", t)]


def dead(path: Path, target: str) -> bool:
    """Whether a link of a page leads nowhere: no such file, or no such heading in it."""
    name, _, anchor = target.partition("#")
    there = (path.parent / name).resolve() if name else path
    if not there.exists():
        return True
    return bool(anchor) and there.suffix in (".md", ".ipynb") and anchor not in anchors(prose(there))


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=named)
def test_links_lead_somewhere(path):
    assert [t for t in links(prose(path)) if dead(path, t)] == []


def test_a_dead_link_is_found(tmp_path):
    (tmp_path / "b.md").write_text("# A `b`, and: *more* things\n```\n# no heading\n```\n")
    page = tmp_path / "a.md"
    page.write_text(
        "# A\n[x](b.md#a-b-and-more-things) [y](b.md#no-heading) [z](c.md) [s](#a) [t](#b) `[u](d.md)`\n"
    )
    assert links(prose(page))[-1] == "#b"
    assert [t for t in links(prose(page)) if dead(page, t)] == ["b.md#no-heading", "c.md", "#b"]


NAMED_FILE = re.compile(r"`((?:docs|notebooks|tests|ip2p_lib|data|benchmarks|configs)/[\w./-]+)`")


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=named)
def test_files_named_in_prose_exist(path):
    assert [n for n in NAMED_FILE.findall(prose(path)) if not (ROOT / n).exists()] == []


# Machado, Oliveira and Fernandes (2009), "A physiologically-based model for simulation of color vision deficiency",
# deuteranomaly of severity 1.0; for linear RGB.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])
APART = 20  # CIE 1976 distance; a just noticeable difference is about 2.3, but these are thin lines and small marks


def as_seen(colour: tuple[int, ...]) -> np.ndarray:
    """An sRGB colour of 8 bits as deuteranopes see it, in CIE L*a*b*."""
    scaled = np.array(colour) / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ (DEUTERANOPIA @ linear).clip(0, 1) / WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    return float(np.linalg.norm(as_seen(one) - as_seen(other)))


def test_curves_are_told_apart_without_red_and_green():
    colours = {name: tuple(bytes.fromhex(look[0][1:])) for name, look in LOOKS.items()}
    for one, other in itertools.combinations(LOOKS, 2):
        if distance(colours[one], colours[other]) < APART:  # then the marker must do it
            assert LOOKS[one][1] != LOOKS[other][1], (one, other)
    alone = [n for n, (_, _, line) in LOOKS.items() if line != "none"]
    far = [p for p in itertools.combinations(alone, 2) if distance(colours[p[0]], colours[p[1]]) >= APART]
    assert len(far) > len(alone) * (len(alone) - 1) / 2 * 0.7  # colour does most of the work
    assert len({look[1:] for look in LOOKS.values()}) == len(LOOKS)


def test_frames_of_right_and_wrong_are_told_apart_without_red_and_green():
    for one, other in itertools.combinations((figures.INK, figures.PAPER, figures.BLUE, figures.ORANGE), 2):
        assert distance(one, other) > 2 * APART


def test_the_simulation_confuses_what_deuteranopes_confuse():
    assert distance((255, 0, 0), (0, 160, 0)) < APART < distance((0, 0, 255), (255, 200, 0))
    assert np.allclose(as_seen((255, 255, 255)), (100, 0, 0), atol=0.1)
