"""The editor's triplets: of bold ones those that ask for what the cautious ones seldom ask."""

from dataclasses import replace

import pytest

from ip2p_lib import filtering
from ip2p_lib.miniature.pairs import rarest
from ip2p_lib.miniature.recipes import EDITOR_FILTER, EDITOR_PAIRS
from ip2p_lib.presets import MINIATURE
from ip2p_lib.records import Triplet


def asked(edit, before, after):
    return Triplet(edit, before, edit, after)


NIGHT = asked("make it night", "a red cat by day", "a red cat by night")
BLUE = asked("paint it blue", "a red cat by day", "a blue cat by day")
BOAT = asked("make it a boat", "a red cat by day", "a red boat by day")
GONE = asked("take the kite away", "a red cat and a kite", "a red cat")


@pytest.mark.parametrize(
    ("known", "first"),
    [([NIGHT, NIGHT, BLUE], BOAT), ([NIGHT, BOAT, BOAT, BLUE, BLUE], NIGHT), ([BOAT, NIGHT], BLUE)],
)
def test_what_is_asked_for_least_often_comes_first(known, first):
    assert rarest([NIGHT, BLUE, BOAT], known, 3)[0] is first
    assert rarest([BLUE, NIGHT], [], 2) == [BLUE, NIGHT]  # equally rare: in their order


def test_where_a_caption_only_loses_words_these_count():
    assert rarest([NIGHT, GONE], [NIGHT, BOAT], 1) == [GONE]
    assert rarest([NIGHT, GONE], [GONE, GONE, NIGHT], 1) == [NIGHT]


def test_the_editors_pairs_are_kept_by_the_shift_in_the_place_of_the_cosine():
    small = {"clip_sim_0": 0.9, "clip_sim_1": 0.9, "clip_sim_dir": 0.5, "clip_sim_image": 0.985}
    still = {**small, "clip_sim_image": 0.9999}
    assert not filtering.passes(small, MINIATURE.filter)
    assert filtering.passes(small, EDITOR_FILTER)
    assert not filtering.passes(still, EDITOR_FILTER)
    assert (
        replace(EDITOR_FILTER, min_direction=MINIATURE.filter.min_direction, min_shift=-2) == MINIATURE.filter
    )
    assert EDITOR_PAIRS.stop_after_hits <= EDITOR_PAIRS.candidates_per_triplet
