"""Distributes jobs to worker processes on a CPU, where that is faster than threads inside products."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from weakref import finalize

import torch

from nmt.concurrency import Workers
from nmt.errors import NmtError
from nmt.runtime import set_up_logging
from nmt.runtime.device import settle_memory

JobResult = TypeVar("JobResult")
Job = Callable[[Any], JobResult]
"""A function of the system. It is pickled: a function of a module, or a `functools.partial` of one."""

START_SECONDS = 3.0
"""About the time that workers take to start: Python, PyTorch and the weights. Shorter work never waits for them."""
LARGE_BATCH = 16
"""Sentences of a batch from which two threads inside its products are about as fast as two processes of one thread.

With 64 sentences two processes were 1.11 times as fast in float32 on a Zen 4, 0.92 times on a Zen 3 and 0.84 times on a
Zen 5; one sentence at a time 1.43, 1.64 and 1.23 times (docs/performance.md).
"""


def divide_threads(threads: int, jobs: int, sentences: int) -> tuple[int, int]:
    """Returns the number of processes for `jobs` with so many `sentences` in all, and the threads of each.

    Large batches get two threads a process, small ones one: threads wait for each other at every operation, and the
    less work an operation has, the more they wait.
    """
    processes = threads // 2 if sentences >= LARGE_BATCH * jobs else threads
    processes = max(1, min(processes, jobs))
    return processes, threads // processes


def threads_help(threads: int) -> bool:
    """Returns whether a product is at least 1.2 times as fast with these threads as with one; measures for 50 ms.

    On a machine that is busy with other work it is not: the threads wait for those that the system has suspended.
    """
    if threads == 1:
        return False
    rows, weight = torch.ones(320, 512), torch.ones(1536, 512)

    def seconds(count: int) -> float:
        with _threads(count):
            torch.nn.functional.linear(rows, weight)  # starts the threads
            started = time.perf_counter()
            for _ in range(5):
                torch.nn.functional.linear(rows, weight)
            return time.perf_counter() - started

    return seconds(1) > 1.2 * seconds(threads)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class WorkerPool:
    """Worker processes for one system. They start once the work has taken a while, and end with this object.

    Until then this process works alone with all its threads. In float32 and int8 the result of a job does not depend on
    the process that does it. With another number of threads it agrees to rounding, not always to the bit: if a thread
    is left with few rows of a float32 product, some BLAS add up their terms in another order (docs/performance.md).
    """

    def __init__(
        self, threads: int, start_after: float = START_SECONDS, prepare: Callable[[], object] | None = None
    ) -> None:
        """`prepare` is called in each worker before it reads the system; it is pickled."""
        self.threads = threads
        self.workers: Workers[Job[Any], Any, Any] | None = None
        self.threads_help: bool | None = None
        """Whether threads make products faster on this machine now. None: not measured yet."""
        self._alone = 0.0
        self._start_after = start_after
        self._prepare = prepare

    def run(self, system: object, jobs: Sequence[Job[JobResult]], sentences: int) -> Iterator[tuple[int, JobResult]]:
        """Yields the number of each job and `job(system)`, in the order in which they finish.

        Raises what a job raises, and `NmtError` if a worker is killed.
        """
        if self.threads_help is None and len(jobs) > 1:
            self.threads_help = threads_help(self.threads)
        if self.threads_help is False:
            sentences = 0  # one thread a process
        for number, job in enumerate(jobs):
            if self.workers is None and self._alone >= self._start_after:
                self.start(system, *divide_threads(self.threads, len(jobs), sentences))
            if self.workers is not None and self.workers.ready:
                try:
                    for done, result in self.workers.as_finished(jobs[number:]):
                        yield number + done, result
                except BaseException:
                    self.close()  # at once: a job may take long
                    raise
                return
            started = time.monotonic()
            with _threads(1 if self.threads_help is False else self.threads):
                result = job(system)
            self._alone += time.monotonic() - started
            yield number, result

    def start(self, system: object, processes: int, threads: int) -> None:
        """Starts workers, unless one process is enough. Does not wait until they are ready."""
        if processes == 1 or self.workers is not None:
            return
        folder = tempfile.TemporaryDirectory(prefix="nmt-")
        # Sent through a file: through pipes, this process would wait until each worker has started.
        file = Path(folder.name) / "system.pt"
        torch.save(system, file)
        killed = NmtError(
            f"one of {processes} processes was killed, most likely for want of memory; use smaller batches, or one "
            "thread"
        )
        self.workers = Workers(_run_job, _load_system, (str(file), threads, self._prepare), processes, killed)
        self._stop = finalize(self, _stop, self.workers, folder)

    def close(self) -> None:
        """Ends the workers. The next call of `run` may start others."""
        if self.workers is not None:
            self._stop()
            self.workers = None


def _stop(workers: Workers[Any, Any, Any], folder: tempfile.TemporaryDirectory[str]) -> None:
    workers.close()
    folder.cleanup()


def _load_system(file: str, threads: int, prepare: Callable[[], object] | None) -> Any:
    """Returns the system in a worker. Its weights are mapped from the file, so that workers share the memory."""
    set_up_logging(None, is_main=True)
    settle_memory()
    torch.set_num_threads(threads)
    if prepare is not None:
        prepare()
    return torch.load(file, mmap=True, weights_only=False)  # written by `WorkerPool.start`, for this user alone


def _run_job(job: Job[JobResult], system: Any) -> JobResult:
    return job(system)
