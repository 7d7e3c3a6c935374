"""Limits of the server, and refusals of requests that exceed them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nmt.errors import counted


@dataclass(frozen=True)
class Limits:
    """Bounds that keep one client from using up memory or time of all."""

    body: int = 1 << 20
    """Bytes of a request's body."""
    characters: int = 20_000
    """Of all texts of a request together."""
    sentences: int = 500
    """Of a request."""
    pieces: int = 500
    """Of a sentence."""
    queue: int = 5_000
    """Sentences that wait for a model; the requests of all clients together."""
    seconds: float = 60.0
    """From the end of a request to its answer."""
    body_seconds: float = 10.0
    """For the head of a request, and for its body."""
    weights: int = 1_000_000
    """Attention weights in an answer, if a translation is as long as its source."""
    connections: int = 1_000
    """Open at the same time."""


class Refusal(Exception):
    """A request that is not answered: status, reason and further headers of the response."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})


def check_texts(texts: Sequence[str], limits: Limits) -> None:
    """Raises `Refusal` 413 for too many texts, or too many characters."""
    if len(texts) > limits.sentences:
        raise Refusal(413, f"{counted(len(texts), 'sentence')}; a request may have {limits.sentences:,}")
    if (characters := sum(map(len, texts))) > limits.characters:
        raise Refusal(413, f"{counted(characters, 'character')}; a request may have {limits.characters:,}")


def check_pieces(pieces: Sequence[int], limits: Limits) -> None:
    """Raises `Refusal` 413 for a sentence of too many pieces; `pieces` are the numbers of those of each."""
    for number, count in enumerate(pieces, start=1):
        if count > limits.pieces:
            raise Refusal(413, f"sentence {number} has {count:,} pieces; a sentence may have {limits.pieces:,}")
