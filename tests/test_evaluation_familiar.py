"""Known by heart or understood: what is compared, and that only the named thing differs from line to line."""

from dataclasses import replace

import pytest
from conftest import pair_rows
from typer.testing import CliRunner

from ip2p_lib import cli, records
from ip2p_lib.evaluation import familiar
from ip2p_lib.evaluation.limit_tables import familiar_table
from ip2p_lib.pairs import shard_path, writing_shard
from ip2p_lib.presets import PairConfig
from ip2p_lib.scenes.world import ATTRIBUTES
from ip2p_lib.triplets import edit_of, world_triplets

PAIRS = PairConfig(num_inference_steps=2, cfg_scale_range=(1.2, 2.5), resolution=32)


@pytest.fixture
def folder(tmp_path):
    """Pairs of twelve triplets in three files, two of every other triplet, drawn at the judge's size."""
    rows = pair_rows(list(world_triplets(12, 78)), 64)
    for number in range(3):
        with writing_shard(shard_path(tmp_path / "kept", number)) as shard:
            shard.add(rows[number * 6 : number * 6 + 6])
    return tmp_path / "kept"


def test_every_file_gives_its_share_and_no_triplet_comes_twice(folder, editor):
    known = familiar.learned(folder, 6, editor)
    wanted = [edit_of(t) for t in world_triplets(12, 78)]
    scenes = [(a.scenes.kind, a.scenes.before.subject, a.instruction) for a in known]
    all_of_them = [
        (e.kind, e.before.subject, t.edit) for e, t in zip(wanted, world_triplets(12, 78), strict=True)
    ]
    assert len(set(scenes)) == 6
    assert [all_of_them.index(s) // 4 for s in scenes] == [0, 0, 1, 1, 2, 2]


def test_pairs_that_the_world_does_not_understand_are_left_out(folder, editor, tmp_path):
    rows = pair_rows(list(world_triplets(2, 79)), 64)
    rows[0] |= {records.EDITED_PROMPT: "a thought about nothing"}
    with writing_shard(shard_path(tmp_path / "odd", 0)) as shard:
        shard.add(rows)
    assert [a.instruction for a in familiar.learned(tmp_path / "odd", 1, editor)] == [
        rows[1][records.EDIT_PROMPT]
    ]
    with pytest.raises(ValueError, match=r"odd must hold pairs of 2 triplets that can be judged, but has 1"):
        familiar.learned(tmp_path / "odd", 2, editor)


def test_drawn_pairs_are_exact_and_pictures_left_as_they_are_never(folder, editor, shipped_judge):
    known = familiar.learned(folder, 12, editor)
    found = familiar.exactness(shipped_judge, known, [a.answer for a in known])
    assert found["exact"]["value"] > 0.8  # the judge itself errs now and then
    assert sum(v["n"] for v in found["by_kind"].values()) == 12
    assert familiar.exactness(shipped_judge, known, [a.picture for a in known])["exact"]["value"] == 0


def test_only_the_pictures_origin_changes_where_it_says_so(folder, editor, base):
    known = familiar.learned(folder, 12, editor)
    anew = familiar.drawn(known, 32, 5)
    for old, new in zip(known, anew, strict=True):
        assert (new.instruction, new.scenes.kind) == (old.instruction, old.scenes.kind)
        assert [getattr(new.scenes.before, a) for a in ATTRIBUTES] == [
            getattr(old.scenes.before, a) for a in ATTRIBUTES
        ]
        assert new.scenes.before.layout == new.scenes.after.layout
    assert len({a.scenes.before.layout for a in anew}) == 12
    new, captions = familiar.unheard(4, 32, 5)
    made = familiar.painted(new, captions, base, PAIRS, 5)
    assert [replace(m, picture=n.picture) for m, n in zip(made, new, strict=True)] == new
    assert all(m.picture != n.picture and m.picture.size == (32, 32) for m, n in zip(made, new, strict=True))
    assert familiar.painted(new[1:], captions[1:], base, PAIRS, 6)[0].picture == made[1].picture


def test_the_lines_go_from_what_is_known_to_what_is_new(folder, editor, base, judge, edit_config):
    known = familiar.learned(folder, 4, editor)
    lines = list(familiar.measure(editor, base, judge, known, edit_config, PAIRS, 5))
    assert [line["exact"]["n"] for line in lines] == [4] * 5
    assert len({line["name"] for line in lines}) == 5
    table = familiar_table({"lines": lines})
    assert table.count("\n") >= 6
    assert all(line["name"] in table for line in lines)


def test_without_the_pairs_it_says_what_it_needs(tmp_path):
    run = CliRunner().invoke(cli.app, ["limits", "--out", str(tmp_path), "--only", "familiar"])
    assert run.exit_code == 1
    assert (
        "--only familiar needs --learned FOLDER, the kept pairs that the editor was trained on" in run.output
    )
