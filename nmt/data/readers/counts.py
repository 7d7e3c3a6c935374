"""What was read, what was kept, and what was left out for which reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

EXAMPLES = 5


@dataclass
class Dropped:
    """The pairs left out for one reason: how many, and where the first few are."""

    count: int = 0
    examples: list[tuple[str, int]] = field(default_factory=list)
    """Name of the corpus and line, of the first `EXAMPLES`."""


@dataclass
class Counts:
    """Mutable account of a pass over one or more corpora: `read == kept + sum of what was dropped`.

    A corpus counts what it reads and drops; who keeps a pair counts it as kept.
    """

    read: int = 0
    kept: int = 0
    dropped: dict[str, Dropped] = field(default_factory=dict)

    def drop(self, reason: str, corpus: str, line: int) -> None:
        """Count a pair left out; `reason` is a short phrase that reads well in a report, such as `empty side`."""
        self.drop_all(reason, corpus, (line,))

    def drop_all(self, reason: str, corpus: str, lines: Sequence[int]) -> None:
        """Count the pairs of these lines; nothing is noted where there are none."""
        if len(lines):
            dropped = self.dropped.setdefault(reason, Dropped())
            dropped.count += len(lines)
            dropped.examples += [(corpus, int(line)) for line in lines[: EXAMPLES - len(dropped.examples)]]

    def add(self, other: Counts) -> None:
        """Add the account of a later part of the text to this one."""
        self.read += other.read
        self.kept += other.kept
        for reason, theirs in other.dropped.items():
            ours = self.dropped.setdefault(reason, Dropped())
            ours.count += theirs.count
            ours.examples = (ours.examples + theirs.examples)[:EXAMPLES]

    @property
    def dropped_total(self) -> int:
        return sum(dropped.count for dropped in self.dropped.values())

    def report(self) -> list[str]:
        """One line a reason, the most frequent first: `empty side: 3 pairs dropped (a.de / a.en: lines 4, 9, 12)`."""
        ordered = sorted(self.dropped.items(), key=lambda item: -item[1].count)
        return [
            f"{reason}: {dropped.count:,} pair{'s' if dropped.count != 1 else ''} dropped ({_places(dropped)})"
            for reason, dropped in ordered
        ]


def _places(dropped: Dropped) -> str:
    lines_of: dict[str, list[int]] = {}
    for corpus, line in dropped.examples:
        lines_of.setdefault(corpus, []).append(line)
    places = "; ".join(f"{corpus}: {_lines(lines)}" for corpus, lines in lines_of.items())
    return f"{places}, ..." if dropped.count > len(dropped.examples) else places


def _lines(lines: Iterable[int]) -> str:
    numbers = [str(line) for line in lines]
    return f"line{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
