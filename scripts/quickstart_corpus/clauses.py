"""Clauses at random: a subject, something that it does or is, and when."""

from __future__ import annotations

from dataclasses import replace

from . import verbs
from .chooser import Chooser
from .modifiers import (
    BY_BUILDING,
    FEELINGS,
    FOR,
    FREQUENCIES,
    INTO,
    NEVER,
    ON_SURFACE,
    ONTO_SURFACE,
    OUT_OF,
    THROUGH,
    TIMES,
    TO,
    TO_CITY,
    WAIT_FOR,
    WEATHER_ADJECTIVES,
    WITH,
    WITHOUT,
)
from .modifiers import FROM as AWAY_FROM
from .modifiers import IN as INSIDE
from .nouns import CITIES, DRINKS, PLACES, THINGS, VEHICLES, WEATHER
from .phrases import Phrases, fitting_adjectives, fitting_things
from .tree import Clause, Degree, FixedPhrase, NounPhrase, Phrase, PrepositionalPhrase, State, noun_phrases
from .words import Adjective, Mode, Noun, Preposition, Verb

MODES: dict[Mode, float] = {"past": 36.0, "perfect": 7.0, "present": 30.0, "future": 10.0, "modal": 17.0}

HOME = FixedPhrase("home", "nach Hause")
AT_HOME = FixedPhrase("at home", "zu Hause")
BY_VEHICLE = tuple(
    FixedPhrase(f"by {noun.english}", f"mit {'der' if noun.gender == 'feminine' else 'dem'} {noun.german}", rank=0)
    for noun in VEHICLES
)


# Words that stand beside never or not without asking what exactly is denied.
CERTAIN = ("the", "this", "my", "our", "his", "her", "their")
SOME_TIME = tuple(adverb for adverb in FREQUENCIES if adverb is not NEVER)

WITHOUT_DEGREE = ("broken", "delicious", "red", "blue", "green", "black")
NEVER_TOO_MUCH = ("interesting", "beautiful", "fresh", "happy", "sick", "angry", "friendly")


def mode_of(clause: Clause) -> Mode:
    """Past, perfect, present, future or modal; a modal of the past counts as past."""
    if clause.modal is not None:
        return "past" if clause.modal.tense == "past" else "modal"
    return clause.tense


