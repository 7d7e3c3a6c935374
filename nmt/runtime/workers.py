"""Independent work divided over processes of one thread each.

Threads inside a product wait for each other at every operation; on a CPU, processes that each do batches of their own
do not. They are forked for one call: what they read, the model above all, is shared, and what they return is pickled.
"""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

from nmt.errors import NmtError

Part = TypeVar("Part")
Result = TypeVar("Result")

_work: Callable[[Any], Any] | None = None
"""What the processes that are being forked are to do: they inherit it, whatever it holds."""


def usable_workers(device: torch.device) -> int:
    """Processes that may share the work of this one: one a thread on a CPU, where processes can be forked."""
    return torch.get_num_threads() if device.type == "cpu" and sys.platform == "linux" else 1


def share_out(work: Callable[[Part], Result], parts: Sequence[Part], workers: int) -> Iterator[tuple[Part, Result]]:
    """Each part with the result of `work`, as they are finished; by this process alone where there is one of either.

    The parts and results are pickled, `work` is not. What it raises is raised here. Raises `NmtError` where a process
    is killed, as the system does when memory runs out.
    """
    workers = min(workers, len(parts))
    if workers <= 1:
        for part in parts:
            yield part, work(part)
        return
    with ProcessPoolExecutor(workers, get_context("fork"), _begin) as pool:
        try:
            pending = _submit(pool, work, parts)
            for done in as_completed(pending):
                yield parts[pending[done]], done.result()
        except BrokenProcessPool:
            raise NmtError(
                f"one of {workers} processes was killed, most likely for want of memory; use smaller batches, or "
                "one thread"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, work: Callable[[Part], Result], parts: Sequence[Part]) -> dict[Any, int]:
    """Fork, and hand the parts out in order."""
    global _work
    _work = work
    try:
        with warnings.catch_warnings():
            # Python warns of forking beside threads, whose locks would never be released. Those here, of PyTorch, are
            # idle, and the processes start none of their own.
            warnings.simplefilter("ignore", DeprecationWarning)
            return {pool.submit(_do, part): number for number, part in enumerate(parts)}
    finally:
        _work = None


def _begin() -> None:
    """In a new process: one thread; an interrupt, which a terminal sends to all, ends it at once and without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)


def _do(part: Any) -> Any:
    assert _work is not None, "inherited when this process was forked"
    return _work(part)
