"""Worker processes, and locks between processes, on every system that Python runs on. Does not import PyTorch."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock

from nmt.errors import NmtError

_log = logging.getLogger(__name__)

Part = TypeVar("Part")
Resources = TypeVar("Resources")
Result = TypeVar("Result")

CANNOT_LOCK = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL})
"""Errors of a file system that has no locks."""
_IN_FLIGHT = 3
"""Largest number of parts of a stream that wait for each worker."""


def lock(path: Path, *, wait: bool) -> FileLock:
    """Locks a file, which is created where it is missing, until the lock is released or the process ends.

    Processes that this one starts do not inherit the lock. On a file system without locks, nothing is locked, and a
    warning says so. Raises `filelock.Timeout` where another holder has the lock and `wait` is false, and `OSError`
    where the file cannot be opened.
    """
    # Without the fallback: a soft lock stays behind when a process is killed, and would keep every later one out.
    held = FileLock(path, thread_local=False, fallback_to_soft=False)
    try:
        held.acquire(timeout=-1 if wait else 0)
    except OSError as error:
        if error.errno not in CANNOT_LOCK:
            raise
        _log.warning("%s cannot be locked (%s): only one process may use %s", path, error.strerror, path.parent)
    return held


def cores() -> int:
    """Returns how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers(Generic[Part, Resources, Result]):
    """Processes that apply one function to many parts.

    They are started by `spawn`: forking a process whose libraries run threads can deadlock. A worker takes as long to
    start as Python and the imports of `work`, and shares no memory with this process. Workers end with this object, by
    `close`, and with this process, however it ends.
    """

    def __init__(
        self,
        work: Callable[[Part, Resources], Result],
        begin: Callable[..., Resources],
        arguments: tuple[Any, ...],
        count: int,
        killed: NmtError,
    ) -> None:
        """Starts `count` workers, each with its own `resources = begin(*arguments)`, for `work(part, resources)`.

        Both are functions of a module. `killed` is raised if a worker is killed, as the system does when memory runs
        out.
        """
        self.count = count
        self._killed = killed
        before = set(multiprocessing.active_children())
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, context, _start_worker, (work, begin, arguments))
        with _interrupts_held():
            # An empty call for each: the pool starts a worker when none is idle.
            self._starting: list[Future[Any]] = [self._pool.submit(tuple) for _ in range(count)]
        self._processes = set(multiprocessing.active_children()) - before

    @property
    def ready(self) -> bool:
        """Whether a worker has started."""
        return any(each.done() for each in self._starting)

    def in_order(self, parts: Iterable[Part]) -> Iterator[tuple[Part, Result]]:
        """Yields each part of a stream with its result, in order; a bounded number of parts is in memory at a time."""
        waiting: deque[tuple[Part, Future[Result]]] = deque()
        try:
            for part in parts:
                waiting.append((part, self._pool.submit(_work, part)))
                if len(waiting) > _IN_FLIGHT * self.count:
                    done, future = waiting.popleft()
                    yield done, future.result()
            for done, future in waiting:
                yield done, future.result()
        except BrokenProcessPool:
            raise self._killed from None

    def as_finished(self, parts: Sequence[Part]) -> Iterator[tuple[int, Result]]:
        """Yields the number of each part with its result, as they are finished."""
        numbers: dict[Future[Result], int] = {}
        try:
            for number, part in enumerate(parts):
                numbers[self._pool.submit(_work, part)] = number
            for future in as_completed(numbers):
                yield numbers[future], future.result()
        except BrokenProcessPool:
            raise self._killed from None
        finally:
            for future in numbers:
                future.cancel()

    def close(self) -> None:
        """Ends the workers, also in the middle of a part."""
        for process in self._processes:
            process.terminate()
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Blocks Ctrl-C. Processes that start meanwhile inherit this, and ignore the one of a terminal's group."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_started: list[tuple[Callable[[Any, Any], Any], Any]] = []
"""In a worker: its function and its resources."""


def _start_worker(work: Callable[[Any, Any], Any], begin: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    # The main process answers Ctrl-C, and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _started.append((work, begin(*arguments)))


def _end_with_parent() -> None:
    """Ends this worker when the process that started it has ended; it would wait for parts for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _work(part: Any) -> Any:
    work, resources = _started[0]
    return work(part, resources)
