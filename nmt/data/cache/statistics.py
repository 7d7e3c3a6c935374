"""Reports on text that was encoded: rows read, kept, dropped and why, pieces, unknown ones, duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nmt.data.readers.base import Counts, ExampleSource
from nmt.errors import counted


def named(counts: Sequence[Counts], texts: Sequence[ExampleSource[Any]]) -> tuple[Counts, ...]:
    """Returns the counts of the same contents under other file names."""
    return tuple(replace(count, name=text.name) for count, text in zip(counts, texts, strict=True))


@dataclass(frozen=True)
class SideReport:
    """One side of all pairs that were kept."""

    pieces: int
    unknown: int
    longest: int


@dataclass(frozen=True)
class DocumentsReport:
    """The documents that sentences belong to; a sentence of a corpus without documents is a document by itself."""

    count: int
    sentences: int
    longest: int
    """Sentences of the longest one."""
    context_alone: int
    """Sentences that are dropped as pairs and stay as context."""

    def line(self) -> str:
        mean = self.sentences / max(self.count, 1)
        alone = f"; {counted(self.context_alone, 'sentence')} of context alone" if self.context_alone else ""
        return f"documents: {self.count:,}, {mean:.1f} sentences each, longest {self.longest:,}{alone}"


@dataclass(frozen=True)
class EncodingReport:
    """All corpora of an `EncodedCorpus`. Stored in the cache, so that a later run reports the same."""

    corpora: tuple[Counts, ...]
    duplicates: int
    """Pairs, both sides alike, that occurred before in any corpus; only pairs that pass the other filters count."""
    source: SideReport
    target: SideReport
    aligned: int | None = None
    """Pairs that were kept and have links; None if no corpus has alignments."""
    documents: DocumentsReport | None = None
    """None if no corpus has documents."""

    @property
    def read(self) -> int:
        return sum(corpus.read for corpus in self.corpora)

    @property
    def kept(self) -> int:
        return sum(corpus.kept for corpus in self.corpora)

    @property
    def dropped(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for corpus in self.corpora:
            for reason, dropped in corpus.dropped.items():
                total[reason] = total.get(reason, 0) + dropped.count
        return total

    def lines(self) -> list[str]:
        lines = [corpus.line("pair") for corpus in self.corpora]
        for name, side in (("source", self.source), ("target", self.target)):
            mean = side.pieces / max(self.kept, 1)
            lines.append(
                f"{name}: {counted(side.pieces, 'piece')}, {mean:.1f} a sentence, longest {side.longest}, "
                f"{side.unknown / max(side.pieces, 1):.3%} unknown"
            )
        if self.aligned is not None:
            lines.append(f"alignments: {self.aligned:,} of {self.kept:,} pairs have links")
        if self.documents is not None:
            lines.append(self.documents.line())
        fate = "dropped" if "duplicate" in self.dropped else "kept"
        lines.append(f"duplicate pairs: {self.duplicates:,}" + (f" ({fate})" if self.duplicates else ""))
        return lines


@dataclass(frozen=True)
class CollectionReport:
    """All collections of an `EncodedCollection`. Stored in the cache, so that a later run reports the same."""

    collections: tuple[Counts, ...]
    labels: Mapping[str, int]
    """Documents that were kept, by label."""
    sentences: int
    pieces: int
    unknown: int
    longest: int
    """Pieces of the longest document."""

    def lines(self) -> list[str]:
        lines = [collection.line("document") for collection in self.collections]
        kept = max(sum(collection.kept for collection in self.collections), 1)
        lines.append(
            f"documents: {self.pieces:,} pieces, {self.pieces / kept:.1f} in {self.sentences / kept:.1f} sentences "
            f"each, longest {self.longest:,}, {self.unknown / max(self.pieces, 1):.3%} unknown"
        )
        lines.append("labels: " + ", ".join(f"{label} {count:,}" for label, count in self.labels.items()))
        return lines
