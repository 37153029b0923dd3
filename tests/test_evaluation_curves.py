"""Curves and agreement: hand-worked heights, intervals that cover, and slow obvious versions beside the fast ones."""

from pathlib import Path

import numpy as np
import pytest

from ip2p_lib import storage
from ip2p_lib.evaluation.agreement import (
    correlation,
    correlations,
    rank_correlation,
    ranks,
    wrong_preferences,
)
from ip2p_lib.evaluation.curves import Curve, compare, image_at
from ip2p_lib.evaluation.report import comparison, point, report
from ip2p_lib.evaluation.rows import EditRow
from ip2p_lib.evaluation.tables import tables


def curve(name, direction, image, noise=0.0, edits=200, seed=0, ids=None):
    """A curve with the given means; edits scatter around them, the same at every point."""
    rng = np.random.default_rng(seed)
    own = rng.normal(0, noise, edits)
    own -= own.mean()
    x, y = (np.array(v, dtype=float)[:, None] + own for v in (direction, image))
    dial = tuple(float(i) for i in range(len(direction)))
    return Curve(name, dial, ids or tuple(f"e{i}" for i in range(edits)), x, y)


def row(one, dial, direction, image, **others):
    return EditRow(
        id=one,
        kind=others.pop("kind", "time"),
        dial=dial,
        clip_sim_dir=direction,
        clip_sim_image=image,
        **others,
    )


@pytest.mark.parametrize(
    ("target", "height"),
    [
        (0.0, 1.0),  # a point of the curve
        (0.05, 0.95),  # half-way along its first segment
        (0.2, 0.7),
        (0.15, 0.85),  # two segments pass: 0.8 on the way out, 0.85 on the way back
        (-1.0, 1.0),  # out of reach: the nearest point
        (9.0, 0.7),
    ],
)
def test_the_height_of_a_curve_is_that_of_its_best_segment(target, height):
    direction, image = np.array([0.0, 0.1, 0.2, 0.1]), np.array([1.0, 0.9, 0.7, 1.0])
    assert image_at(direction, image, np.array([target]))[0] == pytest.approx(height)


def test_many_curves_at_once_are_each_by_itself():
    rng = np.random.default_rng(0)
    x, y, targets = rng.normal(size=(50, 6)), rng.normal(size=(50, 6)), rng.normal(size=4)
    together = image_at(x, y, targets)
    assert together.shape == (50, 4)
    for i in range(50):
        np.testing.assert_allclose(together[i], image_at(x[i], y[i], targets))


def test_the_height_does_not_depend_on_the_direction_of_the_dial():
    rng = np.random.default_rng(1)
    x, y, targets = rng.normal(size=7), rng.normal(size=7), rng.normal(size=5)
    np.testing.assert_allclose(image_at(x, y, targets), image_at(x[::-1], y[::-1], targets))


def test_means_over_resampled_edits_are_those_of_a_loop():
    one = curve("a", [0.1, 0.2], [0.9, 0.8], noise=0.1, edits=9)
    picks = np.random.default_rng(2).integers(0, 9, (5, 9))
    direction, image = one.means(picks)
    for d in range(5):
        np.testing.assert_allclose(direction[d], one.direction[:, picks[d]].mean(1))
        np.testing.assert_allclose(image[d], one.image[:, picks[d]].mean(1))


def test_a_higher_curve_lies_above_and_a_lower_one_does_not():
    high = curve("ours", [0.1, 0.3, 0.5], [0.9, 0.8, 0.6], noise=0.02)
    low = curve("theirs", [0.2, 0.4, 0.6], [0.7, 0.5, 0.3], noise=0.02)
    found, turned = compare(high, low), compare(low, high)
    assert all(p.above for p in found)
    assert not any(p.above for p in turned)
    assert [p.direction for p in found] == pytest.approx(list(np.linspace(0.2, 0.5, 7)[1:-1]))
    for p, q in zip(found, turned, strict=True):
        assert p.difference.value == pytest.approx(p.ours.value - p.theirs.value)
        assert p.difference.value == pytest.approx(-q.difference.value)
        assert p.difference.low <= p.difference.value <= p.difference.high


def test_a_curve_against_itself_differs_by_nothing():
    one = curve("ours", [0.1, 0.3, 0.5], [0.9, 0.8, 0.6], noise=0.05)
    for p in compare(one, one):
        assert (p.difference.value, p.difference.low, p.difference.high) == (0.0, 0.0, 0.0)
        assert not p.above
        assert p.ours.low < p.ours.value < p.ours.high


