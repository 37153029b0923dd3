"""Ray itself: found or started without noise, and what goes wrong in its workers told in one line."""

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

OBJECT_STORE = 100 * 2**20  # bytes; only units and numbers pass through it, pictures go to the folder
REFUSALS = (FileNotFoundError, OSError, FloatingPointError, ValueError)
# Some of Ray's messages have no other switch than these, read when it is imported and started.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker died or was killed|retries remaining|PYTHON worker processes",
}


class WorkerError(Exception):
    """What a worker reports: its first argument holds the kind of error, the message and the trace."""


@contextmanager
def reporting() -> Iterator[None]:
    """In a worker: turn every error into one that survives the way to the driver."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, the driver must hear of it
        kind = next((k for k in REFUSALS if isinstance(error, k)), RuntimeError)
        message = str(error) if kind is not RuntimeError else f"{type(error).__name__}: {error}"
        raise WorkerError((kind, message, traceback.format_exc())) from None


@contextmanager
def one_line() -> Iterator[None]:
    """In the driver: raise a worker's error as the worker did, its trace as a note.

    Raises:
        ChildProcessError: Ray could not run its workers.
    """
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if not isinstance(cause, WorkerError):
            reason = str(cause or error).strip().splitlines()
            raise ChildProcessError(
                f"Ray's workers must run, but failed: {reason[0] if reason else type(error).__name__};"
                " is ip2p-lib installed on all nodes?"
            ) from error
        kind, message, trace = cause.args[0]
    else:
        return
    failure = kind(message)
    failure.add_note(f"In the worker:\n{trace}")
    raise failure


@contextmanager
def running_ray(cpus: int, gpus: float, counted: int | None = None) -> Iterator[Any]:
    """Ray with these resources: the caller's, else the cluster of RAY_ADDRESS, else a local one of our own.

    Args:
        counted: GPUs that a local one takes itself to have; by default it looks.

    Raises:
        ValueError: Ray is not installed, or has not so many CPUs or GPUs.
        ConnectionError: it does not start or answer.
    """
    with _hush():
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise ValueError("the Ray engine needs Ray: pip install 'ip2p-lib[ray]'") from error
        ours = not ray.is_initialized()
        if ours:
            _start(ray, cpus, counted)
    try:
        with _without_console():
            _check_resources(ray, cpus, gpus)
            yield ray
    finally:
        if ours:
            ray.shutdown()


def _start(ray: Any, cpus: int, gpus: int | None) -> None:
    address = os.environ.get("RAY_ADDRESS", "local")
    local = {
        "num_cpus": cpus,
        "num_gpus": gpus,
        "object_store_memory": OBJECT_STORE,
        "include_dashboard": False,
    }
    options = {"log_to_driver": False, "logging_level": "CRITICAL", **(local if address == "local" else {})}
    try:
        ray.init(address=address, **options)
    except Exception as error:  # Ray raises this very class
        ray.shutdown()
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConnectionError(
            f"Ray at address {address!r} must start and answer, but: {reason[0].rstrip('.')}; a busy"
            " machine may be too slow for it, then try again"
        ) from error


def _check_resources(ray: Any, cpus: int, gpus: float) -> None:
    there = ray.cluster_resources()
    for kind, needed in (("CPU", cpus), ("GPU", gpus)):
        if needed > (found := there.get(kind, 0)):
            raise ValueError(
                f"all workers together need {needed:g} {kind}s, but Ray has {found:g}; ask for fewer workers"
            )


@contextmanager
def _hush() -> Iterator[None]:
    """Variables that keep Ray quiet, unless they are set, and no stderr while it reads them."""
    added = {name: value for name, value in QUIET.items() if name not in os.environ}
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.environ.update(added)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _without_console() -> Iterator[None]:
    """Ray Data's log goes to its file alone."""
    consoles = [h for h in logging.getLogger("ray.data").handlers if isinstance(h, logging.StreamHandler)]
    before = [h.level for h in consoles]
    for handler in consoles:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in zip(consoles, before, strict=True):
            handler.setLevel(level)
