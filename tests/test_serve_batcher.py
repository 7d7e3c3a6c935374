"""Batches of the server: which requests share one, whose turn it is, and who gets an error."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from nmt.errors import DataError
from nmt.serve import batcher
from nmt.serve.batcher import Batcher
from nmt.serve.limits import Refusal

Answers = list[str] | BaseException


class Recorded:
    """A batcher that answers in capitals, and records its batches. Its thread waits until it is released."""

    def __init__(self, longest_queue: int = 1000) -> None:
        self.batches: list[list[str]] = []
        self.observed: list[int] = []
        self.released = threading.Event()
        self.batcher: Batcher[str, str, str] = Batcher(
            "test", self._work, len, longest_queue, lambda items, seconds: self.observed.append(items)
        )

    def _work(self, items: Sequence[str], options: str) -> list[str]:
        self.batches.append(list(items))
        assert self.released.wait(20)
        if "wrong" in items:
            raise DataError("cannot be translated")
        return [item.upper() for item in items]

    def run(self, *requests: Sequence[str], seconds_between: float = 0.0) -> list[Answers]:
        """Sends the requests one after another; returns their answers."""

        async def send() -> list[Answers]:
            sent = []
            for items in requests:
                sent.append(asyncio.ensure_future(self.batcher.answers(items, "")))
                await asyncio.sleep(seconds_between)
            return await asyncio.gather(*sent, return_exceptions=True)

        self.released.set()
        return self.finish(send())

    def run_behind(self, *requests: tuple[Sequence[str], str]) -> list[Answers]:
        """Sends the requests, items and options, while the thread answers another one: they wait together."""

        async def send() -> list[Answers]:
            first = asyncio.ensure_future(self.batcher.answers(["first"], "of its own"))
            await self.until(lambda: self.batches == [["first"]])
            sent = [asyncio.ensure_future(self.batcher.answers(items, options)) for items, options in requests]
            await asyncio.sleep(0)
            self.released.set()
            await first
            return await asyncio.gather(*sent, return_exceptions=True)

        return self.finish(send())

    async def until(self, happens: Callable[[], bool]) -> None:
        while not happens():
            await asyncio.sleep(0.005)

    def finish(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs the coroutine, for 20 seconds at most, and ends the thread."""
        try:
            return asyncio.run(asyncio.wait_for(work, 20))
        finally:
            self.released.set()
            self.batcher.close()


