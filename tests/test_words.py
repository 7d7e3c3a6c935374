"""Words of a text as it was given, and the pieces that belong to them, whatever normalisation makes of it."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from nmt.config.schema import TokenizerConfig
from nmt.data.tokenizer import Tokenizer, count_words, learn, words_of_spans

TEXT = [
    "der hund läuft im garten .",
    "eine feine katze schläft ... auf der bank .",
    "der 1/2 preis , 日 本 und ein é .",
]
# Characters that normalisation (nmt_nfkc) splits, merges, drops or turns into spaces, unknown ones, and plain words.
WORDS = [
    "der",
    "hund",
    "läuft",
    "…",
    "ab…c",
    "ﬁne",
    "½",
    "e\u0301t",
    "Ａ",
    "¨",
    "日本",
    "Ω",
    "aΩb",
    "😀",
    ".",
    "▁",
    "a▁b",
]
NOTHING = ["\u200b", "\u0007", "\u00a0", "\u0007\u200b"]
INSIDE = ["x\u200by", "ab\u00a0cd", "ga\u0007rten", "hu\u00adnd", "\u0007im", "im\u0007", "a\rb"]


@pytest.fixture(scope="module", params=["bpe", "unigram", "bytes", "char", "word"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Small vocabularies, so that words have several pieces."""
    kind, with_bytes = ("bpe", True) if request.param == "bytes" else (request.param, False)
    size = {"bpe": 60, "unigram": 40, "bytes": 330, "char": 30, "word": 16}[request.param]
    options = TokenizerConfig(kind=kind, vocabulary_size=size, byte_fallback=with_bytes, shared=True)
    return learn(options, lambda: [(line, line) for line in TEXT], seed=1).source


def spelled(line: str, tokenizer: Tokenizer) -> list[str]:
    """Returns the text of the pieces of each word."""
    words = [""] * count_words(line)
    pieces = tokenizer.pieces(tokenizer.encode([line])[0])
    for piece, word in zip(pieces, words_of_spans(line, tokenizer.spans(line)), strict=True):
        words[word] += piece
    return words


def test_pieces_are_those_of_the_word_alone(tokenizer: Tokenizer) -> None:
    generator = random.Random(1)
    alone = {word: "".join(tokenizer.pieces(tokenizer.encode([word])[0])) for word in [*WORDS, *NOTHING, *INSIDE]}
    assert not any(alone[word] for word in NOTHING)
    for _ in range(400):
        words = generator.choices(list(alone), k=generator.randint(1, 8))
        line = "".join(generator.choice([" ", " ", "  ", "\t"]) + word for word in words)
        line = line[generator.randint(0, 1) :] + generator.choice(["", " ", "  "])
        assert spelled(line, tokenizer) == [alone[word] for word in words], repr(line)


def test_spans_follow_each_other(tokenizer: Tokenizer) -> None:
    for line in (" ".join([*WORDS, *INSIDE]), "  der  hund "):
        spans = tokenizer.spans(line)
        assert len(spans) == len(tokenizer.encode([line])[0])
        assert all(begin <= end for begin, end in spans)
        assert all(before == begin for (_, before), (begin, _) in pairwise(spans))


def test_decoded_spans_are_of_the_words_of_the_translation(tokenizer: Tokenizer) -> None:
    generator = random.Random(2)
    for _ in range(200):
        ids = [generator.randrange(tokenizer.size) for _ in range(generator.randint(1, 10))]
        text = tokenizer.decode([ids])[0]
        spans = tokenizer.decoded_spans(ids)
        assert len(spans) == len(ids)
        words = [""] * count_words(text)
        for (begin, end), word in zip(spans, words_of_spans(text, spans), strict=True):
            visible = text.encode()[begin:end].decode().strip(" \t")
            assert (word == -1) == (not words)
            if visible:
                words[word] += visible
        assert words == [word for word in text.replace("\t", " ").split(" ") if word]


def test_an_unknown_piece_is_a_word_of_its_own(tokenizer: Tokenizer) -> None:
    der = tokenizer.encode(["der"])[0]
    # SentencePiece writes an unknown piece as " ⁇ ": "der ⁇ der".
    ids = [*der, tokenizer.unk, *der]
    text = tokenizer.decode([ids])[0]
    assert words_of_spans(text, tokenizer.decoded_spans(ids)) == [0] * len(der) + [1] + [2] * len(der)
    assert tokenizer.decoded_spans([]) == []


@pytest.mark.parametrize(
    ("text", "spans", "words"),
    [
        ("", [], []),
        (" ", [(0, 1)], [-1]),
        ("ein Hund.", [(0, 3), (3, 6), (6, 8), (8, 9)], [0, 1, 1, 1]),
        ("  ein  Hund ", [(2, 5), (5, 11)], [0, 1]),
        # A span of spaces alone belongs to the word after it, the last one to the last word.
        ("a b ", [(0, 1), (1, 2), (2, 3), (3, 4)], [0, 1, 1, 1]),
        # "ö" has two bytes; the dots of "…" share it.
        ("ö … b", [(0, 2), (2, 3), (3, 3), (3, 3), (3, 6), (6, 8)], [0, 1, 1, 1, 1, 2]),
        # The zero-width space is a word that has become a space: "y" begins before it.
        ("x \u200b y", [(0, 1), (1, 7)], [0, 2]),
        # "▁1" of "½" ends where the character begins.
        ("x ½", [(0, 1), (1, 2), (2, 2), (2, 4)], [0, 1, 1, 1]),
    ],
)
def test_words_of_spans(text: str, spans: list[tuple[int, int]], words: list[int]) -> None:
    assert words_of_spans(text, spans) == words


def test_words_are_counted_as_they_stand() -> None:
    texts = ["", "  ", "a", " a  b ", "a\u00a0b", "a\tb", "a \u200b b"]
    assert [count_words(text) for text in texts] == [0, 0, 1, 2, 1, 2, 3]