def test_edits_are_paired_when_two_curves_are_compared():
    """Both share what makes an edit easy: their difference is far surer than either height."""
    one = curve("ours", [0.1, 0.3, 0.5], [0.9, 0.8, 0.6], noise=0.3)
    other = curve("theirs", [0.1, 0.3, 0.5], [0.88, 0.78, 0.58], noise=0.3)
    for p in compare(one, other):
        assert p.difference.low > 0.01
        assert not p.above  # for which the two intervals would have to lie apart


def test_a_difference_is_covered_as_often_as_its_interval_says():
    covered, rng = 0, np.random.default_rng(3)
    for trial in range(150):
        noise = rng.normal(0, 0.2, (2, 3, 60))
        base = np.array([0.1, 0.3, 0.5])[:, None]
        ids = tuple(f"e{i}" for i in range(60))
        wide = np.broadcast_to(base, (3, 60))
        ours, theirs = (
            Curve(n, (0.0, 1.0, 2.0), ids, wide, h - base + z)
            for n, h, z in (("a", 1.0, noise[0]), ("b", 0.9, noise[1]))
        )
        middle = compare(ours, theirs, count=1, draws=300, seed=trial)[0].difference
        covered += middle.low <= 0.1 <= middle.high
    assert 0.88 < covered / 150 < 0.99


def test_only_common_edits_are_compared():
    one = curve("ours", [0.1, 0.5], [0.9, 0.6], noise=0.02, edits=40)
    few = curve("theirs", [0.1, 0.5], [0.5, 0.2], noise=0.02, edits=10)
    assert {p.ours.n for p in compare(one, few)} == {10}
    other = curve("theirs", [0.1, 0.5], [0.5, 0.2], edits=2, ids=("x", "y"))
    with pytest.raises(
        ValueError, match="ours and theirs must have edits in common to be compared, have none"
    ):
        compare(one, other)


def test_curves_without_a_common_direction_are_not_compared():
    low, high = curve("ours", [0.1, 0.2], [0.9, 0.8]), curve("theirs", [0.5, 0.6], [0.5, 0.2])
    assert compare(low, high) == []
    told = comparison(low, high)
    assert (told["points"], told["above_everywhere"]) == ([], False)
    assert (told["our_reach"], told["their_reach"]) == ([0.1, 0.2], [0.5, 0.6])
    assert compare(curve("ours", [0.1], [0.9]), low) == []


def test_a_curve_is_of_the_edits_measured_everywhere():
    points = {
        1.0: [row("a", 1.0, 0.1, 0.9), row("b", 1.0, 0.2, 0.8), row("c", 1.0, None, 0.5)],
        2.0: [row("b", 2.0, 0.3, 0.7), row("a", 2.0, 0.5, 0.6), row("c", 2.0, 0.1, 0.1)],
    }
    found = Curve.of("ours", points)
    assert (found.ids, found.dial) == (("a", "b"), (1.0, 2.0))
    np.testing.assert_allclose(found.direction, [[0.1, 0.2], [0.5, 0.3]])
    np.testing.assert_allclose(found.image, [[0.9, 0.8], [0.6, 0.7]])
    with pytest.raises(ValueError, match="ours: a curve needs at least one edit that was measured at every"):
        Curve.of("ours", {1.0: [row("a", 1.0, None, None)]})


def test_ranks_share_ties():
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [3.0, 0.0, 3.0, 1.0, 3.0]


def test_rank_correlation_is_the_textbook_s():
    rng = np.random.default_rng(4)
    a, b = rng.permutation(30).astype(float), rng.permutation(30).astype(float)
    textbook = 1 - 6 * ((a - b) ** 2).sum() / (30 * (30**2 - 1))  # without ties
    assert rank_correlation(a, b) == pytest.approx(textbook)
    assert rank_correlation(a, np.exp(a)) == pytest.approx(1)
    assert np.isnan(rank_correlation(a, np.ones(30)))


def test_a_correlation_says_by_kind_whether_clip_knows():
    rng = np.random.default_rng(5)
    rows = []
    for i in range(120):
        truth, kind = float(rng.random() < 0.5), ("time", "add")[i % 2]
        sees = truth if kind == "time" else 0.0  # blind to what is added
        rows.append(row(f"e{i}", 1.0, 0.5 * sees + rng.normal(0, 0.1), 0.5, kind=kind, exact=truth))
    found = {(k, m, t): c for k, m, t, c in correlations(rows)}
    assert found["time", "clip_sim_dir", "exact"].low > 0.6
    assert found["add", "clip_sim_dir", "exact"].low < 0 < found["add", "clip_sim_dir", "exact"].high
    assert ("all", "clip_sim_dir", "l1") not in found  # no row has it
    assert correlation(rows, "clip_sim_image", "exact") is None  # which does not vary


