"""Guard around the application: size and time of requests, clients that leave, safe headers, metrics."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

from nmt.runtime import logger
from nmt.serve.limits import Limits, Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
"""An ASGI application."""

SAFE_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""Of every response that has no header of its own with this name."""
OVERSIZE = 16
"""Multiple of the largest body up to which a body is read to its end: a client that sends it reads no answer before."""


class ClientGoneError(Exception):
    """The client has closed the connection."""


class Guard:
    """Runs the application for a whole request, and cancels it when time is up or the client has left.

    `observe` is called after each request with its route, its status and the seconds that it took.
    """

    def __init__(self, application: Application, limits: Limits, observe: Callable[[str, int, float], object]) -> None:
        self._application, self._limits, self._observe = application, limits, observe

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the life span of the application
            await self._application(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", ()))
                names = {name.lower() for name, _ in headers}
                headers += [(k.encode(), v.encode()) for k, v in SAFE_HEADERS.items() if k.encode() not in names]
                message = {**message, "headers": headers}
            await send(message)

        try:
            reason = f"the body took more than {self._limits.body_seconds:g} seconds"
            with _bound(self._limits.body_seconds, Refusal(408, reason, {"Connection": "close"})):
                body = await self._read(receive)
            await self._run(scope, body, receive, send_safely)
        except Refusal as refusal:
            if not status:
                await _send_json(send_safely, refusal.status, {"error": refusal.reason}, refusal.headers)
        except ClientGoneError:
            status = 499  # as nginx counts them
        except Exception:
            # The traceback is for the log alone.
            logger.exception("a request to %s failed", scope["path"])
            if not status:
                await _send_json(send_safely, 500, {"error": "internal error; the server's log has the reason"}, {})
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._observe(route, status, time.perf_counter() - started)

    async def _read(self, receive: Receive) -> bytes:
        parts, size, more = [], 0, True
        while more and size <= OVERSIZE * self._limits.body:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part = message.get("body", b"")
            size, more = size + len(part), message.get("more_body", False)
            if size <= self._limits.body:
                parts.append(part)
        if size > self._limits.body:
            reason = f"the body is too large; it may have {self._limits.body:,} bytes"
            raise Refusal(413, reason, {"Connection": "close"})
        return b"".join(parts)

    async def _run(self, scope: MutableMapping[str, Any], body: bytes, receive: Receive, send: Send) -> None:
        unread = [body]
        reason = f"not finished within {self._limits.seconds:g} seconds; send less text at once"
        with _bound(self._limits.seconds, Refusal(504, reason)) as stop:
            left = asyncio.ensure_future(_disconnect(receive, stop))

            async def receive_again() -> Message:
                if unread:
                    return {"type": "http.request", "body": unread.pop(), "more_body": False}
                await asyncio.shield(left)
                return {"type": "http.disconnect"}

            try:
                await self._application(scope, receive_again, send)
            finally:
                left.cancel()


@contextmanager
def _bound(seconds: float, late: Exception) -> Iterator[Callable[[Exception], None]]:
    """Cancels the block after so many seconds, and raises `late`. The function that it gives cancels it earlier.

    The block has no task of its own: three tasks a request took a tenth of the time of HTTP.
    """
    task, reasons = asyncio.current_task(), list[Exception]()
    assert task is not None

    def stop(reason: Exception) -> None:
        if not reasons:
            reasons.append(reason)
            task.cancel()

    timer = task.get_loop().call_later(seconds, stop, late)
    try:
        yield stop
    except asyncio.CancelledError:
        if not reasons:
            raise
        raise reasons[0] from None
    finally:
        timer.cancel()


async def _disconnect(receive: Receive, stop: Callable[[Exception], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stop(ClientGoneError())


async def _send_json(send: Send, status: int, content: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    body = json.dumps(content).encode()
    all_headers = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    encoded = [(name.lower().encode(), value.encode()) for name, value in all_headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
