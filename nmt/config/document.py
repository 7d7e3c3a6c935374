"""Reads YAML text as a tree of values with their lines.

The scalars are those of YAML 1.2, not of PyYAML's 1.1: `5e-4` is a number and `no` is Norwegian.
Where the two versions of YAML disagree on a number (`010`, `1_000`, `12:30`), it is text.

A config is small. Depth, digits and what aliases repeat are bounded, so that a hostile or damaged file is refused
in a moment instead of filling the memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from nmt.errors import ConfigError

DEEPEST = 100
"""Largest depth of mappings and lists; a config needs about six."""
MOST_REPEATED = 200_000
"""Largest number of values and characters that aliases may add: aliases of aliases grow exponentially."""
LONGEST_NUMBER = 400
"""Characters of a number: no float has more digits before its point, and Python refuses integers of 4,300."""
MOST_PROBLEMS = 100
"""Mistakes that are reported at once."""

UNKNOWN: Any = object()
"""Stands for a value whose mistakes are noted already."""

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the top to a value."""


@dataclass(frozen=True)
class Location:
    """Location of a value: a line of the file, or the nth `--set`, counted from 0."""

    line: int = 1
    override: int | None = None


@dataclass
class Node:
    """A value with its location. Mappings hold nodes by key, lists hold nodes."""

    value: dict[str, Node] | list[Node] | str | int | float | bool | None
    location: Location
    implied: bool = False
    """Whether nobody wrote this value, and it only leads to one that an override sets."""

    def plain(self) -> Any:
        """Returns the value without locations."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    @classmethod
    def of(cls, value: Any, location: Location) -> Node:
        """Returns a tree of plain values that all have one location."""
        if isinstance(value, Mapping):
            return cls({str(key): cls.of(child, location) for key, child in value.items()}, location)
        if isinstance(value, (list, tuple)):
            return cls([cls.of(child, location) for child in value], location)
        return cls(value, location)

    def child(self, key: str | int) -> Node | None:
        """Returns the value under a key or list position, if there is one."""
        if isinstance(self.value, dict):
            return self.value.get(str(key))
        if isinstance(self.value, list) and str(key).isdecimal() and int(key) < len(self.value):
            return self.value[int(key)]
        return None


def locate(root: Node, path: KeyPath, implied: bool = False) -> Location:
    """Returns the location of the value of a path, or else of the innermost value around it that was written.

    With `implied`, a value that only leads to a written one counts as written.
    """
    location, node = root.location, root
    for key in path:
        below = node.child(key)
        if below is None:
            break
        node = below
        if implied or not node.implied:
            location = node.location
    return location


@dataclass(frozen=True)
class Problem:
    """One mistake: what is wrong with the value of a path, and what to do."""

    location: Location
    path: KeyPath
    message: str

    def line(self, origin: str) -> str:
        """Formats the mistake for the user."""
        where = "--set" if self.location.override is not None else f"{origin}:{self.location.line}:"
        return f"{where} {dotted(self.path)}: {self.message}" if self.path else f"{where} {self.message}"


def dotted(path: KeyPath) -> str:
    """`("data", "train", 0)` -> `data.train.0`; what is longer than any real path is cut off."""
    name = ".".join(map(str, path))
    return name if len(name) <= 200 else f"{name[:199]}..."


def error_of(problems: list[Problem], origin: str) -> ConfigError:
    """Returns one error with all mistakes, those of the file by line and then those of the overrides.

    Of more than `MOST_PROBLEMS` the first are reported.
    """

    def order(problem: Problem) -> tuple[int, int]:
        return (-1 if problem.location.override is None else problem.location.override, problem.location.line)

    lines = list(dict.fromkeys(problem.line(origin) for problem in sorted(problems, key=order)))
    if len(lines) > MOST_PROBLEMS:
        lines[MOST_PROBLEMS:] = [f"{origin}: has more than {MOST_PROBLEMS} mistakes; these are the first"]
    return ConfigError(*lines)


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


_TOO_DEEP = f"more than {DEEPEST} mappings and lists inside each other; a config needs about six"


class _Loader(yaml.SafeLoader):
    """SafeLoader with scalars of our own and a bounded depth."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > DEEPEST:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, _TOO_DEEP, mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


def recognise_scalars(resolver: Any) -> None:
    """Registers the plain scalars that are not text with a loader or dumper class of PyYAML."""
    for tag, (pattern, first, _) in SCALARS.items():
        if tag != _STR:
            starts = [*first, ""] if tag == _NULL else list(first)
            resolver.add_implicit_resolver(tag, re.compile(f"(?:{pattern.pattern})\\Z"), starts)


_Loader.yaml_implicit_resolvers = {}
recognise_scalars(_Loader)
_Loader.add_implicit_resolver(_MERGE, re.compile(r"<<\Z"), ["<"])


