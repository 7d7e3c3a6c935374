"""German: declension, conjugation, and the order of main (verb-second) and subordinate (verb-final) clauses."""

from __future__ import annotations

from .tree import (
    PLURAL_DETERMINERS,
    Clause,
    NounPhrase,
    Phrase,
    PrepositionalPhrase,
    Pronoun,
    Sentence,
    is_plural,
)
from .verbs import BE, HAVE
from .words import Case, Gender, Name

Column = Gender | str
CASES: tuple[Case, ...] = ("nominative", "accusative", "dative")

# Endings in the order of CASES, by gender or plural.
DEFINITE = {
    "masculine": ("der", "den", "dem"),
    "feminine": ("die", "die", "der"),
    "neuter": ("das", "das", "dem"),
    "plural": ("die", "die", "den"),
}
DIESER = {
    "masculine": ("er", "en", "em"),
    "feminine": ("e", "e", "er"),
    "neuter": ("es", "es", "em"),
    "plural": ("e", "e", "en"),
}
EIN = {**DIESER, "masculine": ("", "en", "em"), "neuter": ("", "", "em")}

STRONG = DIESER
WEAK = {
    "masculine": ("e", "en", "en"),
    "feminine": ("e", "e", "en"),
    "neuter": ("e", "e", "en"),
    "plural": ("en", "en", "en"),
}
MIXED = {**WEAK, "masculine": ("er", "en", "en"), "neuter": ("es", "es", "en")}

DIESER_WORDS = {"this": "dies", "every": "jed"}
EIN_WORDS = {"a": "ein", "my": "mein", "our": "unser", "his": "sein", "her": "ihr", "their": "ihr"}
NUMERALS = {"two": "zwei", "three": "drei"}

PERSONAL = {
    "I": ("ich", "mich", "mir"),
    "we": ("wir", "uns", "uns"),
    "he": ("er", "ihn", "ihm"),
    "she": ("sie", "sie", "ihr"),
    "they": ("sie", "sie", "ihnen"),
    "masculine": ("er", "ihn", "ihm"),
    "feminine": ("sie", "sie", "ihr"),
    "neuter": ("es", "es", "ihm"),
}

CONTRACTIONS = {
    ("in", "dem"): "im",
    ("in", "das"): "ins",
    ("an", "dem"): "am",
    ("von", "dem"): "vom",
    ("zu", "dem"): "zum",
    ("zu", "der"): "zur",
}

DEGREES = {"": "", "very": "sehr", "too": "zu"}


def noun_phrase(phrase: NounPhrase, case: Case, negated: bool = False) -> str:
    """Declined; `negated` turns `ein` or no determiner into `kein`."""
    column: Column = "plural" if phrase.plural else phrase.noun.gender
    row = CASES.index(case)
    kind = phrase.determiner
    if negated and kind in ("a", ""):
        determiner, endings = "kein" + EIN[column][row], MIXED
    elif kind == "the":
        determiner, endings = DEFINITE[column][row], WEAK
    elif kind in DIESER_WORDS:
        determiner, endings = DIESER_WORDS[kind] + DIESER[column][row], WEAK
    elif kind in EIN_WORDS:
        determiner, endings = EIN_WORDS[kind] + EIN[column][row], MIXED
    elif kind == "many":
        determiner, endings = "viel" + STRONG[column][row], STRONG
    else:
        determiner, endings = NUMERALS.get(kind, ""), STRONG
    assert phrase.plural or kind not in PLURAL_DETERMINERS, kind
    words = [determiner] if determiner else []
    if phrase.adjective is not None:
        words.append(phrase.adjective.inflected(endings[column][row]))
    words.append(phrase.noun.in_german(phrase.plural, case))
    return " ".join(words)


def phrase(phrase: Phrase, case: Case, negated: bool = False) -> str:
    if isinstance(phrase, NounPhrase):
        return noun_phrase(phrase, case, negated)
    if isinstance(phrase, Name):
        return phrase.german
    return PERSONAL[phrase.gender or phrase.english][CASES.index(case)]


def prepositional_phrase(place: PrepositionalPhrase) -> str:
    """With the article contracted where German does so: im Garten, zur Schule."""
    words = phrase(place.phrase, place.preposition.case).split(" ")
    preposition = place.preposition.german
    if isinstance(place.phrase, NounPhrase) and place.phrase.determiner == "the":
        contracted = CONTRACTIONS.get((preposition, words[0]))
        if contracted:
            return " ".join([contracted, *words[1:]])
    return " ".join([preposition, *words])


