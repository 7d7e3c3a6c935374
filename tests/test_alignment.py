"""Alignments: from weights to links, and links against those made by hand, all worked out by hand here."""

from __future__ import annotations

import gzip
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nmt.config.schema import SearchConfig
from nmt.data.tokenizer import TokenizerPair, count_words, words_of_spans
from nmt.errors import DataError
from nmt.evaluation.alignment import (
    LINKINGS,
    UNITS,
    AlignmentScores,
    GoldAlignment,
    Linking,
    align,
    pharaoh,
    read_gold,
    score_alignments,
    unit_weights,
)
from nmt.model.attention import AttentionWeights, Encoded
from nmt.model.context import Context
from nmt.model.translator import ForcedReadout, Translator
from nmt.model.wiring import Output
from nmt.tasks.translation.forced_decoding import align_pair, forced_attention
from nmt.tasks.translation.loading import System
from nmt.tasks.translation.text_translation import Request, translate_lines
from nmt.visualization.attention_map import AttentionMap
from tests.support.alignment import align_texts
from tests.support.models import CPU, REFERENCES, SOURCES, small_config, small_translator

# Source "▁der ▁gr oße" and its end; target "▁the ▁b ig ▁." and its end.
WEIGHTS = np.array(
    [
        [0.6, 0.1, 0.1, 0.2],
        [0.4, 0.3, 0.2, 0.1],
        [0.1, 0.1, 0.7, 0.1],
        [0.25, 0.125, 0.125, 0.5],
        [0.0, 0.0, 0.9, 0.1],
    ]
)
SOURCE_WORDS, TARGET_WORDS = [0, 1, 1], [0, 1, 1, 2]


# From weights to links


def test_pieces() -> None:
    # The end symbol has the largest weight for ".", and is left out: of the pieces it is "der".
    assert align(WEIGHTS, range(3), range(4), "argmax") == [(0, 0), (0, 1), (0, 3), (2, 2)]


def test_words() -> None:
    # The sum of "gr" and "oße", the mean of "b" and "ig":
    #   the    0.6                 0.1 + 0.1
    #   big   (0.4 + 0.1) / 2     (0.3 + 0.2 + 0.1 + 0.7) / 2
    #   .      0.25                0.125 + 0.125      (argmax takes the first of equals)
    assert unit_weights(WEIGHTS, SOURCE_WORDS, TARGET_WORDS) == pytest.approx(
        np.array([[0.6, 0.2], [0.25, 0.65], [0.25, 0.25]])
    )
    pairs = align(WEIGHTS, SOURCE_WORDS, TARGET_WORDS, "argmax")
    assert pairs == [(0, 0), (0, 2), (1, 1)]
    assert pharaoh(pairs) == "0-0 0-2 1-1"


def test_both_ways_by_hand() -> None:
    weights = np.array(
        [
            [0.70, 0.10, 0.05, 0.05, 0.05, 0.05],
            [0.10, 0.45, 0.30, 0.05, 0.05, 0.05],
            [0.10, 0.60, 0.15, 0.05, 0.05, 0.05],
            [0.05, 0.05, 0.05, 0.60, 0.15, 0.10],
            [0.30, 0.10, 0.10, 0.10, 0.10, 0.30],
            [0.00, 0.00, 0.00, 0.00, 0.00, 1.00],
        ]
    )
    # Target by target:  0-0 1-1 1-2 3-3 0-4.
    # Source by source:  0-0 1-2 2-1 3-3; 4-3 has 0.15, less than an even share of a fifth.
    # Both say 0-0 1-2 3-3. 1-1 touches 0-0 and brings target 1, 2-1 touches 1-2 and brings source 2; 0-4 touches none.
    assert align(weights, range(5), range(5), "argmax") == [(0, 0), (0, 4), (1, 1), (1, 2), (3, 3)]
    assert align(weights, range(5), range(5)) == [(0, 0), (1, 1), (1, 2), (2, 1), (3, 3)]


