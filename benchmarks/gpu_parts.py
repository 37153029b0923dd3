"""What the parts of the GPU benchmark share: time that runs out, memory at its peak, the largest batch that fits."""

import gc
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from tqdm import tqdm

from ip2p_lib.backbone import Backbone

Row = dict[str, Any]
GIB = 2**30


class Deadline:
    """Seconds that a part may take."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds; below 0 when they are over."""
        return self._end - time.monotonic()


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside the block when it takes longer, whatever it waits for in Python."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"it took more than {seconds:.0f} s and was stopped")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def without_tf32() -> Iterator[None]:
    """Products and convolutions of float32 in float32 inside the block."""
    kinds = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [kind.allow_tf32 for kind in kinds]
    for kind in kinds:
        kind.allow_tf32 = False
    try:
        yield
    finally:
        for kind, allowed in zip(kinds, before, strict=True):
            kind.allow_tf32 = allowed


def waited(work: Callable[[], object]) -> Callable[[], object]:
    """The same work, ended only when the device has ended."""

    def whole() -> None:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return whole


def rounds_within(
    ways: Mapping[str, Callable[[], object]], seconds: float, most: int = 5
) -> dict[str, list[float]]:
    """Seconds of every way in every round, after one to warm up; as many rounds as there is time for, at least one.

    A way that fails while it warms up, such as a graph that cannot be captured, is named and left out.
    """
    usable = {way: waited(work) for way, work in ways.items() if _works(way, work)}
    deadline, taken = Deadline(seconds), {way: [] for way in usable}
    for _ in range(most):
        for way, work in usable.items():
            started = time.perf_counter()
            work()
            taken[way].append(time.perf_counter() - started)
        if deadline.left < 0:
            break
    return taken


def _works(way: str, work: Callable[[], object]) -> bool:
    try:
        waited(work)()
    except RuntimeError as error:
        said = " ".join(str(error).split())[:300]
        tqdm.write(f"{way}: left out, since it failed: {type(error).__name__}: {said}", file=sys.stderr)
        return False
    return True


def release() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_gib(work: Callable[[], object]) -> float | None:
    """GiB on the device at the fullest moment of the work, weights and all; None without a GPU."""
    release()
    if not torch.cuda.is_available():
        work()
        return None
    torch.cuda.reset_peak_memory_stats()
    waited(work)()
    return round(torch.cuda.max_memory_allocated() / GIB, 2)


def largest(attempt: Callable[[int], object], sizes: Iterable[int], deadline: Deadline) -> Row:
    """The largest size whose attempt fits in memory, with its peak, and the first that did not, if one was met."""
    row: Row = {"value": None, "unit": "largest batch that was tried and fits"}
    for size in sizes:
        if deadline.left < 0:
            row["stopped"] = f"before {size}, for want of time"
            break
        try:
            row |= {"peak_gib": peak_gib(lambda size=size: attempt(size)), "value": size}
        except torch.cuda.OutOfMemoryError:
            row["does_not_fit"] = size
            break
    release()
    return row


def cast(model: Backbone, dtype: torch.dtype) -> Backbone:
    """The same model after its networks were cast, in place."""
    for part in (model.unet, model.vae, model.text_encoder):
        part.to(dtype=dtype)
    return model
