"""YAML and overrides -> `Experiment`, or one error that names all mistakes.

The tree of the file is walked along the schema, from the sections down to the parts and their options.
Every section is validated by itself, so that a mistake in one hides none in another.
"""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from nmt.config.document import MOST_PROBLEMS, Node, Path, Place, Problem, dotted, error_of, locate, read_document
from nmt.config.names import advice, nearest, synonyms
from nmt.config.overrides import apply_overrides
from nmt.config.presets import Presets, add_keys_of_presets, expand_preset
from nmt.config.registry import Entry, Registry, Section, decided
from nmt.config.schema import ExperimentConfig
from nmt.config.shapes import (
    DictShape,
    Leaf,
    ListShape,
    PartShape,
    SectionShape,
    Shape,
    annotation_of,
    fields_below,
    fit,
    in_words,
    part_within,
    shape_of,
)
from nmt.config.tasks import experiment_of, wrong_task
from nmt.config.wording import complaint, shown
from nmt.errors import ConfigError

LARGEST_FILE = 128 * 1024
"""Bytes of a config; the reference, with every key and its comments, has 34 KiB."""
_AT_ONCE: int = getattr(os, "O_NONBLOCK", 0)
"""Opens a pipe without waiting for a writer; Windows has no such pipes."""

Families = Mapping[str, Registry[Any]]
Check = Callable[[ExperimentConfig], Iterable[tuple[str, str]]]
"""A rule between parts: yields (dotted path, what is wrong and what to do)."""


def load_config(
    path: str | FilePath,
    overrides: Sequence[str] = (),
    *,
    families: Families,
    presets: Presets | None = None,
    checks: Sequence[Check] = (),
    whole_checks: Sequence[Check] = (),
) -> ExperimentConfig:
    """Read a YAML file.

    Args:
        path: the file, in UTF-8 and of at most 128 KiB; a pipe such as `<(...)` is read to its end.
        overrides: `section.key=value` each, the value in YAML; they win over the file, later ones over earlier ones.
        families: the parts that can be chosen, by the name of their family.
        presets: path of a section -> name -> the keys that the name stands for (see `nmt.config.presets`).
        checks: rules between parts that the schema cannot know. Where values are wrong, a rule is asked as far as the
            others decide it.
        whole_checks: rules that need a config without any mistake.

    Raises:
        ConfigError: the file cannot be read, or has mistakes: one line for each.
    """
    try:
        text = _read(path).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            line = error.object.count(b"\n", 0, error.start) + 1
            raise ConfigError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from None
        # A name with a NUL or a lone surrogate in it is a ValueError.
        reason = error.strerror if isinstance(error, OSError) else "the name is not one that a file can have"
        raise ConfigError(f"{path}: cannot be read: {reason}; give the path of a YAML file") from None
    return parse_config(
        text, str(path), overrides, families=families, presets=presets, checks=checks, whole_checks=whole_checks
    )


def _read(path: str | FilePath) -> bytes:
    """The bytes of a file or pipe. A pipe that nobody opens for writing within a second is an error, not a wait."""
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
    overrides: Sequence[str] = (),
    *,
    families: Families,
    presets: Presets | None = None,
    checks: Sequence[Check] = (),
    whole_checks: Sequence[Check] = (),
) -> ExperimentConfig:
    """Read YAML text; `origin` stands for the file in messages. Otherwise as `load_config`.

    Raises:
        ConfigError: the text has mistakes: one line for each.
    """
    root, problems = read_document(text, origin)
    problems += apply_overrides(root, overrides, families)
    return build_config(
        root, problems, origin, families=families, presets=presets or {}, checks=checks, whole_checks=whole_checks
    )


def build_config(
    root: Node,
    problems: list[Problem],
    origin: str,
    *,
    families: Families,
    presets: Presets,
    checks: Sequence[Check] = (),
    whole_checks: Sequence[Check] = (),
) -> ExperimentConfig:
    """The config of a tree, which is changed on the way; `problems` are those found before.

    Raises:
        ConfigError: there are mistakes: one line for each.
    """
    wrong = wrong_task(root)
    if wrong is not None:
        # Without it, nobody knows what the other keys mean.
        raise error_of([*problems, wrong], origin)
    experiment = experiment_of(root)
    known = dict(fields_below(experiment))
    add_keys_of_presets(root, {path: meanings for path, meanings in presets.items() if path in known})
    builder = _Builder(experiment, root, families, presets)
    try:
        config = builder.section(experiment, root, ())
        for check in checks:
            builder.hold(check(config))
        if not (problems or builder.problems):
            for check in whole_checks:
                builder.hold(check(config))
    except _EnoughError:
        raise error_of([*problems, *builder.problems], origin) from None
    told = {(problem.place, problem.path) for problem in problems}
    problems = problems + [problem for problem in builder.problems if (problem.place, problem.path) not in told]
    if problems:
        raise error_of(problems, origin)
    assert isinstance(config, ExperimentConfig)
    return config


