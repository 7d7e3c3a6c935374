"""Batches: the sentences of many requests, translated together on one thread for each model.

A client waits for the batch in progress, and for one that it shares with the others. Requests take turns sentence by
sentence, so that a short one does not wait for all sentences of a long one.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from nmt.errors import counted
from nmt.serve.limits import Refusal

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Result = TypeVar("Result")
Options = TypeVar("Options", bound=Hashable)

BATCH_ITEMS = 400
"""Sentences taken at once. Of more, the translator makes several batches anyway, and everyone else waits longer.
Batches of 256 cost a fifth more a sentence: fewer of their sentences have similar lengths."""
BATCH_SIZE = 20_000
"""Characters taken at once, as long as it is one sentence at least."""
PAUSE_SECONDS = 0.003
"""For which the event loop must be idle before a batch begins. Clients that got their answers together send their next
requests together, and a batch of all costs less than one of those that wait already and one of the others."""
LONGEST_WAIT = 0.5
"""Seconds for which a batch waits for such a pause, at most. A full batch does not wait."""
LONGEST_RETRY = 60
"""Seconds in `Retry-After`, at most."""


@dataclass(eq=False)
class _Job(Generic[Item, Answer, Options]):
    """The items of a request. Those of jobs with equal options share batches."""

    items: Sequence[Item]
    options: Options | None
    count: int
    """Of the items that have not been taken; a job that is computed `alone` only counts as so many."""
    alone: Callable[[], Any] | None = None
    answers: list[Answer] = field(default_factory=list)
    result: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


_Finished = tuple[_Job[Any, Any, Any], Any]
"""A job and its result, or the `Exception` that it raised."""


class Batcher(Generic[Item, Answer, Options]):
    """A queue of requests, and the thread that answers them.

    `work(items, options)` returns an answer for each item, which must not depend on the other items. `size` of an item
    is its number of characters. `observe` is called with the number of items of each batch and its seconds.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Item], Options], Sequence[Answer]],
        size: Callable[[Item], int],
        longest_queue: int,
        observe: Callable[[int, float], object] = lambda items, seconds: None,
    ) -> None:
        self._work, self._size, self._observe = work, size, observe
        self._longest_queue = longest_queue
        self._condition = threading.Condition()
        self._jobs: deque[_Job[Item, Answer, Options]] = deque()
        self._waiting = self._arrived = 0
        self._seconds_of_item = 0.01
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"batches of {name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Items that wait."""
        return self._waiting

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    async def answers(self, items: Sequence[Item], options: Options) -> list[Answer]:
        """Returns an answer for each item; raises `Refusal` 429 if the queue is full, and what `work` raises.

        Cancelling it, because the client has left or waited for too long, takes the items that wait out of the queue.
        """
        answers: list[Answer] = await self._submit(_Job(items, options, len(items))) if items else []
        return answers

    async def alone(self, compute: Callable[[], Result], count: int) -> Result:
        """Returns `compute()`, called on the thread when its turn comes; it counts as so many items."""
        result: Result = await self._submit(_Job((), None, count, compute))
        return result

    def close(self) -> None:
        """Ends the thread after the jobs that wait."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    async def _submit(self, job: _Job[Item, Answer, Options]) -> Any:
        with self._condition:
            if self._waiting + job.count > self._longest_queue:
                seconds = min(max(math.ceil(self._waiting * self._seconds_of_item), 1), LONGEST_RETRY)
                reason = f"{counted(self._waiting, 'sentence')} wait already; try again in {counted(seconds, 'second')}"
                raise Refusal(429, reason, {"Retry-After": str(seconds)})
            self._jobs.append(job)
            self._waiting += job.count
            self._arrived += 1
            self._condition.notify()
        try:
            return await job.result
        except BaseException:
            with self._condition:
                if job in self._jobs:
                    self._jobs.remove(job)
                    self._waiting -= job.count
            raise

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._jobs:
                    if self._closing:
                        return
                    self._condition.wait()
                loop = self._jobs[0].result.get_loop()
            self._gather(loop)
            with self._condition:
                taken = self._take()
            if not taken:  # all were cancelled
                continue
            started = time.perf_counter()
            finished = self._answer(taken)
            seconds = time.perf_counter() - started
            count = sum(len(items) or job.count for job, items in taken.items())
            self._seconds_of_item += 0.2 * (seconds / count - self._seconds_of_item)
            self._observe(count, seconds)
            _deliver(finished, loop)

    def _gather(self, loop: asyncio.AbstractEventLoop) -> None:
        """Waits for a pause in the arrival of requests."""
        now = time.perf_counter()
        end = now + LONGEST_WAIT
        while self._waiting < BATCH_ITEMS and now < end:
            before = self._arrived
            _let_run(loop, end - now)
            is_idle = time.perf_counter() < now + PAUSE_SECONDS
            time.sleep(PAUSE_SECONDS)
            now = time.perf_counter()
            if is_idle and self._arrived == before:
                return

    def _take(self) -> dict[_Job[Item, Answer, Options], list[Item]]:
        """Takes items of the first job, and of those with equal options, one of each in turn."""
        taken: dict[_Job[Item, Answer, Options], list[Item]] = {}
        if self._jobs and self._jobs[0].alone is not None:
            job = self._jobs.popleft()
            self._waiting -= job.count
            return {job: []}
        turns = deque(job for job in self._jobs if job.alone is None and job.options == self._jobs[0].options)
        count = size = 0
        while turns and count < BATCH_ITEMS and size < BATCH_SIZE:
            job = turns.popleft()
            item = job.items[-job.count]
            taken.setdefault(job, []).append(item)
            job.count, count, size = job.count - 1, count + 1, size + self._size(item)
            if job.count:
                turns.append(job)
            else:
                self._jobs.remove(job)
        self._waiting -= count
        if turns and self._jobs[0] in taken:
            self._jobs.rotate(-1)  # jobs with other options come next
        return taken

    def _answer(self, taken: dict[_Job[Item, Answer, Options], list[Item]]) -> list[_Finished]:
        """Answers what was taken; returns the jobs that are finished by it."""
        try:
            return self._try(taken)
        except Exception as error:
            if len(taken) == 1:
                return [(job, error) for job in taken]
        # Alone: a sentence that cannot be translated is no reason to refuse those of other clients.
        return [each for job, items in taken.items() for each in self._answer({job: items})]

    def _try(self, taken: dict[_Job[Item, Answer, Options], list[Item]]) -> list[_Finished]:
        first = next(iter(taken))
        if first.alone is not None:
            return [(first, first.alone())]
        assert first.options is not None
        answers = iter(self._work([item for items in taken.values() for item in items], first.options))
        for job, items in taken.items():
            job.answers += [next(answers) for _ in items]
        return [(job, job.answers) for job in taken if len(job.answers) == len(job.items)]


def _deliver(finished: Sequence[_Finished], loop: asyncio.AbstractEventLoop) -> None:
    """Hands results and errors over to those who wait for them, in one call: each call interrupts the event loop."""

    def set_results() -> None:
        for job, result in finished:
            if job.result.done():  # the client has left meanwhile
                continue
            if isinstance(result, Exception):
                job.result.set_exception(result)
            else:
                job.result.set_result(result)

    with suppress(RuntimeError):  # the event loop is closed, and nobody waits
        loop.call_soon_threadsafe(set_results)


def _let_run(loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Waits until the event loop has run what is ready, and what that makes ready; for so long at most."""
    done = threading.Event()
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(loop.call_soon, done.set)
        done.wait(seconds)
