"""YAML and overrides -> a config, or one error that names all mistakes.

Pydantic validates the tree of the file along the schema, from the sections down to the parts and their options. Its
discriminated unions choose the parts. `_Reading`, the context of the validation, adds what pydantic lacks: lines, short
forms, suggestions of names, and the valid values beside wrong ones, for the rules between values.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from nmt.config.document import MOST_PROBLEMS, UNKNOWN, KeyPath, Node, Problem, dotted, error_of, locate, read_document
from nmt.config.overrides import Presets, apply_overrides, expand_presets, experiment_of
from nmt.config.registry import (
    PartOf,
    PartOptions,
    Registry,
    Section,
    Shape,
    UnknownValueError,
    decided,
    fields_below,
    fit,
    shape_of,
)
from nmt.config.schema import TASKS, ExperimentConfig
from nmt.config.wording import advice, complaint, in_words, nearest, shown, synonyms
from nmt.errors import ConfigError, line_of

LARGEST_FILE = 128 * 1024
"""Bytes of a config; the reference, with every key and its comments, has 34 KiB."""
_AT_ONCE: int = getattr(os, "O_NONBLOCK", 0)
"""Opens a pipe without waiting for a writer; Windows has no such pipes."""

Families = Mapping[str, Registry[Any]]
"""The parts that can be chosen, by the name of their family."""
Check = Callable[[ExperimentConfig], Iterable[tuple[str, str]]]
"""A rule between parts: yields (dotted path, what is wrong and what to do)."""


@dataclass(frozen=True)
class Components:
    """Families of parts, presets, and rules between parts that the schema cannot express."""

    families: Families
    presets: Presets = field(default_factory=dict)
    checks: Sequence[Check] = ()
    """Each is checked as far as the valid values decide it."""
    whole_checks: Sequence[Check] = ()
    """Rules that need a config without any mistake."""


def read_tree(path: str | Path, families: Families, overrides: Sequence[str] = ()) -> tuple[Node, list[Problem]]:
    """Reads a YAML file, in UTF-8 and of at most 128 KiB; a pipe such as `<(...)` is read to its end.

    `overrides` are `section.key=value` each, the value in YAML; they win over the file, later ones over earlier ones.
    Returns the tree with the overrides, and its mistakes so far, for `build_config`.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        text = _read(path).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise ConfigError(f"{path}:{line_of(error)}: not UTF-8; save the file as UTF-8") from None
        # A name with a NUL or a lone surrogate in it is a ValueError.
        reason = error.strerror if isinstance(error, OSError) else "the name is not one that a file can have"
        raise ConfigError(f"{path}: cannot be read: {reason}; give the path of a YAML file") from None
    root, problems = read_document(text, str(path))
    return root, problems + apply_overrides(root, overrides, families)


def _read(path: str | Path) -> bytes:
    """Returns the bytes of a file or pipe. A pipe that nobody opens for writing within a second is an error."""
    with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | _AT_ONCE)) as file:
        read: bytes | None = b""
        if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
            select.select([file], [], [], 1.0)
            read = file.read(LARGEST_FILE + 1)
            if read == b"":
                raise OSError(errno.EPIPE, "it is a pipe that nothing is written to")
        os.set_blocking(file.fileno(), True)
        read = read or b""
        while len(read) <= LARGEST_FILE and (more := file.read(LARGEST_FILE)):
            read += more
    if len(read) > LARGEST_FILE:
        raise OSError(errno.EFBIG, f"it is larger than {LARGEST_FILE // 1024} KiB, which no config is")
    return read


def parse_config(
    text: str,
    origin: str,
    components: Components,
    overrides: Sequence[str] = (),
    before: Mapping[str, Any] = MappingProxyType({}),
) -> ExperimentConfig:
    """Reads YAML text; `origin` stands for the file in messages. Otherwise as `read_tree`.

    `before` are values for keys, by dotted path, that sections of the text lack because an earlier version wrote it.

    Raises:
        ConfigError: the text has mistakes: one line for each.
    """
    root, problems = read_document(text, origin)
    for path, value in before.items():
        *sections, key = path.split(".")
        section: Node | None = root
        for name in sections:
            section = None if section is None else section.child(name)
        if section is not None and isinstance(section.value, dict):
            section.value.setdefault(key, Node(value, section.location))
    problems += apply_overrides(root, overrides, components.families)
    return build_config(root, problems, origin, components)


