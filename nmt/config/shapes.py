"""What the annotation of a field lets stand in the YAML, for the reader and in words."""

from __future__ import annotations

import types
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from nmt.config.registry import PartOf, PartOptions, Section


@dataclass(frozen=True)
class Leaf:
    """A value without sections or parts in it."""

    annotation: Any


@dataclass(frozen=True)
class SectionShape:
    """A mapping with fixed keys."""

    section: type[Section]
    nullable: bool = False


@dataclass(frozen=True)
class PartShape:
    """A choice from a family."""

    family: str
    default_kind: str | None = None
    kind_by_key: str | None = None
    nullable: bool = False

    def kind_without(self, keys: Collection[str]) -> str | None:
        """Returns the kind of a mapping with these keys, none of which is `kind`."""
        return self.kind_by_key if self.kind_by_key in keys else self.default_kind


@dataclass(frozen=True)
class ListShape:
    """A list of sections or parts."""

    item: Shape


@dataclass(frozen=True)
class DictShape:
    """Sections or parts by names of the user's choice."""

    value: Shape


Shape = Leaf | SectionShape | PartShape | ListShape | DictShape


def annotation_of(field: FieldInfo) -> Any:
    """The annotation as it was written, bounds included."""
    if not field.metadata:
        return field.annotation
    annotated: Any = Annotated
    arguments = (field.annotation, *field.metadata)
    return annotated[arguments]


def shape_of(field: FieldInfo) -> Shape:
    """What may stand under this key."""
    shape = _shape(annotation_of(field))
    if isinstance(shape, PartShape) and isinstance(field.default, PartOptions):
        return replace(shape, default_kind=field.default.kind)
    return shape


def is_mapping(leaf: Leaf) -> bool:
    """Whether the user may choose keys of his own here."""
    bare, _ = _bare(leaf.annotation)
    return any(get_origin(option) is dict for option in (get_args(bare) if _is_union(bare) else [bare]))


def fields_in_order(section: type[Section]) -> list[tuple[str, FieldInfo]]:
    """Fields as they are printed: a part inherits the options of its family, what it is about comes before them."""
    fields = list(section.model_fields.items())
    if issubclass(section, PartOptions):
        fields.sort(key=lambda item: (item[0] != "kind", not item[1].is_required()))
    return fields


def part_within(shape: Shape) -> PartShape | None:
    """The choice that a field holds once, in a list or by names."""
    if isinstance(shape, ListShape):
        return part_within(shape.item)
    if isinstance(shape, DictShape):
        return part_within(shape.value)
    return shape if isinstance(shape, PartShape) else None


