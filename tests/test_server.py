"""A server as writer: whatever it does wrong, nothing is lost, doubled or invented; and a real one."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import pytest
from typer.testing import CliRunner

from ip2p_lib import cli
from ip2p_lib.presets import MINIATURE, WriteConfig
from ip2p_lib.records import Caption, read_triplets
from ip2p_lib.triplets import Request, Rules, understood, world_captions, write_all
from ip2p_lib.triplets.local import LocalWriter
from ip2p_lib.triplets.prompts import SEPARATOR, STOP, prompt_for
from ip2p_lib.triplets.server import ENDPOINTS, HARMLESS, ServerConfig, ServerWriter, cost
from ip2p_lib.triplets.writing import attempt_seed

CAPTIONS = [Caption(str(i), f"a house and {i} trees", f"http://x/{i}") for i in range(6)]
CONFIG = WriteConfig(batch_size=2, attempts=2, max_new_tokens=40, seed=3)
SILENCE = "silence"
both_endpoints = pytest.mark.parametrize("endpoint", ENDPOINTS)


def reply(body="", status=200, kind="application/json", **headers):
    """What the server sends: status, headers, body. A declared length that is never reached tears it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"Content-Type": kind, **named}, body if isinstance(body, str) else json.dumps(body)


def good(caption):
    return f"make it night\n%%\n{caption} at night\nEND"


def answer(text, path, reason="stop", usage=(10, 7)):
    written = {"message": {"role": "assistant", "content": text}} if "chat" in path else {"text": text}
    counts = dict(zip(("prompt_tokens", "completion_tokens"), usage, strict=True)) if usage else None
    return reply({"choices": [{"index": 0, "finish_reason": reason, **written}], "usage": counts})


def healthy(path, caption, _times=1):
    return answer(good(caption), path)


class Answering(BaseHTTPRequestHandler):
    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = body.get("prompt") or body.get("input") or body["messages"][-1]["content"]
        asked = asked.removesuffix(SEPARATOR) if isinstance(asked, str) else asked
        with server.lock:
            key, now = self.headers.get("Authorization"), time.monotonic()
            server.seen.append(SimpleNamespace(asked=asked, body=body, key=key, time=now))
            times = sum(s.asked == asked for s in server.seen)
            server.busy += 1
            server.busiest = max(server.busy, server.busiest)
        sent = server.script(self.path, asked, times)
        with server.lock:
            server.busy -= 1
        if sent == SILENCE:
            time.sleep(2)
        elif sent:
            status, headers, text = sent
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def served():
    """Start servers that follow a script: (path, caption, how often asked) -> reply, None to hang up."""
    running = []

    def start(script=healthy):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        server.script, server.lock, server.seen = script, threading.Lock(), []
        server.busy = server.busiest = 0
        server.url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def writer_for(server, config=CONFIG, **settings):
    patience = {"model": "m", "retries": 3, "timeout": 20.0, "longest_wait": 0.01}
    return ServerWriter(ServerConfig(**{"url": server.url, **patience, **settings}), config)


def written(folder, writer, captions=CAPTIONS, config=CONFIG, **options):
    """A finished run: the file's bytes, the journal's, and the last counts."""
    out = folder / "t.jsonl"
    *_, tally = write_all(captions, writer, config, out, made_by={"writer": "m"}, **options)
    return out.read_bytes(), (folder / "t.jsonl.journal").read_bytes(), tally


