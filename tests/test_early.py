"""Stopping early: a triplet with enough pairs, or without hope, is done, whatever shares a batch with it."""

from dataclasses import replace
from itertools import groupby

import pytest
import torch
from test_pairs import CONFIG, HOUSE, NIGHT

from ip2p_lib import filtering, records, storage
from ip2p_lib.pairs import candidate_shards, claim_run, draw_candidates, make_unit, read_shard, synthesise
from ip2p_lib.presets import FilterConfig

SCRIPT = {  # + passes, - does not, ? shows in its preview that it will not
    "h": "-+--+-+-",
    "n": "----++--",
    "r": "+?+-?-++",
    "e": "????????",
}
RAIN = replace(NIGHT, id="r", edit="let it rain", output="a blue robot on a beach in the rain")
EMPTY = replace(HOUSE, id="e", edit="make it a dog", output="a red dog in a meadow")
FOUR = [HOUSE, NIGHT, RAIN, EMPTY]
PLAIN = replace(CONFIG, candidates_per_triplet=8, num_inference_steps=2, batch_size=4, triplets_per_shard=4)
ONE_LEVEL = 1.01 / 127.5  # of a byte: captions are encoded together, and the last bits may differ
ALL = PLAIN.candidates_per_triplet * len(FOUR)


def scripted(settings=None):
    """A critic that reads its verdicts off the script, and keeps what it was shown."""

    def judge(candidates, before, after, slack=0.0):
        judge.seen.append((list(candidates), before, after, slack))
        signs = [SCRIPT[c.triplet.id][c.index] for c in candidates]
        return [sign != "?" if slack else sign == "+" for sign in signs]

    judge.settings, judge.seen = settings or {"script": SCRIPT}, []
    return judge


def expected(triplet, config):
    """Indices of the candidates that get a row, by the rules as `PairConfig` has them."""
    made, hits, misses = [], 0, 0
    for index, sign in enumerate(SCRIPT[triplet.id]):
        if hits == config.stop_after_hits or misses == config.give_up_after:
            break
        hits, misses = (hits + 1, 0) if sign == "+" else (hits, misses + 1)
        if sign != "?" or config.preview_at is None:
            made.append(index)
    return made


def run(folder, model, config, critic=None, triplets=FOUR):
    """Rows of a whole run, in order."""
    steps = list(synthesise(triplets, model, config, folder, critic=critic))
    assert [s.candidates for s in steps] == sorted(s.candidates for s in steps)
    assert steps[-1].candidates == steps[-1].total == len(triplets) * config.candidates_per_triplet
    return [row for shard in candidate_shards(folder) for row in read_shard(shard)]


def mark(folder):
    return storage.read_json(folder / "candidates-00000.json")


def keys(rows):
    return [(r[records.TRIPLET_ID], r[records.CANDIDATE]) for r in rows]


def pixels(rows):
    return torch.stack(
        [filtering.shard_pictures(rows, c) for c in (records.ORIGINAL_IMAGE, records.EDITED_IMAGE)]
    )


STOP, PREVIEW, FORKS = (
    {"stop_after_hits": 2, "give_up_after": 4},
    {"stop_after_hits": 2, "give_up_after": 3, "preview_at": 0.5},
    {"give_up_after": 2, "thresholds_per_seed": 4, "preview_at": 0.5},
)
OPTIONS = [
    STOP, PREVIEW, FORKS, {"stop_after_hits": 1}, {"stop_after_hits": 2}, {"give_up_after": 1}, {"give_up_after": 3},
    {"preview_at": 0.5}, {"stop_after_hits": 1, "thresholds_per_seed": 3}, {"stop_after_hits": 99},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(f"{k}={v}" for k, v in o.items()))
def test_each_option_does_what_it_says(tmp_path, base, options):
    config = replace(PLAIN, **options)
    rows = run(tmp_path, base, config, scripted())
    found = {t: [c for _, c in g] for t, g in groupby(sorted(keys(rows)), key=lambda k: k[0])}
    assert found == {t.id: made for t in FOUR if (made := expected(t, config))}
    drawn = {(c.triplet.id, c.index): c for t in FOUR for c in draw_candidates(t, config)}
    assert [r[records.SEED] for r in rows] == [drawn[k].seed for k in keys(rows)]
    assert mark(tmp_path)["candidates"] == ALL
    assert mark(tmp_path)["rows"] == len(rows) <= mark(tmp_path)["sampled"] <= ALL


@pytest.mark.parametrize("options", [STOP, PREVIEW, FORKS], ids=["stop", "preview", "forks"])
def test_results_do_not_depend_on_the_size_of_a_batch(tmp_path, base, options):
    rows = {}
    for size in (1, 3, 32):
        config = replace(PLAIN, batch_size=size, **options)
        rows[size] = run(tmp_path / f"{size}", base, config, scripted())
        assert keys(rows[size]) == keys(rows[1])
        torch.testing.assert_close(pixels(rows[size]), pixels(rows[1]), rtol=0, atol=ONE_LEVEL)
    sampled = [mark(tmp_path / f"{size}")["sampled"] for size in rows]
    assert sampled == sorted(sampled)
    assert sampled[0] < sampled[-1] == ALL


