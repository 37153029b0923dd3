"""The house around the library: install files agree, commands exist, nothing names a machine."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))

PIN = re.compile(
    r"^([A-Za-z0-9._-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)
PINNED = {canonicalize_name(name): version for name, version, _ in PIN.findall(LOCK)}

# A folder at the root of somebody's machine; addresses and relative paths may hold the same words.
MACHINE_PATH = re.compile(
    r"(?<![\w.~:/+}-])/(?:home|Users|root|work|opt|mnt|scratch|tmp/ipykernel_\d+)/\w|\b[A-Z]:\\Users\\"
)


def requirements() -> list[str]:
    """Every requirement that pyproject.toml spells: to build, to run and to develop."""
    extras = PROJECT["project"]["optional-dependencies"].values()
    return [
        *PROJECT["build-system"]["requires"],
        *PROJECT["project"]["dependencies"],
        *(line for extra in extras for line in extra),
    ]


def repository_files() -> list[Path]:
    """Tracked files and those about to be: all that git does not ignore."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [path for name in names.split("\0") if name and (path := ROOT / name).is_file()]


def make(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run make as from a fresh shell, also when the tests themselves run under make."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    own = {name: value for name, value in own.items() if name not in ("PYTHON", "VENV")}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=own, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("line", requirements())
def test_the_lock_pins_every_requirement_inside_its_range(line):
    requirement = Requirement(line)
    version = PINNED.get(canonicalize_name(requirement.name))
    assert version is not None, f"{requirement.name} is not in requirements.lock; run `make lock`"
    assert requirement.specifier.contains(version, prereleases=True), f"{version} is outside {line}"


@pytest.mark.parametrize("line", requirements())
def test_every_range_has_both_ends(line):
    operators = {specifier.operator for specifier in Requirement(line).specifier}
    assert {">=", "<"} <= operators


def test_the_lock_is_pins_with_hashes_and_nothing_else():
    rest = PIN.sub("", LOCK)
    assert [line for line in rest.splitlines() if line and not line.startswith("#")] == []
    assert len(PINNED) == len(PIN.findall(LOCK)) > 100


def test_the_lock_names_no_address():
    assert "://" not in LOCK
    assert (
        re.search(r"^\s*(?:-[if]|--(?:extra-)?index-url|--find-links|--trusted-host)\b", LOCK, re.MULTILINE)
        is None
    )


def test_conda_installs_from_the_lock_alone():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [item for item in environment["dependencies"] if isinstance(item, str)]
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert conda == ["python=3.11", "pip"]
    assert pip == ["-r requirements.lock"]


def test_the_makefile_has_the_promised_targets():
    assert {"course", "test", "lint", "lab", "miniature", "quality", "clean", "help"} <= TARGETS


def test_help_lists_every_target():
    listed = re.findall(r"^make ([a-z]+) ", make("help", folder=ROOT).stdout, re.MULTILINE)
    assert {*listed, "help"} == TARGETS


def test_the_readme_shows_commands_that_exist():
    shown = set(re.findall(r"(?m)^make ([a-z]+)\b", "\n".join(code_of((ROOT / "README.md").read_text()))))
    assert shown >= {"course", "test"}
    assert shown <= TARGETS


def code_of(markdown: str) -> list[str]:
    """Fenced blocks and code spans."""
    fenced = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
    return [*fenced.findall(markdown), *re.findall(r"`([^`\n]+)`", fenced.sub("", markdown))]


def test_continuous_integration_runs_make_test():
    script = ROOT / ".ci" / "run"
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert commands[0] == "set -euo pipefail"
    assert commands[-1] == "make test"
    assert os.access(script, os.X_OK)


def test_bare_make_installs_from_the_lock_and_then_plays_the_course():
    plan = make("--dry-run", "--always-make", "VENV=out/no-such-environment", folder=ROOT).stdout
    hashed = plan.index("pip install --require-hashes -r requirements.lock")
    stamped = plan.index("touch out/no-such-environment/.installed")
    assert hashed < stamped < plan.index("ip2p course --out out/course")


def test_make_test_goes_from_quick_to_slow():
    plan = make("--dry-run", "test", folder=ROOT).stdout
    stages = [
        "ruff check", "ruff format --check", "-m mypy", "not slow and not gpu", '"slow and not gpu"', "--nbmake",
    ]  # fmt: skip
    places = [plan.index(stage) for stage in stages]
    assert places == sorted(places)


def test_an_old_or_missing_python_gets_one_clear_line(tmp_path):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    done = make("PYTHON=no-such-python", "course", folder=tmp_path)
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0
    assert said == ["Python 3.11 or newer is needed, and no-such-python is not. Try: make PYTHON=python3.11"]
    assert not (tmp_path / ".venv").exists()


def test_clean_removes_outputs_and_caches_but_no_data(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    kept = ["data/weights.safetensors", "data/__pycache__/x", ".venv/lib/__pycache__/x", "ip2p_lib/a.py"]
    gone = [
        "out/course/index.html",
        "ip2p_lib/__pycache__/a.pyc",
        ".ruff_cache/x",
        "notebooks/.ipynb_checkpoints/x",
    ]
    for name in (*kept, *gone):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert make("clean", folder=tmp_path).returncode == 0
    assert [name for name in (*kept, *gone) if (tmp_path / name).exists()] == kept


def test_no_text_file_names_a_folder_of_one_machine():
    found = []
    for path in repository_files():
        content = path.read_bytes()
        if b"\0" in content:
            continue
        match = MACHINE_PATH.search(content.decode("utf-8", errors="ignore"))
        if match:
            found.append(f"{path.relative_to(ROOT)}: {match.group()}")
    assert found == []


@pytest.mark.parametrize("text", ['File "/{}/ann/x.py"', "PATH=/{}/me/bin", "`/{}/a`"])
def test_the_machine_path_pattern_finds_what_it_should(text):
    assert all(MACHINE_PATH.search(text.format(folder)) for folder in ("home", "Users", "root", "work"))


@pytest.mark.parametrize(
    "text", ["https://example.org/{}/page", "./{}/a", "~/{}/a", "data/{}/a", "$HOME/{}/a"]
)
def test_the_machine_path_pattern_leaves_the_rest_alone(text):
    assert not any(MACHINE_PATH.search(text.format(folder)) for folder in ("home", "Users", "root", "work"))
