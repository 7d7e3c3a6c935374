"""Batches of the server: which requests share one, and who gets an error."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from nmt.errors import DataError
from nmt.serve import batcher
from nmt.serve.batcher import Batcher


class Recorded:
    """A batcher that answers in capitals, and records its batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.batcher: Batcher[str, str, str] = Batcher("test", self._work, len, longest_queue=1000)

    def _work(self, items: Sequence[str], options: str) -> list[str]:
        self.batches.append(list(items))
        if "wrong" in items:
            raise DataError("cannot be translated")
        return [item.upper() for item in items]

    def run(self, *requests: list[str], seconds_between: float = 0.0) -> list[list[str] | BaseException]:
        """Sends the requests one after another; returns their answers."""

        async def send() -> list[list[str] | BaseException]:
            sent = []
            for items in requests:
                sent.append(asyncio.ensure_future(self.batcher.answers(items, "")))
                await asyncio.sleep(seconds_between)
            return await asyncio.gather(*sent, return_exceptions=True)

        try:
            return asyncio.run(asyncio.wait_for(send(), 20))
        finally:
            self.batcher.close()


def test_a_batch_waits_for_requests_that_arrive_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "PAUSE_SECONDS", 1.0)
    monkeypatch.setattr(batcher, "LONGEST_WAIT", 60.0)
    recorded = Recorded()
    assert recorded.run(["a"], ["b", "c"], ["d"], seconds_between=0.4) == [["A"], ["B", "C"], ["D"]]
    assert [sorted(batch) for batch in recorded.batches] == [["a", "b", "c", "d"]]


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


def test_an_error_is_the_answer_of_its_request_alone() -> None:
    recorded = Recorded()
    good, bad, other = recorded.run(["a"], ["b", "wrong"], ["c"])
    assert (good, other) == (["A"], ["C"])
    assert isinstance(bad, DataError)
    assert recorded.batcher.waiting == 0
