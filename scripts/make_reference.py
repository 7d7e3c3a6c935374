"""Writes configs/schema.json, by which editors complete and check the YAML, and every key of each task:
configs/reference.yaml for translation, configs/reference-classification.yaml for classification.

They are made from the models that read the YAML; a test keeps them in step. Usage: python scripts/make_reference.py
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nmt.config import Components, ExperimentConfig, Families, Section  # noqa: E402
from nmt.config.document import Location, Node  # noqa: E402
from nmt.config.printer import flow, write_yaml  # noqa: E402
from nmt.config.reader import build_config  # noqa: E402
from nmt.config.registry import Shape, fields_below, fields_in_order, shape_of  # noqa: E402
from nmt.config.schema import TASKS  # noqa: E402
from nmt.config.wording import in_words  # noqa: E402
from nmt.tasks.components import COMPONENTS  # noqa: E402
from scripts.json_schema import json_schema  # noqa: E402

EDITOR = "# yaml-language-server: $schema=schema.json\n"


def files() -> dict[str, str]:
    """Returns the contents of the files by name."""
    return {
        "schema.json": json.dumps(json_schema(COMPONENTS), indent=1, ensure_ascii=False) + "\n",
        "reference.yaml": EDITOR + reference_yaml(COMPONENTS),
        "reference-classification.yaml": EDITOR + reference_yaml(COMPONENTS, "classification"),
    }


def reference_yaml(components: Components, task: str = "translation") -> str:
    """Prints a config of this task with every key, and comments with all choices; it loads as it is."""
    experiment = TASKS[task]
    root = Node.of({"task": task, **_example(experiment, components.families)}, Location())
    config = build_config(root, [], "reference", Components(components.families, components.presets))
    return write_yaml(config, _Explanation(experiment, components).lines)


def _example(section: type[Section], families: Families) -> dict[str, Any]:
    """Returns values of the keys that a section requires: sections, parts, lists of parts, and text."""
    example: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        shape = shape_of(field)
        if not field.is_required() or name == "kind":
            continue
        if shape.section is not None:
            example[name] = _example(shape.section, families)
        elif shape.part is not None:
            kind = shape.part.default_kind
            part = {"kind": kind, **_example(families[shape.part.family][str(kind)].options, families)}
            example[name] = [part] if shape.container is list else part
        else:
            example[name] = field.examples[0] if field.examples else name
    return example


class _Explanation:
    """Comments above the fields of a reference. The options of a family stand where it first occurs."""

    def __init__(self, experiment: type[ExperimentConfig], components: Components) -> None:
        self._families = components.families
        self._presets: dict[int, Mapping[str, Mapping[str, Any]]] = {
            id(field): components.presets[path]
            for path, field in fields_below(experiment)
            if path in components.presets
        }
        self._explained: set[str] = set()

    def lines(self, field: FieldInfo, width: int) -> list[str]:
        shape = shape_of(field)
        lines = textwrap.wrap(f"{field.description} {_in_brackets(field, shape)}".strip(), width)
        for name, meaning in self._presets.get(id(field), {}).items():
            lines += _hanging(f"{name}: {flow(dict(meaning))}", width, 2)
        return lines if shape.part is None else [*lines, *self._family(shape.part.family, width)]

    def _family(self, family: str, width: int) -> Iterator[str]:
        members = self._families[family]
        if family in self._explained:
            yield f"Choices: {', '.join(members)}; their options stand where {family} first occurs."
            return
        self._explained.add(family)
        yield "Choices, each `NAME` or `{kind: NAME, option: value}`:"
        for kind, entry in members.items():
            yield from _hanging(f"{kind}: {entry.summary}", width, 2)
            yield from self._options(entry.options, width, 6)

    def _options(self, section: type[Section], width: int, indent: int) -> Iterator[str]:
        for name, field in fields_in_order(section):
            if name == "kind":
                continue
            shape = shape_of(field)
            yield from _hanging(
                " ".join(f"{name}: {field.description} {_in_brackets(field, shape)}".split()), width, indent
            )
            if shape.section is not None:
                yield from self._options(shape.section, width, indent + 2)


def _hanging(text: str, width: int, indent: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=" " * indent, subsequent_indent=" " * (indent + 4))


def _in_brackets(field: FieldInfo, shape: Shape) -> str:
    required = field.is_required()
    if shape.is_leaf:
        default = "required" if required else f"default {flow(field.get_default(call_default_factory=True))}"
        return f"[{in_words(shape.schema)}; {default}]"
    if shape.part is None:
        return "[required]" if required else ""
    several = "" if shape.container is None else "list of " if shape.container is list else "names of "
    default = f"; default {shape.part.default_kind}" if shape.container is None else ""
    return f"[{several}{shape.part.family}{'; required' if required else default}]"


def main() -> None:
    for name, text in files().items():
        (ROOT / "configs" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
