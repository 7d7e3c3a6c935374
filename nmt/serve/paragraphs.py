"""Sentences of a text, and the white space between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from nmt.data.readers.labelled import Splitter


@dataclass(frozen=True)
class SplitText:
    """A text as sentences, without the white space around them, which is kept beside them."""

    sentences: list[str]
    spaces: list[str]
    """Before the first sentence, between them, and after the last one."""

    def join(self, translations: Sequence[str]) -> str:
        """Returns the translations of the sentences with the white space of the text."""
        parts = zip(self.spaces, [*translations, ""], strict=True)
        return "".join(space + translation for space, translation in parts)


def split_sentences(text: str, language: str) -> SplitText:
    """Splits a text by the rules of a language, with the package sentencex; without it, by lines."""
    if find_spec("sentencex") is not None:
        sentences = Splitter(language).split(text)
    else:
        sentences = [line.strip() for line in text.splitlines() if line.strip()]
    spaces, end = [], 0
    for sentence in sentences:
        start = text.index(sentence, end)
        spaces.append(text[end:start])
        end = start + len(sentence)
    return SplitText(sentences, [*spaces, text[end:]])
