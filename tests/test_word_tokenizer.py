"""Vocabularies of words and of characters: round trips, limits of the vocabulary, spans, and what is refused."""

from __future__ import annotations

import io
import pickle
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from nmt.config.schema import TokenizerConfig
from nmt.data.punctuation import (
    TIE,
    join,
    join_with_offsets,
    separate,
    separate_with_offsets,
    token_spans,
)
from nmt.data.tokenizer import Tokenizer, TokenizerPair, learn, load_files, require_sampling
from nmt.errors import ConfigError, DataError

LINES = [
    'Er sagte: "Ja, so geht\'s."',
    "(Das kostet 3.50 $, also zu viel!)",
    "Der Hund -- ein alter, z.B. -- schläft...",
    "well-known, and/or 5% of #1 …",
    "Der Hund schläft.",
]


def options(**changes: Any) -> TokenizerConfig:
    return TokenizerConfig.model_validate({"vocabulary_size": 46, **changes})


def learned(lines: list[str], **changes: Any) -> Tokenizer:
    return learn(options(**changes), lambda: [(line, line) for line in lines], seed=1).source


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    """Knows every word of the lines, without normalisation, which would spell the dots of an ellipsis."""
    size = len({token for line in LINES for token in separate(line).split()}) + 4
    return learned(LINES, kind="word", vocabulary_size=size, normalization="identity")


@pytest.mark.parametrize(
    ("text", "separated"),
    [
        ("", ""),
        ("Ja", "Ja"),
        ("Ja, gut.", "Ja ‿, gut ‿."),
        ('("Ja, so geht\'s.")', '(‿ "‿ Ja ‿, so geht\'s ‿. ‿" ‿)'),
        ("3.5 well-known a,b", "3.5 well-known a,b"),
        ("$5 5% C++", "$‿ 5 5 ‿% C ‿+ ‿+"),
        (" a  -- b ... ", " a  -- b ... "),
        ("a , b .", "a , b ."),
        ("a.\u00a0b.\tc.", "a ‿.\u00a0b ‿.\tc ‿."),
        # Not a mark, but a space for SentencePiece.
        ("\u2581a.", "\u2581a ‿."),
    ],
)
def test_separation_by_hand(text: str, separated: str) -> None:
    assert separate(text) == separated
    assert separate_with_offsets(text)[0] == separated


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("Ja ‿, gut ‿.", "Ja, gut."),
        ('(‿ "‿ Ja ‿. ‿" ‿)', '("Ja.")'),
        ("(‿ ‿.", "(."),
        ("‿. Ja (‿", ". Ja ("),
        ("a ‿ b", "a b"),
        (" ⁇   ⁇  ‿.", "⁇ ⁇."),
        ("", ""),
    ],
)
def test_joining_by_hand(text: str, joined: str) -> None:
    assert join(text) == joined
    assert join_with_offsets(text)[0] == joined


def test_joining_undoes_separating() -> None:
    generator = random.Random(1)
    alphabet = "aä1'\"(),.-$…日\u0301"
    for _ in range(2000):
        words = [
            "".join(generator.choices(alphabet, k=generator.randint(1, 6))) for _ in range(generator.randint(0, 5))
        ]
        assert join(separate(" ".join(words))) == " ".join(words)


def test_offsets_are_those_of_the_same_characters() -> None:
    text = '„Ja“, ä (3.5) "gut".'
    separated, offsets = separate_with_offsets(text)
    spaced = separated.encode()
    joined, back = join_with_offsets(separated)
    assert joined == text
    assert len(offsets) == len(spaced) + 1
    assert len(back) == len(spaced) + 1
    assert (offsets[0], offsets[-1], back[0], back[-1]) == (0, len(text.encode()), 0, len(text.encode()))
    # What separating adds has no width on either way, and everything else keeps its bytes.
    assert offsets == back
    assert b"".join(text.encode()[a:b] for a, b in pairwise(offsets)) == text.encode()


def test_tokens_are_words_and_the_marks_at_their_edges() -> None:
    text = ' ("Ä, z.B.) --'
    found = [text.encode()[begin:end].decode() for begin, end in token_spans(text)]
    assert found == ["(", '"', "Ä", ",", "z.B", ".", ")", "--"]
    assert token_spans("  ") == []


def test_known_words_come_back_with_their_punctuation(words: Tokenizer) -> None:
    ids = words.encode(LINES)
    assert words.decode(ids) == LINES
    assert all(words.unk not in row for row in ids)
    assert words.pieces(ids[-1]) == ["▁Der", "▁Hund", "▁schläft", "▁‿."]


def test_the_most_frequent_words_are_kept() -> None:
    lines = ["a b, a c. a d b", "b a, c a", *(f"x{number}." for number in range(20))]
    learned_words = learned(lines, kind="word", vocabulary_size=16)
    assert learned_words.size == 16
    # ‿. of 21, a of 5, b of 3.
    assert learned_words.pieces([4, 5, 6]) == ["▁‿.", "▁a", "▁b"]
    (row,) = learned_words.encode(["a unbekannt, b."])
    assert learned_words.decode([row]) == ["a ⁇, b."]


def test_every_unknown_word_is_a_piece(words: Tokenizer) -> None:
    line = "Der Karl Marx, \u00e4\u00f6 x  y."
    (row,) = words.encode([line])
    assert [id_ == words.unk for id_ in row] == [False, True, True, False, True, True, True, False]
    assert [line.encode()[begin:end].decode() for begin, end in words.spans(line)] == [
        "Der",
        " Karl",
        " Marx",
        ",",
        " \u00e4\u00f6",
        " x",
        "  y",
        ".",
    ]
    assert words.decode([row]) == ["Der ⁇ ⁇, ⁇ ⁇ ⁇."]
    text = "Der ⁇ ⁇, ⁇ ⁇ ⁇."
    assert [text.encode()[begin:end].decode().strip() for begin, end in words.decoded_spans(row)] == [
        *("Der", "⁇", "⁇", ",", "⁇", "⁇", "⁇", ".")
    ]


