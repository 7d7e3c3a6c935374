"""Sentences of running text, by the rules of a language, and paragraphs put together again from them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from nmt.errors import DataError

_WITHOUT_SPACE = frozenset(("cmn", "ja", "jpn", "wuu", "yue", "zh", "zho"))


@dataclass(frozen=True)
class Paragraph:
    """The sentences of a text, and the white space around them."""

    sentences: tuple[str, ...]
    """Without the space around them; none is blank. A blank text has none."""
    spaces: tuple[str, ...]
    """Before each sentence, and behind the last one."""

    def join(self, texts: Sequence[str], between: str = "") -> str:
        """Returns these texts in the places of the sentences, such as their translations.

        `between` stands between sentences that no white space separates (see `space_between`). The sentences
        themselves, with nothing between them, give the text.
        """
        assert len(texts) == len(self.sentences), "one text for each sentence"
        before, *behind = self.spaces
        joined = [before]
        for number, (text, space) in enumerate(zip(texts, behind, strict=True), start=1):
            joined += [text, space if space or number == len(texts) else between]
        return "".join(joined)


def space_between(language: str) -> str:
    """Returns what separates sentences of a language: a space, or nothing in Chinese and Japanese.

    Args:
        language: its code, such as `en` or `zh-Hant`.
    """
    return "" if language.replace("_", "-").split("-")[0].lower() in _WITHOUT_SPACE else " "


@dataclass(frozen=True)
class Splitter:
    """Splits text into sentences by the rules of a language, with the package sentencex.

    It has rules for some 300 languages in one small wheel, and takes 60 microseconds for a film review of IMDB. pysbd,
    blingfire, segtok and syntok have had no release since 2021 or 2022; spaCy, stanza and wtpsplit need models.
    """

    language: str
    """Its code, such as `en`; a language that the package does not know is split by common rules."""

    @property
    def is_available(self) -> bool:
        """Whether the package is there."""
        return find_spec("sentencex") is not None

    def check(self, name: str, instead: str = "separate the sentences by TAB") -> None:
        """Raises a DataError about `name` where the package is missing; `instead` says what else to do."""
        if not self.is_available:
            raise DataError(
                f"{name}: to split text into sentences takes the package sentencex; pip install sentencex, or {instead}"
            )

    def split(self, text: str) -> list[str]:
        """Returns the sentences, without the space around them; none is blank. A line's end ends a sentence."""
        return list(self.paragraph(text).sentences)

    def paragraph(self, text: str) -> Paragraph:
        """Returns the sentences with the white space around them. A line's end ends a sentence."""
        # Imported late: text that comes as sentences does not need it.
        from sentencex import segment

        return _paragraph(text, partial(segment, self.language))

    @property
    def version(self) -> str:
        """Everything that the boundaries depend on besides the text."""
        return f"sentencex {importlib.metadata.version('sentencex')} {self.language}"


def lines_as_sentences(text: str) -> Paragraph:
    """Returns the lines of a text as its sentences, for want of the package sentencex."""
    return _paragraph(text, lambda line: [line])


def _paragraph(text: str, segment: Callable[[str], Iterable[str]]) -> Paragraph:
    """Returns the sentences of a text. `segment` divides a line into parts, which give the line again."""
    sentences: list[str] = []
    spaces = [""]
    for line in text.splitlines(keepends=True):
        content = line.splitlines()[0]
        for part in segment(content):
            sentence = part.strip()
            before, _, behind = part.partition(sentence) if sentence else (part, "", "")
            spaces[-1] += before
            if sentence:
                sentences.append(sentence)
                spaces.append(behind)
        spaces[-1] += line[len(content) :]
    return Paragraph(tuple(sentences), tuple(spaces))
