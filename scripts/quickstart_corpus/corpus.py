"""Documents of two sentences, arranged in splits, and the files that hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from . import english, german
from .chooser import Chooser
from .clauses import Clauses
from .heldout import Combination, choose_held_out, combinations
from .phrases import GENDERED_PERSONS, Phrases
from .sentences import PROPERTIES, Property, Sentences
from .tree import Sentence, with_gender
from .words import GENDERS, Case, Gender, Noun

DOCUMENTS = {"train": 5000, "valid": 250, "test": 500}
PRONOUN_DOCUMENTS = {"train": 1254, "valid": 60, "test": 126}
"""A quarter, and multiples of six: three genders in two cases."""
NEW_COMBINATION_LINES = 300
"""Lines of the test that hold a pair of words never seen together in training."""
FEWEST_OCCURRENCES = 5
"""In training, of every word form of the validation and test sets."""
SHORTEST, LONGEST = 4, 16
MOST_TRIES = 20_000


@dataclass(frozen=True)
class Line:
    english: str
    german: str
    combinations: tuple[Combination, ...] = ()


@dataclass(frozen=True)
class PronounPlan:
    """Predicate and German gender of the antecedent of `it`. They are drawn first."""

    prop: Property
    gender: Gender


@dataclass(frozen=True)
class Document:
    lines: tuple[Line, Line]
    plan: PronounPlan | None = None
    antecedent: Noun | None = None
    pronoun_position: int = 0
    """Which word of the second German line the pronoun is, from 1; 0 without one."""


@dataclass(frozen=True)
class Corpus:
    splits: Mapping[str, tuple[Document, ...]]
    held_out: frozenset[Combination]


def words(text: str) -> list[str]:
    """The word forms of a line: no punctuation, no capitals."""
    return [word.strip(".,").lower() for word in text.split(" ")]


class Writer:
    """Writes the documents of all splits; no English sentence comes twice, in one split or two."""

    def __init__(self, seed: int) -> None:
        self._chooser = Chooser(seed)
        self._held_out = choose_held_out(self._chooser)
        self._free = Sentences(self._chooser, Clauses(self._chooser, Phrases(self._chooser)))
        gendered = Phrases(self._chooser, GENDERED_PERSONS)
        self._with_pronoun = Sentences(self._chooser, Clauses(self._chooser, gendered))
        self._used: set[str] = set()
        self._known: Counter[str] | None = None

    def corpus(self) -> Corpus:
        train = self._split("train")
        # From here on a sentence passes only when training has each of its word forms often enough.
        self._known = Counter(
            word
            for document in train
            for line in document.lines
            for prefix, text in (("en ", line.english), ("de ", line.german))
            for word in (prefix + form for form in words(text))
        )
        splits = {"train": train, "valid": self._split("valid"), "test": self._split("test")}
        return Corpus(splits, self._held_out)

    def _split(self, name: str) -> tuple[Document, ...]:
        plans: list[PronounPlan | None] = list(self._plans(PRONOUN_DOCUMENTS[name]))
        plans += [None] * (DOCUMENTS[name] - len(plans))
        plans = self._chooser.shuffled(plans)
        # Lines with the pronoun are left out: they test something else.
        lines = [(number, line) for number, plan in enumerate(plans) for line in (0, 1) if line == 0 or plan is None]
        new = self._chooser.shuffled(lines)[: NEW_COMBINATION_LINES if name == "test" else 0]
        wanted = frozenset(new)
        return tuple(
            self._document(plan, ((number, 0) in wanted, (number, 1) in wanted)) for number, plan in enumerate(plans)
        )

    def _plans(self, count: int) -> list[PronounPlan]:
        """Genders exactly balanced in both cases, each drawn apart from what is said, which so tells nothing of it."""
        cases: tuple[Case, ...] = ("nominative", "accusative")
        plans: list[PronounPlan] = []
        for case in cases:
            properties = [prop for prop in PROPERTIES if prop.case == case]
            deck: list[Property] = []
            while len(deck) < count // 6:
                deck += self._chooser.shuffled(properties)
            plans += [PronounPlan(prop, gender) for prop in deck[: count // 6] for gender in GENDERS]
        return plans

    def _document(self, plan: PronounPlan | None, new: tuple[bool, bool]) -> Document:
        for _ in range(MOST_TRIES):
            noun = None
            if plan is None:
                first = self._free.free()
            else:
                noun = self._chooser.pick([noun for noun in plan.prop.nouns if noun.gender == plan.gender])
                first = self._with_pronoun.introduce(noun, plan.prop)
            first_line = self._accepted(first, new[0])
            if first_line is None:
                continue
            for _ in range(MOST_TRIES if plan is None else 20):
                if plan is None:
                    second = self._free.free(first)
                else:
                    second = self._with_pronoun.take_up(first, plan.prop, plan.gender)
                second_line = self._accepted(second, new[1])
                if second_line is not None and second_line.english != first_line.english:
                    self._used |= {first_line.english, second_line.english}
                    place = 0 if plan is None else _pronoun_position(second, plan.gender)
                    return Document((first_line, second_line), plan, noun, place)
        raise AssertionError(f"no document found for {plan}, {new}")

    def _accepted(self, sentence: Sentence, new: bool) -> Line | None:
        """The sentence said in both languages; None where a rule of the corpus is against it."""
        pairs = tuple(pair for pair in combinations(sentence) if pair in self._held_out)
        if bool(pairs) != new:
            return None
        line = Line(english.sentence(sentence), german.sentence(sentence), pairs)
        if line.english in self._used:
            return None
        for language, text in (("en ", line.english), ("de ", line.german)):
            forms = words(text)
            if not SHORTEST <= len(forms) <= LONGEST:
                return None
            if self._known is not None and any(self._known[language + form] < FEWEST_OCCURRENCES for form in forms):
                return None
        return line


def _pronoun_position(sentence: Sentence, gender: Gender) -> int:
    """The word that changes when the thing has another gender; looking for `sie` could find a woman."""
    other: Gender = "feminine" if gender == "masculine" else "masculine"
    said = german.sentence(sentence).split(" ")
    changed = german.sentence(with_gender(sentence, other)).split(" ")
    places = [place for place, (word, variant) in enumerate(zip(said, changed, strict=True), 1) if word != variant]
    assert len(places) == 1, said
    return places[0]