def test_unknown_words_that_normalisation_separates_are_pieces_too() -> None:
    normalized = learned(LINES, kind="word", vocabulary_size=30)
    line = "Der \u00e4\u00f6\u200bx\u00a0y Hund"
    (row,) = normalized.encode([line])
    spans = normalized.spans(line)
    assert [id_ == normalized.unk for id_ in row] == [False, True, True, True, False]
    assert len(spans) == len(row)
    assert all(before == begin for (_, before), (begin, _) in pairwise(spans))


def test_spans_leave_the_ties_out(words: Tokenizer) -> None:
    line = '(Das "Ja, so'
    found = [line.encode()[begin:end].decode() for begin, end in words.spans(line)]
    assert found == ["(", "Das", ' "', "Ja", ",", " so"]
    (row,) = words.encode([line])
    assert [line.encode()[begin:end].decode().strip() for begin, end in words.decoded_spans(row)] == [
        *("(", "Das", '"', "Ja", ",", "so")
    ]
    assert words.decoded_spans([]) == []


def test_a_text_that_is_tokenized_stays_so() -> None:
    lines = ["der Hund , der schläft .", "ein Hund schläft nicht , er bellt . -- immer nur , wenn es regnet ."]
    size = len({word for line in lines for word in line.split()}) + 4
    tokenized = learned(lines, kind="word", vocabulary_size=size)
    assert tokenized.decode(tokenized.encode(lines)) == lines
    assert not any(TIE in piece for piece in tokenized.pieces(range(tokenized.size)))


def test_a_model_of_words_from_elsewhere_splits_at_spaces_alone() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["der Hund. der Hund."]),
        model_writer=model,
        vocab_size=5,
        model_type="word",
        minloglevel=2,
    )
    foreign = Tokenizer(model.getvalue(), "theirs.model")
    assert foreign.kind == "word"
    (row,) = foreign.encode(["der Hund. x. y"])
    assert foreign.pieces(row) == ["▁der", "▁Hund.", "<unk>", "<unk>"]
    assert foreign.spans("der Hund. x. y") == [(0, 3), (3, 9), (9, 12), (12, 14)]


def test_a_model_of_words_is_loaded_and_sent_as_it_was_learned(words: Tokenizer, tmp_path: Path) -> None:
    TokenizerPair(words, words).save(tmp_path)
    for copy in (TokenizerPair.load(tmp_path).source, pickle.loads(pickle.dumps(words))):
        assert copy.fingerprint == words.fingerprint
        assert copy.decode(copy.encode(LINES)) == LINES
        assert copy.spans(LINES[0]) == words.spans(LINES[0])
    again = learned(LINES, kind="word", vocabulary_size=words.size, normalization="identity")
    assert again.to_bytes() == words.to_bytes()
    assert words.kind == "word"


def test_more_words_than_there_are_is_refused_with_the_largest_size(words: Tokenizer) -> None:
    with pytest.raises(DataError) as caught:
        learned(LINES, kind="word", vocabulary_size=1000, normalization="identity")
    assert caught.value.problems == (
        f"tokenizer.vocabulary_size: 1000 is too large for this text; the largest possible is {words.size}",
    )


@pytest.fixture(scope="module")
def characters() -> Tokenizer:
    return learned(LINES, kind="char", vocabulary_size=1000)


def test_pieces_are_characters(characters: Tokenizer) -> None:
    (row,) = characters.encode(["Er sagte"])
    assert characters.pieces(row) == list("▁Er▁sagte")
    ids = characters.encode(LINES)
    assert characters.decode(ids) == [line.replace("…", "...") for line in LINES]
    # As many as the text has, and not a thousand.
    assert characters.size == 4 + len({character for line in LINES for character in line.replace("…", "...")})
    assert all(len(piece) == 1 for piece in characters.pieces(range(4, characters.size)))
    assert characters.spans("Hä.") == [(0, 0), (0, 1), (1, 3), (3, 4)]


def test_the_most_frequent_characters_are_kept() -> None:
    lines = ["aaaaa bbb cc", "defghijklmnopqrstuvw"]
    few = learned(lines, kind="char", vocabulary_size=16)
    assert few.size == 16
    assert few.pieces([4, 5, 6, 7]) == ["a", "▁", "b", "c"]
    assert [few.unk in row for row in few.encode(lines)] == [False, True]


def test_bytes_spell_unknown_characters() -> None:
    spelled = learned(LINES, kind="char", vocabulary_size=400, byte_fallback=True)
    lines = ["ab 日本 😀"]
    assert spelled.decode(spelled.encode(lines)) == lines


@pytest.mark.parametrize("kind", ["char", "word"])
def test_a_loaded_model_that_has_nothing_to_draw_is_refused_for_sampling(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "whole.model"
    path.write_bytes(learned(LINES, kind=kind, vocabulary_size=30).to_bytes())
    with pytest.raises(ConfigError) as caught:
        require_sampling(load_files(path, path))
    assert caught.value.problems == (
        f"tokenizer.sampling: {path} is a {kind} model, which has one segmentation of a text; set it to 0",
    )
    subwords = learned(LINES, kind="bpe", vocabulary_size=80)
    require_sampling(TokenizerPair(subwords, subwords))