def test_a_batch_waits_for_requests_that_arrive_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another request arrives in each of the first three pauses, and none in the fourth."""
    recorded, arriving = Recorded(), [["b", "c"], ["d"], ["e"]]
    recorded.released.set()

    async def send() -> list[list[str]]:
        loop = asyncio.get_running_loop()
        sent = [asyncio.ensure_future(recorded.batcher.answers(["a"], ""))]

        async def arrive() -> None:
            sent.append(asyncio.ensure_future(recorded.batcher.answers(arriving.pop(0), "")))
            await asyncio.sleep(0)

        class Clock:
            perf_counter = staticmethod(time.perf_counter)

            @staticmethod
            def sleep(seconds: float) -> None:
                if arriving:
                    asyncio.run_coroutine_threadsafe(arrive(), loop).result()

        monkeypatch.setattr(batcher, "time", Clock)
        await recorded.until(lambda: not arriving)
        return await asyncio.gather(*sent)

    monkeypatch.setattr(batcher, "PAUSE_SECONDS", 60.0)
    monkeypatch.setattr(batcher, "LONGEST_WAIT", 600.0)
    assert recorded.finish(send()) == [["A"], ["B", "C"], ["D"], ["E"]]
    assert [sorted(batch) for batch in recorded.batches] == [["a", "b", "c", "d", "e"]]
    assert recorded.observed == [5]


def test_a_batch_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "PAUSE_SECONDS", 0.3)
    monkeypatch.setattr(batcher, "LONGEST_WAIT", 0.5)
    recorded = Recorded()
    recorded.run(*[["a"]] * 20, seconds_between=0.1)
    assert len(recorded.batches) > 1


def test_a_full_batch_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "PAUSE_SECONDS", 30.0)
    monkeypatch.setattr(batcher, "LONGEST_WAIT", 120.0)
    recorded = Recorded()
    assert recorded.run(["a"] * batcher.BATCH_ITEMS) == [["A"] * batcher.BATCH_ITEMS]


def test_requests_take_turns_sentence_by_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "BATCH_ITEMS", 4)
    recorded, long = Recorded(), [f"long {number}" for number in range(7)]
    answers = recorded.run_behind((long, ""), (["b", "c"], ""), (["d"], ""))
    assert answers == [[item.upper() for item in long], ["B", "C"], ["D"]]
    assert list(map(set, recorded.batches[1:])) == [{*long[:2], "b", "d"}, {*long[2:5], "c"}, {*long[5:]}]


def test_only_requests_with_equal_options_share_a_batch_and_none_starves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "BATCH_ITEMS", 2)
    recorded = Recorded()
    recorded.run_behind((["a", "b", "c", "d", "e"], "beam"), (["f", "g", "h"], "greedy"), (["i"], "beam"))
    # The greedy request need not wait until the long one before it has ended.
    assert recorded.batches[1:] == [["a", "i"], ["f", "g"], ["b", "c"], ["h"], ["d", "e"]]


def test_a_batch_is_bounded_by_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "BATCH_SIZE", 10)
    recorded = Recorded()
    recorded.run_behind((["x" * 6, "y" * 6, "z" * 30, "a"], ""))
    assert recorded.batches[1:] == [["x" * 6, "y" * 6], ["z" * 30], ["a"]]


def test_a_full_queue_refuses_and_says_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "LONGEST_RETRY", 3)
    recorded = Recorded(longest_queue=1000)
    fits, refused, small = recorded.run_behind((["a"] * 900, ""), (["b"] * 101, ""), (["c"] * 100, ""))
    assert (len(fits), len(small)) == (900, 100)
    assert isinstance(refused, Refusal)
    # 900 sentences of 0.01 seconds, the first estimate, would be 9 seconds.
    assert (refused.status, refused.headers) == (429, {"Retry-After": "3"})
    assert refused.reason == "900 sentences wait already; try again in 3 seconds"


def test_who_leaves_is_taken_out_of_the_queue_and_disturbs_no_one() -> None:
    recorded = Recorded()

    async def leave() -> list[list[str]]:
        def send(*requests: list[str]) -> list[asyncio.Future[list[str]]]:
            return [asyncio.ensure_future(recorded.batcher.answers(each, "")) for each in requests]

        in_progress, beside = send(["a"], ["b"])
        await recorded.until(lambda: recorded.batches == [["a", "b"]])
        waits, stays = send(["c", "d"], ["e"])
        await asyncio.sleep(0)
        assert recorded.batcher.waiting == 3
        in_progress.cancel()
        waits.cancel()
        await asyncio.gather(in_progress, waits, return_exceptions=True)
        assert recorded.batcher.waiting == 1
        recorded.released.set()
        return await asyncio.gather(beside, stays)

    assert recorded.finish(leave()) == [["B"], ["E"]]
    assert recorded.batches == [["a", "b"], ["e"]]
    assert not recorded.batcher.is_alive


def test_closing_finishes_what_waits() -> None:
    recorded = Recorded()

    async def close() -> list[list[str]]:
        sent = [asyncio.ensure_future(recorded.batcher.answers([each], each)) for each in ("a", "b", "c")]
        await recorded.until(lambda: recorded.batches == [["a"]])
        closing = asyncio.get_running_loop().run_in_executor(None, recorded.batcher.close)
        await asyncio.sleep(0.05)
        recorded.released.set()
        await closing
        return await asyncio.gather(*sent)

    assert recorded.finish(close()) == [["A"], ["B"], ["C"]]


def test_what_is_computed_alone_takes_its_turn_and_counts() -> None:
    recorded = Recorded()

    async def send() -> list[Any]:
        first = asyncio.ensure_future(recorded.batcher.answers(["first"], ""))
        await recorded.until(lambda: recorded.batches == [["first"]])
        seen = asyncio.ensure_future(recorded.batcher.alone(lambda: len(recorded.batches), 7))
        last = asyncio.ensure_future(recorded.batcher.answers(["last"], ""))
        await asyncio.sleep(0)
        assert recorded.batcher.waiting == 8
        recorded.released.set()
        return await asyncio.gather(first, seen, last)

    assert recorded.finish(send()) == [["FIRST"], 1, ["LAST"]]
    assert recorded.observed == [1, 7, 1]
    assert recorded.batcher.waiting == 0


def test_an_error_is_the_answer_of_its_request_alone() -> None:
    recorded = Recorded()
    good, bad, other = recorded.run_behind((["a"], ""), (["b", "wrong"], ""), (["c"], ""))
    assert (good, other) == (["A"], ["C"])
    assert isinstance(bad, DataError)
    assert recorded.batcher.waiting == 0
