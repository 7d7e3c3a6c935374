"""Rules on the text of training pairs: copies, wrong languages, wrong encodings, and what is not text.

A rule applies to a pair if it applies to one of its sides; pairs with a blank side are left to `data.filters.empty`.
"""

from __future__ import annotations

import importlib.metadata
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from typing import Any

from nmt.config.schema import FiltersConfig
from nmt.config.wording import advice
from nmt.errors import ConfigError

GARBLED = "garbled"
FEW_LETTERS = "few letters"
LONG_WORD = "long word"
COPY = "copy"
WRONG_LANGUAGE = "wrong language"

WORDS_OF_A_COPY = 2
"""Words in lower case that a pair of equal sides must have to be a copy. Names, numbers and addresses have fewer; they
are often the same in both languages, and a translator has to learn that."""
CERTAINTY = 0.5
"""Probability above which another language counts as the language of a side. The probabilities of a line without
enough letters, such as a name, are spread over many languages."""
NO_LANGUAGE = "zxx"
"""Class of the identifier for numbers, markup and the like."""
OTHER_CODES = {"nb": "no", "iw": "he", "in": "id", "ji": "yi", "fil": "tl", "cmn": "zh"}
"""Codes of languages that the identifier knows by another one."""
RELATED = (
    frozenset({"no", "nn"}),
    frozenset({"bs", "hr", "sr"}),
    frozenset({"zh", "wuu", "yue"}),
    frozenset({"ar", "ary", "arz"}),
    frozenset({"id", "ms"}),
    frozenset({"ku", "sdh"}),
    frozenset({"lv", "ltg"}),
    frozenset({"uz", "uzs"}),
)
"""Members of one macrolanguage (ISO 639-3), which a sentence does not tell apart reliably."""

# The characters that Windows-1252 and Latin-1 have for the bytes 0x80 to 0xbf, which continue a character in UTF-8.
_CONTINUE = "\u0080-\u009f\u00a0-\u00ba\u00bc-\u00bf\u20ac\u201a\u0192\u201e\u2020\u2021\u02c6\u2030\u0160\u2039\u0152"
_CONTINUE += "\u017d\u2022\u02dc\u2122\u0161\u0153\u017e\u0178"
_MAY_FOLLOW = "\u00bb\u2013\u2014\u2018\u2019\u201c\u201d\u2026\u203a"
"""Those that may follow a word in capitals, such as the end of a quotation."""
_GARBLED = re.compile(
    # A replacement character, or a control character.
    r"[\ufffd\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]"
    # UTF-8 that was read as Windows-1252 or Latin-1: an accented letter (`Ã¼` for ü; not the unit in `5 Å`),
    # punctuation (`â€™`), or two characters of another alphabet.
    rf"|(?:[\u00c2\u00c3]|[\u00c4\u00c5](?!\u00a0))(?:[{_CONTINUE}]|[{_MAY_FOLLOW}](?=[^\W\d_]))|\u00e2\u20ac."
    rf"|(?:[\u00c4-\u00df][{_CONTINUE}{_MAY_FOLLOW}]){{2}}|(?:[\u00e0-\u00ef][{_CONTINUE}{_MAY_FOLLOW}]{{2}}){{2}}"
)
_FIRST_LETTER = re.compile(r"(?<!\S)[^\w\s]*([^\W\d_])")
_WITHOUT_SPACES = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
"""Scripts that put no space between words: Thai, Lao, Tibetan, Burmese, Khmer, Chinese and Japanese."""


