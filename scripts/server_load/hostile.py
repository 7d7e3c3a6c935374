"""Hostile requests: bytes that no client of good will sends, and ways to send them."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

PATHS = ("/api/translate", "/translate", "/detect", "/api/score", "/api/align", "/api/steps")
FIELDS = (
    "lines",
    "q",
    "source",
    "target",
    "model",
    "n_best",
    "prefixes",
    "beam_size",
    "attention",
    "format",
    "targets",
)
ALLOWED = re.compile(rb"HTTP/1\.1 (100|2\d\d|4\d\d|501|503|504) ")
"""Statuses that an attack may be answered with; any other, 500 above all, is a failure."""
SECONDS = 30.0
"""For which an attack waits for an answer. The server must have closed the connection by then, or answered."""


@dataclass(frozen=True)
class Attack:
    """A hostile request."""

    name: str
    data: bytes
    parts: int = 1
    """In which it is sent, with pauses between them."""
    leaves: bool = False
    """Whether the client resets the connection, in place of reading the answer."""


def post(path: str, body: bytes, headers: str = "Content-Type: application/json\r\n") -> bytes:
    """Returns a request whose length is right."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def random_bytes(random: Random) -> bytes:
    """Returns bytes that are no HTTP."""
    return random.randbytes(random.randrange(1, 5000))


def random_body(random: Random) -> bytes:
    """Returns a request with a body that is no JSON."""
    return post(random.choice(PATHS), random_bytes(random))


def random_form(random: Random) -> bytes:
    """Returns a request with a body that is hardly a form."""
    return post(
        random.choice(PATHS), b"q=" + random_bytes(random), "Content-Type: application/x-www-form-urlencoded\r\n"
    )


def deep_json(random: Random) -> bytes:
    """Returns JSON of very many levels, closed or not."""
    depth, (a, b) = random.choice([50, 1000, 100_000]), random.choice([("[", "]"), ('{"lines":', "}")])
    text = a * depth + random.choice(["", "1" + b * depth])
    return post(random.choice(PATHS), b'{"lines": ' + text.encode() + b"}")