def build_config(root: Node, problems: list[Problem], origin: str, components: Components) -> ExperimentConfig:
    """Returns the config of a tree, which it changes; `problems` are those of the steps before.

    Raises:
        ConfigError: there are mistakes: one line for each.
    """
    wrong = wrong_task(root)
    if wrong is not None:
        # The meaning of the other keys depends on it.
        raise error_of([*problems, wrong], origin)
    experiment = experiment_of(root)
    problems = problems + expand_presets(root, experiment, components.presets)
    reading = _Reading(root, components, problems, origin)
    config = experiment.model_validate(Values(root.plain(), ()), strict=True, context=reading)
    for check in components.checks:
        reading.blame_all(check(config), ())
    if not reading.problems:
        for check in components.whole_checks:
            reading.blame_all(check(config), ())
    if reading.problems:
        raise error_of(reading.problems, origin)
    return config


def wrong_task(root: Node) -> Problem | None:
    """Returns the mistake in the name of the task, if there is one."""
    named = root.child("task")
    if named is None or (isinstance(named.value, str) and named.value in TASKS):
        return None
    if isinstance(named.value, str):
        return Problem(named.location, ("task",), f"unknown task {named.value!r}; {advice(named.value, TASKS)}")
    return Problem(named.location, ("task",), f"must be a name ({', '.join(TASKS)}), not {shown(named.value)}")


class Values(dict[str, Any]):
    """A mapping of the YAML, as pydantic validates it."""

    def __init__(
        self, values: Mapping[str, Any], path: KeyPath, part: PartOf | None = None, short: bool = False
    ) -> None:
        super().__init__(values)
        self.path = path
        self.part = part
        """The family of a part's options."""
        self.short = short
        """Whether the YAML has only the name of the part."""


