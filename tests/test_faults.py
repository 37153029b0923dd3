"""Twenty kills, torn and damaged journals, failing writers, hostile text: nothing is lost or invented."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice, product
from pathlib import Path

import pytest
from test_writing import CONFIG, draw, good, mixed, plain, run, silent, written

from ip2p_lib.presets import WriteConfig
from ip2p_lib.records import Caption, read_triplets
from ip2p_lib.triplets.captions import world_captions
from ip2p_lib.triplets.journal import Journal
from ip2p_lib.triplets.merging import merge
from ip2p_lib.triplets.prompts import Completion
from ip2p_lib.triplets.writing import Rules, write_all


def slowly(requests):
    """The scripted writer at the pace of a fast machine."""
    time.sleep(0.0015)
    return draw(requests)


SIEGES = {
    "writing": (lambda: list(islice(world_captions(3), 150)), slowly, WriteConfig(batch_size=4), 1 / 10),
    "export": (lambda: plain(2000), good, WriteConfig(batch_size=500), 1 / 2),
}  # captions, writer, settings, longest life as a part of an uninterrupted run's


def start_in_a_process(out, *how):
    pid = os.fork()
    if pid == 0:
        try:
            run(out, *how)
        finally:
            os._exit(not out.exists())
    return pid


def besiege(siege, folder):
    """Twenty times start a run and kill it at a random moment, then let it finish; yields what each kill left."""
    whole, out, report = (folder / n for n in ("whole.jsonl", "t.jsonl", "t.jsonl.report.json"))
    journal, rng, size = folder / "t.jsonl.journal", random.Random(11), 0
    make_captions, writer, config, part = SIEGES[siege]
    how = make_captions(), writer, config
    began = time.perf_counter()
    os.waitpid(start_in_a_process(whole, *how), 0)
    longest = part * (time.perf_counter() - began)
    if siege == "export":
        journal.write_bytes((folder / "whole.jsonl.journal").read_bytes())
    for _ in range(20):
        for path in (out, report, *folder.glob(".*.partial")):
            path.unlink(missing_ok=True)
        pid, before = start_in_a_process(out, *how), size
        time.sleep(rng.uniform(0, longest))
        os.kill(pid, signal.SIGKILL)
        killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        torn, size = any(folder.glob(".*.partial")), journal.stat().st_size if journal.exists() else 0
        whole_or_absent = out.read_bytes() == whole.read_bytes() if out.exists() else None
        counted = json.loads(report.read_bytes())["triplets"] if report.exists() else None
        yield {"killed": killed, "journal": size, "torn": torn, "whole": whole_or_absent, "report": counted}
        came_far = torn or out.exists() or size > before > 0
        longest *= (1 if came_far else 1.2) if killed else 0.8  # the machine may be busier now than before
    yield {"exit": os.waitstatus_to_exitcode(os.waitpid(start_in_a_process(out, *how), 0)[1])}


@pytest.mark.parametrize("siege", SIEGES)
def test_twenty_kills_leave_the_bytes_of_an_uninterrupted_run(tmp_path, siege):
    command = [sys.executable, __file__, siege, str(tmp_path)]  # a small process, whose forks cost little
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    *kills, last = map(json.loads, said.splitlines())
    landed = [k for k in kills if k["killed"]]
    assert len(landed) >= 8
    if siege == "writing":
        assert len({k["journal"] for k in landed if k["whole"] is None}) >= 4
    else:
        assert sum(k["torn"] or (k["whole"] is True and k["report"] is None) for k in landed) >= 3
    found, expected = written(tmp_path / "t.jsonl"), written(tmp_path / "whole.jsonl")
    assert found[:2] == expected[:2]
    reports = [json.loads(r) | {"commit": ""} for r in (found[2], expected[2])]  # others may commit meanwhile
    assert reports[0] == reports[1]
    assert {k["whole"] for k in kills} <= {True, None}
    assert {k["report"] for k in kills} <= {reports[1]["triplets"], None}
    assert last == {"exit": 0}
    assert len([p for p in tmp_path.iterdir() if not p.name.startswith(".")]) == 6


def test_a_journal_torn_at_any_byte_is_cut_back_to_its_last_whole_block(tmp_path):
    out, path, config = tmp_path / "t.jsonl", tmp_path / "t.jsonl.journal", replace(CONFIG, batch_size=1)
    run(out, mixed(9), config=config)
    files, whole, end = written(out), path.read_bytes(), b'"end": true}\n'
    head = whole.index(b"\n") + 1
    assert whole.count(end) > 3
    for cut in range(head, len(whole) + 1):
        torn = tmp_path / f"{cut}"
        torn.write_bytes(whole[:cut])
        Journal(torn, json.loads(whole[:head])["config"])
        assert torn.read_bytes() == whole[: max(head, whole.rfind(end, 0, cut) + len(end))]
        if cut % 400 == 0:
            path.write_bytes(whole[:cut])
            run(out, mixed(9), config=config)
            assert written(out) == files


def test_a_writer_that_fails_costs_its_block_alone(tmp_path):
    out, calls = tmp_path / "t.jsonl", []

    def failing(requests):
        calls.append(requests)
        if len(calls) % 5 == 0:
            raise OSError("the server is away")
        return draw(requests)

    run(tmp_path / "whole.jsonl", mixed(60))
    for _ in range(4):
        with pytest.raises(OSError, match="the server is away"):
            run(out, mixed(60), failing)
    run(out, mixed(60))
    assert written(out) == written(tmp_path / "whole.jsonl")


def refused(out, message, captions, **options):
    """A refusal in one line that leaves every file as it was."""
    before = written(out)
    with pytest.raises(ValueError, match=message) as caught:
        run(out, captions, silent, **options)
    assert "\n" not in str(caught.value)
    assert written(out) == before


def test_other_settings_and_other_captions_are_refused_and_lose_nothing(tmp_path):
    out, captions = tmp_path / "t.jsonl", plain(10)
    run(out, captions)
    begun = r"t\.jsonl\.journal was begun with other captions \(10 dealt with\)"
    other = replace(CONFIG, batch_size=4, seed=6, temperature=0.0)
    refused(out, "belongs to a run with another batch_size, seed, temperature;", captions, config=other)
    refused(out, "another top_p;", captions, config=replace(CONFIG, top_p=0.9))
    refused(out, "another shard;", captions, shard=(0, 3))
    refused(out, "another moderation;", captions, rules=Rules(moderate=lambda texts: [False] * len(texts)))
    refused(out, begun, captions[:9])
    refused(out, begun, [])
    for place in (0, 4, 9):  # also where the last caption is still the same
        for change in ({"text": "a horse"}, {"url": "https://elsewhere.example"}):
            other = replace(captions[place], **change)
            refused(out, begun, [*captions[:place], other, *captions[place + 1 :]])
    assert run(out, [*captions, *plain(12)[10:]]).captions == 12  # more captions are no other captions


NO_JOURNAL = [
    b"", b"a diary\n", b"[]\n", b"3\n", b'{"config": 3}\n', b'{"config": {}}', b'{"id": "1"}\n', b"\xff\xfe\n", b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("content", NO_JOURNAL, ids=range(len(NO_JOURNAL)))
def test_a_file_that_is_no_journal_is_refused(tmp_path, content):
    run(tmp_path / "t.jsonl", plain(3))
    (tmp_path / "t.jsonl.journal").write_bytes(content)
    refused(tmp_path / "t.jsonl", "must be a journal of `ip2p triplets`, and is not; delete it", plain(3))


DAMAGED = [
    b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000, b'{"url": "x"}', b'{"caption": "x", "triplet": 3}',
    b'{"caption": "x", "triplet": {"input": "a"}}', b'{"caption": "x", "tokens": ["a"], "end": true}',
    b'{"caption": "x", "skipped": ["a"], "end": true}', b'{"caption": "x", "rejected": 3}',
]  # fmt: skip


@pytest.mark.parametrize("line", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_line_is_refused_with_a_remedy_that_works(tmp_path, line):
    out, journal = tmp_path / "t.jsonl", tmp_path / "t.jsonl.journal"
    run(out, plain(12))
    whole, lines = written(out), journal.read_bytes().split(b"\n")
    journal.write_bytes(b"\n".join([*lines[:7], line, *lines[8:]]))
    refused(out, "its line 8 is damaged; remove it and all lines after it to go on from there", plain(12))
    journal.write_bytes(b"\n".join(lines[:7]) + b"\n")
    run(out, plain(12))
    assert written(out) == whole


def test_a_line_lost_or_doubled_in_the_middle_is_noticed(tmp_path):
    run(tmp_path / "t.jsonl", mixed(12))
    journal = tmp_path / "t.jsonl.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    for changed in ([*lines[:5], *lines[6:]], [*lines[:5], lines[4], *lines[5:]]):
        journal.write_bytes(b"".join(changed))
        refused(tmp_path / "t.jsonl", "was begun with other captions", mixed(12))


def test_of_two_runs_into_one_file_the_late_one_stops(tmp_path):
    out, made_by = tmp_path / "t.jsonl", {"writer": "scripted"}
    one, two = (write_all(plain(12), draw, CONFIG, out, made_by=made_by) for _ in range(2))
    assert [next(one).captions, next(two).captions, next(two).captions] == [0, 0, 3]
    with pytest.raises(ValueError, match="must belong to one run at a time, but another has written to it"):
        next(one)
    assert [t.captions for t in two] == [6, 9, 12]
    run(tmp_path / "alone.jsonl", plain(12))
    assert written(out) == written(tmp_path / "alone.jsonl")


def test_joining_refuses_missing_and_broken_files(tmp_path):
    a, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    run(a, plain(3), good)
    out.write_text("precious")
    with pytest.raises(FileNotFoundError, match=r"found none at .*b\.jsonl; make some with `ip2p triplets`"):
        merge([a, tmp_path / "b.jsonl"], out)
    (tmp_path / "b.jsonl").write_text('{"id": "x"}')
    with pytest.raises(ValueError, match=r"b\.jsonl line 1: .*non-empty text 'input'"):
        merge([a, tmp_path / "b.jsonl"], out)
    assert out.read_text() == "precious"
    assert list(tmp_path.glob(".*")) == []


HOSTILE = [
    "", "\nEND", "END", "%%", "\n%%\n", "a\n%%\nb\n%%\nc", "a\r\n%%\r\nb", "null", '{"edit": 1}',
    "\x00 \x7f\n%%\n\x1b[2J \u2028 \x85 x", "\ud800\n%%\nb \udfff", "e\n%%\n\ud83d\ude00", "\ufeffa\n%%\n\u202eb",
    "e\n%%\n" + "x" * 100_000, "e" * 100_000 + "\n%%\nx", "\n##\n%%\n##\n", "\u2028\n%%\nb", '"\n%%\n\\"',
]  # fmt: skip


def test_hostile_captions_and_completions_break_nothing(tmp_path):
    texts = [f"{text} {end}" for text, end in product(HOSTILE, "0a0b")]
    captions = [Caption(f"{i:07d}", text, f"{i} {text}") for i, text in enumerate(texts)]

    def write(requests):
        numbers = [int.from_bytes(hashlib.sha256(str(r.seed).encode()).digest()) for r in requests]
        return [Completion(HOSTILE[n % len(HOSTILE)], n % 7 > 0, 0, 3) for n in numbers]

    tally = run(tmp_path / "t.jsonl", captions, write)
    triplets = list(read_triplets(tmp_path / "t.jsonl"))
    assert len(triplets) == tally.accepted > 15
    assert {"empty", "unfinished", "parts"} <= tally.rejected.keys()
    assert {"empty", "long", "duplicate"} == tally.skipped.keys()
    assert max(len(t.output) for t in triplets) == 100_000
    assert run(tmp_path / "t.jsonl", captions, silent) == tally
    assert list(read_triplets(tmp_path / "t.jsonl")) == triplets


if __name__ == "__main__":
    for mark in besiege(sys.argv[1], Path(sys.argv[2])):
        sys.stdout.write(json.dumps(mark) + "\n")
