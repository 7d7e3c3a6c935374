"""Batches of many requests: who shares one, whose turn it is, and what happens to those who leave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from nmt.serve import batcher
from nmt.serve.batcher import Batcher
from nmt.serve.limits import Refusal


class Upper:
    """Work that gives texts in capitals, and waits before the first batch until it is released."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[str], str]] = []
        self.busy, self.released = threading.Event(), threading.Event()

    def __call__(self, texts: Sequence[str], options: str) -> list[str]:
        self.busy.set()
        assert self.released.wait(10)
        self.batches.append((list(texts), options))
        if "bad" in texts:
            raise ValueError("bad")
        return [f"{text.upper()}{options}" for text in texts]


def run(scenario: Callable[[Upper, Batcher[str, str, str]], Coroutine[Any, Any, None]], queue: int = 100) -> Upper:
    """Runs a scenario with a batcher whose thread is busy with the text `first`."""
    work = Upper()
    queued = Batcher[str, str, str]("test", work, len, queue)

    async def whole() -> None:
        first = asyncio.ensure_future(queued.answers(["first"], ""))
        await asyncio.get_running_loop().run_in_executor(pool, work.busy.wait, 10)
        await scenario(work, queued)
        assert await first == ["FIRST"]

    with ThreadPoolExecutor() as pool:
        asyncio.run(asyncio.wait_for(whole(), 20))
    queued.close()
    assert not queued.is_alive
    assert queued.waiting == 0
    return work


async def all_of(*answers: Awaitable[Any]) -> list[Any]:
    return list(await asyncio.gather(*answers, return_exceptions=True))


async def started(*answers: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Tasks that wait in the queue, in this order."""
    tasks = [asyncio.ensure_future(each) for each in answers]
    await asyncio.sleep(0)
    return tasks


def test_requests_with_equal_options_share_a_batch() -> None:
    async def scenario(work: Upper, queued: Batcher[str, str, str]) -> None:
        tasks = await started(
            queued.answers(["a", "b"], "!"), queued.answers(["c"], "?"), queued.answers(["d", "a"], "!")
        )
        assert queued.waiting == 5
        work.released.set()
        assert await all_of(*tasks) == [["A!", "B!"], ["C?"], ["D!", "A!"]]

    assert run(scenario).batches == [(["first"], ""), (["a", "b", "d", "a"], "!"), (["c"], "?")]


def test_requests_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "BATCH_ITEMS", 4)
    finished: list[str] = []

    async def scenario(work: Upper, queued: Batcher[str, str, str]) -> None:
        async def answered(name: str, texts: list[str], options: str) -> None:
            assert await queued.answers(texts, options) == [f"{text.upper()}{options}" for text in texts]
            finished.append(name)

        tasks = await started(
            answered("long", list("abcdefghi"), ""), answered("other", ["x"], "!"), answered("short", ["y", "z"], "")
        )
        work.released.set()
        assert await all_of(*tasks) == [None] * 3

    batches = run(scenario).batches[1:]
    assert batches[0] == (["a", "b", "y", "z"], "")
    assert finished == ["short", "other", "long"]
    assert sorted(text for texts, _ in batches for text in texts) == sorted("abcdefghixyz")


def test_a_batch_has_a_bounded_number_of_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "BATCH_SIZE", 5)

    async def scenario(work: Upper, queued: Batcher[str, str, str]) -> None:
        tasks = await started(queued.answers(["abc", "def", "g", "abcdefghi", "h"], ""))
        work.released.set()
        assert await all_of(*tasks) == [["ABC", "DEF", "G", "ABCDEFGHI", "H"]]

    assert [texts for texts, _ in run(scenario).batches[1:]] == [["abc", "def"], ["g", "abcdefghi"], ["h"]]


def test_a_client_that_leaves_takes_its_work_out_of_the_queue() -> None:
    async def scenario(work: Upper, queued: Batcher[str, str, str]) -> None:
        tasks = await started(queued.answers(["a", "b"], ""), queued.answers(["c"], ""), queued.alone(lambda: "d", 3))
        assert queued.waiting == 6
        tasks[0].cancel()
        tasks[2].cancel()
        await asyncio.sleep(0)
        assert queued.waiting == 1
        work.released.set()
        assert await tasks[1] == ["C"]

    assert run(scenario).batches == [(["first"], ""), (["c"], "")]


def test_an_error_is_that_of_its_request_alone() -> None:
    async def scenario(work: Upper, queued: Batcher[str, str, str]) -> None:
        tasks = await started(*(queued.answers(texts, "") for texts in (["a"], ["b", "bad"], ["c"])))
        work.released.set()
        first, second, third = await all_of(*tasks)
        assert (first, third) == (["A"], ["C"])
        assert isinstance(second, ValueError)

    run(scenario)


def test_a_full_queue_says_when_to_come_back() -> None:
    async def scenario(work: Upper, queued: Batcher[str, str, str]) -> None:
        tasks = await started(queued.answers(["a", "b", "c"], ""))
        with pytest.raises(Refusal) as refused:
            await queued.answers(["d", "e"], "")
        assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
        tasks += await started(queued.answers(["d"], ""))
        work.released.set()
        assert await all_of(*tasks) == [["A", "B", "C"], ["D"]]

    run(scenario, queue=4)


def test_work_of_another_kind_waits_for_its_turn() -> None:
    async def scenario(work: Upper, queued: Batcher[str, str, str]) -> None:
        tasks = await started(queued.answers(["a"], ""), queued.alone(lambda: len(work.batches), 1))
        tasks += await started(queued.alone(lambda: 1 // 0, 1))
        work.released.set()
        first, second, third = await all_of(*tasks)
        assert (first, second) == (["A"], 2)
        assert isinstance(third, ZeroDivisionError)

    run(scenario)


def test_closing_finishes_what_waits() -> None:
    work = Upper()
    queued = Batcher[str, str, str]("test", work, len, 10)

    async def scenario() -> None:
        task = asyncio.ensure_future(queued.answers(["a", "b"], ""))
        await asyncio.sleep(0)
        closing = asyncio.get_running_loop().run_in_executor(None, queued.close)
        work.released.set()
        assert await task == ["A", "B"]
        await closing

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert not queued.is_alive


def test_nothing_to_do_is_no_work() -> None:
    async def scenario(work: Upper, queued: Batcher[str, str, str]) -> None:
        assert await queued.answers([], "") == []
        work.released.set()

    assert run(scenario).batches == [(["first"], "")]
