"""Prints configs: resolved, commented, as the reference of every key with its type, range and default; compares two."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from nmt.config.document import Location, Node, recognise_scalars
from nmt.config.reader import Components, Families, build_config
from nmt.config.registry import PartOptions, Section
from nmt.config.schema import TASKS, ExperimentConfig
from nmt.config.shapes import Shape, fields_below, fields_in_order, shape_of
from nmt.config.wording import in_words

WIDTH = 110
"""Longest line of a comment."""

Commentary = Callable[[FieldInfo, int], list[str]]
"""A field and the width that is left -> lines to write above it, without `# `."""


def dump_config(config: ExperimentConfig, comments: bool = False) -> str:
    """Prints the resolved config in the order of the schema, defaults and presets written out.

    Loading it with the families that it was read with gives an equal config.
    """
    return _write_yaml(config, _documentation if comments else _nothing)


def _nothing(field: FieldInfo, width: int) -> list[str]:
    return []


def _documentation(field: FieldInfo, width: int) -> list[str]:
    return textwrap.wrap(field.description or "", width)


def _write_yaml(config: ExperimentConfig, commentary: Commentary) -> str:
    lines = _fields(config, WIDTH - 2, commentary, separator=commentary is not _nothing)
    return "\n".join(lines).lstrip("\n") + "\n"


def _fields(section: Section, width: int, commentary: Commentary, *, separator: bool = False) -> Iterator[str]:
    for name, field in fields_in_order(type(section)):
        if separator:
            yield ""
        if not (isinstance(section, PartOptions) and name == "kind"):
            yield from (f"# {line}".rstrip() for line in commentary(field, width))
        yield from _entry(name, getattr(section, name), width, commentary)


def _entry(key: str, value: Any, width: int, commentary: Commentary) -> Iterator[str]:
    below: list[str] = []
    if isinstance(value, Section) and not _is_name(value):
        below += _fields(value, width - 2, commentary)
    elif isinstance(value, list) and any(isinstance(item, Section) for item in value):
        for index, item in enumerate(value):
            first, *rest = (
                [flow(item.kind)] if _is_name(item) else _fields(item, width - 4, _nothing if index else commentary)
            )
            below += [f"- {first}", *(f"  {line}" for line in rest)]
    elif isinstance(value, dict) and any(isinstance(item, Section) for item in value.values()):
        for index, (name, item) in enumerate(value.items()):
            below += _entry(name, item, width - 2, _nothing if index else commentary)
    else:
        yield f"{flow(key)}: {flow(value.kind if _is_name(value) else value)}"
        return
    yield f"{flow(key)}:"
    yield from (f"  {line}" for line in below)


def _is_name(value: Any) -> bool:
    return isinstance(value, PartOptions) and len(type(value).model_fields) == 1


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or our reader would take for something else."""


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # Only this style keeps line breaks, of which YAML 1.1 has five, on one line.
    breaks = any(character in text for character in "\n\r\x85\u2028\u2029")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if breaks else None)


recognise_scalars(_Dumper)
_Dumper.add_representer(str, _string)


def flow(value: Any) -> str:
    """A value on one line."""
    text = yaml.dump(
        [value], Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=1 << 30, sort_keys=False
    )
    return text.strip()[1:-1]


def reference_yaml(components: Components, task: str = "translation") -> str:
    """Prints a config of this task with every key, and comments with all choices; it loads as it is."""
    experiment = TASKS[task]
    root = Node.of({"task": task, **_example(experiment, components.families)}, Location())
    config = build_config(root, [], "reference", Components(components.families, components.presets))
    return _write_yaml(config, _Explanation(experiment, components).lines)


def _example(section: type[Section], families: Families) -> dict[str, Any]:
    """Returns values of the keys that a section requires: sections, parts, lists of parts, and text."""
    example: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        shape = shape_of(field)
        if not field.is_required() or name == "kind":
            continue
        if shape.section is not None:
            example[name] = _example(shape.section, families)
        elif shape.part is not None:
            kind = shape.part.default_kind
            part = {"kind": kind, **_example(families[shape.part.family][str(kind)].options, families)}
            example[name] = [part] if shape.container is list else part
        else:
            example[name] = field.examples[0] if field.examples else name
    return example


class _Explanation:
    """Comments above the fields of a reference. The options of a family stand where it first occurs."""

    def __init__(self, experiment: type[ExperimentConfig], components: Components) -> None:
        self._families = components.families
        self._presets: dict[int, Mapping[str, Mapping[str, Any]]] = {
            id(field): components.presets[path]
            for path, field in fields_below(experiment)
            if path in components.presets
        }
        self._explained: set[str] = set()

    def lines(self, field: FieldInfo, width: int) -> list[str]:
        shape = shape_of(field)
        lines = textwrap.wrap(f"{field.description} {_in_brackets(field, shape)}".strip(), width)
        for name, meaning in self._presets.get(id(field), {}).items():
            lines += _hanging(f"{name}: {flow(dict(meaning))}", width, 2)
        return lines if shape.part is None else [*lines, *self._family(shape.part.family, width)]

    def _family(self, family: str, width: int) -> Iterator[str]:
        members = self._families[family]
        if family in self._explained:
            yield f"Choices: {', '.join(members)}; their options stand where {family} first occurs."
            return
        self._explained.add(family)
        yield "Choices, each `NAME` or `{kind: NAME, option: value}`:"
        for kind, entry in members.items():
            yield from _hanging(f"{kind}: {entry.summary}", width, 2)
            yield from self._options(entry.options, width, 6)

    def _options(self, section: type[Section], width: int, indent: int) -> Iterator[str]:
        for name, field in fields_in_order(section):
            if name == "kind":
                continue
            shape = shape_of(field)
            yield from _hanging(
                " ".join(f"{name}: {field.description} {_in_brackets(field, shape)}".split()), width, indent
            )
            if shape.section is not None:
                yield from self._options(shape.section, width, indent + 2)


def _hanging(text: str, width: int, indent: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=" " * indent, subsequent_indent=" " * (indent + 4))


def _in_brackets(field: FieldInfo, shape: Shape) -> str:
    required = field.is_required()
    if shape.is_leaf:
        default = "required" if required else f"default {flow(field.get_default(call_default_factory=True))}"
        return f"[{in_words(shape.schema)}; {default}]"
    if shape.part is None:
        return "[required]" if required else ""
    several = "" if shape.container is None else "list of " if shape.container is list else "names of "
    default = f"; default {shape.part.default_kind}" if shape.container is None else ""
    return f"[{several}{shape.part.family}{'; required' if required else default}]"


def difference(old: Section, new: Section) -> dict[str, tuple[Any, Any]]:
    """Returns dotted paths that differ -> (value in `old`, value in `new`), in schema order.

    Where a part was replaced by another one, its `kind` differs and the options are not compared; a list of
    another length differs as a whole; an entry that only one has is None in the other.
    """
    assert type(old) is type(new)
    return dict(_differences(old, new, ""))


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    if old == new:
        return
    if isinstance(old, PartOptions) and isinstance(new, PartOptions) and old.kind != new.kind:
        old, new = {"kind": old.kind}, {"kind": new.kind}
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and isinstance(old[0], Section):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if type(old) is type(new) and isinstance(old, (Section, dict)):
        before, after = dict(old), dict(new)
        for name in before | after:
            yield from _differences(before.get(name), after.get(name), f"{path}.{name}" if path else str(name))
    else:
        yield path, (to_jsonable_python(old), to_jsonable_python(new))
