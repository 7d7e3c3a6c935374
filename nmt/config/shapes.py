"""Shapes: what the annotation of a field allows in the YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, get_args, get_origin

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from nmt.config.registry import PartOf, PartOptions, Registry, Section


@dataclass(frozen=True)
class Shape:
    """A leaf, a section or a choice of a part; parts alone, in a list or by names of the user's choice."""

    annotation: Any
    section: type[Section] | None = None
    part: PartOf | None = None
    container: type | None = None
    """`list` or `dict`, where there may be several parts."""

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of a leaf."""
        return TypeAdapter(self.annotation).json_schema()

    @property
    def is_leaf(self) -> bool:
        """Whether there are no sections and parts in the value."""
        return self.section is None and self.part is None

    @property
    def item(self) -> Shape:
        """Shape of the parts in the list, or under each name."""
        return replace(self, container=None)


def shape_of(field: FieldInfo) -> Shape:
    """Returns what may stand under this key."""
    annotation = field.rebuild_annotation()
    bare, marks = split(annotation)
    container = get_origin(bare) if get_origin(bare) in (list, dict) else None
    if container is not None:
        bare, marks = split(get_args(bare)[-1])
    part = next((mark for mark in marks if isinstance(mark, PartOf)), None)
    if part is None:
        return Shape(annotation, section=bare if isinstance(bare, type) and issubclass(bare, Section) else None)
    if isinstance(field.default, PartOptions):
        part = replace(part, default_kind=field.default.kind)
    return Shape(annotation, part=part, container=container)


def fields_in_order(section: type[Section]) -> list[tuple[str, FieldInfo]]:
    """Returns the fields in the order of printing: `kind` and required ones before the options common to a family."""
    fields = list(section.model_fields.items())
    if issubclass(section, PartOptions):
        fields.sort(key=lambda item: (item[0] != "kind", not item[1].is_required()))
    return fields


def fields_below(
    section: type[Section], families: Mapping[str, Registry[Any]] | None = None, prefix: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    """Yields dotted paths of all fixed keys, and with `families` of all options of their parts, with their fields."""
    for name, field in section.model_fields.items():
        yield prefix + name, field
        shape = shape_of(field)
        below = [shape.section] if shape.section is not None else []
        if shape.part is not None and families is not None:
            below += [entry.options for entry in families[shape.part.family].values()]
        for each in below:
            yield from fields_below(each, families, f"{prefix}{name}.")


def split(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Returns the type of an annotation, and its marks."""
    if get_origin(annotation) is Annotated:
        bare, *marks = get_args(annotation)
        return bare, tuple(marks)
    return annotation, ()


def fit(value: Any, shape: Shape) -> Any:
    """Returns the value in the types of a leaf where YAML has none for them: `1e5` is whole, tuples are lists.

    Pydantic's lax mode would do so too, but takes `"5"` and `true` for numbers and `"yes"` for true.
    """
    if not isinstance(value, list) and not (isinstance(value, float) and value.is_integer()):
        return value  # without the schema, which takes most of the time of reading a config
    schema = shape.schema
    if isinstance(value, float):
        return int(value) if any(each.get("type") == "integer" for each in schema.get("anyOf", [schema])) else value
    return tuple(value) if "prefixItems" in schema else value


def choices_of(schema: Mapping[str, Any]) -> list[str]:
    """Returns the words that the JSON schema of a leaf allows, if it lists any."""
    options = schema.get("anyOf", [schema])
    return [word for option in options for word in option.get("enum", [option["const"]] if "const" in option else [])]