HALF = healthy("completions", "x")[2][:50]
ODD_CHOICES = ([], ["x"], {"0": {}}, [{"text": None}], [{"text": 5}], [{"message": "x"}], [{"message": {}}])
ODD_BODIES = ("", "null", [1, 2], {"error": {"message": "overloaded"}}, "<html>log in</html>", HALF)
FAULTS = {
    "429": reply({"error": {"message": "slow down"}}, 429, Retry_After="0"),
    "429 until a date": reply("", 429, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"),
    "500": reply({"error": {"message": "out of memory"}}, 500),
    "503 in HTML": reply("<html>\n<h1>busy</h1>\n</html>", 503, "text/html"),
    "HTML": reply("<html>\nlog in</html>", kind="text/html"),
    "torn": reply(HALF, Content_Length="5000"),
    "hung up": None,
    SILENCE: SILENCE,
    **{json.dumps(odd)[:30]: reply(odd) for odd in (*ODD_BODIES, *({"choices": c} for c in ODD_CHOICES))},
}


@both_endpoints
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_that_pass_leave_no_trace(tmp_path, served, fault, endpoint):
    server = served(lambda path, c, times: healthy(path, c) if times > 1 else FAULTS[fault])
    patience = 0.5 if fault == SILENCE else 20.0
    ours = written(tmp_path / "a", writer_for(server, endpoint=endpoint, timeout=patience))
    assert ours == written(tmp_path / "b", writer_for(served(), endpoint=endpoint))
    assert (len(ours[0].splitlines()), len(server.seen)) == (6, 12)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_lasts_stops_the_run_and_the_next_run_finishes_it(tmp_path, served, fault):
    whole = written(tmp_path / "whole", writer_for(served()))
    broken = served(lambda path, c, times: FAULTS[fault] if c == CAPTIONS[3].text else healthy(path, c))
    with pytest.raises(OSError, match=rf"{broken.url} must .*: .*; what is written is kept, .*again") as stop:
        written(tmp_path / "cut", writer_for(broken, retries=2, timeout=0.5 if fault == SILENCE else 20.0))
    assert "\n" not in str(stop.value)
    assert not fault[:3].isdecimal() or fault[:3] in str(stop.value)
    assert [s.asked for s in broken.seen].count(CAPTIONS[3].text) == 3
    assert not (tmp_path / "cut" / "t.jsonl").exists()
    assert len((tmp_path / "cut" / "t.jsonl.journal").read_bytes().splitlines()) == 3
    other = served()
    assert written(tmp_path / "cut", writer_for(other)) == whole
    assert sorted(s.asked for s in other.seen) == [c.text for c in CAPTIONS[2:]]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_stops_at_once(tmp_path, served, status):
    server = served(lambda *_: reply({"error": {"message": "not\nhere"}}, status))
    config = WriteConfig(batch_size=200)
    captions = [Caption(str(i), f"{i} cats") for i in range(200)]
    with pytest.raises(OSError, match=rf"{server.url} must answer for m: .*{status} - not here") as stop:
        written(tmp_path, writer_for(server, config, concurrency=2), captions, config)
    assert "\n" not in str(stop.value)
    asked = len(server.seen)
    time.sleep(0.1)
    assert ("read from the variable OPENAI_API_KEY" in str(stop.value)) == (status in (401, 403))
    asked_for = [s.asked for s in server.seen if s.asked != HARMLESS]
    assert len(set(asked_for)) == len(asked_for) <= asked + 2 < 50


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_text_that_is_refused_alone_costs_no_other(tmp_path, served, status):
    no = reply({"error": {"message": "not this one"}}, status)
    server = served(lambda path, c, _: no if c == CAPTIONS[0].text else healthy(path, c))
    out, _, tally = written(tmp_path, writer_for(server, concurrency=1))
    assert [json.loads(line)["input"] for line in out.splitlines()] == [c.text for c in CAPTIONS[1:]]
    assert (tally.given_up, dict(tally.rejected)) == (1, {"refused": CONFIG.attempts})
    assert [s.asked for s in server.seen].count(HARMLESS) == 1


def test_after_an_interrupt_nothing_is_asked_and_whole_blocks_are_kept(tmp_path, served):
    def script(path, caption, times):
        if caption == CAPTIONS[2].text and times == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return FAULTS["500"] if caption == CAPTIONS[2].text else healthy(path, caption)

    server = served(script)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            written(tmp_path, writer_for(server, retries=10_000))
    finally:
        signal.signal(signal.SIGINT, before)
    asked = len(server.seen)
    time.sleep(0.1)
    assert len(server.seen) <= asked + 1
    assert len((tmp_path / "t.jsonl.journal").read_bytes().splitlines()) == 3


def test_the_pause_that_a_server_asks_for_is_kept(served):
    busy = reply("", 429, Retry_After="1")
    server = served(lambda path, c, times: busy if times == 1 else healthy(path, c))
    writer_for(server)([Request(prompt_for("a cat"), 1)])
    assert 1.0 <= server.seen[1].time - server.seen[0].time < 5.0


def test_eight_are_asked_at_a_time_and_answers_out_of_order_are_put_in_order(served):
    there, answered = threading.Barrier(8), [threading.Event() for _ in range(17)]
    answered[8].set()
    answered[16].set()

    def script(path, caption, _times):
        there.wait(20)  # eight are asked before any is answered, and the last is answered first
        answered[int(caption) + 1].wait(20)
        answered[int(caption)].set()
        return healthy(path, caption)

    server = served(script)
    texts = [c.text for c in writer_for(server)([Request(prompt_for(str(i)), i) for i in range(16)])]
    assert texts == [good(str(i)) for i in range(16)]
    assert server.busiest == 8


def test_tokens_add_up_over_attempts_and_runs(tmp_path, served):
    def script(path, caption, times):
        number = int(caption.split()[3])
        text = "nothing" if times == 1 and number < 2 else good(caption)
        return answer(text, path, usage=(100 + number, 10) if number else None)

    whole = written(tmp_path, writer_for(served(script)))[2]
    report = json.loads((tmp_path / "t.jsonl.report.json").read_text())
    assert whole.rejected == report["rejected"] == {"parts": 2}
    assert whole.prompt_tokens == report["prompt_tokens"] == 101 + sum(range(101, 106))
    assert whole.completion_tokens == report["completion_tokens"] == 60
    assert written(tmp_path, writer_for(served(script)))[2] == whole
    assert cost(1_500_000, 200_000, (2.0, 10.0)) == pytest.approx(5.0)


CUT_OFF = good("x").removesuffix(STOP)


@pytest.mark.parametrize(("text", "rejected"), [(CUT_OFF, "unfinished"), (None, "empty")])
@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_an_answer_without_its_end_costs_an_attempt(tmp_path, served, text, reason, rejected):
    cut = served(lambda path, c, _: answer(text if c == CAPTIONS[1].text else good(c), path, reason))
    for endpoint in ENDPOINTS[text is None :]:  # a chat may say nothing, as in a refusal
        tally = written(tmp_path / endpoint, writer_for(cut, endpoint=endpoint))[2]
        assert (tally.accepted, tally.given_up, tally.rejected) == (5, 1, {rejected: 2})


def moderated(path, asked, times):
    """Flags blood; the first answer about a cat is bloody, all about a dog are."""
    if path.endswith("moderations"):
        return reply({"results": [{"flagged": "blood" in text} for text in asked]})
    bloody = asked == "a dog" or (asked == "a cat" and times == 1)
    return answer(good(f"{asked} in blood" if bloody else asked), path)


def test_flagged_captions_are_skipped_and_flagged_answers_are_asked_again(tmp_path, served):
    server = served(moderated)
    writer = writer_for(server)
    captions = [Caption(str(i), t) for i, t in enumerate(("a cat", "spilt blood", "a dog", "a tree"))]
    tally = written(tmp_path, writer, captions, rules=Rules(moderate=writer.moderate))[2]
    assert (tally.accepted, tally.given_up) == (2, 1)
    assert (tally.skipped, tally.rejected) == ({"moderated": 1}, {"moderated": 3})
    assert [t.output for t in read_triplets(tmp_path / "t.jsonl")] == ["a cat at night", "a tree at night"]
    assert "spilt blood" not in [s.asked for s in server.seen]


@pytest.mark.parametrize("fault", ["503 in HTML", "torn", "HTML", "[1, 2]", "few", "odd"])
def test_a_moderation_that_fails_is_asked_again_and_then_stops_the_run(tmp_path, served, fault):
    odd = {"few": [{"flagged": False}], "odd": [{"flagged": "no"}] * 2}
    bad = FAULTS[fault] if fault in FAULTS else reply({"results": odd[fault]})
    passing = writer_for(served(lambda path, texts, times: bad if times == 1 else moderated(path, texts, 2)))
    assert passing.moderate(["blood", "milk"]) == [True, False]
    lasting = writer_for(served(lambda *_: bad))
    with pytest.raises(OSError, match=r"^the server at .* is kept, [^\n]*$"):
        written(tmp_path, lasting, rules=Rules(moderate=lasting.moderate))


@both_endpoints
def test_a_question_carries_settings_seed_and_key_and_no_file_keeps_the_key(
    tmp_path, served, monkeypatch, endpoint
):
    monkeypatch.setenv("A_KEY", "sk-secret-5\n")  # as read from a file
    server = served(lambda path, c, times: FAULTS["500"] if times == 1 else answer("no", path))
    written(tmp_path, writer_for(server, endpoint=endpoint, key_variable="A_KEY"))
    sent = {"temperature": 0.7, "top_p": 1.0, "frequency_penalty": 0.1, "max_tokens": 40, "model": "m"}
    for caption in CAPTIONS:
        bodies = [s.body for s in server.seen if s.asked == caption.text]
        seeds = [attempt_seed(CONFIG.seed, caption.id, attempt) % 2**31 for attempt in (0, 0, 1)]
        assert [b["seed"] for b in bodies] == seeds
        assert all({**sent, "stop": [STOP]}.items() <= b.items() for b in bodies)
    assert len({s.body["seed"] for s in server.seen}) == 12
    assert {s.key for s in server.seen} == {"Bearer sk-secret-5"}
    assert [b"secret" in p.read_bytes() for p in tmp_path.iterdir()] == [False] * 3
    writer_for(server, key_variable="NO_KEY")([Request(prompt_for("a"), 1)])
    assert server.seen[-1].key == "Bearer none"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("url", "localhost:8000/v1", "must be an address such as http://.*, got 'localhost:8000/v1'"),
        ("url", "http://here:port/v1", "must be an address"),
        ("endpoint", "edits", "must be one of completions, chat; got 'edits'"),
        ("concurrency", 0, "must be at least 1 .*, got 0 and 6"),
        ("retries", -1, "at least 0, got 8 and -1"),
        ("timeout", 0.0, "must be above 0 .*, got 0.0"),
        ("longest_wait", float("nan"), "at least 0, got 120.0 and nan"),
    ],
)
def test_a_setting_out_of_range_is_refused(name, value, message):
    with pytest.raises(ValueError, match=f"{name} {message}"):
        ServerConfig(**{"url": "http://localhost:8000/v1", "model": "m", name: value})