class _Reading:
    """Context in which pydantic validates a YAML: notes every mistake, and returns sections as far as they are right.

    Values with mistakes are unknown in a section, and beside a wrong key also those that were not written, because the
    key may have meant them. The rules between values are checked on the others.
    """

    def __init__(self, root: Node, components: Components, problems: list[Problem], origin: str) -> None:
        self.problems = problems
        self.families = components.families
        self._noted = {(problem.location, problem.path) for problem in problems}
        self._presets = components.presets
        self._experiment = experiment_of(root)
        self._root = root
        self._origin = origin
        self._path: KeyPath = ()

    def blame(self, path: KeyPath, message: str, implied: bool = False) -> None:
        """Notes a mistake at the innermost thing that was written, unless one is noted there before the validation.

        Raises `ConfigError` when there are more mistakes than are reported at once.
        """
        location = locate(self._root, path, implied)
        if (location, path) not in self._noted:
            self.problems.append(Problem(location, path, message))
        if len(self.problems) > MOST_PROBLEMS:
            raise error_of(self.problems, self._origin)

    def blame_all(self, rule: Iterable[tuple[str, str]], section: KeyPath) -> None:
        """Notes the mistakes that a rule between values yields, as far as it is decided."""
        for path, message in decided(rule):
            self.blame((*section, *path.split(".")), message)

    def section(self, section: type[Section], values: Any, build: Callable[[Any], Section]) -> Any:
        """Validates a section or the options of a part; raises `ValidationError` where it is no mapping."""
        if not isinstance(values, Values):
            return build(values)
        outer, self._path = self._path, values.path
        fields = section.model_fields
        misnamed = [key for key in values if key not in fields]
        for key in misnamed:
            what = "key" if values.part is None else f"option of the {values.part.family} {values['kind']!r}"
            advised = self._what_else(key, [name for name in fields if values.part is None or name != "kind"], values)
            self.blame((*self._path, key), f"unknown {what}; {advised}", implied=True)
        known = {key: value for key, value in values.items() if key in fields}
        for name, each in fields.items():
            if name in values:
                continue
            default = each.get_default(call_default_factory=True)
            if each.is_required():
                known[name] = UNKNOWN
                self.blame((*self._path, name), f"required, but missing; give {_expected(shape_of(each))}")
            elif isinstance(default, PartOptions):
                known[name] = default.kind
            elif isinstance(default, Section):
                known[name] = {}
        built = build(known)
        self._path = outer
        unknown = {name for name, value in built.__dict__.items() if value is UNKNOWN}
        if misnamed:
            unknown |= fields.keys() - values.keys()
        for name in unknown:
            del built.__dict__[name]
        self.blame_all(built.contradictions(), values.path)
        return built

    def field(self, section: type[Section], name: str, value: Any, validate: Callable[[Any], Any]) -> Any:
        """Validates the value of a field; `UNKNOWN` where it is wrong."""
        if value is UNKNOWN:
            return UNKNOWN
        shape, path = shape_of(section.model_fields[name]), (*self._path, name)
        value = self._full_form(value, shape, path)
        try:
            return validate(value)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                self.blame(*self._mistake(detail, shape, value, path))
            return UNKNOWN
        except UnknownValueError:
            # A validator of the section needs a value whose mistake is noted already.
            return UNKNOWN

    def _full_form(self, value: Any, shape: Shape, path: KeyPath) -> Any:
        """Returns the value with short forms written out: a part's name, one item without a list, null for defaults."""
        if shape.container is list:
            if isinstance(value, list):
                return [self._full_form(item, shape.item, (*path, index)) for index, item in enumerate(value)]
            return [self._full_form(value, shape.item, path)] if isinstance(value, (dict, str)) else value
        if shape.container is dict:
            if not isinstance(value, dict):
                return {} if value is None else value
            return {key: self._full_form(item, shape.item, (*path, key)) for key, item in value.items()}
        if shape.section is not None:
            if value is None and dotted(path) not in self._presets:
                value = {}
            return Values(value, path) if isinstance(value, dict) else value
        if shape.part is None:
            return fit(value, shape)
        if isinstance(value, str):
            return Values({"kind": value}, path, shape.part, short=True)
        if isinstance(value, dict):
            kind = None if "kind" in value else shape.part.kind_without(value)
            return Values(value if kind is None else {"kind": kind, **value}, path, shape.part)
        return value

    def _mistake(self, detail: Mapping[str, Any], shape: Shape, value: Any, path: KeyPath) -> tuple[KeyPath, str]:
        """Returns the path and the description of what pydantic found in the value of a field."""
        wrong, kinds = detail["input"], self.families[shape.part.family] if shape.part is not None else {}
        by_name = f"a name ({', '.join(kinds)}) or a mapping with `kind`"
        if isinstance(wrong, Values):
            if shape.part is None or not detail["type"].startswith("union_tag"):
                # From a validator of the section itself.
                return wrong.path, complaint(detail, {}, wrong)[1]
            if "kind" not in wrong:
                return wrong.path, f"no `kind`; add one: {', '.join(kinds)}"
            kind, path = wrong["kind"], wrong.path if wrong.short else (*wrong.path, "kind")
            if isinstance(kind, str):
                own = "" if nearest(kind, kinds) else "; one of your own needs its file in plugins"
                return path, f"unknown {shape.part.family} {kind!r}; {advice(kind, kinds)}{own}"
            return path, f"must be {by_name}, not {shown(kind)}"
        if shape.is_leaf or not detail["type"].endswith("_type"):
            inside, message = complaint(detail, shape.schema if shape.is_leaf else {}, value)
            return (*path, *inside), message
        if shape.container is not None and not detail["loc"]:
            expected = "a list" if shape.container is list else "a mapping of names"
        elif shape.part is not None:
            expected = by_name
        else:
            expected = "a mapping of keys" + (", or the name of a preset" if dotted(path) in self._presets else "")
        return (*path, *detail["loc"]), f"must be {expected}, not {shown(wrong)}"

    @cached_property
    def _all_keys(self) -> frozenset[str]:
        return frozenset(path for path, _ in fields_below(self._experiment, self.families))

    def _what_else(self, key: str, fields: Iterable[str], values: Values) -> str:
        """Returns a suggestion in place of an unknown key beside these values."""
        meant = [each for each in synonyms(key) if each in self._all_keys]
        near = nearest(key, fields)
        if not meant and near is not None:
            meant = [near]
        if not meant and values.part is None:
            meant = [path for path, _ in fields_below(self._experiment) if path.rsplit(".", 1)[-1] == key]
        if not meant:
            return advice(key, fields)
        section = dotted(tuple(step for step in values.path if isinstance(step, str)))
        own = [each.removeprefix(f"{section}.") for each in meant if each.rpartition(".")[0] == section]
        return f"did you mean {' or '.join(map(repr, own or meant))}?"


def _expected(shape: Shape) -> str:
    if shape.is_leaf:
        return in_words(shape.schema)
    if shape.container is not None:
        return "a list" if shape.container is list else "a mapping"
    if shape.section is None:
        return "a name or a mapping with `kind` and its options"
    keys = [name for name, each in shape.section.model_fields.items() if each.is_required()]
    return f"a mapping with {', '.join(keys) or 'its keys'}"
