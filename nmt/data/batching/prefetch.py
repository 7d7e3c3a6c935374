"""An iterator that works ahead in a thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class _End:
    error: BaseException | None


def prefetch(items: Iterator[Item], ahead: int) -> Iterator[Item]:
    """The same items, up to `ahead` of them made before they are asked for.

    An exception of `items` is raised here, after the items before it. The thread starts with the first item that is
    asked for and has ended when this iterator is exhausted or closed, which leaving a `for` loop and dropping it does.
    """
    ready: queue.Queue[Item | _End] = queue.Queue(ahead)
    stop = threading.Event()

    def put(item: Item | _End) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    return
        except BaseException as error:
            put(_End(error))
        else:
            put(_End(None))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        thread.join()