def test_a_link_between_words_that_have_links_does_not_grow() -> None:
    weights = np.array([[0.01, 0.50, 0.49, 0.0], [0.36, 0.43, 0.08, 0.13], [0.0, 0.0, 0.0, 1.0]])
    # Target by target: 1-0 1-1. Source by source: 0-1 1-0 2-0. From 1-0, 0-1 brings both its words and 2-0 the third
    # source word; what 1-1 links has links then.
    assert align(weights, range(3), range(2)) == [(0, 1), (1, 0), (2, 0)]


@pytest.mark.parametrize("seed", range(20))
def test_what_grows_touches_and_brings_a_word(seed: int) -> None:
    random = np.random.default_rng(seed)
    source, target = random.integers(1, 9, 2)
    weights = random.dirichlet(np.full(source + 1, 0.3), target + 1)
    found = set(align(weights, range(source), range(target)))
    by_target = set(align(weights, range(source), range(target), "argmax"))
    columns = weights[:-1, :-1]
    by_source = {(row, int(column.argmax())) for row, column in enumerate(columns.T) if column.max() > 1 / source}
    by_source |= {pair for row, column in enumerate(columns.T) if (pair := (row, int(column.argmax()))) in by_target}
    both = by_target & by_source
    assert both <= found <= by_target | by_source

    def touches(pair: tuple[int, int]) -> bool:
        return any(max(abs(pair[0] - one), abs(pair[1] - other)) == 1 for one, other in found)

    def linked(pairs: set[tuple[int, int]]) -> set[tuple[int, int]]:
        return {(side, pair[side]) for pair in pairs for side in (0, 1)}

    assert all(touches(pair) for pair in found - both)
    assert len(found) - len(both) <= len(linked(found)) - len(linked(both))
    for pair in (by_target | by_source) - found:
        assert not touches(pair) or linked({pair}) <= linked(found)


def test_a_sentence_of_one_word_is_linked() -> None:
    weights = np.array([[0.4, 0.6], [0.3, 0.7], [0.0, 1.0]])
    assert align(weights, [0], [0, 0]) == align(weights, [0], [0, 0], "argmax") == [(0, 0)]


def test_words_without_pieces_keep_their_numbers() -> None:
    # Source words before "der" and a target word before "." that normalise to nothing.
    assert align(WEIGHTS, [3, 4, 4], [0, 1, 1, 3], "argmax") == [(3, 0), (3, 3), (4, 1)]
    assert align(WEIGHTS, [3, 4, 4], [0, 1, 1, 3]) == [(3, 0), (4, 1)]
    # An even share is half, not a fifth: 0.4 for the second source word is less.
    weights = np.array([[0.6, 0.4, 0.0], [0.9, 0.1, 0.0], [0.0, 0.0, 1.0]])
    assert align(weights, [0, 4], [0, 1]) == [(0, 0), (0, 1)]
    assert align(weights, [3, 4], [0, 1]) == [(3, 0), (3, 1)]