def huge_line(random: Random) -> bytes:
    """Returns a head that does not end, or a body above the limit."""
    size = random.choice([20_000, 200_000, 3_000_000])
    return random.choice(
        [
            b"GET /" + b"a" * size,
            b"GET / HTTP/1.1\r\nX: " + b"b" * size,
            b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (size // 6),
            post("/api/translate", json.dumps({"lines": ["c" * size]}).encode()),
            post("/translate", b"q=" + b"d" * size, "Content-Type: application/x-www-form-urlencoded\r\n"),
        ]
    )


def value(random: Random, depth: int = 0) -> object:
    """Returns a value of JSON that is rarely the expected one."""
    texts = (
        "",
        "Hund",
        "\ud800",
        "\0",
        "a\u202eb",
        "\u0301" * 200,
        "👩‍👩‍👧‍👦" * 20,
        "auto",
        "../../etc/passwd",
        "\n" * 50,
    )
    simple = (None, True, -1, 0, 10**400, 1e308, float("nan"), float("inf"), *texts)
    kind = random.randrange(4) if depth < 3 else 3
    if kind == 0:
        return [value(random, depth + 1) for _ in range(random.choice([0, 1, 3, 600]) if depth < 2 else 1)]
    if kind == 1:
        return {random.choice(FIELDS): value(random, depth + 1) for _ in range(3)}
    return random.choice(simple)


def wrong_values(random: Random) -> bytes:
    """Returns JSON with the fields of the API, and values of wrong types."""
    names = {*random.sample(FIELDS, 3), "lines", "q"}
    return post(random.choice(PATHS), json.dumps({name: value(random) for name in names}).encode())


def wrong_head(random: Random) -> bytes:
    """Returns a request whose head contradicts itself, or its body."""
    heads = (
        "Content-Length: -1",
        "Content-Length: 1e9",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Transfer-Encoding: gzip, chunked",
        "Content-Encoding: gzip\r\nContent-Length: 2",
        "Expect: 100-continue\r\nContent-Length: 99999999",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA",
        "Authorization: Bearer \xff\r\nContent-Length: 2",
        ": \r\n",
    )
    bodies = (b"", b"{}", b"ffffffff\r\nabc", b"zz\r\nabc\r\n0\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n")
    head = f"POST {random.choice(PATHS)} HTTP/1.1\r\nHost: a\r\n{random.choice(heads)}\r\n\r\n"
    return head.encode("latin-1") + random.choice(bodies)


def wrong_target(random: Random) -> bytes:
    """Returns a request for what is not there."""
    method = random.choice(["GET", "PUT", "TRACE", "CONNECT", "OPTIONS", "BREW", "get"])
    targets = (
        "/../../etc/passwd",
        "/%00",
        "/api/translate/%2e%2e/",
        "*",
        "http://other/",
        "/api/models?x=" + "y" * 9000,
    )
    line = f"{method} {random.choice(targets)} HTTP/1.{random.choice('019')}\r\n"
    return line.encode() + b"Host: a\r\nConnection: close\r\n\r\n"


def pipelined(random: Random) -> bytes:
    """Returns several requests at once, the last one cut off."""
    body = json.dumps({"lines": ["der hund schläft ."]}).encode()
    request = post("/api/translate", body).replace(b"Connection: close\r\n", b"")
    return request * random.randrange(2, 6) + request[: random.randrange(1, len(request))]


def sound(random: Random) -> bytes:
    """Returns a sound request: what is hostile is the way it is sent."""
    return post("/api/translate", json.dumps({"lines": ["der hund schläft ."] * random.randrange(1, 5)}).encode())


SILENT = 0.01
"""Share of clients that stop in the middle of a request, and stay. The server gives them up after 10 seconds."""
KINDS: Sequence[Callable[[Random], bytes]] = (
    *(random_bytes, random_body, random_form, deep_json, huge_line, wrong_values, wrong_head, wrong_target),
    *(pipelined, sound),
)


def attack(random: Random) -> Attack:
    """Draws an attack: what is sent, how much of it, in how many parts, and whether the client stays."""
    if random.random() < SILENT:
        data = sound(random)
        return Attack("silent", data[: random.randrange(1, len(data))])
    kind = random.choice(KINDS)
    data = kind(random)
    cut = random.random() < 0.3
    if cut:
        data = data[: random.randrange(1, len(data) + 1)]
    parts = random.choice([1, 1, 1, 3, 10])
    return Attack(kind.__name__, data, parts, leaves=cut or random.random() < 0.3)


async def run_attack(port: int, attack: Attack, secrets: Sequence[bytes]) -> str | None:
    """Runs an attack; returns what the server did wrong, or None. `secrets` must not be in an answer."""
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), SECONDS)
    except (OSError, asyncio.TimeoutError) as error:
        return f"no connection: {error!r}"
    answer = b""
    try:
        size = -(-len(attack.data) // attack.parts)
        for start in range(0, len(attack.data), size):
            writer.write(attack.data[start : start + size])
            await asyncio.wait_for(writer.drain(), SECONDS)
            if attack.parts > 1:
                await asyncio.sleep(0.02)
        if attack.leaves:
            # The connection ends with a reset, not in good order.
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return None
        while part := await asyncio.wait_for(reader.read(1 << 16), SECONDS):
            answer += part
    except asyncio.TimeoutError:
        return f"neither answered nor closed within {SECONDS:g} seconds; {answer[:100]!r}"
    except OSError:
        pass  # the server closed the connection before it had read everything
    finally:
        writer.transport.abort()
    if answer and not ALLOWED.match(answer):
        return f"answered {answer[:200]!r}"
    leaks = [secret for secret in (b"Traceback", b'File "', *secrets) if secret in answer]
    return f"the answer has {leaks[0]!r}" if leaks else None
