"""Noun phrases at random: which determiner, adjective and number go with which noun."""

from __future__ import annotations

from collections.abc import Sequence

from .chooser import Chooser
from .modifiers import ADJECTIVES, AT, AT_MARKET, IN
from .nouns import CITIES, NAMES, PERSONS, PLACES, THINGS
from .tree import Determiner, NounPhrase, Phrase, PrepositionalPhrase, Pronoun, is_plural
from .words import Adjective, Name, Noun

OBJECT_PRONOUNS = (Pronoun("I"), Pronoun("we"), Pronoun("he"), Pronoun("she"), Pronoun("they"))

# Their German gender is neuter, so `it` could stand for them.
GENDERED_PERSONS = tuple(noun for noun in PERSONS if "neuter person" not in noun.tags)


def share_a_tag(tags: Sequence[str], others: Sequence[str]) -> bool:
    return any(tag in others for tag in tags)


def fitting_adjectives(noun: Noun) -> tuple[Adjective, ...]:
    """The adjectives that go with a noun; nobody is an old child."""
    return tuple(
        adjective
        for adjective in ADJECTIVES
        if share_a_tag(adjective.tags, noun.tags) and not (adjective.english == "old" and "small" in noun.tags)
    )


def fitting_things(tags: Sequence[str]) -> tuple[Noun, ...]:
    return tuple(noun for noun in THINGS if share_a_tag(tags, noun.tags))


def pronoun_for(phrase: Phrase) -> Pronoun | None:
    """The pronoun that takes up a person in the next clause, where that is clear in both languages."""
    if isinstance(phrase, Pronoun):
        return None if phrase.english == "it" else phrase
    if is_plural(phrase):
        return Pronoun("they")
    if isinstance(phrase, NounPhrase) and "neuter person" in phrase.noun.tags:
        return None
    gender = phrase.gender if isinstance(phrase, Name) else phrase.noun.gender
    return Pronoun("he" if gender == "masculine" else "she")


def possessive_for(owner: Phrase | None) -> Determiner | None:
    pronoun = None if owner is None else pronoun_for(owner)
    if pronoun is None:
        return None
    owners: dict[str, Determiner] = {"I": "my", "we": "our", "he": "his", "she": "her", "they": "their"}
    return owners[pronoun.english]


class Phrases:
    """Draws noun phrases; `persons` are the nouns for people."""

    def __init__(self, chooser: Chooser, persons: Sequence[Noun] = PERSONS) -> None:
        self._chooser = chooser
        self._persons = persons

    def subject(self) -> Phrase:
        kind = self._chooser.weighted({"noun": 58, "name": 26, "I": 9, "we": 7})
        if kind == "noun":
            return self.person(None)
        if kind == "name":
            return self._chooser.pick(NAMES)
        return Pronoun("I") if kind == "I" else Pronoun("we")

    def other_person(self, subject: Phrase, pronouns: bool) -> Phrase:
        """A person beside the subject; with `pronouns` also me, him, them ..., never the subject itself."""
        if self._chooser.chance(0.25 if pronouns else 0.06):
            own = pronoun_for(subject)
            speakers = ("I", "we")
            candidates = [
                pronoun
                for pronoun in OBJECT_PRONOUNS
                if own is not None
                and pronoun != own
                and not (own.english in speakers and pronoun.english in speakers)
                and (pronouns or pronoun.english in speakers)
            ]
            if candidates:
                return self._chooser.pick(candidates)
        if self._chooser.chance(0.25):
            return self._chooser.pick([name for name in NAMES if name != subject])
        phrase = self.person(subject)
        while isinstance(subject, NounPhrase) and phrase.noun == subject.noun:
            phrase = self.person(subject)
        return phrase

    def person(self, owner: Phrase | None) -> NounPhrase:
        noun = self._chooser.pick(self._persons)
        plural = "unique" not in noun.tags and self._chooser.chance(0.25)
        weights: dict[Determiner, float] = {"the": 50, "this": 16}
        if "related" in noun.tags:
            weights = {"my": 34, "our": 20, "the": 16}
            possessive = possessive_for(owner)
            if possessive is not None:
                weights[possessive] = weights.get(possessive, 0) + 30
        if "unique" not in noun.tags and "kin" not in noun.tags:
            weights |= {"many": 8, "two": 6, "three": 6} if plural else {"a": 18, "every": 4}
        return self._phrase(noun, weights, plural, adjective_share=0.22)

    def thing(self, noun: Noun, owner: Phrase | None, definite: bool = False, plural: bool | None = None) -> NounPhrase:
        if plural is None:
            plural = self._chooser.chance(0.25)
        weights: dict[Determiner, float] = {"the": 40, "this": 12}
        possessive = possessive_for(owner)
        if not share_a_tag(("food", "house part"), noun.tags):
            weights["my"] = 5
            if possessive is not None:
                weights[possessive] = weights.get(possessive, 0) + 16
        if not definite:
            weights |= {"": 22, "many": 12, "two": 9, "three": 9} if plural else {"a": 44}
        return self._phrase(noun, weights, plural, adjective_share=0.42)

    def place(self, noun: Noun) -> NounPhrase:
        weights: dict[Determiner, float] = {"the": 70, "this": 10, "our": 8}
        if "in" in noun.tags:
            weights["a"] = 10
        return self._phrase(noun, weights, plural=False, adjective_share=0.22)

    def location(self) -> PrepositionalPhrase:
        """Where something happens: in the garden, at the station, in Berlin."""
        if self._chooser.chance(0.15):
            return PrepositionalPhrase(IN, self._chooser.pick(CITIES))
        noun = self._chooser.pick(PLACES)
        preposition = IN if "in" in noun.tags else AT if "at" in noun.tags else AT_MARKET
        return PrepositionalPhrase(preposition, self.place(noun))

    def _phrase(self, noun: Noun, weights: dict[Determiner, float], plural: bool, adjective_share: float) -> NounPhrase:
        adjective = self._chooser.pick(fitting_adjectives(noun)) if self._chooser.chance(adjective_share) else None
        return NounPhrase(self._chooser.weighted(weights), noun, adjective, plural)
