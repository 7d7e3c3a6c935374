"""Text as sentences, where it comes without boundaries, by the package sentencex.

The Wikimedia Foundation keeps it for its own translation tools: rules and abbreviations of some 300 languages in one
small wheel, so that nothing is downloaded; a film review of IMDB takes 60 microseconds. pysbd, blingfire, segtok and
syntok, which are better known, have had no release since 2021 or 2022; spaCy, stanza and wtpsplit need models.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from importlib.util import find_spec

from nmt.errors import DataError

SEPARATOR = "\t"
"""What stands between the sentences of a document that has been split already."""

_PACKAGE = "sentencex"


@dataclass(frozen=True)
class Splitter:
    """Splits text into sentences by the rules of a language."""

    language: str
    """Its code, such as `en`; a language that the package does not know is split by common rules."""

    def check(self, name: str) -> None:
        """Raise a DataError about the text `name` where the package is missing."""
        if find_spec(_PACKAGE) is None:
            raise DataError(
                f"{name}: to split text into sentences takes the package {_PACKAGE}; pip install {_PACKAGE}, or "
                "separate the sentences by TAB"
            )

    def split(self, text: str) -> list[str]:
        """The sentences, without the space around them; none is blank. A line's end ends a sentence."""
        # Imported late: who gives sentences does not need it.
        from sentencex import segment

        found = (sentence.strip() for line in text.splitlines() for sentence in segment(self.language, line))
        return [sentence for sentence in found if sentence]

    @property
    def version(self) -> str:
        """What the boundaries depend on besides the text."""
        return f"{_PACKAGE} {importlib.metadata.version(_PACKAGE)} {self.language}"
