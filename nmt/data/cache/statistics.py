"""Reports on text that was encoded: rows read, kept, dropped and why, pieces, unknown ones, duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from nmt.data.readers.base import Counts, Dropped
from nmt.errors import counted


@dataclass(frozen=True)
class TextReport:
    """One corpus or collection: `read == kept + the counts of all reasons`."""

    name: str
    read: int
    kept: int
    dropped: Mapping[str, Dropped]

    @classmethod
    def of(cls, name: str, counts: Counts) -> TextReport:
        """Returns the report of a text that was read completely."""
        assert counts.read == counts.kept + counts.dropped_total
        return cls(name, counts.read, counts.kept, dict(counts.dropped))

    def dropped_text(self) -> str:
        """Returns for example `too long 3 (lines 17, 40, 41), empty 1 (line 5)`; empty if nothing was dropped."""
        return ", ".join(f"{reason} {_with_lines(dropped)}" for reason, dropped in self.dropped.items())

    def line(self, unit: str) -> str:
        """Returns a line for the log; `unit` names a row in the singular."""
        left_out = f"; left out: {self.dropped_text()}" if self.dropped else ""
        return f"{self.name}: {counted(self.read, unit)} read, {self.kept:,} kept{left_out}"


def _with_lines(dropped: Dropped) -> str:
    if not dropped.lines:
        return f"{dropped.count:,}"
    more = ", ..." if dropped.count > len(dropped.lines) else ""
    word = "line" if dropped.count == 1 else "lines"
    return f"{dropped.count:,} ({word} {', '.join(map(str, dropped.lines))}{more})"


def named(reports: Sequence[TextReport], names: Iterable[str]) -> tuple[TextReport, ...]:
    """Returns the reports of the same contents under other file names."""
    return tuple(replace(report, name=name) for report, name in zip(reports, names, strict=True))


@dataclass(frozen=True)
class SideReport:
    """One side of all pairs that were kept."""

    pieces: int
    unknown: int
    longest: int

    @property
    def unknown_rate(self) -> float:
        """Unknown pieces as a share of all."""
        return self.unknown / self.pieces if self.pieces else 0.0


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

    corpora: tuple[TextReport, ...]
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
                f"{side.unknown_rate:.3%} unknown"
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

    collections: tuple[TextReport, ...]
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
