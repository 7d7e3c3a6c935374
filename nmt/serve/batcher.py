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
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from nmt.errors import counted
from nmt.serve.limits import Refusal

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Result = TypeVar("Result")
Options = TypeVar("Options", bound=Hashable)

BATCH_ITEMS = 256
"""Sentences taken at once. Of more, the translator makes several batches anyway, and everyone else waits longer."""
BATCH_SIZE = 20_000
"""Characters taken at once, as long as it is one sentence at least."""
WAIT_SECONDS = 0.003
"""For which an idle thread waits for further requests after the first one."""
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
    answer: Future[Any] = field(default_factory=Future)
    answers: list[Answer] = field(default_factory=list)

    def finish(self, result: Any = None, error: BaseException | None = None) -> None:
        # The client may have left meanwhile.
        with suppress(InvalidStateError):
            self.answer.set_exception(error) if error is not None else self.answer.set_result(result)


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
        self._waiting = 0
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
            self._condition.notify()
        job.answer.add_done_callback(lambda _: self._remove(job))
        return await asyncio.wrap_future(job.answer)

    def _remove(self, job: _Job[Item, Answer, Options]) -> None:
        """Takes a cancelled job out of the queue; one that is finished is not there."""
        with self._condition:
            if job in self._jobs:
                self._jobs.remove(job)
                self._waiting -= job.count

    def _run(self) -> None:
        while True:
            with self._condition:
                idle = not self._jobs
                while not self._jobs:
                    if self._closing:
                        return
                    self._condition.wait()
            if idle:
                time.sleep(WAIT_SECONDS)
            with self._condition:
                taken = self._take()
            started = time.perf_counter()
            count = self._answer(taken)
            seconds = time.perf_counter() - started
            if count:  # not all were cancelled
                self._seconds_of_item += 0.2 * (seconds / count - self._seconds_of_item)
                self._observe(count, seconds)

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

    def _answer(self, taken: dict[_Job[Item, Answer, Options], list[Item]]) -> int:
        """Answers what was taken; returns the number of items."""
        if len(taken) != 1 and self._try(taken):
            return sum(map(len, taken.values()))
        # Alone: a sentence that cannot be translated is no reason to refuse those of other clients.
        for job, items in taken.items():
            self._try({job: items})
        return sum(len(items) or job.count for job, items in taken.items())

    def _try(self, jobs: dict[_Job[Item, Answer, Options], list[Item]]) -> bool:
        """Answers jobs together, and returns whether that succeeded. An error of a single job is its answer."""
        if not jobs:
            return True
        first = next(iter(jobs))
        try:
            if first.alone is not None:
                first.finish(first.alone())
                return True
            assert first.options is not None
            answers = iter(self._work([item for items in jobs.values() for item in items], first.options))
        except Exception as error:
            if len(jobs) == 1:
                first.finish(error=error)
            return False
        for job, items in jobs.items():
            job.answers += [next(answers) for _ in items]
            if len(job.answers) == len(job.items):
                job.finish(job.answers)
        return True
