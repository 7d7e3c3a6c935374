"""Names that stand for a combination of keys: `attention: bahdanau2015`, or `{preset: bahdanau2015, key: value}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nmt.config.document import Node, Place
from nmt.config.shapes import PartShape, SectionShape, Shape, shape_of

Presets = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Dotted path of a section -> name -> what the name stands for: keys of the section, and dotted paths from the root of
keys in other sections."""


def expand_preset(
    node: Node, shape: SectionShape, presets: Mapping[str, Mapping[str, Any]]
) -> tuple[str, Place] | None:
    """Replace the name of a preset in `node` by what it stands for, written keys winning; or the unknown name."""
    if isinstance(node.value, str):
        named, own = node, Node({}, node.place)
    elif isinstance(node.value, dict) and "preset" in node.value:
        named = node.value["preset"]
        own = Node({key: child for key, child in node.value.items() if key != "preset"}, node.place)
    else:
        return None
    if not isinstance(named.value, str) or named.value not in presets:
        return str(named.plain()), named.place
    inside = {key: value for key, value in presets[named.value].items() if "." not in key}
    node.value = _merged(Node.of(inside, named.place), own, shape).value
    return None


def add_keys_of_presets(root: Node, presets: Presets) -> None:
    """Add the keys that named presets set in other sections. A key that the user wrote keeps its value."""
    for path, meanings in presets.items():
        node: Node | None = root
        for key in path.split("."):
            node = None if node is None else node.child(key)
        named = node.child("preset") or node if node is not None else None
        if named is None or not isinstance(named.value, str):
            continue
        for target, value in meanings.get(named.value, {}).items():
            if "." in target:
                _add(root, target.split("."), Node.of(value, named.place))


def _add(root: Node, path: list[str], leaf: Node) -> None:
    node = root
    for key in path[:-1]:
        if node.value is None:
            node.value = {}
        if not isinstance(node.value, dict):
            return
        node = node.value.setdefault(key, Node({}, leaf.place, implied=True))
    if node.value is None:
        node.value = {}
    if isinstance(node.value, dict):
        node.value.setdefault(path[-1], leaf)


def _merged(base: Node, own: Node, shape: Shape | None) -> Node:
    """`base` with what `own` says otherwise. Options of a part stay only while the part stays the same."""
    if isinstance(shape, PartShape) and isinstance(own.value, dict):
        if isinstance(base.value, str):
            base = Node({"kind": Node(base.value, base.place)}, base.place)
        if not isinstance(base.value, dict):
            return own
        default = Node(shape.default_kind, base.place)
        kind = base.value.get("kind", default).value
        if own.value.get("kind", Node(kind, own.place)).value != kind:
            return own
        return Node({**base.value, **own.value}, own.place)
    if isinstance(shape, SectionShape) and isinstance(base.value, dict) and isinstance(own.value, dict):
        merged = dict(base.value)
        for key, child in own.value.items():
            field = shape.section.model_fields.get(key)
            below = shape_of(field) if field is not None else None
            merged[key] = _merged(merged[key], child, below) if key in merged else child
        return Node(merged, own.place)
    return own
