"""Pairs of words that training never shows together, though it shows each of them: verb-object, adjective-noun."""

from __future__ import annotations

from dataclasses import dataclass

from . import verbs
from .chooser import Chooser
from .nouns import PERSONS, PLACES, THINGS
from .phrases import fitting_adjectives, fitting_things
from .tree import NounPhrase, Sentence, noun_phrases
from .words import Adjective, Noun, Verb

SHARE = 0.12
MOST_VERBS, MOST_ADJECTIVES = 3, 2
"""Held out with one and the same noun, at most."""


@dataclass(frozen=True)
class Combination:
    kind: str
    english: tuple[str, str]
    german: tuple[str, str]


def verb_object(verb: Verb, noun: Noun) -> Combination:
    return Combination("verb-object", (verb.english_name, noun.english), (verb.german_infinitive, noun.german))


def adjective_noun(adjective: Adjective, noun: Noun) -> Combination:
    return Combination("adjective-noun", (adjective.english, noun.english), (adjective.german, noun.german))


def combinations(sentence: Sentence) -> tuple[Combination, ...]:
    """The pairs of a sentence: verbs with their direct objects, adjectives with their nouns (also `the tea is hot`)."""
    found: list[Combination] = []
    for clause in sentence.clauses():
        if isinstance(clause.direct, NounPhrase):
            found.append(verb_object(clause.verb, clause.direct.noun))
        if clause.state is not None and isinstance(clause.subject, NounPhrase):
            found.append(adjective_noun(clause.state.adjective, clause.subject.noun))
        found += [adjective_noun(phrase.adjective, phrase.noun) for phrase in noun_phrases(clause) if phrase.adjective]
    return tuple(found)


def choose_held_out(chooser: Chooser) -> frozenset[Combination]:
    """About one pair in eight, spread over verbs, adjectives and nouns; used for membership alone, never iterated."""
    held_out: list[Combination] = []
    uses: dict[Noun, int] = {}
    with_objects = (*verbs.THING_VERBS, *verbs.RECIPIENT_VERBS, verbs.PUT, verbs.LAY)
    # `read` is lesen or, to somebody, vorlesen: in English one verb, so what is held out with one is with the other.
    for name in dict.fromkeys(verb.english_name for verb in with_objects):
        alike = [verb for verb in with_objects if verb.english_name == name]
        for noun in _some(chooser, fitting_things(alike[0].objects), uses, MOST_VERBS):
            held_out += [verb_object(verb, noun) for verb in alike]
    nouns = (*THINGS, *PERSONS, *PLACES)
    uses = {}
    adjectives = [adjective for noun in nouns for adjective in fitting_adjectives(noun)]
    for adjective in dict.fromkeys(adjectives):
        fitting = tuple(noun for noun in nouns if adjective in fitting_adjectives(noun))
        held_out += [adjective_noun(adjective, noun) for noun in _some(chooser, fitting, uses, MOST_ADJECTIVES)]
    return frozenset(held_out)


def _some(chooser: Chooser, nouns: tuple[Noun, ...], uses: dict[Noun, int], most: int) -> list[Noun]:
    if len(nouns) < 5:
        return []
    count = max(1, round(SHARE * len(nouns)))
    chosen = [noun for noun in chooser.shuffled(nouns) if uses.get(noun, 0) < most][:count]
    for noun in chosen:
        uses[noun] = uses.get(noun, 0) + 1
    return chosen
