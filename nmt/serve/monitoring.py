"""Metrics in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SENTENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Counts requests and batches."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        by_route, by_model = ["route"], ["model"]
        self._requests = Counter("nmt_requests", "Requests by route and status", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "nmt_request_seconds", "Time of requests", by_route, buckets=SECONDS, registry=registry
        )
        self._batches = Histogram(
            "nmt_batch_sentences", "Sentences of batches", by_model, buckets=SENTENCES, registry=registry
        )
        self._busy = Counter("nmt_batch_seconds", "Time of batches", by_model, registry=registry)
        self._waiting = Gauge("nmt_waiting_sentences", "Sentences that wait", by_model, registry=registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batches_of(self, model: str, waiting: Callable[[], int]) -> Callable[[int, float], None]:
        """Returns a function that counts a batch of this model: its sentences, and its seconds."""
        self._waiting.labels(model).set_function(waiting)
        sentences, busy = self._batches.labels(model), self._busy.labels(model)

        def count(items: int, seconds: float) -> None:
            sentences.observe(items)
            busy.inc(seconds)

        return count

    def text(self) -> bytes:
        """Returns all metrics."""
        return generate_latest(self._registry)
