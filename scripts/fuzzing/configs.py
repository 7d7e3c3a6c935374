"""Configs: the YAML files of this repository, changed as text, as trees and by `--set`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from scripts.fuzzing import values
from scripts.fuzzing.case import Case, Command
from scripts.fuzzing.small import CLASSIFIER, CORPUS, TRANSLATOR

CONFIGS = Path(__file__).parents[2] / "configs"
CHECKED = 25
"""One case of so many builds its network and runs the largest batch; the others print their config."""
SMALL_NUMBERS = ("0", "-1", "1", "2", "3", "5", "7", "0.0", "0.3", "1.5", ".nan", ".inf", "-.inf", "1e300", "1e23")
"""For configs that are built: no number in between, which would ask for a legal network of many gigabytes."""
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_VALUE = re.compile(r"(?<=: )[^,{}\[\]\n]+")


@dataclass(frozen=True)
class Edit:
    """A change of a config."""

    note: str
    change: Callable[[bytes], bytes] | None = None
    override: str | None = None
    """Argument of `--set`."""


def strategy() -> st.SearchStrategy[Case]:
    """Cases of configs."""
    texts = [path.read_bytes() for path in sorted(CONFIGS.glob("**/*.yaml"))]
    hostile = values.yaml_values(names())
    printed = st.builds(
        _printed,
        st.sampled_from(texts),
        st.one_of(
            st.lists(_mild(), min_size=1, max_size=2),
            st.tuples(_of_tree(hostile)),
            st.tuples(_overrides(hostile)),
            st.lists(st.one_of(_of_text(hostile), _of_tree(hostile), _overrides(hostile)), min_size=1, max_size=4),
        ),
        st.sampled_from(("printed", "printed", "printed", "printed again", "full")),
    )
    small = st.one_of(st.sampled_from(SMALL_NUMBERS), st.sampled_from(names()), st.sampled_from(values.STRUCTURES))
    checked = st.builds(
        _checked,
        st.sampled_from((TRANSLATOR, CLASSIFIER)),
        st.lists(_overrides(small), min_size=1, max_size=4),
        st.booleans(),
    )
    return st.integers(1, CHECKED).flatmap(lambda number: checked if number == CHECKED else printed)


@cache
def _references() -> Sequence[Any]:
    """The trees of the reference configs, which have all keys of both tasks."""
    files = [CONFIGS / f"{name}.yaml" for name in ("reference", "reference-classification")]
    return [yaml.safe_load(file.read_bytes()) for file in files]


@cache
def keys() -> Sequence[tuple[str, ...]]:
    """Paths of all keys."""
    return sorted({path for tree in _references() for path in _paths(tree)})


@cache
def names() -> Sequence[str]:
    """Words that the schema knows: keys, names of components and of presets, and values to choose from."""
    return sorted(set(_words(json.loads((CONFIGS / "schema.json").read_bytes()))))


def _paths(tree: Any) -> Iterator[tuple[str, ...]]:
    below = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in below:
        yield (str(key),)
        yield from ((str(key), *path) for path in _paths(child))


def _words(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from (str(value) for value in (*schema.get("enum", ()), schema.get("const", "none")))
        properties = schema.get("properties", {})
        yield from properties if isinstance(properties, dict) else ()
    for child in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _words(child)


def _printed(text: bytes, edits: Sequence[Edit], how: str) -> Case:
    for edit in edits:
        text = edit.change(text) if edit.change else text
    overrides = [part for edit in edits if edit.override is not None for part in ("--set", edit.override)]
    first = Command("train", ["--config", "config.yaml", *overrides, "--print-config"])
    commands = [first]
    if how == "full":
        commands = [replace(first, stdout="/dev/full", check_output=_never)]
    elif how == "printed again":
        # What was printed is a config that says the same.
        printed: list[bytes] = []
        commands = [
            replace(first, check_output=lambda output: printed.append(output)),
            Command(
                "train",
                ["--config", "stdout", "--print-config"],
                stdout="again",
                check_output=lambda output: None if output == printed[-1] else "printed again, the config differs",
            ),
        ]
    return Case({"config.yaml": text}, commands, "; ".join(edit.note for edit in edits))


def _never(output: bytes) -> str:
    return "exit code 0, though the disk is full"


def _checked(text: bytes, edits: Sequence[Edit], trained: bool) -> Case:
    overrides = [part for edit in edits if edit.override is not None for part in ("--set", edit.override)]
    end = ["--set", "training.max_steps=2"] if trained else ["--check"]
    command = Command("train", ["--config", "config.yaml", *overrides, *end])
    return Case({"config.yaml": text, **CORPUS}, [command], "; ".join(edit.note for edit in edits))


def _of_text(hostile: st.SearchStrategy[str]) -> st.SearchStrategy[Edit]:
    """Changes of lines, values and bytes."""
    numbers = st.integers(0, 300)

    def line(number: int, other: int, what: str) -> Edit:
        def change(text: bytes) -> bytes:
            lines = text.splitlines(keepends=True) or [b""]
            here, there = number % len(lines), other % len(lines)
            match what:
                case "delete":
                    del lines[here]
                case "repeat":
                    lines.insert(there, lines[here])
                case "swap":
                    lines[here], lines[there] = lines[there], lines[here]
                case "indent":
                    lines[here] = b" " * (other % 7) + lines[here]
                case "dedent":
                    lines[here] = lines[here].lstrip()
                case _:
                    lines[here] = b"\t" + lines[here]
            return b"".join(lines)

        return Edit(f"{what} line {number} ({other})", change)

    def value(number: int, new: str) -> Edit:
        def change(text: bytes) -> bytes:
            decoded = text.decode("utf-8", "surrogateescape")
            found = list(_VALUE.finditer(decoded))
            if not found:
                return text
            match = found[number % len(found)]
            changed = decoded[: match.start()] + new + decoded[match.end() :]
            return changed.encode("utf-8", "surrogateescape")

        return Edit(f"value {number} becomes {new[:60]}", change)

    def append(new: str) -> Edit:
        return Edit(f"append {new[:60]}", lambda text: text + new.encode())

    def damaged(mutation: values.Mutation) -> Edit:
        return Edit(*mutation)

    whole = st.sampled_from((values.BOMB, values.MERGE_BOMB, values.MANY_KEYS, "a: &a [*a]\n", "<<: {seed: 2}\n"))
    return st.one_of(
        st.builds(value, numbers, hostile),
        st.builds(value, numbers, hostile),
        st.builds(value, numbers, hostile),
        st.builds(line, numbers, numbers, st.sampled_from(("delete", "repeat", "swap", "indent", "dedent", "tab"))),
        values.damage.map(damaged),
        st.builds(lambda key, new: append(f"\n{key}: {new}\n"), st.sampled_from(names()), hostile),
        st.builds(append, st.builds("\n{}: {}\n".format, st.sampled_from(("data", "model", "new")), whole)),
    )


def _of_tree(hostile: st.SearchStrategy[str]) -> st.SearchStrategy[Edit]:
    """Changes of the parsed file, which stays valid YAML."""

    def edit(place: int, path: tuple[str, ...], what: str, new: str) -> Edit:
        def change(text: bytes) -> bytes:
            if b"&" in text or "&" in new:
                # The tree of an alias bomb is small only while nobody walks through it.
                return text
            try:
                tree, value = yaml.load(text, Loader=_Loader), yaml.load(new, Loader=_Loader)
            except (yaml.YAMLError, ValueError, RecursionError, TypeError):
                return text
            if not isinstance(tree, dict):
                return text
            own = list(_paths(tree))
            _apply(tree, own[place % len(own)] if what in ("delete", "rename", "wrap") and own else path, what, value)
            try:
                return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")
            except (yaml.YAMLError, RecursionError, TypeError):
                return text

        return Edit(f"{what} {place}/{'.'.join(path)} {new[:60]}", change)

    return st.builds(
        edit,
        st.integers(0, 300),
        st.sampled_from(keys()),
        st.sampled_from(("set", "set", "set", "delete", "rename", "wrap")),
        hostile.filter(lambda text: len(text) < 400),
    )


def _apply(tree: Any, path: tuple[str, ...], what: str, value: Any) -> None:
    node = tree
    for key in path[:-1]:
        if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, dict):
            if not isinstance(node.get(key), (dict, list)):
                node[key] = {}
            node = node[key]
        else:
            return
    last: Any = path[-1]
    if isinstance(node, list):
        if not last.isdecimal() or int(last) >= len(node):
            return
        last = int(last)
    match what:
        case "set":
            node[last] = value
        case "delete":
            if isinstance(node, list) or last in node:
                del node[last]
        case "rename":
            if isinstance(node, dict) and last in node:
                node[f"{last}s"] = node.pop(last)
        case _:
            if isinstance(node, list) or last in node:
                node[last] = [node[last]]


def _mild() -> st.SearchStrategy[Edit]:
    """`--set` with a value that is often legal."""
    choices: dict[str, list[str]] = {}
    for name, values_ in _choices(json.loads((CONFIGS / "schema.json").read_bytes())):
        choices.setdefault(name, []).extend(values_)
    of_type = {bool: ("true", "false"), int: ("1", "2", "8", "64"), float: ("0.1", "0.5", "1.0"), str: ("x", "none")}
    edits = []
    for tree in _references():
        for path in _paths(tree):
            kind = type(_value(tree, path))
            if path != ("task",) and kind in of_type:
                edits += [f"{'.'.join(path)}={value}" for value in choices.get(path[-1]) or of_type[kind]]
    return st.sampled_from(sorted(set(edits))).map(lambda text: Edit(f"--set {text}", override=text))


def _value(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[int(key) if isinstance(tree, list) else key]
    return tree


def _choices(schema: Any) -> Iterator[tuple[str, list[str]]]:
    """Names of keys, with values to choose from."""
    below = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    for name, content in properties.items():
        if isinstance(content, dict) and isinstance(content.get("enum"), list):
            yield name, list(map(str, content["enum"]))
    for child in below:
        yield from _choices(child)


def _overrides(hostile: st.SearchStrategy[str]) -> st.SearchStrategy[Edit]:
    """Arguments of `--set`."""
    path = st.one_of(
        st.sampled_from(keys()).map(".".join),
        st.sampled_from(keys()).map(".".join),
        st.sampled_from(keys()).map(lambda path: ".".join(path) + ".kind"),
        st.builds("{}.{}".format, st.sampled_from(keys()).map(".".join), st.sampled_from(names())),
        st.sampled_from(("", ".", "a..b", "data.train.7", "data.train.-1", "data.train.99999999999", "x" * 3000, "ä")),
    )
    # A command's arguments hold no NUL, and no lone surrogate but those that stand for bytes.
    legal = hostile.map(lambda text: text.replace("\0", "").encode("utf-8", "replace").decode())
    return st.one_of(
        st.builds("{}={}".format, path, legal),
        st.builds("{}={}".format, path, legal),
        st.builds("{}={}".format, path, legal),
        path,
        legal,
    ).map(lambda argument: Edit(f"--set {argument[:80]}", override=argument))
