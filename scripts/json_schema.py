"""The JSON schema with which editors complete and check the YAML.

It is written from the shapes of the fields. Pydantic's `model_json_schema` has the full form of a value only: not the
name of a part alone, not a single item without its list, and no presets, which depend on the path of a section.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.fields import FieldInfo

from nmt.config.reader import Components
from nmt.config.registry import PartOf, Section, Shape, shape_of
from nmt.config.schema import TASKS

Schema = dict[str, Any]


def json_schema(components: Components) -> Schema:
    """JSON schema (draft 2020-12) of the YAML, short forms included.

    It has every key, type, range and name. Only the reader finds contradictions between values.
    """
    writer = _Writer(components)
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
    def __init__(self, components: Components) -> None:
        self._families = components.families
        self._presets = components.presets
        self.definitions: dict[str, Schema] = {}
        for family, members in self._families.items():
            self.definitions[family] = self._family(family)
            for kind, entry in members.items():
                options = self._mapping(entry.options, "", {"kind": {"const": kind}})
                self.definitions[f"{family}.{kind}"] = {"description": entry.summary, **options}

    def section(self, section: type[Section], path: str) -> Schema:
        """Schema of a section; its path decides which presets it has."""
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
        fields = {name: field for name, field in section.model_fields.items() if name not in known}
        properties = {name: self._field(field, f"{path}.{name}" if path else name) for name, field in fields.items()}
        schema = {"type": "object", "properties": {**known, **properties}, "additionalProperties": False}
        required = [name for name, field in fields.items() if field.is_required()]
        return {**schema, "required": required} if required else schema

    def _field(self, field: FieldInfo, path: str) -> Schema:
        shape = shape_of(field)
        schema: Schema = {"description": field.description, **self._value(shape, path)}
        if field.is_required():
            return schema
        if shape.is_leaf:
            default = field.get_default(call_default_factory=True)
            schema["default"] = list(default) if isinstance(default, tuple) else default
        elif shape.container is None and shape.part is not None and shape.part.default_kind is not None:
            schema["default"] = shape.part.default_kind
        return schema

    def _value(self, shape: Shape, path: str) -> Schema:
        if shape.container is list:
            item = self._value(shape.item, path)
            return {"anyOf": [{"type": "array", "items": item}, item]}
        if shape.container is dict:
            return {"type": ["object", "null"], "additionalProperties": self._value(shape.item, path)}
        if shape.section is not None:
            return self.section(shape.section, path)
        if shape.part is not None:
            return self._part(shape.part, path)
        return shape.schema

    def _part(self, part: PartOf, path: str) -> Schema:
        """A choice. Without `kind` it is the default one, or inside a preset the one that the preset has."""
        in_preset = any(path.startswith(f"{preset}.") for preset in self._presets)
        implied = [
            kind for kind in self._families[part.family] if in_preset or kind in (part.default_kind, part.kind_by_key)
        ]
        names = [part.family, *(f"{part.family}.{kind}" for kind in implied)]
        return {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in names]}

    def _family(self, family: str) -> Schema:
        """A part's name alone, if it needs no options, or a mapping with `kind`."""
        members = self._families[family]
        bare = [
            kind
            for kind, entry in members.items()
            if not any(field.is_required() for name, field in entry.options.model_fields.items() if name != "kind")
        ]
        names: list[Schema] = [{"enum": bare}] if bare else []
        return {"anyOf": names + [{"$ref": f"#/$defs/{family}.{kind}", "required": ["kind"]} for kind in members]}
