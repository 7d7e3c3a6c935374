"""Time spent training, apart from time spent validating and saving."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """A clock that can be stopped, with laps."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start = clock()
        self._stopped_seconds = 0.0
        self._stopped_at: float | None = None
        self._lap_start = 0.0

    @property
    def elapsed(self) -> float:
        return self._clock() - self._start

    @property
    def running(self) -> float:
        """Seconds since the start without those in which it stood still."""
        standing = self._clock() - self._stopped_at if self._stopped_at is not None else 0.0
        return self.elapsed - self._stopped_seconds - standing

    @property
    def since_lap(self) -> float:
        return self.running - self._lap_start

    def lap(self) -> float:
        """Running seconds since the last lap; begins a new one."""
        seconds = self.since_lap
        self._lap_start += seconds
        return seconds

    @contextmanager
    def stopped(self) -> Iterator[None]:
        assert self._stopped_at is None, "stopped twice"
        self._stopped_at = self._clock()
        try:
            yield
        finally:
            self._stopped_seconds += self._clock() - self._stopped_at
            self._stopped_at = None
