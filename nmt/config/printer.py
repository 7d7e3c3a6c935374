"""`Experiment` -> YAML that reads back as an equal one, commented if asked."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from nmt.config.document import recognise_scalars
from nmt.config.registry import PartOptions, Section
from nmt.config.schema import ExperimentConfig
from nmt.config.shapes import doc_of, fields_in_order

WIDTH = 110
"""Longest line of a comment."""

Commentary = Callable[[FieldInfo, int], list[str]]
"""A field and the width that is left -> lines to write above it, without `# `."""


def dump_config(config: ExperimentConfig, comments: bool = False) -> str:
    """The resolved config in the order of the schema, defaults and presets written out.

    Loading it with the families that it was read with gives an equal config.
    """
    return write_yaml(config, _documentation if comments else _nothing)


def write_yaml(config: ExperimentConfig, commentary: Commentary) -> str:
    """The YAML of a config with comments of one's choice."""
    spaced = commentary is not _nothing
    lines = list(_fields(config, 0, commentary, separator=spaced))
    return "\n".join(lines).lstrip("\n") + "\n"


def _nothing(field: FieldInfo, width: int) -> list[str]:
    return []


def _documentation(field: FieldInfo, width: int) -> list[str]:
    return textwrap.wrap(doc_of(field), width)


def _fields(section: Section, indent: int, commentary: Commentary, *, separator: bool = False) -> Iterator[str]:
    margin = " " * indent
    for name, field in fields_in_order(type(section)):
        if separator:
            yield ""
        if not (isinstance(section, PartOptions) and name == "kind"):
            yield from (f"{margin}# {line}".rstrip() for line in commentary(field, WIDTH - indent - 2))
        yield from _entry(name, getattr(section, name), indent, commentary)


def _entry(key: str, value: Any, indent: int, commentary: Commentary) -> Iterator[str]:
    margin = " " * indent
    if isinstance(value, Section) and not _is_name(value):
        yield f"{margin}{flow(key)}:"
        yield from _fields(value, indent + 2, commentary)
    elif isinstance(value, list) and any(isinstance(item, Section) for item in value):
        yield f"{margin}{flow(key)}:"
        yield from _items(value, indent + 2, commentary)
    elif isinstance(value, dict) and any(isinstance(item, Section) for item in value.values()):
        yield f"{margin}{flow(key)}:"
        for index, (name, item) in enumerate(value.items()):
            yield from _entry(name, item, indent + 2, commentary if index == 0 else _nothing)
    else:
        yield f"{margin}{flow(key)}: {flow(value.kind if _is_name(value) else value)}"


def _items(items: list[Any], indent: int, commentary: Commentary) -> Iterator[str]:
    margin = " " * indent
    for index, item in enumerate(items):
        if _is_name(item):
            yield f"{margin}- {flow(item.kind)}"
            continue
        first, *rest = _fields(item, indent + 2, commentary if index == 0 else _nothing)
        yield f"{margin}- {first.lstrip()}"
        yield from rest


def _is_name(value: Any) -> bool:
    return isinstance(value, PartOptions) and len(type(value).model_fields) == 1


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or our reader would not take for text."""


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # Only this style keeps line breaks, of which YAML 1.1 knows five, on one line.
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
