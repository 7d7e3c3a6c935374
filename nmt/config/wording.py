"""Messages about values: what an annotation allows, pydantic's errors in plain words, and the nearest valid name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from nmt.config.document import NUMBERS, SCALARS
from nmt.config.registry import choices_of

_DESCRIBED_BY_THE_SCHEMA = (
    *("greater_than", "greater_than_equal", "less_than", "less_than_equal"),
    *("literal_error", "finite_number", "int_from_float", "none_required"),
)
_TRUTHS = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}


@cache
def all_synonyms() -> Mapping[str, tuple[str, ...]]:
    """Returns words of other toolkits -> our keys for the same thing, as dotted paths."""
    table = yaml.safe_load(Path(__file__).with_name("synonyms.yaml").read_text(encoding="utf-8"))
    keys: dict[str, tuple[str, ...]] = {}
    for ours, words in table.items():
        for word in words.split():
            keys[word] = (*keys.get(word, ()), *ours.split())
    return keys


def synonyms(name: str) -> Sequence[str]:
    """Returns our keys for a word of another toolkit, in any spelling: `--batch-size`, `batch_size`, `batchSize`."""
    word = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.lstrip("-")).replace("-", "_").lower()
    return all_synonyms().get(word, ())


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Returns the choice most like `name`, in whatever case, or None."""
    by_folded = {choice.casefold(): choice for choice in choices}
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[matches[0]] if matches else None


def advice(name: str, choices: Iterable[str]) -> str:
    """Returns a suggestion in place of `name`: the nearest choice, and all choices."""
    choices = list(choices)
    near = nearest(name, choices)
    listed = f"choose from {', '.join(choices)}" if choices else "there is none to choose from"
    return f"did you mean {near!r}? ({listed})" if near else listed


def in_words(schema: Mapping[str, Any]) -> str:
    """Returns what the JSON schema of a leaf allows: `a whole number of at least 1 or null`."""
    *words, last = [word for option in schema.get("anyOf", [schema]) for word in _alternatives(option)]
    return f"{', '.join(words)} or {last}" if words else last


def _alternatives(schema: Mapping[str, Any]) -> list[str]:
    kind = schema.get("type")
    if kind == "boolean":
        return ["true", "false"]
    if "prefixItems" in schema:
        items = schema["prefixItems"]
        return [f"a list of {len(items)} values ({', '.join(map(in_words, items))})"]
    if kind == "array":
        return [f"a list (of {in_words(schema['items'])})"]
    words = {"null": "null", "string": "text", "integer": "a whole number", "number": "a number"}
    return choices_of(schema) or [f"{words.get(str(kind), 'a value')} {_bounds(schema)}".rstrip()]


def _bounds(schema: Mapping[str, Any]) -> str:
    """The range in words: `from 1 to 100`, `above 0`, `from 0 to below 1`."""
    limits = (schema.get(name) for name in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"))
    least, above, most, below = (
        "" if limit is None else f"{limit:,.0f}" if limit == int(limit) else f"{limit:g}" for limit in limits
    )
    low = f"from {least}" if least else f"above {above}" if above else ""
    if most:
        return f"{low} {'to' if least else 'up to'} {most}".strip()
    if below:
        return f"{low} {'to' if least else 'and' if low else ''} below {below}".strip()
    return f"of at least {least}" if least else low


def shown(value: Any) -> str:
    """Returns a value as the YAML has it; a list or mapping by its kind. Long ones are cut off."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (Mapping, list, tuple)):
        return "a mapping" if isinstance(value, Mapping) else "a list"
    text = str(value)
    text = text if len(text) <= 40 else f"{text[:37]}..."
    return repr(text) if isinstance(value, str) else text


def complaint(detail: Mapping[str, Any], schema: Mapping[str, Any], value: Any) -> tuple[tuple[int, ...], str]:
    """Returns one of pydantic's errors about a value, as the path inside the value and a sentence.

    The JSON schema is that of a leaf; it is empty for other values.
    """
    items = schema.get("prefixItems", [])
    if "items" in schema and isinstance(value, list):
        items = [schema["items"]] * len(value)
    # Unions put the name of the alternative into the location. A tuple of the wrong length is wrong as a whole.
    if detail["loc"] and items and len(items) == len(value):
        index = detail["loc"][0]
        return (index,), _sentence(detail, items[index], value[index])
    return (), _sentence(detail, schema, value)


def _sentence(detail: Mapping[str, Any], schema: Mapping[str, Any], value: Any) -> str:
    kind: str = detail["type"]
    if kind in ("value_error", "assertion_error"):
        return str(detail["ctx"]["error"])
    if "prefixItems" in schema and isinstance(value, tuple):
        return f"must be {in_words(schema)}, not of {len(value)}"
    if kind == "string_too_short" and not value:
        return "must not be empty"
    if kind == "string_too_long":
        return f"must have at most {detail['ctx']['max_length']:,} characters, not {len(value):,}"
    if kind == "too_short":
        least, there = detail["ctx"]["min_length"], detail["ctx"]["actual_length"]
        return f"needs at least {least} {'entry' if least == 1 else 'entries'}, but has {there}"
    if not schema or not (kind.endswith("_type") or kind in _DESCRIBED_BY_THE_SCHEMA):
        return str(detail["msg"])[:1].lower() + str(detail["msg"])[1:]
    expected = in_words(schema)
    said = f"must be {expected}, not {shown(value)}"
    if isinstance(value, str):
        near = nearest(value, choices_of(schema))
        if near:
            return f"{said}; did you mean {near!r}?"
        if expected.startswith("true") and value.lower() in _TRUTHS:
            return f"{said}; write {_TRUTHS[value.lower()]}"
        # Text that looks like a number was put in quotes.
        if "number" in expected and any(SCALARS[tag][0].fullmatch(value) for tag in NUMBERS):
            return f"{said}; take the quotes away"
    elif expected.startswith("text") and isinstance(value, (bool, int, float)):
        return f"{said}; put it in quotes"
    return said
