"""What became of a text on its way to ids: read, kept, dropped and why, unknown pieces, duplicates."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nmt.data.readers.base import Counts, Dropped
from nmt.errors import counted


@dataclass(frozen=True)
class CorpusReport:
    """One corpus: `read == kept + the counts of all reasons`."""

    name: str
    read: int
    kept: int
    dropped: Mapping[str, Dropped]

    @classmethod
    def of(cls, name: str, counts: Counts) -> CorpusReport:
        """The report of a corpus when its account is complete."""
        assert counts.read == counts.kept + counts.dropped_total
        return cls(name, counts.read, counts.kept, dict(counts.dropped))

    def dropped_text(self) -> str:
        """For example `too long 3 (lines 17, 40, 41), empty 1 (line 5)`; empty where nothing was dropped."""
        return ", ".join(f"{reason} {_with_lines(dropped)}" for reason, dropped in self.dropped.items())


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
    """The documents that sentences stand in; a sentence of a corpus without documents stands in one of its own."""

    count: int
    sentences: int
    longest: int
    """Sentences of the longest one."""
    context_alone: int
    """Sentences that are left out as pairs, and stay as what others have before them."""

    def line(self) -> str:
        """For the log."""
        mean = self.sentences / max(self.count, 1)
        alone = f"; {counted(self.context_alone, 'sentence')} of context alone" if self.context_alone else ""
        return f"documents: {self.count:,}, {mean:.1f} sentences each, longest {self.longest:,}{alone}"


@dataclass(frozen=True)
class EncodingReport:
    """All corpora of an `EncodedCorpus`. It lies in the cache, so that a later run reports the same."""

    corpora: tuple[CorpusReport, ...]
    duplicates: int
    """Pairs, both sides alike, that occurred before in any corpus; only pairs that pass the other filters count."""
    source: SideReport
    target: SideReport
    aligned: int | None = None
    """Pairs that are left and have links; None where no corpus has alignments."""
    documents: DocumentsReport | None = None
    """None where no corpus has documents."""

    @property
    def read(self) -> int:
        """Pairs in the corpora."""
        return sum(corpus.read for corpus in self.corpora)

    @property
    def kept(self) -> int:
        """Pairs that are left."""
        return sum(corpus.kept for corpus in self.corpora)

    @property
    def dropped(self) -> dict[str, int]:
        """Pairs left out, by reason."""
        total: dict[str, int] = {}
        for corpus in self.corpora:
            for reason, dropped in corpus.dropped.items():
                total[reason] = total.get(reason, 0) + dropped.count
        return total

    def lines(self) -> list[str]:
        """For the log."""
        lines = []
        for corpus in self.corpora:
            left_out = f"; left out: {corpus.dropped_text()}" if corpus.dropped else ""
            lines.append(f"{corpus.name}: {counted(corpus.read, 'pair')} read, {corpus.kept:,} kept{left_out}")
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

    def named(self, names: Sequence[str]) -> EncodingReport:
        """The same report for the same contents under other file names."""
        assert len(names) == len(self.corpora)
        corpora = (dataclasses.replace(corpus, name=name) for corpus, name in zip(self.corpora, names, strict=True))
        return dataclasses.replace(self, corpora=tuple(corpora))

    def to_json(self) -> str:
        """JSON that `from_json` reads."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> EncodingReport:
        """The report that `to_json` wrote; ValueError, KeyError or TypeError where the text is something else."""
        raw = json.loads(text)
        return cls(
            corpora=tuple(_corpus_report(corpus) for corpus in raw["corpora"]),
            duplicates=int(raw["duplicates"]),
            source=SideReport(**raw["source"]),
            target=SideReport(**raw["target"]),
            aligned=raw.get("aligned"),
            documents=None if raw.get("documents") is None else DocumentsReport(**raw["documents"]),
        )


@dataclass(frozen=True)
class CollectionReport:
    """All collections of an `EncodedCollection`. It lies in the cache, so that a later run reports the same."""

    collections: tuple[CorpusReport, ...]
    labels: Mapping[str, int]
    """Documents that were kept, by label."""
    sentences: int
    pieces: int
    unknown: int
    longest: int
    """Pieces of the longest document."""

    def lines(self) -> list[str]:
        """For the log."""
        lines = []
        for collection in self.collections:
            left_out = f"; left out: {collection.dropped_text()}" if collection.dropped else ""
            lines.append(
                f"{collection.name}: {counted(collection.read, 'document')} read, {collection.kept:,} kept{left_out}"
            )
        kept = max(sum(collection.kept for collection in self.collections), 1)
        lines.append(
            f"documents: {self.pieces:,} pieces, {self.pieces / kept:.1f} in {self.sentences / kept:.1f} sentences "
            f"each, longest {self.longest:,}, {self.unknown / max(self.pieces, 1):.3%} unknown"
        )
        lines.append("labels: " + ", ".join(f"{label} {count:,}" for label, count in self.labels.items()))
        return lines

    def named(self, names: Sequence[str]) -> CollectionReport:
        """The same report for the same contents under other file names."""
        named = (dataclasses.replace(one, name=name) for one, name in zip(self.collections, names, strict=True))
        return dataclasses.replace(self, collections=tuple(named))

    def to_json(self) -> str:
        """JSON that `from_json` reads."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> CollectionReport:
        """The report that `to_json` wrote."""
        raw = json.loads(text)
        return cls(**raw | {"collections": tuple(_corpus_report(each) for each in raw["collections"])})


def _corpus_report(raw: Mapping[str, Any]) -> CorpusReport:
    dropped = {reason: Dropped(int(d["count"]), tuple(d["lines"])) for reason, d in raw["dropped"].items()}
    return CorpusReport(raw["name"], int(raw["read"]), int(raw["kept"]), dropped)


def _with_lines(dropped: Dropped) -> str:
    if not dropped.lines:
        return f"{dropped.count:,}"
    more = ", ..." if dropped.count > len(dropped.lines) else ""
    word = "line" if dropped.count == 1 else "lines"
    return f"{dropped.count:,} ({word} {', '.join(map(str, dropped.lines))}{more})"
