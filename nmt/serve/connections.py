"""Connections: uvicorn with bounds on the time that a client may take."""

from __future__ import annotations

import asyncio

import uvicorn
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol

from nmt.serve.guard import Guard
from nmt.serve.limits import Limits

GRACE_SECONDS = 1.0
"""For which a stopping server waits for requests that clients have sent already, on connections that are open."""


def protocol_of(head_seconds: float) -> type[H11Protocol]:
    """Returns uvicorn's HTTP/1.1 protocol, which closes connections whose request has not begun within this time.

    uvicorn itself bounds only the pause after a response. The same time is given to a client that does not read its
    answer.
    """

    class TimedProtocol(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None
        _stopping = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._start_timer()

        def data_received(self, data: bytes) -> None:
            self._start_timer()
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_timer()
                if self._stopping:
                    self._announce_end()

        def shutdown(self) -> None:
            """Ends after the request in progress, or after one that is on its way."""
            self._stopping = True
            if self.cycle is None or self.cycle.response_complete:
                self.loop.call_later(GRACE_SECONDS, self._shut_down)
            else:
                self._announce_end()

        def _announce_end(self) -> None:
            """Closes the connection after the answer, which says so: the client's next request would be lost."""
            self.cycle.keep_alive = False
            self.cycle.default_headers = [*self.cycle.default_headers, CLOSE_HEADER]

        def _shut_down(self) -> None:
            if self.transport is not None and not self.transport.is_closing():
                super().shutdown()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._end()

        def _start_timer(self) -> None:
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(head_seconds, self._end)

        def _stop_timer(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _end(self) -> None:
            self.transport.close()
            # Closing waits for a client that does not read its answer.
            self._head_timer = self.loop.call_later(head_seconds, self.transport.abort)

    return TimedProtocol


def build_server(application: Guard, limits: Limits) -> uvicorn.Server:
    """Returns a server that finishes its requests at SIGTERM and logs errors alone."""
    return uvicorn.Server(
        uvicorn.Config(
            application,
            http=protocol_of(limits.body_seconds),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=limits.connections,
            timeout_graceful_shutdown=int(limits.seconds + limits.body_seconds),
        )
    )
