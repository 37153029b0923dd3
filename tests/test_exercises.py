"""The graders are graded: references pass, wrong answers get the right hint, notebooks and registry agree."""

import ast
import json
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import numpy as np
import pytest
import wrong_answers
from typer.testing import CliRunner

from ip2p_lib.cli import app
from ip2p_lib.course.exercises import Exercise, all_exercises, attempt, find, grade, header
from ip2p_lib.course.exercises import attempts as attempts_module
from ip2p_lib.course.exercises.grading import FORGOT_RETURN, Wrong
from ip2p_lib.course.exercises.intervals import check_interval
from ip2p_lib.course.exercises.progress import Record, progress_file, read_progress, remember, write_progress
from ip2p_lib.course.minutes import SOLUTION

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
EXERCISES = all_exercises()
WRONG = {
    name: answers
    for module in iter_modules(wrong_answers.__path__)
    for name, answers in import_module(f"wrong_answers.{module.name}").WRONG.items()
}
each = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=lambda e: e.id)


@pytest.fixture(autouse=True)
def shown(tmp_path, monkeypatch):
    """Progress in a folder of the test's own; returns the list of what is displayed."""
    found = []
    monkeypatch.setenv("IP2P_PROGRESS", str(tmp_path))
    monkeypatch.setattr(attempts_module, "display", found.append)
    return found


@cache
def notebook(number: str) -> list[dict]:
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


@cache
def imports(number: str) -> str:
    """The import lines at the top level of a notebook's code cells."""
    lines = []
    for cell in notebook(number):
        if cell["cell_type"] == "code":
            body = ast.parse("".join(cell["source"])).body
            lines += [ast.unparse(n) for n in body if isinstance(n, ast.Import | ast.ImportFrom)]
    return "\n".join(lines)


def cells_of(exercise: Exercise) -> tuple[str, str]:
    """Text and stub of an exercise in its notebook."""
    cells = notebook(exercise.id[:2])
    (place,) = [i for i, c in enumerate(cells) if f"exercise:{exercise.id}" in c["metadata"].get("tags", [])]
    assert cells[place]["cell_type"] == "code"
    assert cells[place - 1]["cell_type"] == "markdown"
    return "".join(cells[place - 1]["source"]), "".join(cells[place]["source"])


def run(exercise: Exercise, code: str) -> dict:
    """What a cell leaves behind, run after the notebook's imports alone."""
    space: dict = {}
    exec(imports(exercise.id[:2]), space)
    exec(code, space)
    return space


def handed_in(code: str) -> str:
    """The name that a cell gives to `attempt`'s result."""
    (name,) = re.findall(r"^(\w+) = attempt\(", code, re.MULTILINE)
    return name


@each
def test_the_reference_passes_on_many_seeds(exercise):
    verdicts = {grade(exercise, exercise.reference, seed) for seed in range(20)}
    assert {v.status for v in verdicts} == {"right"}, verdicts


@pytest.mark.parametrize(
    ("name", "answer", "fragment"),
    [(n, a, f) for n, answers in WRONG.items() for a, f in answers],
    ids=[f"{n}-{i}" for n, answers in WRONG.items() for i in range(len(answers))],
)
def test_a_wrong_answer_gets_the_right_hint(name, answer, fragment):
    verdict = grade(find(name), answer)
    assert verdict.status == "wrong"
    assert fragment in verdict.hint


@each
def test_three_wrong_answers_are_known(exercise):
    assert len(WRONG[exercise.id]) >= 3


@each
def test_the_untouched_stub_is_not_attempted_and_the_reference_goes_on(exercise, shown):
    stub = cells_of(exercise)[1]
    left = run(exercise, stub)
    assert left[handed_in(stub)] is exercise.reference
    assert repr(shown[0]) == f"Exercise {exercise.id} not attempted yet: the library's version stands in."
    assert not progress_file().exists()


@each
def test_the_solution_in_the_notebook_replaces_the_stub_and_passes(exercise):
    text, stub = cells_of(exercise)
    (solution,) = SOLUTION.findall(text)
    assert handed_in(solution) == handed_in(stub)
    left = run(exercise, solution)
    assert read_progress(progress_file())[exercise.id].solved
    if callable(exercise.reference):
        assert left[handed_in(solution)] is not exercise.reference


