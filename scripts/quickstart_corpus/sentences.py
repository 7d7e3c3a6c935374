"""Sentences at random: one clause, two joined by a conjunction, and the pairs around the pronoun `it`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from . import tree, verbs
from .chooser import Chooser
from .clauses import MODES, Clauses, mode_of
from .modifiers import ADJECTIVES, FEELINGS
from .nouns import NAMES, THINGS
from .phrases import Phrases, fitting_adjectives, fitting_things, pronoun_for, share_a_tag
from .tree import Clause, NounPhrase, Phrase, Pronoun, Sentence
from .words import GENDERS, Adjective, Case, Gender, Mode, Noun, Tense, Verb

# How a thing comes up in the first sentence, still whole in the second.
INTRODUCING = (
    "buy",
    "see",
    "find",
    "need",
    "order",
    "look for",
    "look at",
    "lose",
    "forget",
    "like",
    "carry",
    "bring along",
)

LATER: dict[Mode, tuple[Mode, ...]] = {
    "past": tuple(MODES),
    "perfect": tuple(MODES),
    "present": ("present", "future", "modal"),
    "modal": ("future", "modal"),
    "future": ("future", "modal"),
}
"""Modes of the second sentence for each mode of the first. It is never earlier in time."""

GLAD_OR_NOT = tuple(adjective for adjective in FEELINGS if adjective.english in ("happy", "angry"))


def _told(sentence: Sentence) -> Mode:
    """The mode of what a first sentence tells, by itself or in a that-clause."""
    return mode_of(sentence.second or sentence.main)


def _plain(phrase: Phrase) -> Phrase:
    return replace(phrase, adjective=None) if isinstance(phrase, NounPhrase) else phrase


def _can_follow(clause: Clause, prop: Property) -> bool:
    """Whether the verb of the property has a tense for what comes later: nothing is lost tomorrow."""
    if not isinstance(prop.predicate, Verb) or prop.case == "nominative":
        return True
    return any(tense in LATER[mode_of(clause)] for tense in prop.predicate.tenses)


def balanced(nouns: Sequence[Noun]) -> bool:
    """Whether every gender has at least two of the nouns, so that no gender rests on one word."""
    return all(sum(noun.gender == gender for noun in nouns) >= 2 for gender in GENDERS)


@dataclass(frozen=True)
class Property:
    """Predicate of `it` in the second sentence, and the nouns that it fits."""

    case: Case
    predicate: Verb | Adjective
    nouns: tuple[Noun, ...]


def _properties() -> tuple[Property, ...]:
    found: list[Property] = []
    for verb in (*verbs.THING_VERBS, *verbs.RECIPIENT_VERBS):
        nouns = fitting_things(verb.objects)
        if verb is not verbs.HAVE:
            found.append(Property("accusative", verb, nouns))
    for adjective in ADJECTIVES:
        nouns = tuple(noun for noun in THINGS if adjective in fitting_adjectives(noun))
        found.append(Property("nominative", adjective, nouns))
    found.append(Property("nominative", verbs.BELONG, THINGS))
    return tuple(candidate for candidate in found if balanced(candidate.nouns))


PROPERTIES = _properties()


class Sentences:
    def __init__(self, chooser: Chooser, clauses: Clauses) -> None:
        self._chooser = chooser
        self._clauses = clauses
        self._phrases: Phrases = clauses.phrases

    def free(self, before: Sentence | None = None) -> Sentence:
        """Any sentence without `it`; one `before` often gives the subject."""
        chooser, clauses = self._chooser, self._clauses
        if chooser.chance(0.12):
            return Sentence(clauses.timed(clauses.description(), ("present", "past")))
        subject, continued = self._subject(before)
        shape = chooser.weighted({"one": 52, "reason": 22, "condition": 7, "report": 13, "joined": 6})
        if shape == "one":
            return Sentence(clauses.timed(clauses.action(subject, continued)))
        if shape == "reason":
            return self._reason(clauses.timed(clauses.action(subject, continued), adverbs=chooser.chance(0.3)))
        if shape == "condition":
            action = clauses.action(subject, continued)
            while "future" not in action.verb.tenses:
                action = clauses.action(subject, continued)
            main = clauses.timed(action, ("future",), adverbs=False)
            return Sentence(main, tree.IF, replace(self._circumstance(main), simple=True), chooser.chance(0.5))
        if shape == "report":
            return self.report(subject, self._reported(subject))
        first = clauses.timed(clauses.action(subject), ("past", "present"), adverbs=chooser.chance(0.4))
        other = clauses.action(self._person_but(subject))
        second = clauses.timed(other, (mode_of(first),), adverbs=False)
        return Sentence(first, chooser.pick((tree.AND, tree.BUT)), second)

    def report(self, speaker: Phrase, content: Clause) -> Sentence:
        """Somebody says, thinks, knows or hopes that ..."""
        weights = {verbs.SAY: 40.0, verbs.THINK: 30.0, verbs.KNOW: 25.0}
        if speaker in (Pronoun("I"), Pronoun("we")):
            del weights[verbs.SAY]
        if mode_of(content) == "future":
            weights[verbs.HOPE] = 40.0
        verb = self._chooser.weighted(weights)
        past = verb is verbs.SAY and mode_of(content) == "past" and self._chooser.chance(0.4)
        return Sentence(Clause(speaker, verb, "past" if past else "present"), tree.THAT, content)

    def introduce(self, noun: Noun, prop: Property) -> Sentence:
        """A first sentence with `noun` as its only thing, not negated, that neither gives away nor denies `prop`."""
        chooser, clauses, phrases = self._chooser, self._clauses, self._phrases
        subject = phrases.subject()
        thing = phrases.thing(noun, subject, plural=False)
        kinds = {"object": 68.0, "recipient": 14.0}
        if prop.case == "nominative":
            thing = replace(thing, adjective=None)
        else:
            kinds |= {"owner": 8.0, "state": 10.0}
        kind = chooser.weighted(kinds)
        if kind == "owner":
            thing = phrases.thing(noun, None, definite=True, plural=False)
            clause = Clause(thing, verbs.BELONG, "present", direct=phrases.other_person(thing, pronouns=False))
            return Sentence(clause) if _can_follow(clause, prop) else self.introduce(noun, prop)
        if kind == "state":
            thing = replace(phrases.thing(noun, None, definite=True, plural=False), adjective=None)
            adjective = chooser.pick(fitting_adjectives(noun))
            tense: Tense = "past" if chooser.chance(0.5) else "present"
            clause = Clause(thing, verbs.BE, tense, state=clauses.state(adjective))
            return Sentence(clause) if _can_follow(clause, prop) else self.introduce(noun, prop)
        if kind == "recipient":
            options = [verb for verb in verbs.RECIPIENT_VERBS if verb is not prop.predicate]
        else:
            options = [
                verb
                for verb in verbs.THING_VERBS
                if verb is not prop.predicate and verb.definite <= (thing.determiner != "a")
            ]
        options = [verb for verb in options if share_a_tag(verb.objects, noun.tags)]
        introducing = [verb for verb in options if verb.english_name in INTRODUCING]
        if not options:
            return self.introduce(noun, prop)
        verb = chooser.pick(introducing or options)
        recipient = phrases.other_person(subject, pronouns=False) if verb in verbs.RECIPIENT_VERBS else None
        clause = clauses.timed(Clause(subject, verb, "present", direct=thing, indirect=recipient))
        clause = replace(clause, negated=False)
        if not _can_follow(clause, prop):
            return self.introduce(noun, prop)
        if clause.time is None and chooser.chance(0.2):
            return self.report(phrases.other_person(subject, pronouns=False), clause)
        return Sentence(clause)

    def take_up(self, before: Sentence, prop: Property, gender: Gender) -> Sentence:
        """A second sentence that says something of the thing in the sentence before, as `it`."""
        it = Pronoun("it", gender)
        if prop.case == "nominative":
            return self._it_as_subject(before, it, prop.predicate)
        assert isinstance(prop.predicate, Verb)
        return self._it_as_object(before, it, prop.predicate)

    def _it_as_object(self, before: Sentence, it: Pronoun, verb: Verb) -> Sentence:
        chooser, clauses = self._chooser, self._clauses
        subject, _ = self._subject(before)
        recipient = None
        if verb in verbs.RECIPIENT_VERBS:
            recipient = self._phrases.other_person(subject, pronouns=False)
            while isinstance(recipient, Pronoun):
                recipient = self._phrases.other_person(subject, pronouns=False)
        action = Clause(subject, verb, "present", direct=it, indirect=recipient)
        allowed = LATER[_told(before)]
        shape = chooser.weighted({"one": 50, "report": 20, "reason": 18, "feeling": 12})
        if shape == "one":
            return Sentence(clauses.timed(action, allowed))
        clause = clauses.timed(action, allowed, adverbs=False)
        if shape == "report":
            return self.report(self._person_but(subject), clause)
        if shape == "reason":
            return Sentence(clause, tree.BECAUSE, self._mood(clause), chooser.chance(0.3))
        return self._felt(clause)

    def _it_as_subject(self, before: Sentence, it: Pronoun, predicate: Verb | Adjective) -> Sentence:
        chooser, clauses = self._chooser, self._clauses
        if isinstance(predicate, Verb):
            owner = self._phrases.other_person(it, pronouns=False)
            clause = Clause(it, predicate, "present", direct=owner)
        else:
            clause = Clause(it, verbs.BE, "present", state=clauses.state(predicate))
        shape = chooser.weighted({"one": 30, "report": 40, "feeling": 30})
        modes: tuple[Mode, ...] = ("present", "past") if _told(before) in ("past", "perfect") else ("present",)
        clause = clauses.timed(clause, modes, adverbs=shape == "one")
        if shape == "one":
            return Sentence(clause)
        if shape == "report":
            return self.report(self._phrases.subject(), clause)
        return self._felt(clause)

    def _felt(self, clause: Clause) -> Sentence:
        """Somebody is happy or angry about it."""
        chooser = self._chooser
        person = _plain(self._person_but(clause.subject))
        mood = Clause(
            person,
            verbs.BE,
            "past" if mode_of(clause) in ("past", "perfect") else "present",
            state=self._clauses.state(chooser.pick(GLAD_OR_NOT)),
        )
        return Sentence(mood, chooser.pick((tree.BECAUSE, tree.ALTHOUGH)), clause, chooser.chance(0.3))

    def _person_but(self, *others: Phrase) -> Phrase:
        """A subject that is none of the others."""
        subject = self._phrases.subject()
        while subject in others:
            subject = self._phrases.subject()
        return subject

    def _subject(self, before: Sentence | None) -> tuple[Phrase, bool]:
        """The subject, and whether it takes up a person of the sentence before."""
        if before is not None and self._chooser.chance(0.55):
            subject = before.main.subject
            is_person = (
                isinstance(subject, Pronoun)
                or subject in NAMES
                or (isinstance(subject, NounPhrase) and "person" in subject.noun.tags)
            )
            pronoun = pronoun_for(subject) if is_person else None
            if pronoun is not None:
                return pronoun, True
        return self._person_but(*([] if before is None else [before.main.subject])), False

    def _reason(self, main: Clause) -> Sentence:
        opens = not main.time_first and self._chooser.chance(0.35)
        conjunction = tree.BECAUSE if self._chooser.chance(0.7) else tree.ALTHOUGH
        return Sentence(main, conjunction, self._circumstance(main), opens)

    def _circumstance(self, main: Clause) -> Clause:
        """Returns a reason for a main clause: a mood, the weather, a property of a thing, or an action."""
        tense: Mode = "past" if mode_of(main) in ("past", "perfect") else "present"
        kind = self._chooser.weighted({"mood": 50, "description": 18, "action": 32})
        if kind == "mood":
            return self._mood(main)
        if kind == "description":
            return self._clauses.timed(self._clauses.description(), (tense,), adverbs=False)
        actor = pronoun_for(main.subject) if self._chooser.chance(0.6) else None
        action = self._clauses.action(actor or self._person_but(main.subject))
        return self._clauses.timed(action, (tense,), adverbs=False)

    def _mood(self, main: Clause) -> Clause:
        own = pronoun_for(main.subject)
        described = isinstance(main.subject, NounPhrase) and main.subject.adjective is not None
        # The happy man is not angry: where he has been described, somebody else has the mood.
        subject = _plain(self._person_but(main.subject)) if own is None or described else own
        feeling = self._clauses.feeling(subject)
        return replace(feeling, tense="past" if mode_of(main) in ("past", "perfect") else "present")

    def _reported(self, speaker: Phrase) -> Clause:
        if self._chooser.chance(0.25):
            return self._clauses.timed(self._clauses.description(), ("present", "past"), adverbs=False)
        actor = pronoun_for(speaker) if self._chooser.chance(0.35) else None
        action = self._clauses.action(actor or self._person_but(speaker))
        return self._clauses.timed(action, adverbs=False)
