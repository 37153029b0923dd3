"""The study of guidance scales: what a pair of scales costs, what is kept of an earlier run, and what the page says."""

from dataclasses import replace
from pathlib import Path

import pytest

from ip2p_lib import storage
from ip2p_lib.evaluation import EditScore
from ip2p_lib.presets import MINIATURE
from ip2p_lib.quality import scales_table, study_scales
from ip2p_lib.quality.scales import summed_up

ROOT = Path(__file__).resolve().parent.parent
SCORES = [
    EditScore("add", 1.0, 1.0, 0.1, 0.4, 0.5, 0.5, "plain"),
    EditScore("time", 0.0, 1.0, 0.3, 0.4, 0.5, 0.5, "plain"),
]


@pytest.mark.parametrize(("scales", "count"), [((1, 1), 1), ((1.5, 1.5), 2), ((2, 1), 2), ((2, 1.7), 3)])
def test_a_pair_of_scales_costs_as_many_predictions_as_have_a_weight(scales, count):
    text, image = scales
    config = replace(MINIATURE.edit, guidance_scale=text, image_guidance_scale=image)
    assert summed_up(SCORES, config)["predictions"] == count


def test_a_line_is_the_mean_of_its_edits_and_the_ratio_of_their_distances():
    found = summed_up(SCORES, MINIATURE.edit)
    assert (found["exact"]["value"], found["requested"]["value"]) == (0.5, 1)
    assert found["l1_over_unedited_l1"]["value"] == pytest.approx(0.5)


def test_a_second_run_measures_what_is_missing_and_other_edits_anew(tmp_path):
    path = tmp_path / "scales.json"
    assert len(list(study_scales(MINIATURE, path, 2, [(1.0, 1.0)]))) == 1
    known = storage.read_json(path)
    known["scales"][0]["exact"]["value"] = 7.0  # tells whether it was measured again
    storage.write_json(path, known)
    list(study_scales(MINIATURE, path, 2, [(1.0, 1.0), (2.0, 1.0)]))
    assert [r["exact"]["value"] == 7 for r in storage.read_json(path)["scales"]] == [True, False]
    list(study_scales(MINIATURE, path, 3, [(1.0, 1.0)]))
    found = storage.read_json(path)
    assert found["scales"][0]["exact"]["value"] <= 1
    assert found["scales"][0]["exact"]["n"] == found["edits"] == 3


def test_no_edits_are_refused(tmp_path):
    with pytest.raises(ValueError, match="edits must be at least 1, got 0"):
        next(study_scales(MINIATURE, tmp_path / "scales.json", 0))


def test_the_page_shows_the_measured_table_and_the_preset_takes_a_line_of_it():
    result = storage.read_json(ROOT / "data" / "results" / "scales.json")
    table = scales_table(result)
    page = (ROOT / "docs" / "editing.md").read_text()
    assert f"<!-- scales -->\n\n{table}\n\n<!-- /scales -->" in page, (
        "run `ip2p study-scales --page docs/editing.md`"
    )
    own = MINIATURE.edit.guidance_scale, MINIATURE.edit.image_guidance_scale
    chosen = next(r for r in result["scales"] if (r["guidance_scale"], r["image_guidance_scale"]) == own)
    assert chosen["exact"]["high"] > max(r["exact"]["value"] for r in result["scales"])