class _EnoughError(Exception):
    """There are more mistakes than are reported at once."""


_WRONG: Any = object()
"""Stands for a value whose mistakes are noted already; no section accepts it."""


class _Builder:
    def __init__(self, experiment: type[ExperimentConfig], root: Node, families: Families, presets: Presets) -> None:
        self.problems: list[Problem] = []
        self._experiment = experiment
        self._root = root
        self._families = families
        self._presets = presets

    def blame(self, path: Path, message: str, place: Place | None = None) -> Any:
        """Note a mistake, where no place is given at the innermost thing that was written."""
        self.problems.append(Problem(place or locate(self._root, path), path, message))
        if len(self.problems) > MOST_PROBLEMS:
            raise _EnoughError
        return _WRONG

    def hold(self, rule: Iterable[tuple[str, str]]) -> None:
        """Note what a rule between parts finds."""
        for path, message in decided(rule):
            self.blame(tuple(path.split(".")), message)

    def section(self, section: type[Section], node: Node, path: Path) -> Any:
        """An instance of the section, in which wrong values are unknown, or `_WRONG` for what is no section at all."""
        presets = self._presets.get(dotted(path), {}) if path else {}
        if presets:
            wrong = expand_preset(node, SectionShape(section), presets)
            if wrong:
                name, place = wrong
                return self.blame(path, f"unknown preset {name!r}; {advice(name, presets)}", place)
        elif node.value is None:
            node.value = {}
        if not isinstance(node.value, dict):
            also = ", or the name of a preset" if presets else ""
            return self.blame(path, f"must be a mapping of keys{also}, not {shown(node.value)}", node.place)
        return self._fields(section, node.value, path, "unknown key", {})

    def part(self, shape: PartShape, node: Node, path: Path) -> Any:
        """An instance of the options of the part that is named, in which wrong values are unknown, or `_WRONG`."""
        family: Mapping[str, Entry[Any]] = self._families.get(shape.family, {})
        options: dict[str, Node] = {}
        kind_node, kind_path = node, path
        if isinstance(node.value, dict):
            options = {key: child for key, child in node.value.items() if key != "kind"}
            if "kind" in node.value:
                kind_node, kind_path = node.value["kind"], (*path, "kind")
            elif (kind_implied := shape.kind_without(options)) is not None:
                kind_node = Node(kind_implied, node.place)
            else:
                return self.blame(path, f"no `kind`; add one: {', '.join(family)}")
        kind = kind_node.value
        if not isinstance(kind, str):
            message = f"must be a name ({', '.join(family)}) or a mapping with `kind`, not {shown(kind)}"
            return self.blame(kind_path, message, kind_node.place)
        if kind not in family:
            message = f"unknown {shape.family} {kind!r}; {advice(kind, family)}"
            return self.blame(kind_path, message, kind_node.place)
        unknown = f"unknown option of the {shape.family} {kind!r}"
        return self._fields(family[kind].options, options, path, unknown, {"kind": kind})

    def _fields(
        self, section: type[Section], nodes: Mapping[str, Node], path: Path, unknown: str, values: dict[str, Any]
    ) -> Any:
        """The section with these fields; `values` are those that are known beforehand.

        Where there are mistakes, the values that are right are still held against each other: those that are wrong
        are unknown, and beside a wrong key also those that were not written, because the key may have meant them.
        """
        in_part = "kind" in values
        fields = {name: field for name, field in section.model_fields.items() if name not in values}
        misnamed = [key for key in nodes if key not in fields]
        for key in misnamed:
            self.blame((*path, key), f"{unknown}; {self._what_else(path, key, fields, in_part)}", nodes[key].place)
        for name, field in fields.items():
            shape, below = shape_of(field), (*path, name)
            if name in nodes:
                values[name] = self._value(shape, nodes[name], below)
            elif field.is_required():
                values[name] = self.blame(below, f"required, but missing; give {self._expected(shape)}")
            elif isinstance(shape, SectionShape) and field.get_default(call_default_factory=True) is not None:
                values[name] = self.section(shape.section, Node({}, Place(), implied=True), below)
            elif isinstance(shape, PartShape) and shape.default_kind and field.default is not None:
                values[name] = self.part(shape, Node(shape.default_kind, Place(), implied=True), below)
        not_known = {name for name, value in values.items() if value is _WRONG}
        try:
            built = section.model_validate(values, strict=True)
            if not misnamed:
                return built
        except ValidationError as error:
            not_known |= self._translate(error, section, values, path)
        if misnamed:
            not_known |= fields.keys() - nodes.keys()
        partial = section.with_unknown(values, not_known)
        for inside, message in decided(partial.contradictions()):
            self.blame((*path, *inside.split(".")), message)
        return partial

    def _value(self, shape: Shape, node: Node, path: Path) -> Any:
        if isinstance(shape, SectionShape):
            return None if node.value is None and shape.nullable else self.section(shape.section, node, path)
        if isinstance(shape, PartShape):
            return None if node.value is None and shape.nullable else self.part(shape, node, path)
        if isinstance(shape, ListShape):
            if isinstance(node.value, list):
                items = [self._value(shape.item, item, (*path, index)) for index, item in enumerate(node.value)]
                return _WRONG if any(item is _WRONG for item in items) else items
            if isinstance(node.value, (dict, str)):
                only = Node(node.value, node.place)
                node.value = [only]
                item = self._value(shape.item, only, path)
                return item if item is _WRONG else [item]
            return self.blame(path, f"must be a list, not {shown(node.value)}", node.place)
        if isinstance(shape, DictShape):
            if node.value is None:
                return {}
            if not isinstance(node.value, dict):
                return self.blame(path, f"must be a mapping of names, not {shown(node.value)}", node.place)
            values = {key: self._value(shape.value, child, (*path, key)) for key, child in node.value.items()}
            return _WRONG if any(value is _WRONG for value in values.values()) else values
        return fit(node.plain(), shape.annotation)

    def _translate(
        self, error: ValidationError, section: type[Section], values: Mapping[str, Any], path: Path
    ) -> set[str]:
        """Say what pydantic found in plain words; returns the fields that are wrong.

        Contradictions are left out: those of the section are asked for next, those of sections in it were noted there.
        """
        wrong: set[str] = set()
        for detail in error.errors(include_url=False):
            if detail["type"] == "contradiction":
                continue
            name = str(detail["loc"][0])
            wrong.add(name)
            if values.get(name) is not _WRONG:
                inside, message = complaint(detail, annotation_of(section.model_fields[name]), values.get(name))
                self.blame((*path, name, *inside), message)
        return wrong

    def _expected(self, shape: Shape) -> str:
        if isinstance(shape, Leaf):
            return in_words(shape.annotation)
        if isinstance(shape, PartShape):
            return "a name or a mapping with `kind` and its options"
        if isinstance(shape, ListShape):
            return "a list"
        if isinstance(shape, SectionShape):
            keys = [name for name, field in shape.section.model_fields.items() if field.is_required()]
            return f"a mapping with {', '.join(keys) or 'its keys'}"
        return "a mapping"

    def _what_else(self, path: Path, key: str, fields: Iterable[str], in_part: bool) -> str:
        """What to write instead of an unknown key of the section with this path."""
        meant = [each for each in synonyms(key) if is_key(each, self._experiment, self._families)]
        near = nearest(key, fields)
        if not meant and near is not None:
            meant = [near]
        if not meant and not in_part:
            meant = [place for place, _ in fields_below(self._experiment) if place.rsplit(".", 1)[-1] == key]
        if not meant:
            return advice(key, fields)
        section = dotted(tuple(step for step in path if isinstance(step, str)))
        own = [each.removeprefix(f"{section}.") for each in meant if each.rpartition(".")[0] == section]
        return f"did you mean {' or '.join(map(repr, own or meant))}?"


def is_key(path: str, experiment: type[ExperimentConfig], families: Families) -> bool:
    """Whether an experiment has the key with this dotted path, be it that of a fixed section or an option of a part."""
    sections: list[type[Section]] = [experiment]
    for name in path.split("."):
        fields = [section.model_fields[name] for section in sections if name in section.model_fields]
        if not fields:
            return False
        sections = []
        for shape in map(shape_of, fields):
            part = part_within(shape)
            if part is not None:
                sections += [entry.options for entry in families[part.family].values()]
            elif isinstance(shape, SectionShape):
                sections.append(shape.section)
    return True