@each
def test_the_notebook_states_the_rating_and_folds_two_hints(exercise):
    text = cells_of(exercise)[0]
    assert text.startswith(f"### Exercise {exercise.id}: {exercise.title}\n\n*{header(exercise.id)}*\n")
    assert re.findall("<summary>(.*?)</summary>", text) == ["Hint 1", "Hint 2", "Solution"]
    folded = re.findall(r"<summary>Hint \d</summary>\n\n(.*?)\n\n</details>", text, re.DOTALL)
    assert folded == list(exercise.hints[:2])
    assert text.count("<details>") == text.count("</details>") == 3


@pytest.mark.parametrize("number", sorted({name[:2] for name in EXERCISES}))
def test_a_notebook_holds_its_exercises_in_order_and_at_least_five(number):
    tags = [t for c in notebook(number) for t in c["metadata"].get("tags", []) if t.startswith("exercise:")]
    assert tags == [f"exercise:{name}" for name in EXERCISES if name.startswith(number)]
    assert len(tags) >= 5


def doubled(answer, seed):
    if answer(3) != 6:
        raise Wrong("A <hint> of its own.", f"twice 3 is 6, not {answer(3)}")


TWICE = Exercise("99.1", "Twice", 1, 1, 1, lambda x: 2 * x, doubled, ("First layer.", "Second layer."))


@pytest.fixture
def twice(monkeypatch):
    monkeypatch.setattr(attempts_module, "find", {"99.1": TWICE}.__getitem__)


def stub(x): ...


def unwritten(x):
    raise NotImplementedError


@pytest.mark.parametrize("answer", [None, ..., stub, unwritten, lambda x: ...])
def test_no_answer_is_no_attempt(twice, answer, shown):
    assert attempt("99.1", answer) is TWICE.reference
    assert "not attempted yet" in repr(shown[0])
    assert not progress_file().exists()


def test_a_function_that_forgets_to_return_is_told_so(twice, shown):
    def forgetful(x):
        x = x * 2

    attempt("99.1", forgetful)
    assert repr(shown[0]).endswith(FORGOT_RETURN)


def test_a_right_answer_is_kept_and_remembered(twice, shown):
    def mine(x):
        return x + x

    assert attempt("99.1", mine) is mine
    assert repr(shown[0]) == "Exercise 99.1 solved: your version takes its place."
    record = read_progress(progress_file())["99.1"]
    assert (record.attempts, record.solved, record.hints) == (1, True, 0)
    assert record.first == record.last != ""


def test_each_wrong_attempt_shows_one_hint_more(twice, shown):
    for _ in range(5):
        assert attempt("99.1", lambda x: x) is TWICE.reference
    counts = [repr(n).count("Hint: ") for n in shown]
    assert counts == [1, 2, 3, 3, 3]
    assert ["Solution" in repr(n) or "solution" in repr(n) for n in shown] == [False, False, True, True, True]
    record = read_progress(progress_file())["99.1"]
    assert (record.attempts, record.solved, record.hints) == (5, False, 3)


def test_hints_are_escaped_in_html_and_plain_in_text(twice, shown):
    attempt("99.1", lambda x: x)
    assert "A &lt;hint&gt; of its own." in shown[0]._repr_html_()
    assert "A <hint> of its own." in repr(shown[0])
    assert "color" not in shown[0]._repr_html_()


def test_what_the_learners_code_raises_is_one_clear_line(twice, shown):
    def broken(x):
        return [][x]

    assert attempt("99.1", broken) is TWICE.reference
    (line,) = [n for n in shown[0].lines if "IndexError" in n]
    assert re.fullmatch(r"What was seen: IndexError: list index out of range \(line \d+ of broken\)", line)


def test_a_value_where_a_function_belongs_is_told_apart():
    assert "the function itself" in grade(TWICE, 6).hint


def test_a_check_that_falls_over_an_odd_answer_does_not_stop_the_notebook():
    verdict = grade(TWICE, lambda x: type("Odd", (), {"__ne__": lambda *_: 1 / 0})())
    assert (verdict.status, verdict.detail) == ("wrong", "ZeroDivisionError: division by zero")


def test_an_answer_may_change_its_inputs():
    def check(answer, seed):
        rows = [3, 1, 2]
        answer(rows)
        if rows != [3, 1, 2]:
            raise Wrong(0)

    exercise = Exercise("99.2", "Sort", 1, 1, 1, sorted, check, ("a", "b"))
    assert grade(exercise, lambda rows: rows.sort() or rows).status == "right"


