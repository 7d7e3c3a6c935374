"""The commented reference: every key with its type, range and default, every part with its options."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic.fields import FieldInfo

from nmt.config.document import Node, Place
from nmt.config.presets import Presets
from nmt.config.printer import flow, write_yaml
from nmt.config.reader import Families, build_config
from nmt.config.registry import Section
from nmt.config.schema import TASKS, ExperimentConfig
from nmt.config.shapes import (
    Leaf,
    ListShape,
    PartShape,
    SectionShape,
    Shape,
    annotation_of,
    choices_of,
    doc_of,
    fields_below,
    fields_in_order,
    in_words,
    part_within,
    shape_of,
)


def reference_yaml(families: Families, presets: Presets | None = None, task: str = "translation") -> str:
    """A config of this task with every key, and comments that tell all that can stand there; it loads as it is."""
    presets = presets or {}
    experiment = TASKS[task]
    root = Node.of({"task": task, **_example(experiment, families)}, Place())
    config = build_config(root, [], "reference", families=families, presets=presets)
    return write_yaml(config, _Explanation(experiment, families, presets).lines)


def _example(section: type[Section], families: Families) -> dict[str, Any]:
    """Values of the keys that a section requires."""
    return {
        name: field.examples[0] if field.examples else _example_value(shape_of(field), name, families)
        for name, field in section.model_fields.items()
        if field.is_required() and name != "kind"
    }


def _example_value(shape: Shape, name: str, families: Families) -> Any:
    if isinstance(shape, SectionShape):
        return _example(shape.section, families)
    if isinstance(shape, PartShape):
        kind = shape.default_kind or next(iter(families[shape.family]))
        return {"kind": kind, **_example(families[shape.family][kind].options, families)}
    if isinstance(shape, ListShape):
        return [_example_value(shape.item, name, families)]
    if not isinstance(shape, Leaf):
        return {"name": _example_value(shape.value, name, families)}
    words = in_words(shape.annotation)
    if choices_of(shape.annotation):
        return choices_of(shape.annotation)[0]
    if "number" in words:
        return max((getattr(mark, "ge", 1) for mark in getattr(shape.annotation, "__metadata__", ())), default=1)
    return {"true or false": True, "text": name}.get(words, [])


class _Explanation:
    """What to write above each field. A family is told of in full where it first occurs."""

    def __init__(self, experiment: type[ExperimentConfig], families: Families, presets: Presets) -> None:
        self._families = families
        self._presets: dict[int, Mapping[str, Mapping[str, Any]]] = {
            id(field): presets[path] for path, field in fields_below(experiment) if path in presets
        }
        self._told: set[str] = set()

    def lines(self, field: FieldInfo, width: int) -> list[str]:
        shape = shape_of(field)
        lines = textwrap.wrap(f"{doc_of(field)} {_in_brackets(field, shape)}".strip(), width)
        for name, meaning in self._presets.get(id(field), {}).items():
            text = f"{name}: {flow(dict(meaning))}"
            lines += textwrap.wrap(text, width, initial_indent="  ", subsequent_indent=" " * 6)
        part = part_within(shape)
        if part is not None:
            lines += self._family(part.family, width)
        return lines

    def _family(self, family: str, width: int) -> Iterator[str]:
        members = self._families[family]
        if family in self._told:
            yield f"Choices: {', '.join(members)}; their options stand where {family} first occurs."
            return
        self._told.add(family)
        yield "Choices, each `NAME` or `{kind: NAME, option: value}`:"
        for kind, entry in members.items():
            yield from textwrap.wrap(f"{kind}: {entry.summary}", width, initial_indent="  ", subsequent_indent=" " * 6)
            yield from self._options(entry.options, width, 6)

    def _options(self, section: type[Section], width: int, indent: int) -> Iterator[str]:
        for name, field in fields_in_order(section):
            if name == "kind":
                continue
            shape = shape_of(field)
            text = " ".join(f"{name}: {doc_of(field)} {_in_brackets(field, shape)}".split())
            hanging = " " * (indent + 4)
            yield from textwrap.wrap(text, width, initial_indent=" " * indent, subsequent_indent=hanging)
            if isinstance(shape, SectionShape):
                yield from self._options(shape.section, width, indent + 2)


def _in_brackets(field: FieldInfo, shape: Shape) -> str:
    if isinstance(shape, Leaf):
        default = "required" if field.is_required() else f"default {flow(field.get_default(call_default_factory=True))}"
        return f"[{in_words(annotation_of(field))}; {default}]"
    part = part_within(shape)
    if part is not None:
        what = {ListShape: f"list of {part.family}", PartShape: part.family}.get(type(shape), f"names of {part.family}")
        default = f"; default {part.default_kind}" if isinstance(shape, PartShape) and not field.is_required() else ""
        return f"[{what}{default or ('; required' if field.is_required() else '')}]"
    return "[required]" if field.is_required() else ""
