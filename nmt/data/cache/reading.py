"""Documents as a model reads them: sentences of pieces, the long ones going on as the next, up to a limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from nmt.config.schema import DocumentFiltersConfig
from nmt.data.readers.labelled import Splitter
from nmt.data.tokenizer import Tokenizer
from nmt.data.words import words_of_spans

Sentences = list[list[int]]
"""The ids of each sentence of a document; an empty sentence has none."""


@dataclass(frozen=True)
class ReadSentence:
    """A sentence as a model reads it, or a part of a long one, with its text."""

    text: str
    ids: tuple[int, ...]
    words: tuple[str, ...]
    """What spaces separate, as it stands in the text."""
    word_of_piece: tuple[int, ...]
    """The word, counted from 0, that each piece belongs to."""


@dataclass(frozen=True)
class Reader:
    """Reads documents for a model: in training and in use alike."""

    tokenizer: Tokenizer
    splitter: Splitter
    max_length: int | None
    max_sentence_length: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, language: str, filters: DocumentFiltersConfig) -> Reader:
        """The reader that the config describes."""
        return cls(tokenizer, Splitter(language), filters.max_length, filters.max_sentence_length)

    def read(self, documents: Sequence[Sequence[str]]) -> list[Sentences]:
        """Documents given as sentences, as ids."""
        encoded = iter(self.tokenizer.encode([sentence for sentences in documents for sentence in sentences]))
        return [self._limited([next(encoded) for _ in sentences]) for sentences in documents]

    def show(self, sentences: Sequence[str]) -> list[ReadSentence]:
        """What `read` makes of a document, with its text."""
        shown = [part for sentence in sentences for part in self._parts(sentence)]
        limited = self._limited([list(part.ids) for part in shown])
        return [
            part if len(part.ids) == len(ids) else _beginning(part, len(ids))
            for part, ids in zip(shown, limited, strict=False)
        ]

    def _limited(self, sentences: Sentences) -> Sentences:
        left = self.max_length
        limited: Sentences = []
        for ids in sentences:
            if left is not None:
                if left <= 0:
                    break
                ids = ids[:left]
                left -= len(ids)
            size = self.max_sentence_length
            limited += [ids[start : start + size] for start in range(0, max(len(ids), 1), size)]
        return limited

    def _parts(self, sentence: str) -> Iterator[ReadSentence]:
        (ids,) = self.tokenizer.encode([sentence])
        spans = self.tokenizer.spans(sentence)
        assert len(spans) == len(ids), "a span for every piece"
        word_of_piece = words_of_spans(sentence, spans)
        text = sentence.encode()
        for start in range(0, max(len(ids), 1), self.max_sentence_length):
            part = slice(start, start + self.max_sentence_length)
            words: list[str] = []
            belongs: list[int] = []
            for _, pieces in groupby(zip(word_of_piece[part], spans[part], strict=True), key=lambda item: item[0]):
                places = [span for _, span in pieces]
                belongs += [len(words)] * len(places)
                words.append(text[places[0][0] : places[-1][1]].decode("utf-8", "replace").strip())
            yield ReadSentence(" ".join(words), tuple(ids[part]), tuple(words), tuple(belongs))


def _beginning(sentence: ReadSentence, pieces: int) -> ReadSentence:
    """The first pieces of a sentence, and the words that they belong to."""
    belongs = sentence.word_of_piece[:pieces]
    words = sentence.words[: belongs[-1] + 1 if belongs else 0]
    return ReadSentence(" ".join(words), sentence.ids[:pieces], words, belongs)
