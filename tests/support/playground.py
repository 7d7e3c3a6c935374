"""A loopback server of the playground: the page, and the answers of real models, for tests in a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from pydantic import BaseModel, ValidationError

from nmt.config.schema import SearchConfig
from nmt.errors import NmtError
from nmt.tasks.translation.drawing import mechanism_of
from nmt.tasks.translation.loading import TrainedModel, build_system
from nmt.tasks.translation.recording import record_pair, record_search
from nmt.visualization.pages import PageSystem, served_page
from nmt.visualization.playground import STEPS_PATH, PairRequest, StepsRequest
from tests.support.models import CPU


def answers(models: Mapping[str, TrainedModel], path: str, body: bytes) -> BaseModel | None:
    """Answers a request of the page."""
    if path == f"/{STEPS_PATH}":
        asked = StepsRequest.model_validate_json(body)
        search = SearchConfig(beam_size=asked.beam_size)
        system = build_system([models[asked.model]], CPU)
        return record_search(system, asked.source, search, asked.prefix, asked.weights)
    pair = PairRequest.model_validate_json(body)
    return record_pair(build_system([models[pair.model]], CPU), pair.source, pair.target, SearchConfig())


@contextmanager
def serving(models: Mapping[str, TrainedModel]) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """A server on a free port: its address, and the requests that it got."""
    systems = [
        PageSystem(
            name, each.config.data.source_language, each.config.data.target_language, mechanism_of(each.config.model)
        )
        for name, each in models.items()
    ]
    page, policy = served_page(systems)
    requests: list[tuple[str, Any]] = []
    one_at_a_time = Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/":
                self._send(200, page.encode(), "text/html; charset=utf-8")
            else:
                self._send(404, b"", "text/plain")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with one_at_a_time:
                requests.append((self.path, json.loads(body)))
                try:
                    record = answers(models, self.path, body)
                except (NmtError, ValidationError) as error:
                    self._send(422, json.dumps({"error": str(error)}).encode(), "application/json")
                    return
            self._send(200, (record.model_dump_json() if record else "null").encode(), "application/json")

        def _send(self, status: int, content: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Security-Policy", policy)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing: tests are silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
