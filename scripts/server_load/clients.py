"""Many clients at once, each with one connection."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

OTHER = ("refused", "closed without an answer", "broken answer", "timed out")


@dataclass
class Results:
    """Outcomes of requests."""

    seconds: list[float] = field(default_factory=list)
    """Of each answered request."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Statuses, and what happened to requests that were not answered (`OTHER`)."""

    @property
    def answered(self) -> int:
        return self.outcomes["200"]

    def percentile(self, share: float) -> float:
        """Returns the time in seconds that this share of the answers took at most; 0 without answers."""
        ordered = sorted(self.seconds)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


async def _request(port: int, body: bytes, streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> str:
    """Posts a body on a connection, which is kept in `streams`; returns the status, or one of `OTHER`."""
    if not streams:
        try:
            streams.append(await asyncio.open_connection("127.0.0.1", port))
        except OSError:
            return "refused"
    reader, writer = streams[0]
    head = b""
    try:
        writer.write(b"POST /api/translate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        writer.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        fields = head.decode("latin-1").lower().split("\r\n")
        length = next(int(each.partition(":")[2]) for each in fields if each.startswith("content-length:"))
        await reader.readexactly(length)
        if "connection: close" in fields:
            writer.close()
            streams.clear()
        return fields[0].split()[1]
    except (OSError, asyncio.IncompleteReadError) as error:
        writer.close()
        streams.clear()
        partial = getattr(error, "partial", b"")
        return "broken answer" if head or partial else "closed without an answer"


async def load(
    port: int, lines: Sequence[str], clients: int, seconds: float, results: Results, sentences: int = 1
) -> None:
    """Translates lines over and over; every client waits for its answer before its next request of so many."""
    end = time.monotonic() + seconds

    async def client(number: int) -> None:
        streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        try:
            await requests(number, streams)
        finally:
            for _, writer in streams:
                writer.close()

    async def requests(position: int, streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
        while time.monotonic() < end:
            some = [lines[(position * sentences + each) % len(lines)] for each in range(sentences)]
            body = json.dumps({"lines": some}).encode()
            position += clients
            started = time.monotonic()
            try:
                outcome = await asyncio.wait_for(_request(port, body, streams), 120)
            except asyncio.TimeoutError:
                outcome = "timed out"
            results.outcomes[outcome] += 1
            if outcome == "200":
                results.seconds.append(time.monotonic() - started)
            elif outcome in OTHER:
                await asyncio.sleep(0.1)

    await asyncio.gather(*map(client, range(clients)))
