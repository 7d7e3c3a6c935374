"""Entries of the lexicon: one class for each part of speech, with its English and German forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Gender = Literal["masculine", "feminine", "neuter"]
Case = Literal["nominative", "accusative", "dative"]
Tense = Literal["present", "past", "perfect", "future"]
Mode = Literal["present", "past", "perfect", "future", "modal"]
"""A tense, or a modal verb in its place."""

GENDERS: tuple[Gender, ...] = ("masculine", "feminine", "neuter")


@dataclass(frozen=True)
class Noun:
    """A noun; `tags` say which verbs and adjectives go with it."""

    english: str
    german: str
    gender: Gender
    german_plural: str
    tags: tuple[str, ...] = ()
    english_plural: str = ""
    oblique: str = ""
    """German singular outside the nominative, where it differs (weak declension: der Junge, den Jungen)."""

    def in_english(self, plural: bool) -> str:
        return (self.english_plural or self.english + "s") if plural else self.english

    def in_german(self, plural: bool, case: Case) -> str:
        if not plural:
            return self.german if case == "nominative" else (self.oblique or self.german)
        # The dative plural takes -n unless the plural ends in -n or -s: den Tischen, den Frauen, den Sofas.
        return self.german_plural + ("n" if case == "dative" and self.german_plural[-1] not in "ns" else "")


@dataclass(frozen=True)
class Verb:
    """A verb with its principal parts and what it needs beside its subject.

    `german` is the infinitive and `german_third` the third person singular, both without the separable
    `particle` (kaufen, kauft + ein).
    """

    english: str
    past: str
    participle: str
    german: str
    german_third: str
    german_participle: str
    auxiliary: Literal["haben", "sein"] = "haben"
    particle: str = ""
    objects: tuple[str, ...] = ()
    """Tags of the nouns that can be its direct object."""
    object_case: Case = "accusative"
    tail: str = ""
    """English word after the verb: `at` in `look at`; stands before the object."""
    floating: str = ""
    """English particle that follows a pronoun object but precedes a noun: turn off the lamp, turn it off."""
    to_recipient: bool = False
    """The recipient always follows with `to`: reads the book to the child."""
    definite: bool = False
    """Its object is a certain one: likes the lamp, never likes a lamp."""
    stative: bool = False
    """Has no English progressive: she knows, never she is knowing."""
    tenses: tuple[Tense, ...] = ("present", "past", "perfect", "future")
    preterite: str = ""
    """German past tense of the few verbs that do not use the perfect in speech: war, hatte, wollte."""
    present: tuple[str, str, str] | None = None
    """German first and third person singular and plural, where they are irregular."""
    english_third: str = ""
    progressive: str = ""

    @property
    def german_infinitive(self) -> str:
        return self.particle + self.german

    @property
    def english_name(self) -> str:
        """With the words that make it this verb: look for, turn off."""
        return " ".join(word for word in (self.english, self.tail, self.floating) if word)

    @property
    def in_third(self) -> str:
        if self.english_third:
            return self.english_third
        if self.english.endswith(("s", "sh", "ch", "x")):
            return self.english + "es"
        if self.english.endswith("y") and self.english[-2] not in "aeiou":
            return self.english[:-1] + "ies"
        return self.english + "s"

    @property
    def in_progressive(self) -> str:
        if self.progressive:
            return self.progressive
        drops_e = self.english.endswith("e") and not self.english.endswith("ee")
        return (self.english[:-1] if drops_e else self.english) + "ing"

    def german_present(self, first: bool, plural: bool) -> str:
        if self.present:
            return self.present[2 if plural else 0 if first else 1]
        if plural:
            return self.german
        return self.german[:-2] + "e" if first else self.german_third


@dataclass(frozen=True)
class Modal:
    """A verb that sends another one, as an infinitive, to the end of the German clause."""

    english: tuple[str, str, str]
    """After `I`, after a third person singular, after a plural."""
    negative: tuple[str, str, str] | None
    """None where English and German say the negation differently: must not, darf nicht."""
    german: tuple[str, str, str]
    tense: Literal["present", "past"]


@dataclass(frozen=True)
class Adjective:
    """An adjective; `stem` takes the German endings."""

    english: str
    german: str
    tags: tuple[str, ...]
    stem: str = ""
    predicative_only: bool = False

    def inflected(self, ending: str) -> str:
        return (self.stem or self.german) + ending


@dataclass(frozen=True)
class Adverbial:
    """A time or sentence adverbial and the kinds of clause it goes with."""

    english: str
    german: str
    fits: tuple[str, ...]
    """Of `past`, `now`, `habit`, `future`, `modal`, `modal past`."""
    only_first: bool = False
    comma: bool = False
    """English writes a comma behind it when it opens the sentence."""


@dataclass(frozen=True)
class Preposition:
    """A preposition pair; the German one governs `case`."""

    english: str
    german: str
    case: Case
    rank: int = 1
    """German order among several: manner (0) before place (1)."""


@dataclass(frozen=True)
class Name:
    """A person's name or a city: the same in every case, no article."""

    english: str
    german: str
    gender: Gender = "neuter"
