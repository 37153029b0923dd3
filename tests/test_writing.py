"""Captions to triplets with a scripted writer: attempts, reasons, journals that go on, shards that join."""

import hashlib
import json
import random
import tracemalloc
from collections import Counter
from dataclasses import replace

import pytest

from ip2p_lib.presets import WriteConfig
from ip2p_lib.records import Caption, Triplet, read_triplets, write_triplets
from ip2p_lib.triplets.merging import merge
from ip2p_lib.triplets.prompts import SEPARATOR, Completion
from ip2p_lib.triplets.writing import HOPELESS, MAX_SKIPPED, Rules, attempt_seed, write_all, write_block

CONFIG = WriteConfig(batch_size=3, seed=5)
REPLIES = {
    "": ("make it night\n%%\n{} at night\nEND", "make it rain\n%%\n{} in the rain"),
    "empty": ("", " \n\nEND and more"),
    "unfinished": ("make it night\n%%\n{} at ni",),
    "parts": ("make it night {}", "make it night\n%%\n", "a\n%%\nb\n%%\n{}"),
    "lines": ("make it night\n%%\n{}\nat night", "make\rit night\n%%\n{} at night"),
    "no-op": ("leave it\n%%\n{}", "shout\n%%\n {}!?! "),
}  # fmt: skip


def reply(reason, request, variant=0):
    """A completion that the filters accept ("") or reject for the reason."""
    texts = REPLIES[reason]
    text = texts[variant % len(texts)].format(request.prompt.removesuffix(SEPARATOR))
    return Completion(text, reason != "unfinished", prompt_tokens=7, completion_tokens=len(text))


def draw(requests):
    """A writer that decides by caption and seed alone; every kind of reply occurs."""
    keys = [hashlib.sha256(f"{r.prompt!r}{r.seed}".encode()).digest() for r in requests]
    reasons = [("", "", *REPLIES)[k[0] % (len(REPLIES) + 2)] for k in keys]
    return [reply(reason, r, k[1]) for reason, r, k in zip(reasons, requests, keys, strict=True)]


def good(requests):
    """A writer that always succeeds."""
    return [reply("", r) for r in requests]


def silent(requests):
    """A writer that must not be asked."""
    raise AssertionError(f"asked for {requests}")


def following(plan):
    """A writer with a planned reason for every caption (by id) and attempt; and the list of its questions."""
    asked = []
    planned = {attempt_seed(5, i, n): (i, n, r) for i, rs in plan.items() for n, r in enumerate(rs)}

    def write(requests):
        asked.append([planned[r.seed][:2] for r in requests])
        return [reply(planned[r.seed][2], r) for r in requests]

    return write, asked


def plain(count, start=0):
    address = "https://pictures.example"
    return [Caption(f"{i:07d}", f"{i} cats", f"{address}/{i}", {"row": i}) for i in range(start, count)]


