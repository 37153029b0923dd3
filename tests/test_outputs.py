"""Outputs that are committed: what is dropped, what stays, and that making them again changes nothing."""

import base64
from io import BytesIO

import nbformat
import numpy as np
import pytest
from PIL import Image
from test_house import MACHINE_PATH
from typer.testing import CliRunner

from ip2p_lib import cli
from ip2p_lib.course import minutes, outputs
from ip2p_lib.course.minutes import numbered_notebooks, run, write_back
from ip2p_lib.scenes import Scene, render

CASTLE = Scene("castle", "purple", "meadow", "day", "clear", "plain", ("kite",), layout=7)
CELLS = {
    "imports": (
        "import sys, tempfile, warnings\nfrom pathlib import Path\nfrom PIL import Image\n"
        "from ip2p_lib.course.explorer import browse\nfrom ip2p_lib.course.figures import Shown\n"
        "from ip2p_lib.presets import DATA\nfrom tqdm.auto import tqdm"
    ),
    "prints": (
        "print('one')\nwarnings.warn('look out')\nfor _ in tqdm(range(3), desc='bar'):\n    print('two')\n"
        "print(DATA / 'gallery', tempfile.mkdtemp(), Path.home() / 'x')\nprint(object())"
    ),
    "writes": "sys.stderr.write('trouble')\nobject()",
    "picture": "Shown(Image.new('RGB', (64, 64), 'red'), 'a red square')",
    "browse": "browse({n: Shown(Image.new('RGB', (8, 8), n), n) for n in ('red', 'blue')}, 'colour')",
    "controls": "import ipywidgets\nipywidgets.IntSlider()",
}


def notebook_of(**sources):
    made = [nbformat.v4.new_code_cell(source, id=name) for name, source in sources.items()]
    return nbformat.v4.new_notebook(
        cells=made, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "tried.ipynb"
    nbformat.write(notebook_of(**CELLS), path)
    run(path, save=True)
    return path


def output_of(path, name):
    (cell,) = (c for c in nbformat.read(path, as_version=4).cells if c.id == name)
    return cell.outputs


@pytest.mark.slow
def test_a_saved_notebook_has_nothing_against_it(saved):
    notebook = nbformat.read(saved, as_version=4)
    assert outputs.faults(notebook) == []
    assert [c.execution_count for c in notebook.cells] == list(range(1, len(CELLS) + 1))
    assert set(notebook.metadata.language_info) == {"name"}
    assert MACHINE_PATH.search(saved.read_text()) is None


@pytest.mark.slow
def test_what_is_printed_stays_in_one_piece_and_names_no_machine(saved):
    (printed,) = output_of(saved, "prints")  # no warning, no bar
    one, two, *_, folders, thing = printed.text.splitlines()
    assert (one, two, folders, thing) == (
        "one",
        "two",
        "./data/gallery tmp/tmp ~/x".replace("tmp/tmp", "tmp"),
        "<object>",
    )
    (result,) = output_of(saved, "writes")
    assert result.data["text/plain"] == "<object>"


@pytest.mark.slow
def test_pictures_keep_their_words_and_widgets_leave_a_still_or_a_line(saved):
    (shown,) = output_of(saved, "picture")
    assert shown.data["text/html"].startswith('<img alt="a red square" src="data:image/png;base64,')
    assert shown.data["text/plain"] == "picture: a red square"
    (still,) = output_of(saved, "browse")
    assert still.data["text/html"].startswith('<img alt="colour red: red. colour blue: blue" src=')
    (line,) = output_of(saved, "controls")
    assert line.data == {"text/plain": outputs.CONTROLS}


@pytest.mark.slow
def test_saving_again_changes_nothing(saved):
    before = saved.read_bytes()
    run(saved, save=True)
    assert saved.read_bytes() == before


def picture_output(picture):
    data = BytesIO()
    picture.save(data, "PNG")
    html = f'<img alt="x" src="data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}">'
    return nbformat.v4.new_output("display_data", {"text/html": html, "image/png": "x"})


def executed(*given):
    notebook = notebook_of(only="1")
    notebook.cells[0].update(outputs=list(given), execution_count=7)
    return notebook


def test_a_picture_gets_smaller_and_looks_the_same():
    drawn = render(CASTLE, 128).resize((512, 512))
    notebook = executed(picture_output(drawn))
    (before,) = outputs.PICTURE.findall(notebook.cells[0].outputs[0].data["text/html"])
    outputs.clean(notebook)
    data = notebook.cells[0].outputs[0].data
    assert list(data) == ["text/html"]
    (after,) = outputs.PICTURE.findall(data["text/html"])
    assert len(after) < 0.6 * len(before)
    shown = Image.open(BytesIO(base64.b64decode(after))).convert("RGB")
    assert np.abs(np.asarray(shown, dtype=int) - np.asarray(drawn)).mean() < 5
    outputs.clean(notebook)
    assert outputs.PICTURE.findall(notebook.cells[0].outputs[0].data["text/html"]) == [after]


def test_what_looks_like_a_folder_inside_a_picture_is_left_alone(monkeypatch):
    monkeypatch.setattr(outputs.tempfile, "gettempdir", lambda: "/AAAA")
    assert outputs._anywhere("in /AAAA/tmpabcdefgh/x") == "in tmp/x"
    jpeg = "data:image/jpeg;base64,/9j/AAAA/AAAA"
    monkeypatch.setattr(outputs, "_smaller", lambda data: f"data:image/jpeg;base64,{data}")
    assert outputs._text(jpeg) == jpeg


def test_a_failed_or_unexecuted_cell_is_refused():
    failed = executed(nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[]))
    with pytest.raises(ValueError, match="must not be an error, but cell only failed"):
        outputs.clean(failed)
    failed.cells[0].execution_count = None
    with pytest.raises(ValueError, match="every cell must have been executed, but only has not"):
        outputs.clean(failed)


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        (nbformat.v4.new_output("stream", name="stderr", text="x"), "the error stream"),
        (nbformat.v4.new_output("stream", text="<object at 0x7f0011223344>"), "an address in memory"),
        (nbformat.v4.new_output("stream", text="blocks: 50%|####"), "a progress bar"),
        (nbformat.v4.new_output("error", ename="E", evalue="", traceback=[]), "an error"),
        (nbformat.v4.new_output("display_data", {outputs.WIDGET: {}}), f"data of the kind {outputs.WIDGET}"),
        (
            nbformat.v4.new_output("display_data", {"text/html": "<img src='x'>"}),
            "a picture without alt text",
        ),
    ],
)
def test_faults_of_outputs_are_named(output, fault):
    notebook = executed(output)
    notebook.cells[0].execution_count = 1
    assert outputs.faults(notebook) == [f"only: {fault}"]


