"""Meaning of a sentence, independent of the language."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from .words import Adjective, Adverbial, Gender, Modal, Name, Noun, Preposition, Tense, Verb

Degree = Literal["", "very", "too"]
Determiner = Literal["the", "a", "this", "every", "my", "our", "his", "her", "their", "two", "three", "many", ""]

PLURAL_DETERMINERS = ("two", "three", "many")


@dataclass(frozen=True)
class NounPhrase:
    """A determiner (may be empty), perhaps an adjective, and a noun."""

    determiner: Determiner
    noun: Noun
    adjective: Adjective | None = None
    plural: bool = False


@dataclass(frozen=True)
class Pronoun:
    """I, we, he, she, they; or `it` with the German gender of the noun that it stands for."""

    english: Literal["I", "we", "he", "she", "they", "it"]
    gender: Gender | None = None

    @property
    def plural(self) -> bool:
        return self.english in ("we", "they")


Phrase = NounPhrase | Pronoun | Name
"""Subject, object or complement of a preposition."""


@dataclass(frozen=True)
class PrepositionalPhrase:
    preposition: Preposition
    phrase: Phrase

    @property
    def rank(self) -> int:
        return self.preposition.rank


@dataclass(frozen=True)
class FixedPhrase:
    """A phrase that is translated as a whole: at home, zu Hause."""

    english: str
    german: str
    rank: int = 1


@dataclass(frozen=True)
class State:
    """A predicative adjective, perhaps with a degree: (is) very old."""

    adjective: Adjective
    degree: Degree = ""


@dataclass(frozen=True)
class Clause:
    subject: Phrase
    verb: Verb
    tense: Tense
    modal: Modal | None = None
    negated: bool = False
    direct: Phrase | None = None
    indirect: Phrase | None = None
    state: State | None = None
    places: tuple[PrepositionalPhrase | FixedPhrase, ...] = ()
    """In English order."""
    time: Adverbial | None = None
    time_first: bool = False
    frequency: Adverbial | None = None
    simple: bool = False
    """English simple present where the verb would allow the progressive: if the man buys ..."""


@dataclass(frozen=True)
class Conjunction:
    english: str
    german: str


BECAUSE = Conjunction("because", "weil")
ALTHOUGH = Conjunction("although", "obwohl")
IF = Conjunction("if", "wenn")
THAT = Conjunction("that", "dass")
AND = Conjunction("and", "und")
BUT = Conjunction("but", "aber")


@dataclass(frozen=True)
class Sentence:
    """A main clause and perhaps a second one: subordinate, before or after it, or coordinate."""

    main: Clause
    conjunction: Conjunction | None = None
    second: Clause | None = None
    second_first: bool = False

    def clauses(self) -> tuple[Clause, ...]:
        return (self.main,) if self.second is None else (self.main, self.second)


def is_plural(phrase: Phrase) -> bool:
    """Whether a subject takes a plural verb."""
    return not isinstance(phrase, Name) and phrase.plural


def noun_phrases(clause: Clause) -> tuple[NounPhrase, ...]:
    """Every noun phrase of a clause, whatever its role."""
    phrases = [clause.subject, clause.direct, clause.indirect]
    phrases += [place.phrase for place in clause.places if isinstance(place, PrepositionalPhrase)]
    return tuple(phrase for phrase in phrases if isinstance(phrase, NounPhrase))


def with_gender(sentence: Sentence, gender: Gender) -> Sentence:
    """The sentence with `it` standing for a noun of this German gender."""

    def changed(phrase: Phrase) -> Phrase:
        return replace(phrase, gender=gender) if isinstance(phrase, Pronoun) and phrase.gender else phrase

    def clause(old: Clause) -> Clause:
        return replace(old, subject=changed(old.subject), direct=None if old.direct is None else changed(old.direct))

    second = None if sentence.second is None else clause(sentence.second)
    return replace(sentence, main=clause(sentence.main), second=second)