@pytest.mark.parametrize("linking", LINKINGS)
def test_a_piece_that_looked_at_nothing_is_not_aligned(linking: Linking) -> None:
    # Beyond the end of a short sentence a window is empty.
    weights = np.array([[0.5, 0.4, 0.1], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert align(weights, [0, 1], [0, 1], linking) == [(0, 0)]
    assert align(0.0 * weights, [0, 1], [0, 1], linking) == []


@pytest.mark.parametrize("linking", LINKINGS)
@pytest.mark.parametrize(("source", "target"), [([], [0]), ([0], []), ([-1], [0]), ([0], [-1])])
def test_a_side_without_words_is_not_aligned(source: list[int], target: list[int], linking: Linking) -> None:
    weights = np.full((len(target) + 1, len(source) + 1), 0.5)
    assert align(weights, source, target, linking) == []


@pytest.mark.parametrize("linking", LINKINGS)
@pytest.mark.parametrize("seed", range(5))
def test_a_known_alignment_comes_back(seed: int, linking: Linking) -> None:
    """Every target word looks at the pieces of one source word with most of its weight, however it is spread."""
    random = np.random.default_rng(seed)
    source_words = np.repeat(np.arange(6), random.integers(1, 4, 6))
    target_words = np.repeat(np.arange(6), random.integers(1, 4, 6))
    known = random.integers(0, 6, 6) if linking == "argmax" else random.permutation(6)
    weights = np.zeros((len(target_words) + 1, len(source_words) + 1))
    for row, word in enumerate(target_words):
        own = np.flatnonzero(source_words == known[word])
        weights[row] = 0.45 * random.dirichlet(np.ones(len(source_words) + 1))
        weights[row, own] += 0.55 * random.dirichlet(np.ones(len(own)))
    found = align(weights, source_words.tolist(), target_words.tolist(), linking)
    assert found == sorted((int(source), target) for target, source in enumerate(known))


def test_links_count_the_words_of_the_file(tokenizers: TokenizerPair) -> None:
    source, target = " der\u00a0hund  im …", "the dog"
    pieces = [
        tuple(tokenizer.pieces(tokenizer.encode([text])[0]))
        for tokenizer, text in ((tokenizers.source, source), (tokenizers.target, target))
    ]
    # The file's words are "der\u00a0hund", "im" and "…"; to the model the first is two words and the last three dots.
    assert pieces[0][-3:] == ("▁.", ".", ".")
    weights = np.zeros((2, len(pieces[1]) + 1, len(pieces[0]) + 1), np.float32)
    # One head looks at "der", the other at the second dot a little more.
    weights[0, :, 0], weights[1, :, -3] = 0.9, 1.0
    found = AttentionMap(source, target, pieces[0], pieces[1], weights, None, None, -1.0)
    assert align_pair(found, tokenizers, "words", "argmax") == [(2, 0), (2, 1)]
    dot = len(pieces[0]) - 2
    assert align_pair(found, tokenizers, "pieces", "argmax") == [(dot, row) for row in range(len(pieces[1]))]


def test_a_translation_is_aligned_as_a_pair_is(system: System) -> None:
    lines = ["  der  hund schläft im\u00a0garten .", SOURCES[3], "der hund \u0007 schläft"]
    for line, (best, *_) in zip(
        lines, translate_lines(system, lines, SearchConfig(), Request(attention=True)), strict=True
    ):
        (found,) = forced_attention(system, [line], [best.text], 4096)
        assert found is not None
        assert found.target_pieces == best.pieces
        for unit, linking in product(UNITS, LINKINGS):
            assert best.alignment(unit, linking) == align_pair(found, system.tokenizers, unit, linking)
            assert [align_pair(found, system.tokenizers, unit, linking)] == align_texts(
                system, [line], [best.text], 4096, unit, linking
            )
        assert max(source for source, _ in best.alignment("words")) < count_words(line)


def test_a_translation_with_unknown_pieces_has_words_of_its_own(tokenizers: TokenizerPair) -> None:
    translator = small_translator(small_config(), tokenizers, seed=1, updates=0)
    with torch.no_grad():
        translator.projection.bias[tokenizers.target.unk] = 100.0
    system = System((translator,), tokenizers, CPU)
    search = SearchConfig(kind="greedy", max_length_ratio=0.1, max_length_offset=3)
    ((best,),) = translate_lines(system, ["hund"], search, Request(attention=True))
    assert best.text.split() == ["⁇", "⁇", "⁇"]
    assert best.words == (0, 1, 2)
    assert best.alignment("words", "argmax") == [(0, 0), (0, 1), (0, 2)]


def test_a_line_that_was_cut_off_is_aligned_as_far_as_it_goes(system: System) -> None:
    wanted = Request(attention=True, max_length=6)
    ((best, *_),) = translate_lines(system, [SOURCES[4]], SearchConfig(), wanted)
    assert len(best.source_words) == len(best.source_pieces) == 6
    assert max(source for source, _ in best.alignment("words")) <= best.source_words[-1] < 5


def test_a_cut_off_pair_is_aligned_as_far_as_it_goes(system: System) -> None:
    source, target = " ".join(SOURCES[:2]), " ".join(REFERENCES[:2])
    (pairs,) = align_texts(system, [source], [target], 4096, linking="argmax", max_length=6)
    assert pairs
    spans = [
        tokenizer.spans(text)
        for tokenizer, text in ((system.tokenizers.source, source), (system.tokenizers.target, target))
    ]
    last = [words_of_spans(text, side)[5] for text, side in zip((source, target), spans, strict=True)]
    assert max(source for source, _ in pairs) <= last[0]
    assert sorted(target for _, target in pairs) == list(range(last[1] + 1))


# A model whose attention is known


class ByHand(nn.Module):
    """Looks where it is told: target piece number t of the vocabulary at every source piece that is `known[t]`."""

    def __init__(self, known: dict[int, int], vocabulary: int) -> None:
        super().__init__()
        self.known = known
        self.projection = nn.Linear(2, vocabulary)
        self.context = Context()
        self.annotation_terms = lambda encoded: None
        self.decoder = SimpleNamespace(read=lambda output, inputs_BTE, weights, embedded_BSE: output.hidden)

    def encode(self, source_BS: Tensor, lengths_B: Tensor, masked: bool = False) -> Encoded:
        return Encoded(source_BS.unsqueeze(2), torch.ones_like(source_BS, dtype=torch.bool), ())

    def scan(self, encoded: Encoded, target_BT: Tensor) -> tuple[Tensor, Output, AttentionWeights]:
        wanted_BT = target_BT.clone().apply_(lambda id_: self.known.get(id_, -1))
        values_BTS = (wanted_BT.unsqueeze(2) == encoded.memory_BSC.transpose(1, 2)).float() * 0.6 + 0.01
        weights = AttentionWeights(values_BTS.unsqueeze(2), None, None, encoded.memory_BSC.shape[1])
        readout_BTR = torch.zeros(*target_BT.shape, 2)
        return readout_BTR, Output(readout_BTR, readout_BTR), weights

    def target_log_probabilities(
        self, forced: ForcedReadout, rows_N: Tensor, target_N: Tensor
    ) -> tuple[Tensor, AttentionWeights | None]:
        return torch.zeros(len(rows_N)), forced.weights


@pytest.mark.parametrize("linking", LINKINGS)
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_a_model_gives_the_alignment_that_its_attention_has(
    tokenizers: TokenizerPair, batch_tokens: int, linking: Linking
) -> None:
    # One letter a word, so that a word is two pieces at most, the last of which is the letter.
    def letter(word: str) -> int:
        return tokenizers.source.encode([word])[0][-1]

    dictionary = {"a": "b", "e": "d", "i": "g", "n": "h"}
    translator = ByHand({letter(mine): letter(theirs) for theirs, mine in dictionary.items()}, tokenizers.target.size)
    system = System((cast(Translator, translator),), tokenizers, CPU)
    sources = ["a e i n", "n a", "", "e i a"]
    targets = ["h  g d b", "b h b", "a", "g d"]
    assert align_texts(system, sources, targets, batch_tokens, linking=linking) == [
        [(0, 3), (1, 2), (2, 1), (3, 0)],
        [(0, 1), (1, 0), (1, 2)],
        None,
        [(0, 1), (1, 0)],
    ]


# Agreement with alignments made by hand

GOLD = [
    GoldAlignment(sure={(0, 0), (1, 1)}, possible={(0, 0), (1, 1), (1, 2), (2, 2)}),
    GoldAlignment(sure={(0, 0)}, possible={(0, 0)}),
]


def test_rates_by_hand() -> None:
    # Pair 1: |A| = 3, |S| = 2, |P| = 4; of A, 0-0 is sure and 1-2 possible. Pair 2: all are 1.
    # Precision (2 + 1) / (3 + 1), recall (1 + 1) / (2 + 1), AER 1 - (2 + 3) / (4 + 3).
    found = score_alignments([[(0, 0), (1, 2), (2, 1)], [(0, 0)]], GOLD)
    assert found == AlignmentScores(links=4, sure=3, possible=5, found_sure=2, found_possible=3)
    assert found.precision == 3 / 4
    assert found.recall == 2 / 3
    assert found.error_rate == pytest.approx(2 / 7)
    assert found.as_text().splitlines()[2].split() == ["75.00", "66.67", "28.57", "4", "3", "5"]
    assert found.as_json()["aer"] == found.error_rate


def test_the_best_has_no_error_and_may_leave_out_what_is_only_possible() -> None:
    for chosen in ([set(gold.sure) for gold in GOLD], [set(gold.possible) for gold in GOLD]):
        found = score_alignments(chosen, GOLD)
        assert (found.precision, found.recall, found.error_rate) == (1.0, 1.0, 0.0)
    nothing = score_alignments([[], []], GOLD)
    assert (nothing.precision, nothing.recall, nothing.error_rate) == (None, 0.0, 1.0)
    assert score_alignments([[(5, 5)], [(5, 5)]], GOLD).error_rate == 1.0
    empty = score_alignments([], [])
    assert (empty.precision, empty.recall, empty.error_rate) == (None, None, None)
    assert empty.as_text().splitlines()[2].split() == ["-", "-", "-", "0", "0", "0"]


@pytest.mark.parametrize("first", [0, 1])
def test_gold_files(tmp_path: Path, first: int) -> None:
    lines = [f"{first}-{first} {first}p{first + 1}  {first + 1}-{first} {first + 1}p{first}", "", f"{first}p{first}"]
    path = tmp_path / "gold.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert read_gold(str(path), first, ["a  b", "c", "d"], [" a b", "c", "d"]) == [
        # A link that is sure is possible, too.
        GoldAlignment({(0, 0), (1, 0)}, {(0, 0), (0, 1), (1, 0)}),
        GoldAlignment(set(), set()),
        GoldAlignment(set(), {(0, 0)}),
    ]


def problems_of(text: str, tmp_path: Path, first: int = 0, pairs: int = 3) -> list[str]:
    path = tmp_path / "gold"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_gold(str(path), first, ["ein Hund"] * pairs, ["a dog runs"] * pairs)
    return [problem.removeprefix(str(path)) for problem in caught.value.problems]


def test_every_broken_line_of_gold_is_named(tmp_path: Path) -> None:
    outside = "leaves the pair of 2 source and 3 target words, counted from"
    advice = "--gold-from says from which number the file counts"
    broken = "is no link; write 3-4 for a sure and 3p4 for a possible one"
    assert problems_of("0-0 2-1\n1-2\n0-0 1p3\n", tmp_path) == [
        f":1: 2-1 {outside} 0; {advice}",
        f":3: 1p3 {outside} 0; {advice}",
    ]
    assert problems_of("1-1\n2-3\n0-1\n", tmp_path, first=1) == [f":3: 0-1 {outside} 1; {advice}"]
    assert problems_of("0-\n0-0 -1-0\n0:0\n", tmp_path) == [
        f":1: '0-' {broken}",
        f":2: '-1-0' {broken}",
        f":3: '0:0' {broken}",
    ]
    assert problems_of("0-0\n0-0\n", tmp_path) == [" has 2 lines for 3 pairs; line n holds the links of pair n"]
    assert problems_of("9-9\n" * 50, tmp_path, pairs=50)[19:] == [
        f":20: 9-9 {outside} 0; {advice}",
        ": 30 more lines like these",
    ]