def test_an_unknown_exercise_is_refused():
    with pytest.raises(ValueError, match=r"must be one of .*02\.1.*got '42\.1'"):
        attempt("42.1", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"id": "2.3"}, "like 02.3"), ({"difficulty": 6}, "1..5"), ({"minutes": 0}, "minutes"), ({"hints": ("a",)}, "two hints")],
)  # fmt: skip
def test_an_exercise_must_be_whole(change, message):
    from dataclasses import replace

    with pytest.raises(ValueError, match=re.escape(message)):
        replace(TWICE, **change)


@pytest.mark.parametrize("content", ["{", "[]", '{"exercises": {"02.1": {"attempts": "many"}}}', "\x00\xff"])
def test_a_damaged_progress_file_is_kept_aside_and_said(content):
    path = progress_file()
    for number in (1, 2):
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        record, said = remember(path, "02.1", solved=True, most_hints=3)
        assert record.attempts == 1
        assert f"kept as progress.damaged-{number}.json" in said
        assert path.with_name(f"progress.damaged-{number}.json").read_text() == content
    assert read_progress(path)["02.1"].solved


@pytest.mark.parametrize("content", ["{", '{"exercises": {}}'])
def test_a_progress_file_that_cannot_be_read_or_moved_is_left_alone_and_said(content, monkeypatch):
    path = progress_file()
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace" if content == "{" else "read_text", denied)  # damaged, or not ours
    record, said = remember(path, "02.1", solved=True, most_hints=3)
    monkeypatch.undo()
    assert (record.attempts, record.solved) == (1, True)
    assert "could not be read (Permission denied), so it was left as it is" in said
    assert path.read_text() == content
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_interval_may_end_at_a_drawn_mean():
    def by_order(values, picks):
        means = np.sort(values[picks].mean(axis=1))
        return means[int(0.025 * len(means))], means[int(0.975 * len(means))]

    check_interval(by_order, 0)


def test_progress_is_whole_or_the_old_one(monkeypatch):
    path = progress_file()
    write_progress(path, {"02.1": Record(1, True, "a", "b", 2)})
    before = path.read_bytes()
    monkeypatch.setattr("ip2p_lib.storage.json.dumps", lambda *_a, **_k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_progress(path, {"02.1": Record(9)})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written_stops_nothing(twice, shown, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("IP2P_PROGRESS", str(tmp_path / "file"))
    assert attempt("99.1", TWICE.reference) is TWICE.reference
    assert "could not be saved" in repr(shown[0])


def test_progress_is_solved_for_good():
    path = progress_file()
    remember(path, "02.1", solved=True, most_hints=3)
    record, _ = remember(path, "02.1", solved=False, most_hints=3)
    assert (record.attempts, record.solved, record.hints) == (2, True, 1)


def test_grade_says_it_all_as_json(tmp_path):
    remember(progress_file(), "02.2", solved=False, most_hints=3)
    remember(progress_file(), "02.2", solved=True, most_hints=3)
    result = CliRunner().invoke(app, ["grade"])
    report = json.loads(result.stdout)
    assert [row["id"] for row in report["exercises"]] == list(EXERCISES)
    (row,) = [row for row in report["exercises"] if row["attempts"]]
    assert (row["id"], row["title"], row["solved"], row["attempts"], row["hints"]) == ("02.2", find("02.2").title, True, 2, 1)  # fmt: skip
    assert report["totals"] == {
        "exercises": len(EXERCISES), "attempted": 1, "solved": 1, "attempts": 2, "hints": 1,
    }  # fmt: skip
    CliRunner().invoke(app, ["grade", "--progress", str(tmp_path), "--out", str(tmp_path / "marks.json")])
    assert json.loads((tmp_path / "marks.json").read_text()) == report


def test_grade_refuses_a_damaged_file_and_a_folder_that_is_not_there(tmp_path):
    progress_file().parent.mkdir()
    progress_file().write_text("{")
    damaged = CliRunner().invoke(app, ["grade"])
    absent = CliRunner().invoke(app, ["grade", "--progress", str(tmp_path / "nobody")])
    assert (damaged.exit_code, absent.exit_code) == (1, 1)
    assert "must hold JSON" in damaged.stderr
    assert "must be a folder" in absent.stderr
    assert progress_file().read_text() == "{"
