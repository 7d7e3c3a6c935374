"""Messages about values: what an annotation allows, pydantic's errors in plain words, and the nearest valid name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from nmt.config.document import NUMBERS, SCALARS
from nmt.config.shapes import choices_of, is_union, limits_of, split

_DESCRIBED_BY_THE_ANNOTATION = (
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


def in_words(annotation: Any) -> str:
    """Returns what may stand there: `a whole number of at least 1 or null`."""
    bare, marks = split(annotation)
    origin, arguments = get_origin(bare), get_args(bare)
    if origin is Literal:
        return _either(choices_of(bare))
    if is_union(bare):
        # Of more than two, each is named by itself.
        truths = ["true", "false"] if bool in arguments and len(arguments) > 1 else []
        return _either([*truths, *(in_words(option) for option in arguments if not (truths and option is bool))])
    if origin is tuple:
        return f"a list of {len(arguments)} values ({', '.join(map(in_words, arguments))})"
    if origin is list:
        return f"a list (of {in_words(arguments[0])})"
    words = {type(None): "null", bool: "true or false", str: "text", int: "a whole number", float: "a number"}
    return f"{words.get(bare, 'a value')} {_bounds(marks) if bare in (int, float) else ''}".rstrip()


def _bounds(marks: tuple[Any, ...]) -> str:
    """The range in words: `from 1 to 100`, `above 0`, `from 0 to below 1`."""
    limits = {
        name: f"{int(limit):,}" if limit == int(limit) else f"{limit:g}" for name, limit in limits_of(marks).items()
    }
    low = f"from {limits['ge']}" if "ge" in limits else f"above {limits['gt']}" if "gt" in limits else ""
    if "le" in limits:
        return f"{low} {'to' if 'ge' in limits else 'up to'} {limits['le']}".strip()
    if "lt" in limits:
        return f"{low} {'to' if 'ge' in limits else 'and' if low else ''} below {limits['lt']}".strip()
    return f"of at least {limits['ge']}" if "ge" in limits else low


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def shown(value: Any) -> str:
    """Returns a value as the YAML has it; a list or mapping by its kind. Long ones are cut off."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:37] + "...")
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def complaint(detail: Mapping[str, Any], annotation: Any, value: Any) -> tuple[tuple[int, ...], str]:
    """Returns one of pydantic's errors about a field, as the path inside the field's value and a sentence."""
    bare, _ = split(annotation)
    items = get_args(bare)
    if get_origin(bare) is list and isinstance(value, list):
        items *= len(value)
    # Unions put the name of the alternative into the location. A tuple of the wrong length is wrong as a whole.
    if detail["loc"] and get_origin(bare) in (list, tuple) and len(items) == len(value):
        index = detail["loc"][0]
        return (index,), _sentence(detail, items[index], value[index])
    return (), _sentence(detail, annotation, value)


def _sentence(detail: Mapping[str, Any], annotation: Any, value: Any) -> str:
    kind: str = detail["type"]
    if kind in ("value_error", "assertion_error"):
        return str(detail["ctx"]["error"])
    if get_origin(split(annotation)[0]) is tuple and isinstance(value, tuple):
        return f"must be {in_words(annotation)}, not of {len(value)}"
    if kind == "string_too_short" and not value:
        return "must not be empty"
    if kind == "string_too_long":
        return f"must have at most {detail['ctx']['max_length']:,} characters, not {len(value):,}"
    if kind == "too_short":
        least, there = detail["ctx"]["min_length"], detail["ctx"]["actual_length"]
        return f"needs at least {least} {'entry' if least == 1 else 'entries'}, but has {there}"
    if annotation is None or not (kind.endswith("_type") or kind in _DESCRIBED_BY_THE_ANNOTATION):
        return str(detail["msg"])[:1].lower() + str(detail["msg"])[1:]
    expected = in_words(annotation)
    said = f"must be {expected}, not {shown(value)}"
    if isinstance(value, str):
        near = nearest(value, choices_of(annotation))
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
