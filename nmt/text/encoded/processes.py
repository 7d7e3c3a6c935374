"""Work on a stream of chunks, in order, here or in worker processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from nmt.errors import DataError

_log = logging.getLogger(__name__)

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
Means = TypeVar("Means")

_CHUNKS_IN_FLIGHT = 3
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
    workers = workers or _cores()
    for chunk in islice(stream, None if workers == 1 else _CHUNKS_BEFORE_WORKERS):
        yield chunk, work(chunk, means)
    first = next(stream, None)
    if first is not None:
        _log.info("tokenizing with %d processes", workers)
        yield from _in_processes(first, stream, work, means, workers)


def _in_processes(
    first: Chunk, rest: Iterator[Chunk], work: Callable[[Chunk, Means], Result], means: Means, workers: int
) -> Iterator[tuple[Chunk, Result]]:
    # Forking a process whose libraries run threads can deadlock; `spawn` is slower to start and always sound.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(work, means))
    try:
        waiting: deque[tuple[Chunk, Future[Any]]] = deque()
        waiting.append((first, pool.submit(_work, first)))
        for chunk in rest:
            waiting.append((chunk, pool.submit(_work, chunk)))
            if len(waiting) > _CHUNKS_IN_FLIGHT * workers:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()
    except BrokenProcessPool:
        raise DataError(
            "data.workers: a process that tokenizes was killed, probably for want of memory; set fewer workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_started: list[tuple[Callable[[Any, Any], Any], Any]] = []
"""In a worker process: what it does, and with what."""


def _start_worker(work: Callable[[Any, Any], Any], means: Any) -> None:
    # Ctrl-C reaches the whole process group; the main process answers it, and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _started.append((work, means))


def _work(chunk: Any) -> Any:
    work, means = _started[0]
    return work(chunk, means)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
