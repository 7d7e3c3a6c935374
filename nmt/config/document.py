"""YAML text -> a tree of values in which each knows where it stands.

The scalars are those of YAML 1.2, not of PyYAML's 1.1: `5e-4` is a number and `no` is Norwegian.
Where the two versions of YAML disagree on a number (`010`, `1_000`, `12:30`), it is text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from nmt.errors import ConfigError

Path = tuple[str | int, ...]
"""Keys and list positions from the top to a value."""


@dataclass(frozen=True)
class Place:
    """Where the user wrote something: a line of the file, or the nth `--set`, counted from 0."""

    line: int = 1
    override: int | None = None


@dataclass
class Node:
    """A value with its place. Mappings hold nodes by key, lists hold nodes."""

    value: dict[str, Node] | list[Node] | str | int | float | bool | None
    place: Place
    implied: bool = False
    """Nobody wrote this value: it only leads to one that an override sets."""

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    @classmethod
    def of(cls, value: Any, place: Place) -> Node:
        """A tree of plain values that all came from one place."""
        if isinstance(value, Mapping):
            return cls({str(key): cls.of(child, place) for key, child in value.items()}, place)
        if isinstance(value, (list, tuple)):
            return cls([cls.of(child, place) for child in value], place)
        return cls(value, place)

    def child(self, key: str | int) -> Node | None:
        """The value under a key or list position, if there is one."""
        if isinstance(self.value, dict):
            return self.value.get(str(key))
        if isinstance(self.value, list) and str(key).isdecimal() and int(key) < len(self.value):
            return self.value[int(key)]
        return None


def locate(root: Node, path: Path) -> Place:
    """Where the value of a path was written, or else the innermost thing around it that was."""
    place, node = root.place, root
    for key in path:
        below = node.child(key)
        if below is None and isinstance(node.value, list) and len(node.value) == 1:
            # A single item may have been written without the list around it.
            below = node.value[0].child(key)
        if below is None:
            break
        node = below
        if not node.implied:
            place = node.place
    return place


@dataclass(frozen=True)
class Problem:
    """One mistake: what is wrong with the value of a path, and what to do."""

    place: Place
    path: Path
    message: str

    def line(self, origin: str) -> str:
        """The mistake as the user reads it."""
        where = "--set" if self.place.override is not None else f"{origin}:{self.place.line}:"
        return f"{where} {dotted(self.path)}: {self.message}" if self.path else f"{where} {self.message}"


def dotted(path: Path) -> str:
    """`("data", "train", 0)` -> `data.train.0`."""
    return ".".join(map(str, path))


def error_of(problems: list[Problem], origin: str) -> ConfigError:
    """One error that tells of all mistakes, those of the file by line and then those of the overrides."""
    ordered = sorted(problems, key=lambda problem: (problem.place.override or 0, problem.place.line))
    in_file = [problem for problem in ordered if problem.place.override is None]
    in_overrides = [problem for problem in ordered if problem.place.override is not None]
    return ConfigError(*dict.fromkeys(problem.line(origin) for problem in in_file + in_overrides))


_NULL, _BOOL, _INT, _FLOAT, _STR, _MERGE = (
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "merge")
)
SCALARS: Mapping[str, tuple[re.Pattern[str], str, Callable[[str], Any]]] = {
    _NULL: (re.compile(r"~|null|"), "~n", lambda _: None),
    _BOOL: (re.compile(r"true|false"), "tf", lambda text: text == "true"),
    _INT: (re.compile(r"[-+]?(?:0|[1-9][0-9]*)"), "-+0123456789", int),
    _FLOAT: (
        re.compile(
            r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)\.[0-9]*)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?(?:0|[1-9][0-9]*)[eE][-+]?[0-9]+|[-+]?\.inf|\.nan"
        ),
        "-+.0123456789",
        lambda text: float(text.replace(".inf", "inf").replace(".nan", "nan")),
    ),
    _STR: (re.compile(r".*", re.DOTALL), "", str),
}
"""Tag -> its plain scalars, the characters they start with, and their value."""
NUMBERS = (_INT, _FLOAT)


class _Loader(yaml.SafeLoader):
    """SafeLoader with scalars of our own."""


def recognise_scalars(resolver: Any) -> None:
    """Teach a PyYAML loader or dumper class which plain scalars are not text."""
    for tag, (pattern, first, _) in SCALARS.items():
        if tag != _STR:
            starts = [*first, ""] if tag == _NULL else list(first)
            resolver.add_implicit_resolver(tag, re.compile(f"(?:{pattern.pattern})\\Z"), starts)


_Loader.yaml_implicit_resolvers = {}
recognise_scalars(_Loader)
_Loader.add_implicit_resolver(_MERGE, re.compile(r"<<\Z"), ["<"])


class _Reading:
    def __init__(self, place_of: Callable[[yaml.Node], Place]) -> None:
        self.problems: list[Problem] = []
        self._place_of = place_of
        self._open: set[int] = set()

    def node(self, yaml_node: yaml.Node, path: Path, place: Place) -> Node:
        if id(yaml_node) in self._open:
            self._problem(yaml_node, path, "is an alias of what it stands in; write the value out")
            return Node(None, place)
        self._open.add(id(yaml_node))
        value: Any
        if isinstance(yaml_node, yaml.MappingNode):
            value = self._mapping(yaml_node, path)
        elif isinstance(yaml_node, yaml.SequenceNode):
            value = [
                self.node(item, (*path, index), self._place_of(item)) for index, item in enumerate(yaml_node.value)
            ]
        else:
            value = self._scalar(yaml_node, path)
        self._open.remove(id(yaml_node))
        return Node(value, place)

    def _mapping(self, mapping: yaml.MappingNode, path: Path) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key_node, value_node in mapping.value:
            place = self._place_of(key_node)
            if key_node.tag == _MERGE:
                for base in self._merge_bases(value_node, path):
                    merged = {**self._mapping(base, path), **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(key_node, path, "a key must be a name, not a list or mapping")
                continue
            # Keys are names whatever they look like: a test set may be called 2016.
            key = key_node.value
            if key in own:
                first = own[key].place
                where = f"; the first is in line {first.line}" if first.override is None else ""
                self._problem(key_node, (*path, key), f"key given twice{where}; keep one")
                continue
            own[key] = self.node(value_node, (*path, key), place)
        return {**merged, **own}

    def _merge_bases(self, node: yaml.Node, path: Path) -> Iterator[yaml.MappingNode]:
        for base in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if isinstance(base, yaml.MappingNode) and id(base) not in self._open:
                yield base
            else:
                self._problem(node, path, "`<<` merges mappings only; give it an alias of one, or a list of them")

    def _scalar(self, scalar: yaml.Node, path: Path) -> Any:
        if scalar.tag == _MERGE:
            return scalar.value
        if scalar.tag not in SCALARS:
            self._problem(scalar, path, f"the tag {scalar.tag} is not supported; leave it out")
            return None
        pattern, _, convert = SCALARS[scalar.tag]
        if not pattern.fullmatch(scalar.value):
            self._problem(scalar, path, f"{scalar.value!r} does not fit the tag before it; leave the tag out")
            return None
        return convert(scalar.value)

    def _problem(self, node: yaml.Node, path: Path, message: str) -> None:
        self.problems.append(Problem(self._place_of(node), path, message))


def read_document(text: str, origin: str) -> tuple[Node, list[Problem]]:
    """The tree of a YAML file that holds one mapping, with the mistakes that do not keep it from being read.

    Raises:
        ConfigError: the text is no YAML, or not a mapping.
    """
    top = _compose(text, lambda line: f"{origin}:{line}: ")
    if top is None or (isinstance(top, yaml.ScalarNode) and not top.value):
        raise ConfigError(f"{origin}:1: the file is empty; it needs at least `run` and `data`")
    reading = _Reading(lambda node: Place(node.start_mark.line + 1))
    place = Place(top.start_mark.line + 1)
    if not isinstance(top, yaml.MappingNode):
        kind = "a list" if isinstance(top, yaml.SequenceNode) else "a single value"
        raise ConfigError(f"{origin}:{place.line}: the file holds {kind}; it must be a mapping of `key: value`")
    return reading.node(top, (), place), reading.problems


def read_value(text: str, path: Path, place: Place) -> tuple[Node, list[Problem]]:
    """The tree of the YAML value of an override.

    Raises:
        ConfigError: the text is no YAML.
    """
    top = _compose(text, lambda _: f"--set {dotted(path)}: ")
    if top is None:
        return Node(None, place), []
    reading = _Reading(lambda _: place)
    return reading.node(top, path, place), reading.problems


def _compose(text: str, prefix: Callable[[int], str]) -> yaml.Node | None:
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"not valid YAML: the character U+{error.character:04X} is not allowed"
        raise ConfigError(prefix(line) + message) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{prefix(mark.line + 1 if mark else 1)}not valid YAML: {said}") from None
    return node
