"""Word alignments made by hand, and how far others agree with them (Och and Ney 2003, section 2.5)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import asdict, dataclass
from typing import NamedTuple

from nmt.data.readers.files import read_lines
from nmt.data.words import count_words
from nmt.errors import DataError
from nmt.runtime import format_table
from nmt.tasks.translation.alignment import Link

_LINK = re.compile(r"([0-9]+)([-p])([0-9]+)")
# A file that counts from another number is wrong in nearly every line.
_SHOWN_PROBLEMS = 20


class Gold(NamedTuple):
    """What a person said of a pair."""

    sure: Set[Link]
    """S: these words translate each other."""
    possible: Set[Link]
    """P: they may be said to; the sure links are among them."""


@dataclass(frozen=True)
class Agreement:
    """How alignments A agree with S and P, by numbers of links over all pairs."""

    links: int = 0
    """|A|."""
    sure: int = 0
    """|S|."""
    possible: int = 0
    """|P|."""
    found_sure: int = 0
    """|A and S|."""
    found_possible: int = 0
    """|A and P|."""

    @property
    def precision(self) -> float | None:
        """|A and P| / |A|; None without links."""
        return self.found_possible / self.links if self.links else None

    @property
    def recall(self) -> float | None:
        """|A and S| / |S|; None without sure links."""
        return self.found_sure / self.sure if self.sure else None

    @property
    def error_rate(self) -> float | None:
        """AER = 1 - (|A and S| + |A and P|) / (|A| + |S|); None without both."""
        total = self.links + self.sure
        return 1.0 - (self.found_sure + self.found_possible) / total if total else None

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.links + other.links,
            self.sure + other.sure,
            self.possible + other.possible,
            self.found_sure + other.found_sure,
            self.found_possible + other.found_possible,
        )


def agreement(alignments: Iterable[Iterable[Link]], golds: Iterable[Gold]) -> Agreement:
    """How alignments agree with what was made by hand for the same pairs."""
    total = Agreement()
    for alignment, (sure, possible) in zip(alignments, golds, strict=True):
        links = set(alignment)
        total += Agreement(len(links), len(sure), len(possible), len(links & sure), len(links & possible))
    return total


def as_text(found: Agreement) -> str:
    """A table for a person, rates in per cent."""
    rates = (found.precision, found.recall, found.error_rate)
    row = ["-" if rate is None else f"{100 * rate:.2f}" for rate in rates]
    counts = [f"{count:,}" for count in (found.links, found.sure, found.possible)]
    return format_table([[*row, *counts]], header=["precision", "recall", "AER", "links", "sure", "possible"]) + "\n"


def as_values(found: Agreement) -> dict[str, float | None]:
    """Plain values, for JSON; rates from 0 to 1."""
    return {
        "precision": found.precision,
        "recall": found.recall,
        "aer": found.error_rate,
        **asdict(found),
    }


def read_gold(path: str, first_word: int, sources: Sequence[str], targets: Sequence[str]) -> list[Gold]:
    """The alignments of a file: a line a pair, `3-4` for a sure link of source and target word, `3p4` for a possible.

    `first_word` is the number of the first word in the file. Words are what stands between spaces in the texts.
    Raises DataError where the file has not a line for each pair, a link is broken, or it leaves the pair.
    """
    lines = list(read_lines(path))
    if len(lines) != len(sources):
        raise DataError(f"{path} has {len(lines)} lines for {len(sources)} pairs; line n holds the links of pair n")
    golds, problems = [], []
    for number, (line, *texts) in enumerate(zip(lines, sources, targets, strict=True), start=1):
        try:
            golds.append(_parse(line, first_word, *map(count_words, texts)))
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
    if len(problems) > _SHOWN_PROBLEMS:
        problems[_SHOWN_PROBLEMS:] = [f"{path}: {len(problems) - _SHOWN_PROBLEMS} more lines like these"]
    if problems:
        raise DataError(*problems)
    return golds


def _parse(line: str, first_word: int, source_words: int, target_words: int) -> Gold:
    sure, possible = set(), set()
    for text in line.split():
        match = _LINK.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no link; write 3-4 for a sure and 3p4 for a possible one")
        source, target = int(match[1]) - first_word, int(match[3]) - first_word
        if not (0 <= source < source_words and 0 <= target < target_words):
            raise ValueError(
                f"{text} leaves the pair of {source_words} source and {target_words} target words, counted from "
                f"{first_word}; --gold-from says from which number the file counts"
            )
        possible.add((source, target))
        if match[2] == "-":
            sure.add((source, target))
    return Gold(sure, possible)