@dataclass(frozen=True)
class PairRules:
    """The rules on text that are on, for pairs of two languages."""

    filters: FiltersConfig
    languages: tuple[str, str]
    """Codes of the source and the target language, such as `de` or `de-AT`."""

    def reason(self, source: str, target: str) -> str | None:
        """Returns the first rule by which to leave a pair out, and None if there is none."""
        if source.isspace() or target.isspace() or not source or not target:
            return None
        return next((reason for reason, applies in self._rules if applies(source, target)), None)

    @cached_property
    def _rules(self) -> list[tuple[str, Callable[[str, str], bool]]]:
        """The rules that are on, the cheapest first."""
        filters = self.filters
        rules: list[tuple[str, Callable[[str, str], bool]]] = []
        if filters.garbled == "drop":
            rules.append((GARBLED, lambda *sides: any(map(is_garbled, sides))))
        if filters.min_letters > 0.0:
            rules.append((FEW_LETTERS, lambda *sides: min(map(letter_share, sides)) < filters.min_letters))
        if filters.max_word_length is not None:
            long_word = re.compile(rf"[^\s{_WITHOUT_SPACES}]{{{filters.max_word_length + 1}}}")
            rules.append((LONG_WORD, lambda *sides: any(map(long_word.search, sides))))
        if filters.copies == "drop":
            rules.append((COPY, is_copy))
        if filters.wrong_language == "drop":
            rules.append((WRONG_LANGUAGE, lambda *sides: any(map(is_other_language, sides, self.languages))))
        return rules

    def __getstate__(self) -> dict[str, Any]:
        """The rules themselves are no functions of a module, and are made anew in another process."""
        return {"filters": self.filters, "languages": self.languages}

    @property
    def description(self) -> dict[str, Any]:
        """Everything that the reasons depend on besides the text."""
        description = dict(self.filters.text_rules)
        if self.filters.wrong_language == "drop":
            description |= {"languages": self.languages, "py3langid": importlib.metadata.version("py3langid")}
        return description

    def check(self) -> None:
        """Raises ConfigError where the package that identifies languages is missing, or does not know one of them."""
        if self.filters.wrong_language == "keep":
            return
        if find_spec("py3langid") is None:
            raise ConfigError(
                "data.filters.wrong_language: to identify languages takes the package py3langid; pip install "
                "py3langid, or leave it out"
            )
        known = sorted(set(map(str, _identifier().nb_classes)) - {NO_LANGUAGE})
        problems = [
            f"data.{side}_language: {language!r} is no language that data.filters.wrong_language can identify; "
            f"{advice(language, known)}"
            for side, language in zip(("source", "target"), self.languages, strict=True)
            if primary_code(language) not in known
        ]
        if problems:
            raise ConfigError(*problems)


def is_garbled(text: str) -> bool:
    """Whether the text has signs of a wrong encoding: replacement or control characters, or `Ã¼` for `ü`."""
    return _GARBLED.search(text) is not None


def letter_share(text: str) -> float:
    """Returns the share of letters, and of the marks that belong to letters, in the characters besides spaces."""
    characters = "".join(text.split())
    return sum(map(_is_letter, characters)) / max(len(characters), 1)


@cache
def _is_letter(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM"


def is_copy(source: str, target: str) -> bool:
    """Whether the sides are equal, but for case, spacing and Unicode's spelling (NFKC), and more than a name."""
    sides = [unicodedata.normalize("NFKC", text) for text in (source, target)]
    if sides[0].casefold().split() != sides[1].casefold().split():
        return False
    # Words that begin with a letter and with no capital; scripts without case have no capitals.
    counts: list[int] = [sum(letter == letter.lower() for letter in _FIRST_LETTER.findall(text)) for text in sides]
    return min(counts) >= WORDS_OF_A_COPY


def primary_code(language: str) -> str:
    """Returns the identifier's code of a language: `de` of `de`, `de-AT` and `DE_at`."""
    code = re.split("[-_]", language.strip().lower())[0]
    return OTHER_CODES.get(code, code)


def is_other_language(text: str, language: str) -> bool:
    """Whether the text is more probably in one certain other language than in all others together, or in its own."""
    found, probability = _identifier().classify(text)
    return probability > CERTAINTY and str(found) not in _accepted(primary_code(language))


def rank_languages(text: str, languages: Sequence[str]) -> list[tuple[str, float]]:
    """Returns these languages with the probability that the text is in each, if it is in one of them; the most
    probable first. Those that the identifier does not know have probability 0. Needs the package py3langid.
    """
    ranked = dict(_identifier().rank(text))
    values = {language: float(ranked.get(primary_code(language), 0.0)) for language in languages}
    total = sum(values.values()) or 1.0
    return sorted(((language, value / total) for language, value in values.items()), key=lambda each: -each[1])


@cache
def _accepted(code: str) -> frozenset[str]:
    """The languages that a text of this language may seem to be in."""
    return frozenset({code, NO_LANGUAGE}).union(*(group for group in RELATED if code in group))


@cache
def _identifier() -> Any:
    # Imported late: it is an optional package. Loading takes half a second.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
