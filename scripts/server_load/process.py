"""A real nmt-serve in a process of its own, on a free port of this machine."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answered:
    """An answer of the server."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Client:
    """Sends requests to a server on this machine."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, timeout: float = 60.0
    ) -> Answered:
        """Sends a request; a body that is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            sent = {"Content-Type": "application/json"}
            content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, content, sent | dict(headers or {}))
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answered(response.status, names, response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Answered:
        return self.request("POST", path, body, headers)

    def metric(self, name: str, labels: str = "") -> float:
        """The value of a metric, 0 if it has none yet."""
        text = self.request("GET", "/metrics").body.decode()
        found = re.search(rf"^{re.escape(name + labels)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


@dataclass(frozen=True)
class Server(Client):
    """A running server."""

    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)


@contextmanager
def serving(*models: Path, options: tuple[object, ...] = (), port: int = 0) -> Iterator[Server]:
    """A server of these models, which is killed at the end if it still runs."""
    words = [sys.executable, "-m", "nmt.cli.serve", "--port", str(port), "--threads", "1"]
    for model in models:
        words += ["--model", str(model)]
    process = subprocess.Popen([*words, *map(str, options)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    log: list[str] = []
    stack = ExitStack()
    stack.callback(process.stderr.close)
    try:
        for line in process.stderr:
            log.append(line)
            if listening := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                reader = threading.Thread(target=log.extend, args=(process.stderr,))
                reader.start()
                stack.callback(reader.join)
                yield Server(int(listening[1]), process, log)
                return
        raise AssertionError(f"the server did not start: {''.join(log)}")
    finally:
        process.kill()
        process.wait()
        stack.close()
