"""Parts that a YAML selects by name: `{kind: NAME, option: value}`, or only `NAME`.

A part's options live in the part's own file, as a frozen pydantic model registered under its name.
This module knows no part; it only knows how parts are found.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import Self


class UnknownValueError(Exception):
    """A rule needs a value that is missing from a section because it was written wrongly."""


Found = TypeVar("Found")


def decided(rule: Iterable[Found]) -> Iterator[Found]:
    """What a rule finds, up to the first value that it needs and that is unknown."""
    try:
        yield from rule
    except UnknownValueError:
        return


class Section(BaseModel):
    """A section of the YAML: unknown keys are refused, values do not change once read.

    The string under a field is its documentation, in the reference, the JSON schema and the printed config.
    The default of a subsection is always the subsection's own defaults: `encoder: Encoder = Encoder()`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    def contradictions(self) -> Iterable[tuple[str, str]]:
        """Yields values that exclude each other: (dotted path inside this section, what is wrong and what to do).

        The reader also asks sections in which some values are wrong; reading such a value raises `UnknownValueError`,
        which ends the rule. Rules that need different values are each wrapped in `decided`.
        """
        return ()

    @classmethod
    def with_unknown(cls, values: Mapping[str, Any], unknown: Collection[str]) -> Self:
        """A section of valid values in which those of the `unknown` fields cannot be read."""
        section = cls.model_construct(**{name: value for name, value in values.items() if name not in unknown})
        for name in unknown:
            section.__dict__.pop(name, None)
        return section

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in type(self).model_fields:
                raise UnknownValueError(name)
            return super().__getattr__(name)

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        found = tuple(decided(self.contradictions()))
        if found:
            text = "; ".join(f"{path}: {problem}" for path, problem in found)
            raise PydanticCustomError("contradiction", "{text}", {"found": found, "text": text})
        return self


class PartOptions(Section):
    """Options of a selectable part; `kind` is the name that it is registered under."""

    kind: str
    """Name of the part."""


@dataclass(frozen=True)
class PartOf:
    """Marks a field of a `Section` as a choice from a family: `Annotated[SerializeAsAny[PartOptions], PartOf("cell")]`.

    The YAML gives the name alone, or a mapping of `kind` and options. The second phase of loading puts there
    an instance of the options class that the family has for that name. A field's default names only the kind,
    `cell: CellChoice = PartOptions(kind="gru")`; loading replaces it by that part's options with their defaults.
    """

    family: str
    default_kind: str | None = None
    """The kind of a mapping without `kind`, where the field itself has no default."""
    kind_by_key: str | None = None
    """A mapping without `kind` that has this key is of the kind of the same name."""


Built = TypeVar("Built")


@dataclass(frozen=True)
class Entry(Generic[Built]):
    """A member of a family: its name, the model of its options, and what builds it."""

    kind: str
    options: type[PartOptions]
    build: Callable[..., Built]
    summary: str


class Registry(Mapping[str, Entry[Built]]):
    """A family of parts by name, in the order of registration."""

    def __init__(self, family: str) -> None:
        self.family = family
        self._entries: dict[str, Entry[Built]] = {}

    def register(self, kind: str, options: type[PartOptions]) -> Callable[[Callable[..., Built]], Any]:
        """Decorate the class or function that builds the part from its options.

        The first line of the decorated object's docstring is the part's summary.
        """

        def add(build: Callable[..., Built]) -> Callable[..., Built]:
            assert kind not in self._entries, f"{self.family} {kind!r} is registered twice"
            summary = (build.__doc__ or "").strip().split("\n")[0]
            self._entries[kind] = Entry(kind, options, build, summary)
            return build

        return add

    def build(self, options: PartOptions, *args: Any) -> Built:
        """The part that these options describe; `args` are what the family's builders take after the options."""
        return self._entries[options.kind].build(options, *args)

    def __getitem__(self, kind: str) -> Entry[Built]:
        return self._entries[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