def fields_below(section: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted paths of all fixed keys, with their fields."""
    for name, field in section.model_fields.items():
        yield prefix + name, field
        shape = shape_of(field)
        if isinstance(shape, SectionShape):
            yield from fields_below(shape.section, f"{prefix}{name}.")


def _shape(annotation: Any) -> Shape:
    bare, metadata = _bare(annotation)
    for mark in metadata:
        if isinstance(mark, PartOf):
            return PartShape(mark.family, mark.default_kind, mark.kind_by_key)
    if isinstance(bare, type) and issubclass(bare, Section):
        return SectionShape(bare)
    arguments = get_args(bare)
    if get_origin(bare) is list and not isinstance(item := _shape(arguments[0]), Leaf):
        return ListShape(item)
    if get_origin(bare) is dict and not isinstance(value := _shape(arguments[1]), Leaf):
        return DictShape(value)
    if _is_union(bare) and type(None) in arguments and len(arguments) == 2:
        inner = _shape(next(argument for argument in arguments if argument is not type(None)))
        if isinstance(inner, (SectionShape, PartShape)):
            return replace(inner, nullable=True)
    return Leaf(annotation)


def _bare(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    if get_origin(annotation) is Annotated:
        bare, *metadata = get_args(annotation)
        return bare, tuple(metadata)
    return annotation, ()


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def fit(value: Any, annotation: Any) -> Any:
    """The value in the types of the annotation where YAML has no way to say them: `1e5` is whole, tuples are lists."""
    bare, _ = _bare(annotation)
    if _is_union(bare):
        options = [_bare(option)[0] for option in get_args(bare)]
        if isinstance(value, float) and float in options:
            return value
        for option in options:
            fitted = fit(value, option)
            if type(fitted) is not type(value):
                return fitted
        return value
    if bare is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list) and get_origin(bare) is tuple:
        items = get_args(bare)
        if len(items) == 2 and items[1] is Ellipsis:
            return tuple(fit(item, items[0]) for item in value)
        if len(items) != len(value):
            return tuple(value)
        return tuple(fit(item, kind) for item, kind in zip(value, items, strict=True))
    if isinstance(value, list) and get_origin(bare) is list:
        return [fit(item, get_args(bare)[0]) for item in value]
    if isinstance(value, dict) and get_origin(bare) is dict:
        return {key: fit(item, get_args(bare)[1]) for key, item in value.items()}
    return value


def choices_of(annotation: Any) -> list[str]:
    """The words that the annotation allows, if it lists any."""
    bare, _ = _bare(annotation)
    if get_origin(bare) is Literal:
        return [str(choice) for choice in get_args(bare)]
    if _is_union(bare):
        return [choice for option in get_args(bare) for choice in choices_of(option)]
    return []


def in_words(annotation: Any) -> str:
    """What may stand there: `a whole number of at least 1 or null`."""
    bare, metadata = _bare(annotation)
    origin = get_origin(bare)
    if bare is type(None):
        return "null"
    if bare is bool:
        return "true or false"
    if origin is Literal:
        return _either([str(choice) for choice in get_args(bare)])
    if _is_union(bare):
        options = get_args(bare)
        # Of more than two, each is named by itself.
        truths = ["true", "false"] if bool in options and len(options) > 1 else []
        return _either([*truths, *(in_words(option) for option in options if not (truths and option is bool))])
    bounds = _bounds(metadata)
    if bare is str:
        return "text"
    if bare is int:
        return f"a whole number {bounds}".rstrip()
    if bare is float:
        return f"a number {bounds}".rstrip()
    if origin in (list, tuple):
        items = get_args(bare)
        if origin is tuple and Ellipsis not in items:
            return f"a list of {len(items)} values ({', '.join(in_words(item) for item in items)})"
        return f"a list (of {in_words(items[0])})"
    if origin is dict:
        return f"a mapping (of names to {in_words(get_args(bare)[1])})"
    return "a value"


def _bounds(metadata: tuple[Any, ...]) -> str:
    """The range in words: `from 1 to 100`, `above 0`, `from 0 to below 1`."""
    limits = limits_of(metadata)
    low = (
        f"from {_plain(limits['ge'])}" if "ge" in limits else f"above {_plain(limits['gt'])}" if "gt" in limits else ""
    )
    if "le" in limits:
        return f"{low} to {_plain(limits['le'])}" if "ge" in limits else f"{low} up to {_plain(limits['le'])}".strip()
    if "lt" in limits:
        joined = "to" if "ge" in limits else "and"
        return f"{low} {joined} below {_plain(limits['lt'])}" if low else f"below {_plain(limits['lt'])}"
    return low if "gt" in limits or not low else f"of at least {_plain(limits['ge'])}"


def limits_of(metadata: tuple[Any, ...]) -> dict[str, float]:
    """The bounds that marks of an annotation set, by pydantic's names: `ge`, `gt`, `le`, `lt`."""
    limits: dict[str, float] = {}
    for mark in metadata:
        if isinstance(mark, FieldInfo):
            limits |= limits_of(tuple(mark.metadata))
        for name in ("ge", "gt", "le", "lt"):
            limit = getattr(mark, name, None)
            if isinstance(limit, (int, float)):
                limits[name] = limit
    return limits


def _plain(limit: float) -> str:
    return f"{int(limit):,}" if limit == int(limit) else f"{limit:g}"


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def doc_of(field: FieldInfo) -> str:
    """The sentence under the field, on one line."""
    return " ".join((field.description or "").split())
