"""Applies a function to a stream of chunks, in order, here or in worker processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import chain, islice
from typing import TypeVar

from nmt.concurrency import Workers, cores
from nmt.errors import DataError

_log = logging.getLogger(__name__)

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
Means = TypeVar("Means")

_CHUNKS_BEFORE_WORKERS = 32
"""A worker costs a second or two to start; smaller corpora are done by then."""


def worked(
    stream: Iterable[Chunk], work: Callable[[Chunk, Means], Result], means: Means, workers: int
) -> Iterator[tuple[Chunk, Result]]:
    """Each chunk with `work(chunk, means)`; the result does not depend on `workers` (0 means one a core).

    `work` is a function of a module, and `means` is given to every process once. A bounded number of chunks is under
    way at any time, so memory does not grow with the stream. The stream is read in this process: what is wrong with a
    file is raised here, as the `DataError` of its reader.
    """
    stream = iter(stream)
    workers = workers or cores()
    for chunk in islice(stream, None if workers == 1 else _CHUNKS_BEFORE_WORKERS):
        yield chunk, work(chunk, means)
    first = next(stream, None)
    if first is None:
        return
    _log.info("tokenizing with %d processes", workers)
    killed = DataError(
        "data.workers: a process that tokenizes was killed, probably for want of memory; set fewer workers"
    )
    with closing(Workers(work, _same, (means,), workers, killed)) as pool:
        yield from pool.in_order(chain([first], stream))


def _same(means: Means) -> Means:
    return means