def test_repeated_rows_of_an_edit_do_not_make_a_correlation_surer():
    rng = np.random.default_rng(6)
    once = [row(f"e{i}", 1.0, v := rng.normal(), 0.5, exact=float(v + rng.normal() > 0)) for i in range(60)]
    a, b = (correlation(rows, "clip_sim_dir", "exact") for rows in (once, once * 5))
    assert a.n == b.n == 60
    assert b.high - b.low == pytest.approx(a.high - a.low, rel=0.15)


def test_a_wrong_preference_is_one_for_the_inexact_result():
    systems = {
        "ours": {1.0: [row("a", 1.0, 0.3, 0.9, exact=1.0), row("b", 1.0, 0.6, 0.9, exact=1.0, kind="add")]},
        "sdedit": {
            0.5: [row("a", 0.5, 0.5, 0.9, exact=0.0), row("b", 0.5, 0.2, 0.9, exact=0.0, kind="add")],
            0.9: [row("a", 0.9, 0.1, 0.9, exact=0.0), row("c", 0.9, 0.9, 0.9, exact=0.0)],
        },
    }
    shares, worst = wrong_preferences(systems)
    assert (shares["time"].value, shares["add"].value) == (
        0.5,
        0.0,
    )  # one of two, none of one; c has no right one
    assert (shares["all"].value, shares["all"].n) == (0.25, 2)
    assert [(p.id, p.right, p.wrong) for p in worst] == [("a", ("ours", 1.0), ("sdedit", 0.5))]
    assert worst[0].margin == pytest.approx(0.2)


def test_a_report_has_every_point_and_says_who_lies_above():
    rng = np.random.default_rng(7)

    def points(shift):
        return {
            v: [
                row(
                    f"e{i}", v, 0.2 * v + rng.normal(0, 0.01), 1 - 0.1 * v - shift, exact=float(i % 2),
                    released_sim_dir=0.1 * v, released_sim_image=0.9 - 0.1 * v - shift,
                    requested=float(i < 9 * v), l1_outside=0.1 * v + shift,
                )
                for i in range(30)
            ]
            for v in (1.0, 2.0, 3.0)
        }  # fmt: skip

    found = report({"ours": points(0.0), "sdedit": points(0.3), "oracle": points(-0.5)}, ["oracle"])
    assert len(found["points"]) == 9
    assert [c["against"] for c in found["compared"]] == ["sdedit"]
    assert found["compared"][0]["above_everywhere"]
    assert found["compared_in_the_released_range"][0]["above_everywhere"]
    assert report({"sdedit": points(0.0)})["compared"] == []
    blocks = tables(found)
    page = (Path(__file__).resolve().parent.parent / "docs" / "evaluation.md").read_text()
    assert all(f"<!-- {name} -->" in page and f"<!-- /{name} -->" in page for name in blocks)
    assert [len(blocks[n].splitlines()) for n in ("points", "compared")] == [2 + 9, 2 + 5]
    assert "| sdedit | 0.27 |" in blocks["compared"]
    assert "| yes |" in blocks["compared"]
    by_truth = found["compared_by_truth"][0]
    assert by_truth["above_everywhere"]
    assert by_truth["points"][2]["ours"]["value"] == pytest.approx(-0.2)
    assert by_truth["points"][2]["theirs"]["value"] == pytest.approx(-0.5)
    (middle,) = (
        x for x in blocks["compared_by_truth"].splitlines() if x.startswith("| sdedit | 0.60 | 0.20 (")
    )
    assert "| 0.50 (" in middle
    assert middle.endswith("| -0.30 (-0.30 to -0.30) | yes |")


def test_the_page_shows_the_measured_tables():
    root = Path(__file__).resolve().parent.parent
    page = (root / "docs" / "evaluation.md").read_text(encoding="utf-8")
    blocks = tables(storage.read_json(root / "data" / "results" / "tradeoff.json"))
    assert [name for name, table in blocks.items() if table not in page] == []


def test_what_the_page_says_of_ours_against_sdedit_is_what_was_measured():
    root = Path(__file__).resolve().parent.parent
    page = (root / "docs" / "evaluation.md").read_text(encoding="utf-8")
    result = storage.read_json(root / "data" / "results" / "tradeoff.json")
    by_truth = {c["against"]: c for c in result["compared_by_truth"]}["sdedit"]
    assert ("Here the editor is nearer at every common share" in page) == by_truth["above_everywhere"]


def test_a_point_keeps_what_was_measured_and_names_what_was_not():
    rows = [row("a", 1.0, 0.2, 0.8, exact=1.0), EditRow(id="b", kind="add", dial=1.0, fault="picture: gone")]
    found = point("ours", 1.0, rows)
    assert (found["edits"], found["clip_sim_dir"]["n"], found["faults"]) == (2, 1, ["b: picture: gone"])
    assert list(found["exact_by_kind"]) == ["time"]
    assert "l1" not in found