@pytest.fixture
def real_server(tmp_path):
    """The address of `transformers serve` with the miniature's writer."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    program = Path(sys.executable).with_name("transformers")
    place = ("--host", "127.0.0.1", "--port", port, "--device", "cpu", "--dtype", "float32")
    command = (program, "serve", MINIATURE.writer, *place)
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            for _ in range(600):
                with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health"):
                    break
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


@pytest.mark.slow
def test_a_real_server_writes_what_the_model_writes_here_and_the_world_understands_it(
    tmp_path, real_server, shipped_writer
):
    # `transformers serve` never samples unless the model's own settings say so, takes a frequency penalty for
    # a repetition penalty, and tells no probabilities: the two agree where none of that plays a part.
    greedy = replace(MINIATURE.write, temperature=0.0, frequency_penalty=0.0, min_certainty=None, attempts=1)
    captions = list(islice(world_captions(950), 12))
    here = written(tmp_path / "here", LocalWriter(shipped_writer, greedy), captions, greedy)
    for endpoint in ENDPOINTS:
        server = ServerConfig(url=real_server, model=MINIATURE.writer, endpoint=endpoint, concurrency=2)
        there = written(tmp_path / endpoint, ServerWriter(server, greedy), captions, greedy)
        assert there == here
    triplets = list(read_triplets(tmp_path / "chat" / "t.jsonl"))
    assert len(triplets) >= 3
    assert sum(understood(t) is not None for t in triplets) >= 0.5 * len(triplets)  # greedy, no bound
    words = ("triplets", "--server", real_server, "--server-model", MINIATURE.writer, "--count", "4")
    result = CliRunner().invoke(cli.app, [*words, "--batch-size", "4", "--out", str(tmp_path / "t.jsonl")])
    assert result.exit_code == 0, result.stderr
    assert len(list(read_triplets(tmp_path / "t.jsonl"))) == 4
