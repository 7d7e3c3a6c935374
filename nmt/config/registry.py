"""Sections of the YAML, and the parts that it selects by name: `{kind: NAME, option: value}`, or only `NAME`.

The shape of a field is what its annotation allows in the YAML.

A part's options live in the part's own file, as a frozen pydantic model registered under its name. This module
imports no part: the discriminated union of a family is built from its registry when the first config is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, TypeAdapter, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from nmt.errors import ConfigError


class UnknownValueError(Exception):
    """A rule needs a value that is missing from a section because it was written wrongly."""


Item = TypeVar("Item")


def decided(rule: Iterable[Item]) -> Iterator[Item]:
    """Yields what a rule yields, up to the first value that it needs and that is unknown."""
    try:
        yield from rule
    except UnknownValueError:
        return


class Section(BaseModel):
    """A section of the YAML: unknown keys are refused, values do not change once read.

    The string under a field, put on one line, is its documentation in the reference, the JSON schema and the printed
    config. By default it is the first sentence of a subsection, or the string under the field that this one overrides.
    The default of a subsection is always the subsection's own defaults: `encoder: EncoderConfig = EncoderConfig()`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    def contradictions(self) -> Iterable[tuple[str, str]]:
        """Yields values that exclude each other: (dotted path inside this section, what is wrong and what to do).

        The reader also checks sections in which some values are wrong; reading such a value raises `UnknownValueError`,
        which ends the rule. Rules that need different values are each wrapped in `decided`.
        """
        return ()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        parent: Any = cls.__base__
        for name, field in cls.model_fields.items():
            kind, text = field.annotation, field.description
            if text is None and isinstance(kind, type) and issubclass(kind, Section):
                text = (kind.__doc__ or "").split(". ")[0].rstrip(".") + "."
            elif text is None and name in parent.model_fields:
                text = parent.model_fields[name].description
            field.description = " ".join((text or "").split())

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in type(self).model_fields:
                raise UnknownValueError(name)
            return super().__getattr__(name)

    # A section of a YAML is validated with the reader as pydantic's context. The reader notes each mistake with its
    # path and goes on: errors that are raised would hide the valid values, which the rules between values need.

    @model_validator(mode="wrap")
    @classmethod
    def _validate_section(cls, values: Any, build: Any, info: Any) -> Any:
        if info.context is not None:
            return info.context.section(cls, values, build)
        section = build(values)
        problems = tuple(decided(section.contradictions()))
        if problems:
            text = "; ".join(f"{path}: {problem}" for path, problem in problems)
            raise PydanticCustomError("contradiction", "{text}", {"text": text})
        return section

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def around(name: str, schema: CoreSchema) -> CoreSchema:
            def validate(value: Any, accept: Any, info: Any) -> Any:
                return accept(value) if info.context is None else info.context.field(cls, name, value, accept)

            return core_schema.with_info_wrap_validator_function(validate, schema, metadata={"around": name})

        # Not `field_validator("*")`, which the validators of subclasses call: it must stand around them.
        schema = handler(source)
        model: Any = handler.resolve_ref_schema(schema)
        while model["type"] != "model-fields":
            model = model["schema"]
        for name, field in model["fields"].items():
            holder = field["schema"] if field["schema"]["type"] == "default" else field
            # Pydantic asks again for the finished schema of a section that stands in another one.
            if "around" not in holder["schema"].get("metadata", {}):
                holder["schema"] = around(name, holder["schema"])
        return schema


class PartOptions(Section):
    """Options of a selectable part; `kind` is the name that it is registered under."""

    kind: str
    """Name of the part."""


@dataclass(frozen=True)
class PartOf:
    """Marks a field of a `Section` as a choice from a family: `Annotated[SerializeAsAny[PartOptions], PartOf("cell")]`.

    In a YAML the value is one of the family's discriminated union, by `kind`. A field's default names only the kind,
    `cell: CellChoice = PartOptions(kind="gru")`; reading replaces it by that part's options with their defaults.
    """

    family: str
    default_kind: str | None = None
    """The kind of a mapping without `kind`, where the field itself has no default."""
    kind_by_key: str | None = None
    """A mapping without `kind` that has this key is of the kind of the same name."""

    def kind_without(self, keys: Collection[str]) -> str | None:
        """Returns the kind of a mapping with these keys, none of which is `kind`."""
        return self.kind_by_key if self.kind_by_key in keys else self.default_kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any, accept: Any, info: Any) -> Any:
            if info.context is None:
                return accept(value)
            union = info.context.families[self.family].union()
            return union.validate_python(value, strict=True, context=info.context)

        return core_schema.with_info_wrap_validator_function(validate, handler(source))


Built = TypeVar("Built")


@dataclass(frozen=True)
class Entry(Generic[Built]):
    """A member of a family: the model of its options, and what builds it."""

    options: type[PartOptions]
    build: Callable[..., Built]
    summary: str