def mixed(count, seed=0):
    """Captions and addresses that come again near and far, texts that are empty or long."""
    rng = random.Random(seed)
    odd = ["", "1234!", "a " * 400, "Zürich\u2028猫\u0000\x1b", "a cat\ud800", "a\n##\nb\n%%\nc\nEND"]
    texts = odd + [f"a photo of {n} dogs" for n in range(count * 2 // 3)]
    urls = [""] * 9 + [f"https://pictures.example/{n}" for n in range(count * 2 // 3)]
    return [Caption(f"{i:07d}", rng.choice(texts), rng.choice(urls), {"row": i}) for i in range(count)]


def run(out, captions, writer=draw, config=CONFIG, **options):
    *_, tally = write_all(captions, writer, config, out, made_by={"writer": "scripted"}, **options)
    return tally


def written(out):
    """Bytes of the triplets, the journal and the report."""
    return [(out.parent / (out.name + end)).read_bytes() for end in ("", ".journal", ".report.json")]


def test_attempts_are_made_for_the_pending_alone_and_never_more_than_four():
    reasons = ["parts", "no-op", "empty", "lines", ""]
    write, asked = following({f"{i:07d}": reasons[i:] for i in range(5)})
    outcomes = write_block(plain(5), write, CONFIG)
    assert asked == [[(f"{i:07d}", n) for i in range(5 - n)] for n in range(4)]
    assert [o.rejected for o in outcomes] == [tuple(reasons[i:4]) for i in range(5)]
    assert [o.triplet is not None for o in outcomes] == [False, True, True, True, True]
    assert [o.prompt_tokens for o in outcomes] == [28, 28, 21, 14, 7]


def test_every_reason_is_counted_and_reported(tmp_path):
    out = tmp_path / "deep" / "t.jsonl"
    captions = [*plain(4), Caption("a", ""), Caption("b", "a " * 301), Caption("c", plain(1)[0].text)]
    captions += [Caption("d", "a fox", plain(1)[0].url), Caption("e", "a forbidden fox")]
    plan = [["parts", ""], ["parts", "no-op", "lines", "empty"], ["unfinished", ""], [""]]
    write, _ = following({f"{i:07d}": reasons for i, reasons in enumerate(plan)})
    tally = run(out, captions, write, rules=Rules(moderate=forbidding))
    counts = {"captions": 9, "accepted": 3, "given_up": 1, "prompt_tokens": 63}
    rejected = {"parts": 2, "no-op": 1, "lines": 1, "empty": 1, "unfinished": 1}
    skipped = {"empty": 1, "long": 1, "duplicate": 2, "moderated": 1}
    report = json.loads(written(out)[2])
    for found in (report, {n: getattr(tally, n) for n in tally.__slots__}):
        assert {**counts, "rejected": rejected, "skipped": skipped}.items() <= found.items()
    assert report["triplets"] == len(list(read_triplets(out))) == 3
    settings = {"seed": 5, "attempts": 4, "writer": "scripted", "shard": "0/1"}
    assert settings.items() <= report["settings"].items()


def forbidding(texts):
    assert texts, "a server refuses an empty question"
    return ["forbidden" in text for text in texts]


def test_flagged_results_are_tried_again_until_they_are_clean():
    def write(requests):
        first = {attempt_seed(5, c.id, 0): c.id for c in plain(3)}
        edits = ["forbidden" if first.get(r.seed) == "0000000" else "make it night" for r in requests]
        ends = [" forbidden" if first.get(r.seed) == "0000001" else " x" for r in requests]
        return [Completion(f"{e}\n%%\nb{o}", True) for e, o in zip(edits, ends, strict=True)]

    outcomes = write_block(plain(3), write, CONFIG, Rules(moderate=forbidding))
    assert [o.rejected for o in outcomes] == [("moderated",), ("moderated",), ()]
    assert {o.triplet.output for o in outcomes} == {"b x"}
    never = write_block(plain(1), lambda _: [Completion("a\n%%\nforbidden", True)], CONFIG, Rules(forbidding))
    assert (never[0].triplet, never[0].rejected) == (None, ("moderated",) * 4)


def test_a_veto_gives_its_reason_and_the_rest_carry_all_that_came_with_the_caption(tmp_path):
    rules = Rules(veto=lambda t: "unlucky" if (t.source["row"], t.url[-1]) == (3, "3") else "")
    tally = run(tmp_path / "t.jsonl", plain(5), good, rules=rules)
    assert (tally.accepted, tally.given_up, tally.rejected) == (4, 1, {"unlucky": 4})
    found = [(t.id, t.input, t.url, dict(t.source)) for t in read_triplets(tmp_path / "t.jsonl")]
    assert found == [(c.id, c.text, c.url, c.source) for c in plain(5) if c.id != "0000003"]


def test_worked_examples_stand_before_the_caption_and_are_on_record(tmp_path):
    out, rules = tmp_path / "t.jsonl", Rules(examples=(Triplet("s", "a dog", "make it a cat", "a cat"),))
    shown = "a dog\n##\nmake it a cat\n%%\na cat\nEND\n\n0 cats\n##\n"
    run(out, plain(1), lambda asked: good([r for r in asked if r.prompt == shown]), rules=rules)
    with pytest.raises(ValueError, match="belongs to a run with another examples"):
        run(out, plain(1), silent)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_count_is_met_exactly_and_a_larger_one_goes_on(tmp_path, batch_size):
    config, captions = replace(CONFIG, batch_size=batch_size), mixed(90)
    whole, grown = tmp_path / "whole.jsonl", tmp_path / "grown.jsonl"
    total = run(tmp_path / "all.jsonl", captions, config=config).accepted
    assert len(list(read_triplets(tmp_path / "all.jsonl"))) == total > 20
    for count in (0, 1, 4, 17, total, total + 1):
        run(grown, captions, config=config, count=count)
        assert len(list(read_triplets(grown))) == min(count, total)
        for file in tmp_path.glob("whole.jsonl*"):
            file.unlink()
        run(whole, captions, config=config, count=count)
        assert written(grown) == written(whole)
    assert whole.read_bytes() == (tmp_path / "all.jsonl").read_bytes()


def test_a_hopeless_run_on_endless_captions_stops_and_another_goes_on(tmp_path):
    def hopeless(requests):
        return [reply("parts", r) for r in requests]

    config = replace(CONFIG, batch_size=100, attempts=1)
    with pytest.raises(ValueError, match=r"of 1000 captions in a row .* but 1000 did not .*: parts 1000\)"):
        run(tmp_path / "t.jsonl", plain(10 * HOPELESS), hopeless, config, count=3)
    assert run(tmp_path / "t.jsonl", plain(10 * HOPELESS), good, config, count=3).captions == HOPELESS + 100


def test_captions_behind_the_count_are_not_read(tmp_path):
    def failing():
        yield from plain(6)
        raise ValueError("a bad row")

    assert run(tmp_path / "t.jsonl", failing(), good, count=6).accepted == 6
    assert run(tmp_path / "t.jsonl", failing(), silent, count=6).accepted == 6


@pytest.mark.parametrize("count", [None, 9])
def test_a_finished_run_repeated_asks_nothing_and_changes_nothing(tmp_path, count):
    out = tmp_path / "t.jsonl"
    run(out, mixed(60), count=count)
    before = written(out)
    run(out, mixed(60), silent, count=count)
    assert written(out) == before
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("shard", [(3, 3), (-1, 3), (0, 0)])
def test_a_shard_that_does_not_exist_is_refused(tmp_path, shard):
    with pytest.raises(ValueError, match="shard must be index/count with 0 <= index < count"):
        run(tmp_path / "t.jsonl", plain(3), shard=shard)
    with pytest.raises(ValueError, match="count must be at least 0, got -1"):
        run(tmp_path / "t.jsonl", plain(3), count=-1)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("seed", range(3))
def test_the_triplets_do_not_depend_on_the_batch_size(tmp_path, seed):
    captions, found = mixed(150, seed), {}
    for size in (1, 3, 64):
        tally = run(tmp_path / f"{size}.jsonl", captions, config=replace(CONFIG, batch_size=size))
        found[size] = (tmp_path / f"{size}.jsonl").read_bytes(), tally
        assert {"empty", "long", "duplicate"} == tally.skipped.keys()
    assert found[1] == found[3] == found[64]
    triplets = list(read_triplets(tmp_path / "1.jsonl"))
    assert len({t.input for t in triplets}) == len(triplets)
    assert len({t.url or t.id for t in triplets}) == len(triplets)


@pytest.mark.parametrize("seed", range(3))
def test_shards_join_into_the_file_of_one_worker(tmp_path, seed):
    captions, config = mixed(150, seed), replace(CONFIG, attempts=1)
    whole = run(tmp_path / "whole.jsonl", captions, config=config)
    assert whole.given_up > 9  # a caption given up in one shard still stands for its address in the others
    for number in (1, 3, 5):
        parts = [tmp_path / f"{i}-{number}.jsonl" for i in range(number)]
        for index, part in enumerate(parts):
            run(part, captions, config=config, shard=(index, number), count=2)
        tallies = [run(p, captions, config=config, shard=(i, number)) for i, p in enumerate(parts)]
        for counted in ("captions", "accepted", "given_up", "prompt_tokens"):
            assert sum(getattr(t, counted) for t in tallies) == getattr(whole, counted)
        assert sum((t.skipped for t in tallies), Counter()) == whole.skipped
        assert merge(parts, tmp_path / "merged.jsonl") == whole.accepted
        assert (tmp_path / "merged.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_joining_orders_ids_as_numbers_and_keeps_the_first_of_equals(tmp_path):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    rows = [Triplet(f"w-{n}", f"cat {n}", "make it red", "x", f"u{n}", {"n": n}) for n in (9, 10, 100, 101)]
    write_triplets(a, [rows[1], replace(rows[3], input="cat 9")])
    write_triplets(b, [rows[0], rows[2], replace(rows[2], id="w-102", url="u10", input="fox")])
    assert merge([a, b], b) == 3  # also into one of the files themselves
    assert list(read_triplets(b)) == rows[:3]


def test_captions_of_no_use_go_on_record_as_they_come(tmp_path):
    useless = [Caption(str(i), ("", "a " * 400)[i % 2]) for i in range(2 * MAX_SKIPPED + 5)]
    steps = write_all(useless, silent, CONFIG, tmp_path / "t.jsonl", made_by={}, rules=Rules(forbidding))
    assert [t.captions for t in steps] == [0, MAX_SKIPPED, 2 * MAX_SKIPPED, 2 * MAX_SKIPPED + 5]
    assert (tmp_path / "t.jsonl").read_bytes() == b""


def test_memory_holds_digests_and_no_triplets(tmp_path):
    peaks, big = [], replace(CONFIG, batch_size=100)
    for count in (1000, 5000):
        tracemalloc.start()
        run(tmp_path / f"{count}.jsonl", (plain(i + 1, i)[0] for i in range(count)), good, big)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 4000 * 400  # bytes; a triplet takes over 700


def test_a_file_that_no_run_began_is_not_overwritten(tmp_path):
    (tmp_path / "t.jsonl").write_text("mine")
    with pytest.raises(ValueError, match="must not exist before its run begins"):
        run(tmp_path / "t.jsonl", plain(3))
    assert (tmp_path / "t.jsonl").read_text() == "mine"
