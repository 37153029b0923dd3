"""One thread that serves the latest request and lets go of all others."""

import atexit
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Job:
    """A request on its way. `done` is set when it has ended, in whatever way."""

    request: Any
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None  # stays None if the job was stopped or overtaken
    error: Exception | None = None


class Worker:
    """Runs `serve(job)` in a thread of its own, which starts with the first request.

    A new request makes every earlier one stale; `serve` is expected to ask `is_latest` at each step and
    to return None when it is told no.
    """

    def __init__(self, serve: Callable[[Job], Any]) -> None:
        self._serve = serve
        self._changed = threading.Condition()
        self._latest: Job | None = None  # running or waiting; None after a stop
        self._waiting: Job | None = None
        self._running: Job | None = None
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def ask(self, request: Any) -> Job:
        """Make a request the latest.

        Raises:
            RuntimeError: the worker was closed.
        """
        job = Job(request)
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the session is closed; open a new one")
            self._drop_waiting()
            self._latest = self._waiting = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="edit session", daemon=True)
                self._thread.start()
                atexit.register(self.close)  # a thread inside a network must not meet a dying interpreter
            self._changed.notify_all()
        return job

    def is_latest(self, job: Job) -> bool:
        """Whether nobody has asked for something else, or for a stop, since."""
        return self._latest is job

    def rests(self, job: Job, seconds: float) -> bool:
        """Wait for a while; whether the job is still the latest afterwards."""
        with self._changed:
            self._changed.wait_for(lambda: self._latest is not job, timeout=seconds)
            return self._latest is job

    def cancel(self) -> bool:
        """Make every request stale; whether there was one."""
        with self._changed:
            was_busy = self._running is not None or self._waiting is not None
            self._drop_waiting()
            self._latest = None
            self._changed.notify_all()
        return was_busy

    def close(self) -> None:
        """Stop, and wait for the thread to end. Closing twice does nothing more."""
        self.cancel()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            atexit.unregister(self.close)

    def _drop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.done.set()
            self._waiting = None

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job.result = self._serve(job)
            except Exception as error:  # noqa: BLE001 - whoever waits for the job raises it
                job.error = error
            with self._changed:
                self._running = None
            job.done.set()

    def _next(self) -> Job | None:
        """Wait for a request; None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._is_closed)
            job, self._waiting = self._waiting, None
            self._running = None if self._is_closed else job
            return self._running
