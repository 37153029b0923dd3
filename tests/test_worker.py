"""The worker: the latest request wins, a stop is a stop, nothing is left behind."""

import threading
from threading import Event

import pytest

from ip2p_lib.course.worker import Worker


@pytest.fixture
def worker():
    """Serves numbers: waits at each of many steps until it is allowed to go on, or is no longer wanted."""
    started, go_on = Event(), Event()

    def serve(job):
        if isinstance(job.request, Exception):
            raise job.request
        started.set()
        while not go_on.wait(0.002):
            if not made.is_latest(job):
                return None
        return job.request * 2 if made.is_latest(job) else None

    made = Worker(serve)
    made.started, made.go_on = started, go_on
    yield made
    made.close()


def test_nothing_runs_before_the_first_request(worker):
    assert not any(t.name == "edit session" for t in threading.enumerate())


def test_a_request_is_served(worker):
    worker.go_on.set()
    job = worker.ask(4)
    assert job.done.wait(5)
    assert job.result == 8


def test_a_later_request_ends_the_one_that_runs_and_those_that_wait(worker):
    first = worker.ask(1)
    assert worker.started.wait(5)
    others = [worker.ask(n) for n in range(2, 200)]
    worker.go_on.set()
    assert all(j.done.wait(5) for j in (first, *others))
    assert first.result is None
    assert [j.result for j in others] == [None] * 197 + [398]


def test_a_stop_ends_what_runs_and_says_whether_there_was_something(worker):
    assert not worker.cancel()
    job = worker.ask(1)
    assert worker.started.wait(5)
    assert worker.cancel()
    assert job.done.wait(5)
    assert job.result is None
    worker.go_on.set()
    again = worker.ask(3)
    assert again.done.wait(5)
    assert again.result == 6


def test_an_error_reaches_who_waits_and_the_worker_goes_on(worker):
    worker.go_on.set()
    failed = worker.ask(ValueError("no"))
    assert failed.done.wait(5)
    assert str(failed.error) == "no"
    job = worker.ask(1)
    assert job.done.wait(5)
    assert job.result == 2


def test_rest_ends_early_when_something_new_is_asked_for(worker):
    job = worker.ask(1)
    assert worker.started.wait(5)
    assert worker.rests(job, 0.01)
    threading.Timer(0.05, worker.cancel).start()
    assert not worker.rests(job, 60)


def test_close_joins_the_thread_and_refuses_more(worker):
    worker.ask(1)
    worker.close()
    worker.close()
    assert not any(t.name == "edit session" for t in threading.enumerate())
    with pytest.raises(RuntimeError, match="closed"):
        worker.ask(2)