def test_only_what_is_needed_is_sampled_and_the_mark_counts_it(tmp_path, base):
    critic = scripted()
    config = replace(PLAIN, batch_size=1, stop_after_hits=2, give_up_after=4)
    rows = run(tmp_path, base, config, critic)
    assert mark(tmp_path) | {"bytes": 0, "sha256": ""} == {
        "shard": "candidates-00000.parquet", "rows": len(rows), "bytes": 0, "sha256": "",
        "candidates": ALL, "sampled": len(rows),
    }  # fmt: skip
    assert len(critic.seen) == len(rows) < ALL


@pytest.mark.parametrize("k", [1, 3])
def test_first_candidates_come_first_and_forks_stay_together(tmp_path, base, k):
    critic = scripted()
    config = replace(PLAIN, batch_size=k, thresholds_per_seed=k, stop_after_hits=99)
    run(tmp_path, base, config, critic, FOUR[:2])
    order = [(c.triplet.id, c.index) for seen in critic.seen for c in seen[0]]
    assert order == [(t, i + j) for i in range(0, 8, k) for t in "hn" for j in range(k) if i + j < 8]


def test_a_preview_shows_estimates_once_and_changes_no_other_pair(tmp_path, base):
    critic = scripted()
    calls = []
    hook = base.unet.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    config = replace(PLAIN, num_inference_steps=5, preview_at=0.6, preview_slack=0.3)
    rows = run(tmp_path / "previewed", base, config, critic, [RAIN])
    hook.remove()
    assert [(len(seen[0]), seen[3]) for seen in critic.seen] == [(4, 0.3), (3, 0), (4, 0.3), (3, 0)]
    assert all(p.shape[1:] == (3, 16, 16) and p.abs().max() <= 1 for seen in critic.seen for p in seen[1:3])
    assert calls == [16, 16, 16, 12, 12] * 2  # asked after three of five steps
    plain = run(tmp_path / "plain", base, replace(config, preview_at=None), None, [RAIN])
    survivors = [r for r in plain if SCRIPT["r"][r[records.CANDIDATE]] != "?"]
    assert keys(rows) == keys(survivors)
    torch.testing.assert_close(pixels(rows), pixels(survivors), rtol=0, atol=ONE_LEVEL)


def test_the_critic_sees_the_pictures_that_are_stored(tmp_path, base):
    critic = scripted()
    rows = run(tmp_path, base, replace(PLAIN, stop_after_hits=99), critic, FOUR[:1])
    shown = torch.stack([torch.cat([seen[side] for seen in critic.seen]) for side in (1, 2)])
    assert torch.equal(shown, pixels(rows))


def test_without_options_a_critic_changes_nothing_and_is_not_asked(tmp_path, base):
    critic = scripted()
    run(tmp_path / "with", base, PLAIN, critic)
    run(tmp_path / "without", base, PLAIN)
    for name in ("candidates-00000.parquet", "candidates-00000.json"):
        assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    configs = [storage.read_json(tmp_path / n / "run.json")["config"] for n in ("with", "without")]
    assert configs[0] == configs[1]
    assert critic.seen == []
    assert mark(tmp_path / "with")["sampled"] == mark(tmp_path / "with")["rows"] == ALL


@pytest.mark.parametrize("option", [{"stop_after_hits": 1}, {"give_up_after": 1}, {"preview_at": 0.5}])
def test_stopping_early_without_a_critic_is_refused(tmp_path, base, option):
    config, told = (
        replace(PLAIN, **option),
        r"stops early needs a critic, see filtering\.ClipCritic; got none",
    )
    with pytest.raises(ValueError, match=told):
        next(synthesise(FOUR, base, config, tmp_path / "out"))
    unit = claim_run(FOUR, base.name, config, tmp_path / "claimed", scripted())[0]
    with pytest.raises(ValueError, match=told):
        next(make_unit(unit, base, config, tmp_path / "claimed"))
    assert not (tmp_path / "out").exists()
    assert [p.name for p in (tmp_path / "claimed").iterdir()] == ["run.json"]


def test_a_folder_of_another_critic_is_refused(tmp_path):
    config = replace(PLAIN, stop_after_hits=1)
    claim_run(FOUR, "m", config, tmp_path, scripted())
    claim_run(FOUR, "m", config, tmp_path, scripted())
    assert storage.read_json(tmp_path / "run.json")["config"]["critic"] == {"script": SCRIPT}
    with pytest.raises(ValueError, match="holds results of another configuration"):
        claim_run(FOUR, "m", config, tmp_path, scripted({"script": "another"}))


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path, base, stop_after):
    config = replace(PLAIN, triplets_per_shard=2, stop_after_hits=1, preview_at=0.5)
    run(tmp_path / "whole", base, config, scripted())
    steps = synthesise(FOUR, base, config, tmp_path / "cut", critic=scripted())
    for _ in range(stop_after):
        next(steps)
    steps.close()
    run(tmp_path / "cut", base, config, scripted())
    for path in (tmp_path / "whole").glob("candidates-*"):
        assert (tmp_path / "cut" / path.name).read_bytes() == path.read_bytes()