class Clauses:
    """Draws clauses about people, things and places."""

    def __init__(self, chooser: Chooser, phrases: Phrases) -> None:
        self._chooser = chooser
        self.phrases = phrases
        self._families = {
            self._about_thing: 36.0,
            self._about_person: 14.0,
            self._with_recipient: 9.0,
            self._activity: 12.0,
            self._motion: 12.0,
            self._placement: 6.0,
            self._drink: 4.0,
            self._wait: 3.0,
            self._whereabouts: 5.0,
        }

    def action(self, subject: Phrase, pronouns: bool = False) -> Clause:
        """Something that a person does, in the present and without adverbs; see `timed`."""
        return self._chooser.weighted(self._families)(subject, pronouns)

    def feeling(self, subject: Phrase) -> Clause:
        return Clause(subject, verbs.BE, "present", state=self.state(self._chooser.pick(FEELINGS)))

    def description(self) -> Clause:
        """A thing, a place or the weather, and what it is like or whose it is."""
        kind = self._chooser.weighted({"thing": 50, "weather": 15, "place": 15, "owner": 16, "standing": 14})
        if kind == "weather":
            subject = NounPhrase("the", WEATHER)
            return Clause(subject, verbs.BE, "present", state=self.state(self._chooser.pick(WEATHER_ADJECTIVES)))
        if kind == "standing":
            verb = self._chooser.pick((verbs.STAND, verbs.LIE))
            thing = self.phrases.thing(self._chooser.pick(fitting_things(verb.objects)), None)
            if verb is verbs.STAND and self._chooser.chance(0.3):
                building = self._chooser.pick([place for place in PLACES if "building" in place.tags])
                preposition = self._chooser.pick(BY_BUILDING)
                where = PrepositionalPhrase(preposition, self.phrases.place(building))
            else:
                where = self._surface(self._chooser.pick(ON_SURFACE), thing.noun)
            return Clause(thing, verb, "present", places=(where,))
        if kind == "place":
            place = NounPhrase(self._chooser.pick(("the", "this", "our")), self._chooser.pick(PLACES))
            return self._described(place)
        thing = self.phrases.thing(self._chooser.pick(THINGS), None, definite=True)
        if kind == "owner":
            return Clause(thing, verbs.BELONG, "present", direct=self.phrases.other_person(thing, pronouns=False))
        return self._described(replace(thing, adjective=None))

    def _described(self, subject: NounPhrase) -> Clause:
        state = self.state(self._chooser.pick(fitting_adjectives(subject.noun)))
        return Clause(subject, verbs.BE, "present", state=state)

    def state(self, adjective: Adjective) -> State:
        """The adjective with a degree that it can have: nothing is very broken or too delicious."""
        degrees: tuple[Degree, ...] = ("", "very", "too")
        if adjective.english in WITHOUT_DEGREE:
            degrees = ("",)
        elif adjective.english in NEVER_TOO_MUCH:
            degrees = ("", "very")
        return State(adjective, self._chooser.pick(degrees))

    def timed(self, clause: Clause, modes: tuple[Mode, ...] = tuple(MODES), adverbs: bool = True) -> Clause:
        """Put into a tense or under a modal, perhaps negated, perhaps with adverbs."""
        verb = clause.verb
        can_be: tuple[Mode, ...] = verb.tenses
        if not verb.stative and "future" in verb.tenses:
            can_be = (*can_be, "modal")
        weights = {mode: weight for mode, weight in MODES.items() if mode in modes and mode in can_be}
        if not weights:
            weights = {verb.tenses[0]: 1.0}
        mode = self._chooser.weighted(weights)
        if mode == "modal":
            now = tuple(modal for modal in verbs.MODALS if modal.tense == "present" or "past" in modes)
            modal = self._chooser.pick(now)
            clause = replace(clause, modal=modal, tense=modal.tense)
            fit = "modal" if modal.tense == "present" else "modal past"
        else:
            clause = replace(clause, tense=mode)
            fit = {"present": "now", "perfect": ""}.get(mode, mode)
        if adverbs:
            clause = self._with_adverbs(clause, fit)
        if self._chooser.chance(0.16) and self._can_be_negated(clause):
            clause = replace(clause, negated=True)
        return clause

    def _with_adverbs(self, clause: Clause, fit: str) -> Clause:
        chooser = self._chooser
        if clause.tense == "present" and clause.modal is None and not clause.verb.stative:
            if chooser.chance(0.2):
                certain = all(phrase.determiner in CERTAIN for phrase in noun_phrases(clause))
                return replace(clause, frequency=chooser.pick(FREQUENCIES if certain else SOME_TIME))
            if chooser.chance(0.2):
                fit = "habit"
        elif clause.tense == "present" and clause.modal is None and clause.verb is not verbs.BE:
            return clause
        if not chooser.chance(0.45):
            return clause
        fitting = [time for time in TIMES if fit in time.fits]
        if clause.state is not None and clause.subject != NounPhrase("the", WEATHER):
            # What a thing is like is not a matter of one day: a room is not new today.
            fitting = [time for time in fitting if time.only_first]
        elif chooser.chance(0.6):
            fitting = [time for time in fitting if not time.only_first]
        if not fitting:
            return clause
        time = chooser.pick(fitting)
        return replace(clause, time=time, time_first=time.only_first or chooser.chance(0.6))

    @staticmethod
    def _can_be_negated(clause: Clause) -> bool:
        """Where German has one natural place for nicht or kein."""
        if clause.tense == "perfect" or clause.frequency is not None:
            return False
        if clause.time is not None and (not clause.time_first or clause.time.only_first or "habit" in clause.time.fits):
            return False
        if clause.modal is not None and not clause.modal.negative:
            return False
        if clause.direct is not None and clause.places:
            return False
        # An indefinite direct object takes kein; beside any other indefinite phrase nicht would be of two minds.
        if any(phrase.determiner not in CERTAIN for phrase in noun_phrases(clause) if phrase is not clause.direct):
            return False
        if isinstance(clause.direct, NounPhrase) and clause.direct.determiner not in ("a", "", *CERTAIN):
            return False
        return not (clause.state is not None and clause.state.degree == "too")

    # One method a family of verbs.

    def _about_thing(self, subject: Phrase, pronouns: bool) -> Clause:
        verb = self._chooser.pick(verbs.THING_VERBS)
        thing = self.phrases.thing(self._chooser.pick(fitting_things(verb.objects)), subject, verb.definite)
        if verb is verbs.HAVE:
            thing = replace(thing, determiner=self._chooser.pick(("many", "two", "three")) if thing.plural else "a")
        clause = Clause(subject, verb, "present", direct=thing)
        if verb.english in ("buy", "order") and self._chooser.chance(0.2):
            recipient = PrepositionalPhrase(FOR, self.phrases.other_person(subject, pronouns))
            clause = replace(clause, places=(recipient,))
        return clause

    def _about_person(self, subject: Phrase, pronouns: bool) -> Clause:
        verb = self._chooser.pick(verbs.PERSON_VERBS)
        clause = Clause(subject, verb, "present", direct=self.phrases.other_person(subject, pronouns))
        if verb.english in ("visit", "meet") and self._chooser.chance(0.35):
            clause = replace(clause, places=(self.phrases.location(),))
        return clause

    def _with_recipient(self, subject: Phrase, pronouns: bool) -> Clause:
        verb = self._chooser.pick(verbs.RECIPIENT_VERBS)
        thing = self.phrases.thing(self._chooser.pick(fitting_things(verb.objects)), subject)
        return Clause(subject, verb, "present", direct=thing, indirect=self.phrases.other_person(subject, pronouns))

    def _activity(self, subject: Phrase, pronouns: bool) -> Clause:
        verb = self._chooser.pick((*verbs.ACTIVITY_VERBS, verbs.PLAY, verbs.STAY, verbs.LIVE))
        places: list[PrepositionalPhrase | FixedPhrase] = []
        if verb is verbs.LIVE:
            homes = [place for place in PLACES if place.english in ("house", "city", "room")]
            home = self._chooser.chance(0.4)
            where = self.phrases.place(self._chooser.pick(homes)) if home else self._chooser.pick(CITIES)
            places = [PrepositionalPhrase(INSIDE, where)]
        elif verb is verbs.STAY:
            places = [AT_HOME if self._chooser.chance(0.4) else self.phrases.location()]
        elif verb is verbs.PLAY or (verb.english in ("dance", "sing", "work", "shop") and self._chooser.chance(0.3)):
            places = [self._company(subject, pronouns)]
        elif verb.english == "sit" or (verb.english in verbs.WITH_PLACE and self._chooser.chance(0.65)):
            places = [self.phrases.location()]
        return Clause(subject, verb, "present", places=tuple(places))

    def _company(self, subject: Phrase, pronouns: bool) -> PrepositionalPhrase:
        preposition = WITHOUT if self._chooser.chance(0.2) else WITH
        return PrepositionalPhrase(preposition, self.phrases.other_person(subject, pronouns))

    def _motion(self, subject: Phrase, pronouns: bool) -> Clause:
        if self._chooser.chance(0.4):
            verb = self._chooser.pick((verbs.TRAVEL, verbs.TRAVEL, verbs.ARRIVE))
            city = self._chooser.pick(CITIES)
            if verb is verbs.ARRIVE:
                return Clause(subject, verb, "present", places=(PrepositionalPhrase(INSIDE, city),))
            how = self._chooser.pick(BY_VEHICLE) if self._chooser.chance(0.5) else self._company(subject, pronouns)
            places = (PrepositionalPhrase(TO_CITY, city), how)
            return Clause(subject, verb, "present", places=places if self._chooser.chance(0.7) else places[:1])
        verb = self._chooser.pick(verbs.MOTION_VERBS)
        where = self._direction(verb, subject)
        if not self._chooser.chance(0.15):
            return Clause(subject, verb, "present", places=(where,))
        return Clause(subject, verb, "present", places=(where, self._company(subject, pronouns)))

    def _direction(self, verb: Verb, subject: Phrase) -> PrepositionalPhrase | FixedPhrase:
        if verb.particle:
            return PrepositionalPhrase(AWAY_FROM, self._a_place("public"))
        ways: dict[Preposition | FixedPhrase, float] = {TO: 30, INTO: 30, THROUGH: 10, OUT_OF: 10, HOME: 12}
        if verb.english == "come":
            ways = {TO: 20, INTO: 25, OUT_OF: 30, HOME: 15}
        way = self._chooser.weighted(ways)
        if isinstance(way, FixedPhrase):
            return way
        if way is TO and self._chooser.chance(0.3):
            return PrepositionalPhrase(TO, self.phrases.other_person(subject, pronouns=False))
        return PrepositionalPhrase(way, self._a_place("public" if way is TO else "enclosed"))

    def _a_place(self, tag: str) -> NounPhrase:
        return self.phrases.place(self._chooser.pick([place for place in PLACES if tag in place.tags]))

    def _placement(self, subject: Phrase, pronouns: bool) -> Clause:
        verb = self._chooser.pick((verbs.PUT, verbs.LAY))
        thing = self.phrases.thing(self._chooser.pick(fitting_things(verb.objects)), subject)
        where = self._surface(self._chooser.pick(ONTO_SURFACE), thing.noun)
        return Clause(subject, verb, "present", direct=thing, places=(where,))

    def _surface(self, preposition: Preposition, thing: Noun) -> PrepositionalPhrase:
        supports = [noun for noun in fitting_things(("support",)) if noun != thing]
        support = self._chooser.pick(supports)
        return PrepositionalPhrase(preposition, self.phrases.thing(support, None, definite=True, plural=False))

    def _drink(self, subject: Phrase, pronouns: bool) -> Clause:
        noun = self._chooser.pick(DRINKS)
        drink = self._mass(noun, 0.5)
        places: tuple[PrepositionalPhrase, ...] = ()
        if "with milk" in noun.tags and self._chooser.chance(0.5):
            added = self._mass(next(drink for drink in DRINKS if "added" in drink.tags), 0.7)
            places = (PrepositionalPhrase(WITH, added),)
        return Clause(subject, verbs.DRINK, "present", direct=drink, places=places)

    def _mass(self, noun: Noun, adjective_share: float) -> NounPhrase:
        adjectives = fitting_adjectives(noun)
        return NounPhrase("", noun, self._chooser.pick(adjectives) if self._chooser.chance(adjective_share) else None)

    def _wait(self, subject: Phrase, pronouns: bool) -> Clause:
        if self._chooser.chance(0.5):
            vehicle = NounPhrase(self._chooser.pick(("the", "the", "a")), self._chooser.pick(VEHICLES))
            awaited: Phrase = vehicle
        else:
            awaited = self.phrases.other_person(subject, pronouns)
        return Clause(subject, verbs.WAIT, "present", places=(PrepositionalPhrase(WAIT_FOR, awaited),))

    def _whereabouts(self, subject: Phrase, pronouns: bool) -> Clause:
        where = AT_HOME if self._chooser.chance(0.2) else self.phrases.location()
        return Clause(subject, verbs.BE, "present", places=(where,))
