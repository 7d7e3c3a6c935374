"""Arguments of the Python API and of the commands: one check for both. Does not import PyTorch.

A key of the YAML is a keyword in Python and a flag on a command line; a `Spelling` says how messages write it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import accumulate
from typing import Any, Literal, TypedDict, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from nmt.config.registry import Section, choices_of, shape_of
from nmt.config.schema import RuntimeConfig, SearchConfig
from nmt.config.wording import advice, in_words, nearest
from nmt.errors import ConfigError, DataError


class SearchOptions(TypedDict, total=False):
    """Keys of the section `search`; configs/reference.yaml describes them."""

    kind: Literal["beam", "greedy", "sampling"]
    beam_size: int
    length_penalty: float
    coverage_penalty: float
    min_length_ratio: float
    max_length_ratio: float
    max_length_offset: int
    no_repeat_ngram: int
    allow_unknown: bool
    replace_unknown: Literal["none", "copy", "lexicon"]
    temperature: float
    top_k: int
    top_p: float
    shortlist: int
    shortlist_frequent: int
    batch_tokens: int


Options = TypeVar("Options", bound=Section)
PRECISION = "fp32"
"""Not `auto`: in bf16 a translation would depend on the machine, and on the lines around it."""


Spelling = Callable[[str, str | None], str]
"""Writes a key of the YAML for messages, or a key and its value."""


def keyword(key: str, value: str | None = None) -> str:
    """Writes a key as a keyword of Python."""
    is_number = value is not None and value.replace(".", "", 1).isdecimal()
    return key if value is None else f"{key}={value}" if is_number else f'{key}="{value}"'


_FLAGS = {
    "--test-set": "test_sets",
    "--source": "sources",
    "--reference": "references",
    "--docs": "documents",
    "--labels": "labels",
}
"""Keywords for flags in messages about test sets."""


def checked(section: type[Section], values: Mapping[str, object]) -> dict[str, Any]:
    """Returns the values, which are to be those of keys of the section.

    Raises `ConfigError` with a line for each unknown key, and for each value of a wrong type or out of bounds.
    """
    problems: list[str] = []
    valid = {}
    for key, value in values.items():
        if key not in section.model_fields:
            problems.append(f"{key}: unknown argument; {advice(key, section.model_fields)}")
            continue
        try:
            valid[key] = checked_value(key, shape_of(section.model_fields[key]).annotation, value)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return valid


def checked_value(key: str, annotation: Any, value: object) -> Any:
    """Returns the value of an argument; raises `ConfigError` unless the annotation allows it."""
    adapter = TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))
    number = value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") else value
    try:
        return adapter.validate_python(number, strict=True)
    except ValidationError:
        schema = adapter.json_schema()
        near = nearest(value, choices_of(schema)) if isinstance(value, str) else None
        remedy = f"; did you mean {near!r}?" if near else ""
        raise ConfigError(f"{key}: must be {in_words(schema)}, not {value!r}{remedy}") from None


def section_of(section: type[Options], values: Mapping[str, Any], spelling: Spelling = keyword) -> Options:
    """Returns the section with these values, each valid by itself; raises `ConfigError` if they contradict each other.

    `set kind: sampling` of a message becomes `set kind="sampling"`, or `set --kind sampling`.
    """
    if problems := _contradictions(section, values):

        def respelled(text: str) -> str:
            return re.sub(r"\b([a-z_]+): (\w+)", lambda match: spelling(match[1], match[2]), text)

        raise ConfigError(*(f"{spelling(key, None)}: {respelled(problem)}" for key, problem in problems))
    return section.model_validate(values)


def search_with(base: SearchConfig, changes: Mapping[str, Any], spelling: Spelling = keyword) -> SearchConfig:
    """Returns the search of a model's config with these changes, each valid by itself; raises `ConfigError`.

    Values of the config that contradict a change (a temperature, with the kind beam) are left out, with a warning.
    """
    values = base.model_dump()
    for key, _ in _contradictions(SearchConfig, values | dict(changes)):
        if key not in changes:
            # Imported late: it imports PyTorch.
            from nmt.runtime import logger

            keys = ", ".join(spelling(each, None) for each in changes)
            logger.warning("search.%s of the model's config does not go with %s: left out", key, keys)
            values[key] = SearchConfig.model_fields[key].default
    return section_of(SearchConfig, values | dict(changes), spelling)


def machine(values: Mapping[str, Any], spelling: Spelling = keyword) -> RuntimeConfig:
    """Returns the section `runtime` with these values; raises `ConfigError`."""
    return section_of(RuntimeConfig, {"precision": PRECISION} | dict(values), spelling)


def _contradictions(section: type[Section], values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return list(section.model_construct(**values).contradictions())


@contextmanager
def naming_keywords() -> Iterator[None]:
    """Replaces keys of the YAML and flags by keywords in the messages of a `ConfigError`; also a decorator."""
    try:
        yield
    except ConfigError as error:
        lines = (re.sub(r"^(search|runtime)\.", "", line) for line in error.problems)
        raise ConfigError(
            *(re.sub(r"--[a-z-]+", lambda flag: _FLAGS.get(flag[0], flag[0]), line) for line in lines)
        ) from error


def texts(name: str, values: object) -> list[str]:
    """Returns a list of texts. Raises `ConfigError` for another type, and `DataError` for text that UTF-8 cannot hold.

    `name` is that of the argument.
    """
    if isinstance(values, str):
        raise ConfigError(f"{name}: must be a list of texts, not one text; write [text]")
    if isinstance(values, (bytes, Mapping)) or not hasattr(values, "__iter__"):
        raise ConfigError(f"{name}: must be a list of texts, not {type(values).__name__}")
    listed = list(values)
    for number, value in enumerate(listed, start=1):
        if not isinstance(value, str):
            raise ConfigError(f"{name}: entry {number} must be text, not {type(value).__name__}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            place = f"character {error.start + 1} of entry {number}"
            raise DataError(f"{name}: {place} is half of a character (a lone surrogate); remove it") from None
    return listed


def as_many(name: str, values: Sequence[object], other: str, count: int) -> None:
    """Raises `ConfigError` unless there are as many values as those of the `other` argument."""
    if len(values) != count:
        raise ConfigError(f"{name}: has {len(values)} entries, and {other} has {count}; give one for each")


def document_numbers(values: Sequence[object]) -> list[int]:
    """Returns the number of each line's document; a document is a run of equal values."""
    return list(accumulate(int(a is not b and a != b) for a, b in zip(values, [*values[:1], *values], strict=False)))


@contextmanager
def shown_progress(shown: bool, total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """A function that advances a progress bar, which suits a terminal or a notebook."""
    if not shown:
        yield lambda done: None
        return
    # Without this package tqdm.auto warns in a notebook, where its plain bar serves as well.
    if find_spec("ipywidgets") is None:
        from tqdm import tqdm
    else:
        from tqdm.auto import tqdm

    with tqdm(total=total, unit=unit, leave=False) as bar:
        yield bar.update