def _finite_and_rest(clause: Clause) -> tuple[str, list[str]]:
    """The finite verb, and what stands at the end of the clause (participle or infinitive)."""
    verb = clause.verb
    plural = is_plural(clause.subject)
    first = clause.subject == Pronoun("I")
    if clause.modal is not None:
        return clause.modal.german[2 if plural else 0 if first else 1], [verb.german_infinitive]
    if clause.tense == "future":
        return ("werden" if plural else "werde" if first else "wird"), [verb.german_infinitive]
    if clause.tense == "present":
        return verb.german_present(first, plural), []
    if verb.preterite and clause.tense == "past":
        ending = "" if not plural else "n" if verb.preterite.endswith("e") else "en"
        return verb.preterite + ending, []
    auxiliary = BE if verb.auxiliary == "sein" else HAVE
    return auxiliary.german_present(first, plural), [verb.german_participle]


def _middle(clause: Clause) -> list[str]:
    """Between the finite verb (or the subject) and the end: pronouns, time, objects, negation, places, state."""
    case = clause.verb.object_case
    direct_is_pronoun = isinstance(clause.direct, Pronoun)
    indirect_is_pronoun = isinstance(clause.indirect, Pronoun)
    no_article = isinstance(clause.direct, NounPhrase) and clause.direct.determiner in ("a", "")
    direct = "" if clause.direct is None else phrase(clause.direct, case, clause.negated)
    indirect = "" if clause.indirect is None else phrase(clause.indirect, "dative")
    words = [direct] if direct_is_pronoun else []
    words += [indirect] if indirect_is_pronoun else []
    if clause.time is not None and not clause.time_first:
        words.append(clause.time.german)
    words += [clause.frequency.german] if clause.frequency else []
    words += [] if indirect_is_pronoun else [indirect]
    already = ["schon"] if clause.tense == "perfect" else []
    # What is new stands behind schon, what is known before it: schon eine Lampe, die Lampe schon.
    known = [] if direct_is_pronoun else [direct]
    is_new = isinstance(clause.direct, NounPhrase) and clause.direct.determiner in ("a", "", *PLURAL_DETERMINERS)
    words += already + known if is_new else known + already
    words += ["nicht"] if clause.negated and not no_article else []
    for place in sorted(clause.places, key=lambda place: place.rank):
        words.append(prepositional_phrase(place) if isinstance(place, PrepositionalPhrase) else place.german)
    if clause.state is not None:
        words += [DEGREES[clause.state.degree], clause.state.adjective.german]
    return [word for word in words if word]


def main_clause(clause: Clause, occupied: bool = False) -> str:
    """Verb second; `occupied` says that something before the clause already fills the first position."""
    assert not (occupied and clause.time_first)
    finite, end = _finite_and_rest(clause)
    subject = phrase(clause.subject, "nominative")
    particle = [clause.verb.particle] if clause.verb.particle and not end else []
    if clause.time_first and clause.time is not None:
        opening = [clause.time.german, finite, subject]
    else:
        opening = [finite, subject] if occupied else [subject, finite]
    return " ".join([*opening, *_middle(clause), *end, *particle])


def subordinate_clause(clause: Clause) -> str:
    """Verb final; a separable particle is written together with its verb."""
    finite, end = _finite_and_rest(clause)
    particle = clause.verb.particle if not end else ""
    return " ".join([phrase(clause.subject, "nominative"), *_middle(clause), *end, particle + finite])


def sentence(sentence: Sentence) -> str:
    """The written sentence."""
    if sentence.second is None:
        text = main_clause(sentence.main)
    else:
        assert sentence.conjunction is not None
        conjunction = sentence.conjunction.german
        if conjunction == "und":
            text = f"{main_clause(sentence.main)} {conjunction} {main_clause(sentence.second)}"
        elif conjunction == "aber":
            text = f"{main_clause(sentence.main)}, {conjunction} {main_clause(sentence.second)}"
        elif sentence.second_first:
            text = f"{conjunction} {subordinate_clause(sentence.second)}, {main_clause(sentence.main, occupied=True)}"
        else:
            text = f"{main_clause(sentence.main)}, {conjunction} {subordinate_clause(sentence.second)}"
    return text[0].upper() + text[1:] + "."
