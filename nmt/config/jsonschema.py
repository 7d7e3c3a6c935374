"""The JSON schema with which editors complete and check the YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from nmt.config.presets import Presets
from nmt.config.reader import Families
from nmt.config.registry import Section
from nmt.config.schema import TASKS
from nmt.config.shapes import (
    DictShape,
    Leaf,
    ListShape,
    PartShape,
    SectionShape,
    Shape,
    doc_of,
    shape_of,
)

Schema = dict[str, Any]


def json_schema(families: Families, presets: Presets | None = None) -> Schema:
    """JSON schema (draft 2020-12) of the YAML, short forms included.

    It knows every key, type, range and name; contradictions between values only the reader knows.
    """
    writer = _Writer(families, presets or {})
    (_, top), *others = ((task, writer.section(experiment, "")) for task, experiment in TASKS.items())
    for task, section in others:
        named = {"properties": {"task": {"const": task}}, "required": ["task"]}
        top = {"if": named, "then": section, "else": top}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "nmt experiment",
        **top,
        "$defs": writer.definitions,
    }


class _Writer:
    def __init__(self, families: Families, presets: Presets) -> None:
        self._families = families
        self._presets = presets
        self.definitions: dict[str, Schema] = {}
        for family, members in families.items():
            self.definitions[family] = self._family(family)
            for kind, entry in members.items():
                options = self._mapping(entry.options, "", {"kind": {"const": kind}})
                self.definitions[f"{family}.{kind}"] = {"description": entry.summary, **options}

    def section(self, section: type[Section], path: str) -> Schema:
        """A section where it stands; its path decides which presets it has."""
        mapping = self._mapping(section, path, {})
        presets = self._presets.get(path)
        if not presets:
            # A key with nothing below it, all its lines commented out, stands for the defaults.
            return {**mapping, "type": ["object", "null"]} if path and "required" not in mapping else mapping
        mapping["properties"]["preset"] = {
            "enum": list(presets),
            "description": "Combination to start from; the keys beside it change parts of it.",
        }
        return {"anyOf": [{"enum": list(presets)}, mapping]}

    def _mapping(self, section: type[Section], path: str, known: Mapping[str, Schema]) -> Schema:
        properties: dict[str, Schema] = dict(known)
        required: list[str] = []
        in_preset = any(f"{path}.".startswith(f"{preset}.") for preset in self._presets)
        for name, field in section.model_fields.items():
            if name in known:
                continue
            properties[name] = self._field(field, f"{path}.{name}" if path else name, in_preset)
            if field.is_required():
                required.append(name)
        schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        return {**schema, "required": required} if required else schema

    def _field(self, field: FieldInfo, path: str, in_preset: bool) -> Schema:
        shape = shape_of(field)
        schema: Schema = {"description": doc_of(field), **self._value(shape, path, in_preset)}
        if field.is_required():
            return schema
        if isinstance(shape, Leaf):
            default = field.get_default(call_default_factory=True)
            schema["default"] = list(default) if isinstance(default, tuple) else default
        elif isinstance(shape, PartShape) and shape.default_kind is not None:
            schema["default"] = shape.default_kind
        return schema

    def _value(self, shape: Shape, path: str, in_preset: bool) -> Schema:
        if isinstance(shape, Leaf):
            return TypeAdapter(shape.annotation).json_schema()
        if isinstance(shape, SectionShape):
            return _or_null(self.section(shape.section, path), shape.nullable)
        if isinstance(shape, PartShape):
            return _or_null(self._part(shape, in_preset), shape.nullable)
        if isinstance(shape, ListShape):
            item = self._value(shape.item, path, in_preset)
            return {"anyOf": [{"type": "array", "items": item}, item]}
        assert isinstance(shape, DictShape)
        return {"type": ["object", "null"], "additionalProperties": self._value(shape.value, path, in_preset)}

    def _part(self, shape: PartShape, in_preset: bool) -> Schema:
        """A choice. Without `kind` it is the default one, or inside a preset the one that the preset has."""
        choices: list[Schema] = [{"$ref": f"#/$defs/{shape.family}"}]
        known = list(self._families[shape.family])
        without_kind = (
            known if in_preset else [kind for kind in known if kind in (shape.default_kind, shape.kind_by_key)]
        )
        choices += [{"$ref": f"#/$defs/{shape.family}.{kind}"} for kind in without_kind]
        return {"anyOf": choices}

    def _family(self, family: str) -> Schema:
        members = self._families[family]
        bare = [
            kind
            for kind, entry in members.items()
            if not any(field.is_required() for name, field in entry.options.model_fields.items() if name != "kind")
        ]
        names: list[Schema] = [{"enum": bare}] if bare else []
        refs: list[Schema] = [{"$ref": f"#/$defs/{family}.{kind}", "required": ["kind"]} for kind in members]
        return {"anyOf": names + refs}


def _or_null(schema: Schema, nullable: bool) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]} if nullable else schema
