"""The glossary, the equation map, and the files for other people's machines name things that exist."""

import json
import os
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_notebooks import LESSONS, PAGES, cells, headings, named, prose
from typer.main import get_command

from ip2p_lib import cli

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
DASH = "–"


def rows(page: Path) -> list[dict[str, str]]:
    """Rows of all tables of a page, by the table's heads."""
    found: list[dict[str, str]] = []
    heads: list[str] = []
    for line in prose(page).splitlines():
        if not line.startswith("|"):
            heads = []
            continue
        cells = [c.strip() for c in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if not heads:
            heads = cells
        elif set("".join(cells)) - set("-: "):
            found.append(dict(zip(heads, cells, strict=True)))
    return found


def resolve(name: str) -> Any:
    """What a dotted name below ip2p_lib stands for; an AttributeError or ImportError if nothing."""
    parts = ["ip2p_lib", *name.split(".")]
    for end in range(len(parts), 0, -1):
        try:
            value: Any = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[end:]:
            fields = getattr(value, "__dataclass_fields__", {})
            value = fields[attribute] if attribute in fields else getattr(value, attribute)
        return value
    raise ImportError(f"no module in {name}")


@cache
def sections() -> dict[str, list[str]]:
    """Headings of each lesson, by its number."""
    return {p.name[:2]: [words for _, words in headings(prose(p))] for p in LESSONS}


def lost_sections(cell: str) -> list[str]:
    """Places such as `05: The sampler` of a table's cell that no notebook has."""
    places = [] if cell == DASH else [p.partition(":") for p in cell.split(";")]
    return [
        f"{number}:{words}"
        for number, _, words in places
        if not any(words.strip() and words.strip() in h for h in sections().get(number.strip(), []))
    ]


def lost_tests(cell: str) -> list[str]:
    """Tests named `file.py::test_name` that are not there."""
    lost = []
    for name in re.findall(r"`([^`]+)`", cell):
        file, _, test = name.partition("::")
        path = ROOT / "tests" / file
        wanted = rf"(?m)^def {test or 'test_[a-z0-9_]+'}\("
        if not path.is_file() or not re.search(wanted, path.read_text(encoding="utf-8")):
            lost.append(name)
    return lost


def lost_cells(cell: str) -> list[str]:
    """Cells such as 03 `c19`, `c20`; 06 `c23` of a table's cell that their notebook does not have."""
    lost = []
    for part in cell.split(";"):
        lesson = next((p for p in LESSONS if p.name[:2] == part.strip()[:2]), None)
        ids = set() if lesson is None else {c.get("id") for c in cells(lesson)}
        lost += [f"{part.strip()[:2]} {name}" for name in re.findall(r"`([^`]+)`", part) if name not in ids]
    return lost


FIGURES = [row for row in rows(DOCS / "figure_map.md") if "command" in row]
EQUATIONS, TERMS = rows(DOCS / "equation_map.md"), rows(DOCS / "glossary.md")


@pytest.mark.parametrize("row", EQUATIONS, ids=lambda r: r["what"][:40])
def test_an_equation_has_its_function_section_and_test(row):
    functions = re.findall(r"`([^`]+)`", row["function"])
    assert functions
    assert all(callable(resolve(f)) for f in functions)
    assert lost_sections(row["notebook"]) == []
    assert "::" in row["test"]
    assert lost_tests(row["test"]) == []


def test_all_parts_of_the_method_are_on_the_map():
    named_parts = {f.split(".")[0] for row in EQUATIONS for f in re.findall(r"`([^`]+)`", row["function"])}
    assert named_parts >= {
        "triplets", "diffusion", "attention", "pairs", "similarity", "filtering", "unet", "dataset", "training",
        "optimisation", "guidance", "editing", "evaluation", "baselines",
    }  # fmt: skip


@pytest.mark.parametrize("row", FIGURES, ids=lambda r: next(iter(r.values()))[:40])
def test_a_figure_has_its_cell_and_test(row):
    assert lost_cells(row["cell"]) == []
    assert lost_tests(row["test"]) == []
    assert row["test"] not in ("", DASH)


@pytest.mark.parametrize("row", TERMS, ids=lambda r: r["term"])
def test_a_term_has_its_place_in_code_and_notebook(row):
    for name in re.findall(r"`([^`]+)`", row["code"]):
        assert resolve(name) is not None
    assert row["code"] != "" != row["meaning"]
    assert lost_sections(row["notebook"]) == []


def test_terms_are_in_order_and_occur_once():
    terms = [row["term"].lower() for row in TERMS]
    assert terms == sorted(terms)
    assert len(set(terms)) == len(terms)


def test_names_that_do_not_exist_are_found():
    assert lost_sections("02: No such section; 99: The same noise") == [
        "02: No such section",
        " 99: The same noise",
    ]
    assert lost_sections("02: The same noise") == lost_sections(DASH) == []
    assert lost_tests("`test_docs.py::test_nothing`, `test_none.py::test_x`") != []
    assert lost_tests("`test_none.py`") == ["test_none.py"]
    assert lost_tests("`test_docs.py`") == []
    assert lost_cells("06 `c11` to `none`; 99 `c01`; all") == ["06 none", "99 c01"]
    with pytest.raises((AttributeError, ImportError)):
        resolve("guidance.no_such_function")


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_commands_in_prose_exist(path):
    text = path.read_text(encoding="utf-8")
    code = [*re.findall(r"(?ms)^```\w*\n(.*?)^```", text), *re.findall(r"`([^`\n]+)`", text)]
    shown = {m[1] for c in code for m in re.finditer(r"(?m)^(?:\$ |\.venv/bin/)?ip2p ([a-z][a-z0-9-]*)", c)}
    assert shown <= set(get_command(cli.app).commands)


def test_the_container_starts_without_a_gpu_and_installs_by_make():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert "gpu" not in container["hostRequirements"]
    assert "runArgs" not in container
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert container["postCreateCommand"].startswith("make .venv/.installed")
    assert "INSTALLED = $(VENV)/.installed" in makefile
    assert "VENV ?= .venv" in makefile


def test_binder_installs_the_package():
    folder = ROOT / ".binder"
    assert yaml.safe_load((folder / "environment.yml").read_text())["dependencies"][0].startswith("python=3.")
    script = folder / "postBuild"
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in script.read_text()
    assert "pip install --no-cache-dir -e ." in script.read_text()
    assert os.access(script, os.X_OK)


def test_the_workflow_runs_the_quick_tests_on_three_systems():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "quick.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["quick"]
    assert {s.split("-")[0] for s in job["strategy"]["matrix"]["os"]} == {"ubuntu", "macos", "windows"}
    assert job["steps"][-1]["run"] == 'python -m pytest -m "not slow and not gpu"'
    assert workflow["permissions"] == {"contents": "read"}
