"""Work on as many items at a time as a GPU's memory holds: where it runs out, on half as many, and a line says so.

For stages whose results do not depend on the batch. Training is none of them: there the batch is part of the result, and
running out of memory is an error that says how to split the step.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class NoRoomError(ValueError):
    """The memory does not hold one item: no fault of the item's, and another time it may."""


class Room:
    """How many items fit at a time, which it learns when they do not.

    Args:
        items: what they are, in the plural, for messages.

    Keep one for as long as items take the same memory each: what did not fit once is not tried again.
    """

    def __init__(self, items: str) -> None:
        self._items = items
        self._most: int | None = None

    def parts(self, work: Callable[[Sequence[Item]], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Results of the work on consecutive parts of the items; of all at once as long as that fits.

        Raises:
            NoRoomError: not even one item fits.
        """
        done = 0
        while done < len(items):
            part = items[done : done + (self._most or len(items))]
            try:
                result = work(part)
            except torch.cuda.OutOfMemoryError as error:
                reason = first_line(error)  # and not the error itself, which holds all that fills the memory
            else:
                yield result
                done += len(part)
                continue
            self._halve(len(part), reason)

    def _halve(self, size: int, reason: str) -> None:
        if size == 1:
            raise NoRoomError(
                f"the GPU's memory must hold one of the {self._items}, but does not ({reason}); make pictures smaller,"
                " stop what else uses the GPU, or see `ip2p plan`"
            )
        self._most = size // 2
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        logger.warning(
            "out of GPU memory with %d %s at a time: going on with %d", size, self._items, self._most
        )


def first_line(error: Exception) -> str:
    """What a CUDA error says, without the advice that follows."""
    return str(error).strip().split("\n")[0].split(". ")[0][:200]