def test_a_shard_without_rows_is_scored_read_and_exported(tmp_path, base, clip):
    config = replace(PLAIN, triplets_per_shard=1, stop_after_hits=1, preview_at=0.5)
    rows = run(tmp_path / "run", base, config, scripted(), [EMPTY, HOUSE])
    assert keys(rows) == [("h", 0), ("h", 1)]
    assert storage.read_json(tmp_path / "run" / "candidates-00000.json")["rows"] == 0
    assert list(filtering.score(tmp_path / "run", clip)) == [(1, 2), (2, 2)]
    assert keys(filtering.read_scores(tmp_path / "run")) == keys(rows)
    assert [len(f) for f in filtering.read_features(tmp_path / "run")] == [2, 2]
    kept = filtering.select(
        filtering.read_scores(tmp_path / "run"), FilterConfig(min_text=-1, min_direction=-1, min_image=-1)
    )
    assert filtering.export_kept(tmp_path / "run", kept, tmp_path / "kept", FilterConfig()) == 2
    assert [p.name for p in (tmp_path / "kept").glob("*.parquet")] == ["pairs-00001.parquet"]


def test_a_run_without_any_pair_says_so_at_the_end(tmp_path, base, clip):
    config = replace(PLAIN, candidates_per_triplet=2, batch_size=1)

    def overflow(_, args, output):
        output.sample[-1] = torch.inf

    hook = base.unet.register_forward_hook(overflow)
    assert run(tmp_path, base, config) == []  # only the second picture is not a number, but no pair is left
    hook.remove()
    assert (mark(tmp_path)["rows"], mark(tmp_path)["sampled"]) == (0, 8)
    list(filtering.score(tmp_path, clip))
    scores = filtering.read_scores(tmp_path)
    assert scores == filtering.select(scores, FilterConfig()) == []
    assert [tuple(f.shape) for f in filtering.read_features(tmp_path)] == [(0, 0), (0, 0)]
    with pytest.raises(ValueError, match="must keep at least one pair"):
        filtering.export_kept(tmp_path, [], tmp_path / "kept", FilterConfig())


def test_a_pair_that_the_decoder_cannot_show_is_left_out(tmp_path, base):
    """Half precision may overflow there first; the batch mates are what they would have been."""
    whole = run(tmp_path / "whole", base, replace(PLAIN, candidates_per_triplet=2))

    def overflow(_, args, output):
        output[0] = torch.nan

    hook = base.vae.decoder.register_forward_hook(overflow)
    rest = run(tmp_path / "rest", base, replace(PLAIN, candidates_per_triplet=2))
    hook.remove()
    assert 0 < len(rest) < len(whole)
    assert all(row in whole for row in rest)


def middling(scores):
    """Thresholds that a part of the candidates passes, and none by a hair."""
    values = {n: sorted(s[n] for s in scores) for n in records.SIMILARITIES}
    gaps = values["clip_sim_dir"][len(scores) // 2 - 1 : len(scores) // 2 + 1]
    return FilterConfig(min_text=-1, min_direction=sum(gaps) / 2, min_image=-1)


def test_clip_as_a_critic_agrees_with_the_filter(tmp_path, base, clip):
    run(tmp_path / "plain", base, PLAIN)
    list(filtering.score(tmp_path / "plain", clip))
    scores = filtering.read_scores(tmp_path / "plain")
    critic = filtering.ClipCritic(clip, middling(scores))
    early = replace(PLAIN, batch_size=3, stop_after_hits=1, give_up_after=3)
    passed = {k: filtering.passes(s, critic.config) for k, s in zip(keys(scores), scores, strict=True)}
    assert 0 < sum(passed.values()) < ALL
    wanted = []
    for triplet in FOUR:
        verdicts = [passed[triplet.id, i] for i in range(8)]
        end = min(verdicts.index(True) + 1 if True in verdicts else 8, 8 if any(verdicts[:3]) else 3)
        wanted += [(triplet.id, i) for i in range(end)]
    assert sorted(keys(run(tmp_path / "early", base, early, critic))) == sorted(wanted)
    assert storage.read_json(tmp_path / "early" / "run.json")["config"]["critic"]["clip"] == clip.mark
    assert filtering.other_bounds(tmp_path / "early", critic.config) == ""
    assert filtering.other_bounds(tmp_path / "plain", critic.config) == ""  # which no critic ended early
    looser = replace(critic.config, min_direction=-1.0)
    told = filtering.other_bounds(tmp_path / "early", looser)
    assert told == f"min_direction {critic.config.min_direction} there, -1.0 here"
    stored = read_shard(candidate_shards(tmp_path / "plain")[0])
    drawn = [c for t in FOUR for c in draw_candidates(t, PLAIN)]
    assert critic(drawn, *pixels(stored)) == list(passed.values())
    assert all(critic(drawn, *pixels(stored), slack=2.0))
    assert not any(critic(drawn, *pixels(stored), slack=-2.5))