def test_a_notebook_is_executed_whole_or_not_at_all():
    notebook = notebook_of(first="1", second="2")
    assert outputs.faults(notebook) == []
    notebook.cells[1].execution_count = 1
    assert outputs.faults(notebook) == [
        "cells must be counted 1 to 2, or have no outputs at all; got [None, 1]"
    ]
    notebook.cells[0].execution_count, notebook.cells[1].execution_count = 1, 2
    assert outputs.faults(notebook) == []
    notebook.metadata["widgets"] = {}
    assert outputs.faults(notebook) == ["metadata.widgets makes GitHub refuse the page"]


def test_a_notebook_that_is_too_large_is_not_written(tmp_path):
    notebook = executed(nbformat.v4.new_output("stream", text="x" * outputs.MOST_BYTES))
    with pytest.raises(ValueError, match=r"large\.ipynb must stay below 500000 bytes with its outputs, got"):
        write_back(tmp_path / "large.ipynb", notebook)
    assert list(tmp_path.iterdir()) == []


def test_solutions_are_not_saved_and_numbers_are_known(tmp_path):
    with pytest.raises(ValueError, match="saved as a learner finds them"):
        run(tmp_path / "none.ipynb", solved=True, save=True)
    assert [p.name[:2] for p in numbered_notebooks(["02", "05"])] == ["02", "05"]
    with pytest.raises(ValueError, match=r"must be one of 00, 01.*got '12'"):
        numbered_notebooks(["12"])
    with pytest.raises(ValueError, match="minutes are kept of all notebooks, unsolved"):
        next(minutes.run_all(tmp_path / "x.json", numbers=["02"]))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["12"], "a notebook's number must be one of 00"),
        (["02", "--record", "x.json"], "minutes are kept of all notebooks, unsolved"),
        (["--save", "--solved"], "saved as a learner finds them, without solutions"),
    ],
)
def test_the_command_refuses_in_one_line(arguments, line):
    said = CliRunner().invoke(cli.app, ["notebooks", *arguments])
    assert said.exit_code == 1
    assert line in said.output
    assert len(said.output.splitlines()) == 1