class _UnreadableError(Exception):
    """The text is no YAML, or much larger than it is written, through aliases."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class _Reading:
    """Converts PyYAML's nodes and collects mistakes on the way."""

    def __init__(self, override: Location | None = None) -> None:
        self.problems: list[Problem] = []
        self._override = override
        self._open: set[int] = set()
        self._seen: set[int] = set()
        self._repeated = 0

    def node(self, yaml_node: yaml.Node, path: KeyPath, location: Location) -> Node:
        """Converts a node; raises `_UnreadableError` where aliases repeat too much."""
        self._count(yaml_node)
        if not self._may_open(yaml_node, path):
            return Node(None, location)
        if isinstance(yaml_node, yaml.MappingNode):
            return Node(self._mapping(yaml_node, path), location)
        if isinstance(yaml_node, yaml.SequenceNode):
            self._open.add(id(yaml_node))
            items = [
                self.node(item, (*path, index), self._location(item)) for index, item in enumerate(yaml_node.value)
            ]
            self._open.remove(id(yaml_node))
            return Node(items, location)
        return Node(self._scalar(yaml_node, path), location)

    def _count(self, yaml_node: yaml.Node) -> None:
        """Counts what an alias repeats: a node that was read before, and all below it, comes from an alias."""
        if id(yaml_node) not in self._seen:
            self._seen.add(id(yaml_node))
            return
        self._repeated += 1 + (len(yaml_node.value) if isinstance(yaml_node, yaml.ScalarNode) else 0)
        if self._repeated > MOST_REPEATED:
            message = f"aliases of this, and others, repeat more than {MOST_REPEATED:,} values; use fewer"
            raise _UnreadableError(yaml_node.start_mark.line + 1, message)

    def _may_open(self, yaml_node: yaml.Node, path: KeyPath) -> bool:
        if id(yaml_node) in self._open:
            self._problem(yaml_node, path, "is an alias of what it stands in; write the value out")
            return False
        if len(self._open) >= DEEPEST:
            self._problem(yaml_node, path, _TOO_DEEP)
            return False
        return True

    def _mapping(self, mapping: yaml.MappingNode, path: KeyPath) -> dict[str, Node]:
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        self._open.add(id(mapping))
        for key_node, value_node in mapping.value:
            location = self._location(key_node)
            if key_node.tag == _MERGE:
                for base in self._merge_bases(value_node, path):
                    merged = {**self._mapping(base, path), **merged}
                continue
            # Keys are names whatever they look like: a test set may be called 2016.
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(key_node, path, "a key must be a name, not a list or mapping")
            elif forbidden := _forbidden(key):
                self._problem(key_node, path, f"a key holds the character {forbidden}; leave it out")
            elif key in own:
                first = own[key].location
                where = f"; the first is in line {first.line}" if first.override is None else ""
                self._problem(key_node, (*path, key), f"key given twice{where}; keep one")
            else:
                own[key] = self.node(value_node, (*path, key), location)
        self._open.remove(id(mapping))
        return {**merged, **own}

    def _merge_bases(self, node: yaml.Node, path: KeyPath) -> Iterator[yaml.MappingNode]:
        for base in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            self._count(base)
            if not isinstance(base, yaml.MappingNode):
                self._problem(node, path, "`<<` merges mappings only; give it an alias of one, or a list of them")
            elif self._may_open(base, path):
                yield base

    def _scalar(self, scalar: yaml.Node, path: KeyPath) -> Any:
        tag, text = scalar.tag, scalar.value
        if tag == _MERGE:
            return text
        if tag not in SCALARS:
            message = f"the tag {tag} is not supported; leave it out"
        elif forbidden := _forbidden(text):
            message = f"holds the character {forbidden}, which no text or file name has; leave it out"
        elif not SCALARS[tag][0].fullmatch(text):
            message = f"{text[:40]!r} does not fit the tag before it; leave the tag out"
        elif tag in NUMBERS and len(text) > LONGEST_NUMBER:
            message = f"is a number of {len(text):,} characters; write a shorter one"
        else:
            return SCALARS[tag][2](text)
        self._problem(scalar, path, message)
        return None

    def _location(self, node: yaml.Node) -> Location:
        return self._override or Location(node.start_mark.line + 1)

    def _problem(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        self.problems.append(Problem(self._location(node), path, message))


def _forbidden(text: str) -> str:
    """Returns the first character that neither UTF-8 nor a file name can hold, as `U+0000`, or nothing."""
    character = re.search("[\0\ud800-\udfff]", text)
    return f"U+{ord(character[0]):04X}" if character else ""


def read_document(text: str, origin: str) -> tuple[Node, list[Problem]]:
    """Returns the tree of a YAML file that holds one mapping, with the mistakes that do not keep it from being read.

    Raises:
        ConfigError: the text is no YAML, not a mapping, or much larger than it is written, through aliases.
    """
    try:
        top = _compose(text)
        if top is None or (isinstance(top, yaml.ScalarNode) and not top.value):
            raise _UnreadableError(1, "the file is empty; it needs at least `run` and `data`")
        location = Location(top.start_mark.line + 1)
        if not isinstance(top, yaml.MappingNode):
            kind = "a list" if isinstance(top, yaml.SequenceNode) else "a single value"
            raise _UnreadableError(location.line, f"the file holds {kind}; it must be a mapping of `key: value`")
        reading = _Reading()
        return reading.node(top, (), location), reading.problems
    except _UnreadableError as error:
        raise ConfigError(f"{origin}:{error.line}: {error}") from None


def read_value(text: str, path: KeyPath, location: Location) -> tuple[Node | None, list[Problem]]:
    """Returns the tree of the YAML value of an override, or None where it cannot be read, with the mistakes."""
    reading = _Reading(location)
    try:
        top = _compose(text)
        return (Node(None, location) if top is None else reading.node(top, path, location)), reading.problems
    except _UnreadableError as error:
        return None, [Problem(location, path, str(error))]


def _compose(text: str) -> yaml.Node | None:
    loader = None
    try:
        loader = _Loader(text)
        node: yaml.Node | None = loader.get_single_node()
        return node
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        said = f"the character U+{error.character:04X} is not allowed"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        said = ", ".join(part for part in (error.context, error.problem) if part)
    except (ValueError, OverflowError):
        # PyYAML converts the numbers of escapes and of `%YAML` without looking.
        line = loader.line + 1 if loader is not None else 1
        said = "the number of an escape or of %YAML is too large"
    raise _UnreadableError(line, f"not valid YAML: {said}")
