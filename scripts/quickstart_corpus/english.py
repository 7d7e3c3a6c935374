"""English: noun phrases, the verb group with its auxiliaries, and the order of a clause."""

from __future__ import annotations

from .tree import Clause, NounPhrase, Phrase, PrepositionalPhrase, Pronoun, Sentence, is_plural
from .verbs import BE
from .words import Case, Name

OBJECT_FORMS = {"I": "me", "we": "us", "he": "him", "she": "her", "they": "them", "it": "it"}


def noun_phrase(phrase: NounPhrase) -> str:
    words = [] if phrase.adjective is None else [phrase.adjective.english]
    words.append(phrase.noun.in_english(phrase.plural))
    determiner: str = phrase.determiner
    if determiner == "a":
        determiner = "an" if words[0][0] in "aeiou" else "a"
    elif determiner == "this" and phrase.plural:
        determiner = "these"
    return " ".join([determiner, *words] if determiner else words)


def phrase(phrase: Phrase, case: Case = "nominative") -> str:
    if isinstance(phrase, NounPhrase):
        return noun_phrase(phrase)
    if isinstance(phrase, Name):
        return phrase.english
    return phrase.english if case == "nominative" else OBJECT_FORMS[phrase.english]


def _agree(subject: Phrase, first: str, third: str, plural: str) -> str:
    if is_plural(subject):
        return plural
    return first if subject == Pronoun("I") else third


def _verb_group(clause: Clause) -> list[str]:
    """The verb with its auxiliaries, negation and the adverb in their midst."""
    verb, subject = clause.verb, clause.subject
    negation = ["not"] if clause.negated else []
    frequency = [clause.frequency.english] if clause.frequency else []
    am = _agree(subject, "am", "is", "are")
    have = _agree(subject, "have", "has", "have")
    if clause.modal is not None:
        forms = clause.modal.negative if clause.negated else clause.modal.english
        assert forms is not None
        return [_agree(subject, *forms), verb.english]
    if clause.tense == "future":
        return ["will", *negation, verb.english]
    if clause.tense == "perfect":
        return [have, "already", verb.participle]
    if verb is BE:
        finite = am if clause.tense == "present" else _agree(subject, "was", "was", "were")
        return [finite, *negation, *frequency]
    if clause.tense == "past":
        return ["did", "not", verb.english] if clause.negated else [verb.past]
    if not (clause.simple or clause.frequency or verb.stative or (clause.time and "habit" in clause.time.fits)):
        return [am, *negation, verb.in_progressive]
    if clause.negated:
        return [_agree(subject, "do", "does", "do"), "not", verb.english]
    return [*frequency, _agree(subject, verb.english, verb.in_third, verb.english)]


def _objects(clause: Clause) -> list[str]:
    verb = clause.verb
    words = [verb.tail] if verb.tail else []
    recipient = "" if clause.indirect is None else phrase(clause.indirect, "dative")
    recipient_last = bool(recipient) and (verb.to_recipient or isinstance(clause.direct, Pronoun))
    if recipient and not recipient_last:
        words.append(recipient)
    if verb.floating and not isinstance(clause.direct, Pronoun):
        words.append(verb.floating)
    if clause.direct is not None:
        words.append(phrase(clause.direct, "accusative"))
    if verb.floating and isinstance(clause.direct, Pronoun):
        words.append(verb.floating)
    if recipient_last:
        words.append("to " + recipient)
    return words


def clause(clause: Clause) -> str:
    """The words of a clause, without capital and full stop."""
    words = [phrase(clause.subject), *_verb_group(clause), *_objects(clause)]
    if clause.state is not None:
        words += [clause.state.degree, clause.state.adjective.english]
    for place in clause.places:
        if isinstance(place, PrepositionalPhrase):
            words += [place.preposition.english, phrase(place.phrase, "dative")]
        else:
            words.append(place.english)
    if clause.time is not None:
        if clause.time_first:
            words.insert(0, clause.time.english + ("," if clause.time.comma else ""))
        else:
            words.append(clause.time.english)
    return " ".join(word for word in words if word)


def sentence(sentence: Sentence) -> str:
    """The written sentence."""
    text = clause(sentence.main)
    if sentence.second is not None:
        assert sentence.conjunction is not None
        second = f"{sentence.conjunction.english} {clause(sentence.second)}"
        comma = "," if sentence.conjunction.english in ("and", "but") else ""
        text = f"{second}, {text}" if sentence.second_first else f"{text}{comma} {second}"
    return text[0].upper() + text[1:] + "."
