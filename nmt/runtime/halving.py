"""Batches that turn out too large for the memory are done in halves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from nmt.errors import NmtError
from nmt.runtime import is_out_of_memory, logger

Result = TypeVar("Result")


def in_halves(
    work: Callable[[Sequence[int]], Result], rows: Sequence[int], too_large: Callable[[int], str]
) -> Iterator[tuple[Sequence[int], Result]]:
    """The result of `work(rows)`, or those of ever smaller parts of the rows where memory runs out, with their rows.

    Raises `NmtError` with the message `too_large(row)` where a row does not fit alone.
    """
    pending = [rows]
    while pending:
        part = pending.pop()
        done = _attempt(work, part)
        if done is not None:
            yield part, done
            continue
        if len(part) == 1:
            raise NmtError(too_large(part[0]))
        logger.warning(
            "out of memory with %d sentences at once: going on with half of them; a smaller batch_tokens or beam_size "
            "avoids this",
            len(part),
        )
        middle = len(part) // 2
        pending += [part[middle:], part[:middle]]


def _attempt(work: Callable[[Sequence[int]], Result], rows: Sequence[int]) -> Result | None:
    """None where memory runs out. A function of its own: the error, gone when it returns, holds on to the tensors."""
    try:
        return work(rows)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None
