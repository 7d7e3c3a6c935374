"""Adjectives, adverbials and prepositions."""

from __future__ import annotations

from .words import Adjective, Adverbial, Preposition

THING = ("furniture", "goods", "clothes", "device")

ADJECTIVES: tuple[Adjective, ...] = (
    Adjective("new", "neu", (*THING, "text", "house part", "place", "vehicle")),
    Adjective("old", "alt", (*THING, "text", "house part", "place", "vehicle", "person")),
    Adjective("big", "groß", ("furniture", "device", "house part", "open", "place", "carry")),
    Adjective("small", "klein", ("furniture", "device", "house part", "open", "place", "carry", "small")),
    Adjective("beautiful", "schön", ("furniture", "clothes", "text", "place", "goods")),
    Adjective("expensive", "teuer", (*THING, "food"), stem="teur"),
    Adjective("cheap", "billig", (*THING, "food")),
    Adjective("heavy", "schwer", ("heavy",)),
    Adjective("red", "rot", ("colored",)),
    Adjective("blue", "blau", ("colored",)),
    Adjective("green", "grün", ("colored",)),
    Adjective("black", "schwarz", ("colored",)),
    Adjective("dirty", "schmutzig", ("clean", "wash")),
    Adjective("broken", "kaputt", ("broken",)),
    Adjective("interesting", "interessant", ("text",)),
    Adjective("boring", "langweilig", ("text",)),
    Adjective("long", "lang", ("text",)),
    Adjective("short", "kurz", ("text",)),
    Adjective("fresh", "frisch", ("food", "added")),
    Adjective("delicious", "lecker", ("food",)),
    Adjective("sweet", "süß", ("sweet",)),
    Adjective("warm", "warm", ("hot",)),
    Adjective("hot", "heiß", ("hot",)),
    Adjective("cold", "kalt", ("cold",)),
    Adjective("young", "jung", ("person",)),
    Adjective("friendly", "freundlich", ("person",)),
    Adjective("happy", "glücklich", ("person",)),
    Adjective("tired", "müde", ("person",), stem="müd"),
    Adjective("sick", "krank", ("person",)),
    Adjective("angry", "wütend", ("person",)),
)

WEATHER_ADJECTIVES: tuple[Adjective, ...] = (
    *(adjective for adjective in ADJECTIVES if adjective.english in ("beautiful", "cold", "warm")),
    Adjective("bad", "schlecht", ("weather",)),
)

FEELINGS: tuple[Adjective, ...] = tuple(
    adjective for adjective in ADJECTIVES if adjective.english in ("happy", "tired", "sick", "angry")
)

NEVER = Adverbial("never", "nie", ("habit",))
FREQUENCIES: tuple[Adverbial, ...] = (
    Adverbial("often", "oft", ("habit",)),
    Adverbial("always", "immer", ("habit",)),
    NEVER,
)

TIMES: tuple[Adverbial, ...] = (
    Adverbial("yesterday", "gestern", ("past", "modal past")),
    Adverbial("last week", "letzte Woche", ("past", "modal past")),
    Adverbial("this morning", "heute Morgen", ("past", "modal past")),
    Adverbial("today", "heute", ("now", "modal", "future")),
    Adverbial("now", "jetzt", ("now", "modal")),
    Adverbial("every day", "jeden Tag", ("habit",)),
    Adverbial("every evening", "jeden Abend", ("habit",)),
    Adverbial("sometimes", "manchmal", ("habit",), only_first=True),
    Adverbial("tomorrow", "morgen", ("future", "modal")),
    Adverbial("soon", "bald", ("future",)),
    Adverbial("next week", "nächste Woche", ("future", "modal")),
    Adverbial("perhaps", "vielleicht", ("past", "now", "future"), only_first=True),
    Adverbial("unfortunately", "leider", ("past", "now", "future", "modal past"), only_first=True, comma=True),
)

IN = Preposition("in", "in", "dative")
INTO = Preposition("into", "in", "accusative")
AT = Preposition("at", "an", "dative")
AT_MARKET = Preposition("at", "auf", "dative")
TO = Preposition("to", "zu", "dative")
TO_CITY = Preposition("to", "nach", "dative")
FROM = Preposition("from", "von", "dative")
OUT_OF = Preposition("out of", "aus", "dative")
THROUGH = Preposition("through", "durch", "accusative")
WITH = Preposition("with", "mit", "dative", rank=0)
WITHOUT = Preposition("without", "ohne", "accusative", rank=0)
FOR = Preposition("for", "für", "accusative")
WAIT_FOR = Preposition("for", "auf", "accusative")
BY = Preposition("by", "mit", "dative", rank=0)

ONTO_SURFACE: tuple[Preposition, ...] = (
    Preposition("on", "auf", "accusative"),
    Preposition("under", "unter", "accusative"),
    Preposition("next to", "neben", "accusative"),
    Preposition("behind", "hinter", "accusative"),
)
ON_SURFACE: tuple[Preposition, ...] = tuple(
    Preposition(preposition.english, preposition.german, "dative") for preposition in ONTO_SURFACE
)
BY_BUILDING: tuple[Preposition, ...] = (
    Preposition("in front of", "vor", "dative"),
    Preposition("behind", "hinter", "dative"),
    Preposition("next to", "neben", "dative"),
)