class Registry(dict[str, Entry[Built]]):
    """A family of parts by name, in the order of registration."""

    def __init__(self, family: str) -> None:
        super().__init__()
        self.family = family
        self._union: TypeAdapter[PartOptions] | None = None
        self._of_plugins: dict[tuple[type[PartOptions], str], Entry[Built]] = {}
        """Parts of plugins, by the class of their options and their name. Other plugins may use the same names."""

    def register(self, kind: str, options: type[PartOptions]) -> Callable[[Callable[..., Built]], Any]:
        """Decorates the class or function that builds the part from its options.

        The first line of the decorated object's docstring is the part's summary; a partial one has that of its options.

        Raises `ConfigError` where the name is registered already, or `kind` of the options has another value.
        """
        if not (isinstance(options, type) and issubclass(options, PartOptions)):
            raise ConfigError(f"{self.family} {kind!r}: its options are no subclass of PartOptions")
        own = options.model_fields["kind"].annotation
        if own is not str and kind not in get_args(own):
            raise ConfigError(f"{self.family} {kind!r}: its options have kind {own}; give them Literal[{kind!r}]")

        def add(build: Callable[..., Built]) -> Callable[..., Built]:
            if kind in self:
                raise ConfigError(f"{self.family} {kind!r} is registered twice; choose another name")
            documented = options if isinstance(build, partial) else build
            summary = (documented.__doc__ or "").strip().split("\n")[0]
            self[kind] = Entry(options, build, summary)
            self._union = None
            return build

        return add

    def take_new(self, before: Collection[str]) -> dict[str, Entry[Built]]:
        """Returns the parts that a plugin has registered, those that are not in `before`, and removes their names.

        They are still built from their options. `with_parts` gives a family in which they have their names.
        """
        new = {kind: self.pop(kind) for kind in list(self) if kind not in before}
        self._of_plugins.update({(entry.options, kind): entry for kind, entry in new.items()})
        self._union = None
        return new

    def with_parts(self, parts: Mapping[str, Entry[Built]]) -> Registry[Built]:
        """Returns a family that also has these parts, for reading a config."""
        family: Registry[Built] = Registry(self.family)
        family.update({**self, **parts})
        return family

    def entry_of(self, options: PartOptions) -> Entry[Built]:
        """Returns the part that has these options."""
        own = self._of_plugins.get((type(options), options.kind))
        return self[options.kind] if own is None else own

    def union(self) -> TypeAdapter[PartOptions]:
        """Returns the discriminated union of all options that are registered now."""
        if self._union is None:
            self._union = TypeAdapter(Annotated[PartOptions, self])
        return self._union

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # Not `Field(discriminator=...)` on a `Union`, which needs a class for each kind, and two kinds or more.
        choices = {kind: handler.generate_schema(entry.options) for kind, entry in self.items()}
        return core_schema.tagged_union_schema(choices, discriminator="kind")

    def build(self, options: PartOptions, *args: Any) -> Built:
        """Returns the part that these options describe; `args` are what the family's builders take after them."""
        return self.entry_of(options).build(options, *args)


# Shapes


@dataclass(frozen=True)
class Shape:
    """A leaf, a section or a choice of a part; parts alone, in a list or by names of the user's choice."""

    annotation: Any
    section: type[Section] | None = None
    part: PartOf | None = None
    container: type | None = None
    """`list` or `dict`, where there may be several parts."""

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of a leaf."""
        return TypeAdapter(self.annotation).json_schema()

    @property
    def is_leaf(self) -> bool:
        """Whether there are no sections and parts in the value."""
        return self.section is None and self.part is None

    @property
    def item(self) -> Shape:
        """Shape of the parts in the list, or under each name."""
        return replace(self, container=None)


def shape_of(field: FieldInfo) -> Shape:
    """Returns what may stand under this key."""
    annotation = field.rebuild_annotation()
    bare, marks = split(annotation)
    container = get_origin(bare) if get_origin(bare) in (list, dict) else None
    if container is not None:
        bare, marks = split(get_args(bare)[-1])
    part = next((mark for mark in marks if isinstance(mark, PartOf)), None)
    if part is None:
        return Shape(annotation, section=bare if isinstance(bare, type) and issubclass(bare, Section) else None)
    if isinstance(field.default, PartOptions):
        part = replace(part, default_kind=field.default.kind)
    return Shape(annotation, part=part, container=container)


def fields_in_order(section: type[Section]) -> list[tuple[str, FieldInfo]]:
    """Returns the fields in the order of printing: `kind` and required ones before the options common to a family."""
    fields = list(section.model_fields.items())
    if issubclass(section, PartOptions):
        fields.sort(key=lambda item: (item[0] != "kind", not item[1].is_required()))
    return fields


def fields_below(
    section: type[Section], families: Mapping[str, Registry[Any]] | None = None, prefix: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    """Yields dotted paths of all fixed keys, and with `families` of all options of their parts, with their fields."""
    for name, field in section.model_fields.items():
        yield prefix + name, field
        shape = shape_of(field)
        below = [shape.section] if shape.section is not None else []
        if shape.part is not None and families is not None:
            below += [entry.options for entry in families[shape.part.family].values()]
        for each in below:
            yield from fields_below(each, families, f"{prefix}{name}.")


def split(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Returns the type of an annotation, and its marks."""
    if get_origin(annotation) is Annotated:
        bare, *marks = get_args(annotation)
        return bare, tuple(marks)
    return annotation, ()


def fit(value: Any, shape: Shape) -> Any:
    """Returns the value in the types of a leaf where YAML has none for them: `1e5` is whole, tuples are lists.

    Pydantic's lax mode would do so too, but takes `"5"` and `true` for numbers and `"yes"` for true.
    """
    if not isinstance(value, list) and not (isinstance(value, float) and value.is_integer()):
        return value  # without the schema, which takes most of the time of reading a config
    schema = shape.schema
    if isinstance(value, float):
        return int(value) if any(each.get("type") == "integer" for each in schema.get("anyOf", [schema])) else value
    return tuple(value) if "prefixItems" in schema else value


def choices_of(schema: Mapping[str, Any]) -> list[str]:
    """Returns the words that the JSON schema of a leaf allows, if it lists any."""
    options = schema.get("anyOf", [schema])
    return [word for option in options for word in option.get("enum", [option["const"]] if "const" in option else [])]
