"""`--set section.key=value`: changes to the tree of the file before it is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nmt.config.document import DEEPEST, Node, Path, Place, Problem, dotted, read_value
from nmt.config.registry import Registry, Section
from nmt.config.shapes import DictShape, Leaf, ListShape, PartShape, SectionShape, Shape, is_mapping, shape_of
from nmt.config.tasks import experiment_of
from nmt.errors import ConfigError


def apply_overrides(root: Node, overrides: Sequence[str], families: Mapping[str, Registry[Any]]) -> list[Problem]:
    """Write the overrides into the tree, in their order; returns those that cannot be written.

    The task comes before all others, because it says what their keys mean. Whether the keys exist is found out later,
    together with those of the file.
    """
    problems: list[Problem] = []
    for index, override in sorted(enumerate(overrides), key=lambda item: _key(item[1]) != "task"):
        place = Place(override=index)
        _, equals, text = override.partition("=")
        path: Path = tuple(_key(override).split("."))
        if not equals or not all(path) or len(path) > DEEPEST:
            problems.append(Problem(place, (override,), "not of the form section.key=value; write it so"))
            continue
        try:
            value, found = read_value(text, path, place)
        except ConfigError as error:
            message = error.problems[0].removeprefix(f"--set {dotted(path)}: ")
            problems.append(Problem(place, path, message))
            continue
        problems += found
        obstacle = _write(root, SectionShape(experiment_of(root)), path, value, families)
        if obstacle:
            problems.append(Problem(place, path, obstacle))
    return problems


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def _write(
    root: Node, shape: Shape | None, path: Path, value: Node, families: Mapping[str, Registry[Any]]
) -> str | None:
    """Put the value at its path; or say what stands in the way."""
    node = root
    for depth, step in enumerate(path):
        key, last = str(step), depth == len(path) - 1
        _open_shorthand(node, shape, key)
        shape = _inside(shape, node, key, families)
        if isinstance(node.value, list):
            item = node.child(key)
            if item is None:
                return f"no item {key!r} in {dotted(path[:depth])}; {_items(node.value)}"
            if last:
                node.value[int(key)] = value
            node = item
        elif isinstance(node.value, dict):
            if last:
                node.value[key] = value
            else:
                if key not in node.value and isinstance(shape, Leaf) and not is_mapping(shape):
                    return _single(path[: depth + 1])
                node = node.value.setdefault(key, Node({}, value.place, implied=True))
        else:
            return _single(path[:depth])
    return None


def _single(path: Path) -> str:
    return f"{dotted(path)} is a single value, nothing in it can be set; set it as a whole"


def _items(items: list[Node]) -> str:
    if not items:
        return "the list is empty; set it as a whole"
    return f"it has {len(items)}, counted from 0; the last is {len(items) - 1}"


def _open_shorthand(node: Node, shape: Shape | None, key: str) -> None:
    """Write a short form out, so that there is something to set a key in."""
    if node.value is None and shape is not None:
        node.value = {}
    elif isinstance(node.value, str) and isinstance(shape, (PartShape, SectionShape)):
        name = "kind" if isinstance(shape, PartShape) else "preset"
        node.value = {name: Node(node.value, node.place)}
    elif isinstance(node.value, dict) and isinstance(shape, ListShape) and key.isdecimal():
        node.value = [Node(node.value, node.place)]


def _inside(shape: Shape | None, node: Node, key: str, families: Mapping[str, Registry[Any]]) -> Shape | None:
    """What the schema expects under a key of the node, as far as it is known."""
    section: type[Section] | None = None
    if isinstance(shape, SectionShape):
        section = shape.section
    elif isinstance(shape, PartShape):
        named = node.child("kind")
        keys = node.value if isinstance(node.value, dict) else {}
        kind = named.value if named is not None else shape.kind_without({*keys, key})
        entry = families[shape.family].get(str(kind)) if shape.family in families else None
        section = entry.options if entry is not None else None
    elif isinstance(shape, ListShape):
        return shape.item if isinstance(node.value, list) else _inside(shape.item, node, key, families)
    elif isinstance(shape, DictShape):
        return shape.value
    field = section.model_fields.get(key) if section is not None else None
    return shape_of(field) if field is not None else None
