"""Changes to the tree of the file before it is checked: `--set section.key=value`, and names of presets.

A preset's name stands for a combination of keys: `attention: bahdanau2015`, or `{preset: bahdanau2015, key: value}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nmt.config.document import DEEPEST, UNKNOWN, KeyPath, Location, Node, Problem, dotted, read_value
from nmt.config.registry import Registry, Shape, fields_below, shape_of
from nmt.config.schema import TASKS, ExperimentConfig
from nmt.config.wording import advice

Presets = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Dotted path of a section -> name -> what the name stands for: keys of the section, and dotted paths from the root of
keys in other sections."""


def experiment_of(root: Node) -> type[ExperimentConfig]:
    """Returns the class of the experiment by its key `task`; the first one where it names none that exists."""
    named = root.child("task")
    first = next(iter(TASKS.values()))
    return TASKS.get(named.value, first) if named is not None and isinstance(named.value, str) else first


def apply_overrides(root: Node, overrides: Sequence[str], families: Mapping[str, Registry[Any]]) -> list[Problem]:
    """Writes the overrides into the tree, in their order; returns those that cannot be written.

    The task comes before all others, because the meaning of their keys depends on it. Unknown keys are reported later,
    together with those of the file.
    """
    problems: list[Problem] = []
    for index, override in sorted(enumerate(overrides), key=lambda item: _key(item[1]) != "task"):
        location = Location(override=index)
        _, equals, text = override.partition("=")
        path: KeyPath = tuple(_key(override).split("."))
        if not equals or not all(path) or len(path) > DEEPEST:
            problems.append(Problem(location, (override,), "not of the form section.key=value; write it so"))
            continue
        value, mistakes = read_value(text, path, location)
        problems += mistakes
        if value is not None and (message := _write(root, Shape(None, experiment_of(root)), path, value, families)):
            problems.append(Problem(location, path, message))
    return problems


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def _write(root: Node, shape: Shape | None, path: KeyPath, value: Node, families: Mapping[str, Registry[Any]]) -> str:
    """Puts the value at its path; returns the reason why this is impossible, or nothing."""
    node = root
    for depth, step in enumerate(path):
        key, last = str(step), depth == len(path) - 1
        _write_out(node, shape, key)
        shape = _below(shape, node, key, families)
        if isinstance(node.value, list):
            item = node.child(key)
            if item is None:
                count = len(node.value)
                there = (
                    f"it has {count}, counted from 0; the last is {count - 1}"
                    if count
                    else "the list is empty; set it as a whole"
                )
                return f"no item {key!r} in {dotted(path[:depth])}; {there}"
            if last:
                node.value[int(key)] = value
            node = item
        elif isinstance(node.value, dict):
            if last:
                node.value[key] = value
            elif key not in node.value and shape is not None and shape.is_leaf:
                return _single(path[: depth + 1])
            else:
                node = node.value.setdefault(key, Node({}, value.location, implied=True))
        else:
            return _single(path[:depth])
    return ""


def _single(path: KeyPath) -> str:
    return f"{dotted(path)} is a single value, nothing in it can be set; set it as a whole"


def _write_out(node: Node, shape: Shape | None, key: str) -> None:
    """Replaces a short form by the full one, so that there is something to set a key in."""
    if shape is None:
        return
    if node.value is None:
        node.value = {}
    elif isinstance(node.value, str) and shape.container is None and not shape.is_leaf:
        node.value = {"kind" if shape.part is not None else "preset": Node(node.value, node.location)}
    elif isinstance(node.value, dict) and shape.container is list and key.isdecimal():
        node.value = [Node(node.value, node.location)]


def _below(shape: Shape | None, node: Node, key: str, families: Mapping[str, Registry[Any]]) -> Shape | None:
    """Returns what the schema expects under a key of the node, as far as it is known."""
    if shape is None:
        return None
    if shape.container is dict or (shape.container is list and isinstance(node.value, list)):
        return shape.item
    section = shape.section
    if shape.part is not None:
        named = node.child("kind")
        keys = node.value if isinstance(node.value, dict) else {}
        kind = named.value if named is not None else shape.part.kind_without({*keys, key})
        entry = families[shape.part.family].get(str(kind))
        section = entry.options if entry is not None else None
    field = section.model_fields.get(key) if section is not None else None
    return shape_of(field) if field is not None else None


def expand_presets(root: Node, experiment: type[ExperimentConfig], presets: Presets) -> list[Problem]:
    """Replaces the names of presets by what they stand for; keys that the user wrote win. Returns unknown names."""
    problems: list[Problem] = []
    fields = dict(fields_below(experiment))
    for path, meanings in presets.items():
        node: Node | None = root if path in fields else None
        for key in path.split("."):
            node = None if node is None else node.child(key)
        named = node if node is None or isinstance(node.value, str) else node.child("preset")
        if node is None or named is None:
            continue
        if not isinstance(named.value, str) or named.value not in meanings:
            name = str(named.plain())
            problems.append(
                Problem(named.location, tuple(path.split(".")), f"unknown preset {name!r}; {advice(name, meanings)}")
            )
            node.value = UNKNOWN
            continue
        meaning = meanings[named.value]
        written = node.value if isinstance(node.value, dict) else {}
        node.value = {key: child for key, child in written.items() if key != "preset"}
        for key, value in meaning.items():
            tree = Node.of(value, named.location)
            for step in reversed((key if "." in key else f"{path}.{key}").split(".")):
                tree = Node({step: tree}, named.location, implied=True)
            root.value = _merged(tree, root, Shape(None, experiment)).value
    return problems


def _merged(base: Node, own: Node, shape: Shape) -> Node:
    """Returns `base` with the values of `own` in it. Options of a part stay only while the part stays the same."""
    if shape.part is not None and isinstance(own.value, dict):
        if isinstance(base.value, str):
            base = Node({"kind": Node(base.value, base.location)}, base.location)
        if not isinstance(base.value, dict):
            return own
        kind = base.value.get("kind", Node(shape.part.default_kind, base.location)).value
        same = "kind" not in own.value or own.value["kind"].value == kind
        return Node({**base.value, **own.value}, own.location) if same else own
    if shape.section is not None and own.value is None:
        return base
    if shape.section is None or not isinstance(base.value, dict) or not isinstance(own.value, dict):
        return own
    merged = {**base.value, **own.value}
    for key in base.value.keys() & own.value.keys():
        merged[key] = _merged(base.value[key], own.value[key], shape_of(shape.section.model_fields[key]))
    return Node(merged, own.location, own.implied)
