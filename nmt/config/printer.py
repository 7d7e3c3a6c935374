"""Prints resolved configs as YAML, with or without comments, and compares two."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from nmt.config.document import recognise_scalars
from nmt.config.registry import PartOptions, Section, fields_in_order
from nmt.config.schema import ExperimentConfig

WIDTH = 110
"""Longest line of a comment."""

Commentary = Callable[[FieldInfo, int], list[str]]
"""A field and the width that is left -> lines to write above it, without `# `."""


def dump_config(config: ExperimentConfig, comments: bool = False) -> str:
    """Prints the resolved config in the order of the schema, defaults and presets written out.

    Loading it with the families that it was read with gives an equal config.
    """
    return write_yaml(config, _documentation if comments else None)


def _documentation(field: FieldInfo, width: int) -> list[str]:
    return textwrap.wrap(field.description or "", width)


def write_yaml(config: ExperimentConfig, commentary: Commentary | None) -> str:
    """Prints the resolved config with the comments that `commentary` gives each field; None gives none."""
    lines = _fields(config, WIDTH - 2, commentary, separator=commentary is not None)
    return "\n".join(lines).lstrip("\n") + "\n"


def _fields(section: Section, width: int, commentary: Commentary | None, *, separator: bool = False) -> Iterator[str]:
    for name, field in fields_in_order(type(section)):
        if separator:
            yield ""
        if commentary and not (isinstance(section, PartOptions) and name == "kind"):
            yield from (f"# {line}".rstrip() for line in commentary(field, width))
        yield from _entry(name, getattr(section, name), width, commentary)


def _entry(key: str, value: Any, width: int, commentary: Commentary | None) -> Iterator[str]:
    below: list[str] = []
    if isinstance(value, Section) and not _is_name(value):
        below += _fields(value, width - 2, commentary)
    elif isinstance(value, list) and any(isinstance(item, Section) for item in value):
        for index, item in enumerate(value):
            first, *rest = (
                [flow(item.kind)] if _is_name(item) else _fields(item, width - 4, None if index else commentary)
            )
            below += [f"- {first}", *(f"  {line}" for line in rest)]
    elif isinstance(value, dict) and any(isinstance(item, Section) for item in value.values()):
        for index, (name, item) in enumerate(value.items()):
            below += _entry(name, item, width - 2, None if index else commentary)
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
        # Not `dict(section)`, which calls an attribute `keys` where a section has one.
        before, after = (vars(each) if isinstance(each, Section) else each for each in (old, new))
        for name in before | after:
            yield from _differences(before.get(name), after.get(name), f"{path}.{name}" if path else str(name))
    else:
        yield path, (to_jsonable_python(old), to_jsonable_python(new))
