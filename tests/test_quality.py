"""Numbers in prose come from result files, and the result files say how they were made."""

import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from ip2p_lib import storage
from ip2p_lib.course.whole_game import course_sentence, peak_memory_gb
from ip2p_lib.miniature.cards import write_cards
from ip2p_lib.miniature.gallery import draw_gallery
from ip2p_lib.presets import MINIATURE, FilterConfig
from ip2p_lib.quality import (
    GOALS,
    Goal,
    edits_table,
    filter_tables,
    measure_all,
    quality_table,
    replace_block,
    study_filter,
)
from ip2p_lib.quality.candidates import Judged, passing
from ip2p_lib.quality.filter import FilterStudy

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "data" / "results"


def test_every_measure_of_this_stage_has_a_value_an_interval_and_a_command():
    results = storage.read_json(RESULTS / "quality.json")
    assert results.keys() >= GOALS.keys()
    for key in GOALS:
        r = results[key]
        assert r["low"] <= r["value"] <= r["high"]
        assert r["n"] >= 40
        assert r["command"] == f"ip2p quality --only {key}"
        assert r["commit"]


def test_what_the_pages_say_of_restored_detail_holds():
    """Nearer to the exact answer beyond doubt, and the judge's verdicts nearly as before."""
    plain, restored = (storage.read_json(RESULTS / f"{n}.json") for n in ("quality", "editor_with_detail"))
    nearer, exact = restored["l1_over_unedited_l1"], restored["exact"]
    assert nearer["n"] == plain["editor_l1_over_unedited_l1"]["n"]
    assert nearer["value"] < plain["editor_l1_over_unedited_l1"]["low"]
    assert abs(exact["value"] - plain["editor_exact"]["value"]) < 0.02


def test_the_readme_shows_the_measured_table():
    assert quality_table(storage.read_json(RESULTS / "quality.json")) in (ROOT / "README.md").read_text()


def test_the_page_on_quality_shows_the_measured_table():
    table = edits_table(storage.read_json(RESULTS / "editor_by_kind.json"))
    assert (
        f"<!-- editor_by_kind -->\n\n{table}\n\n<!-- /editor_by_kind -->"
        in (ROOT / "docs" / "quality.md").read_text()
    )


def test_the_readme_states_the_measured_minutes_and_memory():
    assert course_sentence(storage.read_json(RESULTS / "course.json")) in (ROOT / "README.md").read_text()


def test_the_main_job_is_told_without_its_memory_where_the_system_does_not_say(monkeypatch):
    assert 0 < peak_memory_gb() < 1000
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert peak_memory_gb() is None
    told = course_sentence({"machine": "Windows", "minutes": 2.0, "peak_memory_gb": None})
    assert told.startswith("Measured on Windows: the main job took 2.0 minutes after install. A second run")


def test_the_page_on_filtering_shows_the_measured_tables():
    page = (ROOT / "docs" / "filtering.md").read_text()
    tables = filter_tables(storage.read_json(RESULTS / "filter.json"))
    assert len(tables) == 7
    for name, table in tables.items():
        assert f"<!-- {name} -->\n\n{table}\n\n<!-- /{name} -->" in page, f"{name}: run `ip2p study-filter`"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"only": "colours"}, "--only must be one of filter, shift, .*; got 'colours'"),
        ({"only": "shift", "triplets": 7}, r"is about \d+ triplets, not 7; measure all parts again"),
    ],
)
def test_a_part_that_does_not_fit_what_is_on_file_is_refused(tmp_path, changes, said):
    shutil.copy(RESULTS / "filter.json", tmp_path)
    with pytest.raises(ValueError, match=said):
        next(study_filter(MINIATURE, tmp_path / "filter.json", **changes))
    assert (tmp_path / "filter.json").read_bytes() == (RESULTS / "filter.json").read_bytes()


def test_a_bound_on_the_shift_at_a_quantile_lets_that_share_pass():
    """The whole of a part on made-up candidates: half exact, and the exact ones move further."""
    study = FilterStudy.__new__(FilterStudy)
    study.config = FilterConfig(min_text=-1, min_direction=0.9, min_image=-1)
    rows = [
        Judged({"triplet_id": "t", "candidate": i, "clip_sim_0": 1, "clip_sim_1": 1, "clip_sim_dir": 0.5,
                "clip_sim_image": 1 - i / 200}, "add", 0.5, float(i >= 50))
        for i in range(100)
    ]  # fmt: skip
    found = study.shifted(rows)
    assert (found["all"]["kept"], found["all"]["recall"], found["auc"]) == (80, 1.0, 1.0)
    assert found["by_kind"]["add"] == found["all"]
    assert passing(rows, study.config) == [False] * 100


def test_cards_are_those_the_records_give(tmp_path):
    for path in write_cards(ROOT / "data" / "miniature", RESULTS, tmp_path):
        assert path.read_text() == (ROOT / "docs" / "cards" / path.name).read_text(), "run `ip2p cards`"


def test_the_gallery_is_what_its_scenes_draw(tmp_path):
    draw_gallery(tmp_path)
    drawn = sorted(p.name for p in tmp_path.glob("*.png"))
    assert drawn == sorted(p.name for p in (ROOT / "data" / "gallery").glob("*.png"))
    for name in drawn:
        with Image.open(tmp_path / name) as a, Image.open(ROOT / "data" / "gallery" / name) as b:
            assert ImageChops.difference(a, b).getbbox() is None, name


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (Goal(0.9), 0.9, True),
        (Goal(0.9), 0.89, False),
        (Goal(at_most=0.5), 0.5, True),
        (Goal(at_most=0.5), 0.51, False),
    ],
)
def test_a_goal_is_met_at_its_bound(goal, value, met):
    assert goal.met_by(value) is met


def test_a_document_without_marks_is_refused(tmp_path):
    (tmp_path / "a.md").write_text("no marks here")
    with pytest.raises(ValueError, match="must hold the marks <!-- quality -->"):
        replace_block(tmp_path / "a.md", "quality", "text")


def test_generated_text_replaces_only_what_is_between_the_marks(tmp_path):
    (tmp_path / "a.md").write_text("before\n<!-- x -->\nold\n<!-- /x -->\nafter\n")
    replace_block(tmp_path / "a.md", "x", "new")
    assert (tmp_path / "a.md").read_text() == "before\n<!-- x -->\n\nnew\n\n<!-- /x -->\nafter\n"


def test_an_unknown_measure_is_refused(tmp_path):
    with pytest.raises(ValueError, match="measure must be one of judge_all_attributes"):
        next(measure_all(tmp_path, "beauty"))
