"""Word alignments: read off attention weights, written in the Pharaoh format, and compared with gold alignments.

The Pharaoh format is `0-0 2-1`, source first. Shapes: T target pieces, S source pieces, both with the end symbol last;
U target units, V source units: words or pieces.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from nmt.data.readers.files import read_lines
from nmt.data.tokenizer import count_words
from nmt.errors import DataError
from nmt.runtime import format_table

Unit = Literal["pieces", "words"]
UNITS: tuple[Unit, ...] = get_args(Unit)
Linking = Literal["grow-diag", "argmax"]
LINKINGS: tuple[Linking, ...] = get_args(Linking)
Link = tuple[int, int]
"""Positions of source and target, counted from 0."""
Alignment = list[Link]
"""In ascending order."""

_GOLD_LINK = re.compile(r"([0-9]+)([-p])([0-9]+)")
# A file that counts from another number is wrong in nearly every line.
_SHOWN_PROBLEMS = 20


def align(
    weights_TS: npt.NDArray[np.floating],
    source_units: Sequence[int],
    target_units: Sequence[int],
    linking: Linking = "grow-diag",
) -> Alignment:
    """Links source and target units by attention weights.

    `argmax` links every target unit with the source unit of the largest weight, of equal ones the first (Luong 2015,
    section 5.4). `grow-diag` also links every source unit with the target unit of the largest weight. It takes the
    links of both directions, then adds links of one direction that touch a link, diagonally too, and that bring a unit
    without a link (Koehn 2005). A source unit that is nowhere the largest is linked in this direction only if its
    weight is above the mean. The end symbols have no links, and neither has a unit without weight.

    Args:
        weights_TS: row t has the weights with which target piece t was predicted.
        source_units, target_units: word, counted from 0, of each piece without the end symbol, as `words_of` gives
            it; the pieces' own numbers make an alignment of pieces.
    """
    if max(source_units, default=-1) < 0 or max(target_units, default=-1) < 0:
        return []
    merged_UV = unit_weights(weights_TS, source_units, target_units)
    by_target = {(int(row_V.argmax()), target) for target, row_V in enumerate(merged_UV) if row_V.any()}
    if linking == "argmax":
        return sorted(by_target)
    candidates = ((source, int(column_U.argmax())) for source, column_U in enumerate(merged_UV.T))
    mean = 1.0 / len(set(source_units))
    by_source = {link for link in candidates if link in by_target or merged_UV[link[::-1]] > mean}
    return sorted(_grow_diagonally(by_target, by_source))


def unit_weights(
    weights_TS: npt.NDArray[np.floating], source_units: Sequence[int], target_units: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Returns the weights [U, V] between units: the sum over a source unit's pieces, the mean over a target unit's.

    A unit without pieces has no weight.
    """
    by_source_VT = np.zeros((max(source_units) + 1, len(target_units)))
    np.add.at(by_source_VT, np.asarray(source_units), weights_TS[:-1, :-1].T)
    merged_UV = np.zeros((max(target_units) + 1, len(by_source_VT)))
    np.add.at(merged_UV, np.asarray(target_units), by_source_VT.T)
    merged_UV /= np.bincount(target_units).clip(1)[:, None]
    return merged_UV


def _grow_diagonally(one: Set[Link], other: Set[Link]) -> set[Link]:
    grown = set(one & other)
    sources, targets = ({link[side] for link in grown} for side in (0, 1))
    # A link that adds no unit now never will: the neighbours of each link are visited once.
    queue = deque(sorted(grown))
    while queue:
        source, target = queue.popleft()
        for near in product((source - 1, source, source + 1), (target - 1, target, target + 1)):
            if near not in grown and (near in one or near in other) and not (near[0] in sources and near[1] in targets):
                grown.add(near)
                sources.add(near[0])
                targets.add(near[1])
                queue.append(near)
    return grown


def pharaoh(alignment: Alignment) -> str:
    """Returns the alignment in the Pharaoh format: `0-0 2-1`."""
    return " ".join(f"{source}-{target}" for source, target in alignment)


class GoldAlignment(NamedTuple):
    """Alignment of a pair made by hand."""

    sure: Set[Link]
    """S: these words translate each other."""
    possible: Set[Link]
    """P: these words may translate each other; contains the sure links."""


def sorted_links(gold: GoldAlignment) -> list[tuple[int, int, bool]]:
    """Returns the links of an alignment made by hand: source, target, and whether the link is sure."""
    return [(*link, link in gold.sure) for link in sorted(gold.possible)]


@dataclass(frozen=True)
class AlignmentScores:
    """Numbers of links of alignments A and gold alignments (S, P) over all pairs (Och and Ney 2003, section 2.5)."""

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

    def as_text(self) -> str:
        """Returns a table, rates in per cent."""
        rates = (self.precision, self.recall, self.error_rate)
        row = ["-" if rate is None else f"{100 * rate:.2f}" for rate in rates]
        counts = [f"{count:,}" for count in (self.links, self.sure, self.possible)]
        return format_table([row + counts], header=["precision", "recall", "AER", "links", "sure", "possible"]) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Returns plain values, rates from 0 to 1."""
        return {"precision": self.precision, "recall": self.recall, "aer": self.error_rate, **vars(self)}


def score_alignments(alignments: Iterable[Iterable[Link]], golds: Iterable[GoldAlignment]) -> AlignmentScores:
    """Compares alignments with the gold alignments of the same pairs."""
    counts = np.zeros(5, np.int64)
    for alignment, (sure, possible) in zip(alignments, golds, strict=True):
        links = set(alignment)
        counts += np.asarray([len(links), len(sure), len(possible), len(links & sure), len(links & possible)])
    return AlignmentScores(*counts.tolist())


def read_gold(path: str, first_word: int, sources: Sequence[str], targets: Sequence[str]) -> list[GoldAlignment]:
    """Reads a line for each pair: `3-4` for a sure link of source and target word, `3p4` for a possible one.

    `first_word` is the number of the first word in the file. Words are separated by spaces in the texts.
    Raises `DataError` where the number of lines is wrong, a link is broken, or a link is outside of its pair.
    """
    lines = list(read_lines(path))
    if len(lines) != len(sources):
        raise DataError(f"{path} has {len(lines)} lines for {len(sources)} pairs; line n holds the links of pair n")
    golds, problems = [], []
    for number, (line, *texts) in enumerate(zip(lines, sources, targets, strict=True), start=1):
        try:
            golds.append(_parse_gold(line, first_word, *map(count_words, texts)))
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
    if len(problems) > _SHOWN_PROBLEMS:
        problems[_SHOWN_PROBLEMS:] = [f"{path}: {len(problems) - _SHOWN_PROBLEMS} more lines like these"]
    if problems:
        raise DataError(*problems)
    return golds


def _parse_gold(line: str, first_word: int, source_words: int, target_words: int) -> GoldAlignment:
    sure, possible = set(), set()
    for text in line.split():
        match = _GOLD_LINK.fullmatch(text)
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
    return GoldAlignment(sure, possible)
