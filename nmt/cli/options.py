"""Options that come from the sections of the YAML: one flag a key, with its text, its type and its bounds."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from nmt.config.registry import Section
from nmt.config.schema import Positive, RuntimeConfig, SearchConfig, Seed
from nmt.config.shapes import annotation_of, choices_of, doc_of
from nmt.config.wording import in_words, nearest, shown
from nmt.errors import ConfigError

LONGEST_LINE = 1000
MACHINE = ("device", "precision", "threads")
PRECISION = "fp32"
"""Not `auto`: in a shorter format a translation would depend on the machine, and on the lines around it."""

Options = TypeVar("Options", bound=Section)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What translates."""
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="PATH",
        help="a run's folder or a checkpoint; repeat it for an ensemble, whose probabilities are averaged",
    )
    add_checkpoint_option(parser)


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Which of a run's checkpoints is meant."""
    parser.add_argument(
        "--checkpoint", choices=("best", "last"), help="which checkpoint of a run; default: best, where there is one"
    )


def add_line_options(parser: argparse.ArgumentParser) -> None:
    """What happens to a line."""
    parser.add_argument(
        "--max-length",
        type=of_type(Positive),
        default=LONGEST_LINE,
        metavar="N",
        help=f"pieces from which on a line is a long one; default: {LONGEST_LINE}",
    )
    parser.add_argument(
        "--overlong",
        choices=("truncate", "translate"),
        default="truncate",
        help="a longer line is cut off there, with a warning, or taken whole; default: truncate",
    )


def longest_line(given: argparse.Namespace) -> int | None:
    """Pieces after which a line is cut off, or None where no line is."""
    return int(given.max_length) if given.overlong == "truncate" else None


def add_linking_option(parser: argparse.ArgumentParser) -> None:
    """How alignments are read off attention."""
    parser.add_argument(
        "--linking",
        choices=("grow-diag", "argmax"),
        default="grow-diag",
        help="argmax: each target word with the source word that it looked at most; grow-diag: also the other way "
        "round, what both say and what touches it, so that words may have several links or none; default: grow-diag",
    )


def add_search_options(parser: argparse.ArgumentParser) -> None:
    """A flag for every key of the section `search`."""
    group = parser.add_argument_group("search", "Defaults are those of the model's own config.")
    for name, field in SearchConfig.model_fields.items():
        _add(group, "search", name, field, doc_of(field))


def add_seed_option(parser: argparse.ArgumentParser) -> None:
    """What sampling draws by."""
    parser.add_argument("--seed", type=of_type(Seed), default=1, metavar="N", help="of --kind sampling; default: 1")


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Flags for where to compute. The machine of the training says nothing about this one."""
    group = parser.add_argument_group("machine")
    for name in MACHINE:
        field = RuntimeConfig.model_fields[name]
        default = PRECISION if name == "precision" else field.default
        _add(group, "runtime", name, field, f"{doc_of(field)} Default: {default}")


def search_options(given: argparse.Namespace, base: SearchConfig) -> SearchConfig:
    """The search of the model's config with the flags that were given; raises `ConfigError`.

    What the config says and a given flag makes pointless (a temperature, with `--kind beam`) is left out.
    """
    values = _given(given, "search", SearchConfig.model_fields)
    kept = base.model_dump()
    for name, _ in _contradictions(SearchConfig, kept | values):
        if name not in values:
            # Imported late: it brings PyTorch.
            from nmt.runtime import logger

            logger.warning("search.%s of the model's config does not go with %s: left out", name, _flags(values))
            kept[name] = SearchConfig.model_fields[name].default
    return _build(SearchConfig, kept | values)


def machine_options(given: argparse.Namespace) -> RuntimeConfig:
    """Where to compute, by the flags; raises `ConfigError`."""
    return _build(RuntimeConfig, {"precision": PRECISION} | _given(given, "runtime", MACHINE))


@contextmanager
def naming_flags() -> Iterator[None]:
    """Mistakes in keys of the YAML that are flags here are called by the flag."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(
            *(re.sub(r"^(search|runtime)\.(\w+)", lambda key: _flag(key[2]), line) for line in error.problems)
        ) from error


def of_type(annotation: Any) -> Callable[[str], Any]:
    """A reader of an argument's text; the message of a wrong one says what it must be."""

    def read(text: str) -> Any:
        try:
            return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False)).validate_strings(text)
        except ValidationError:
            near = nearest(text, choices_of(annotation))
            advice = f"; did you mean {near!r}?" if near else ""
            raise argparse.ArgumentTypeError(f"must be {in_words(annotation)}, not {shown(text)}{advice}") from None

    return read


def _add(group: argparse._ArgumentGroup, section: str, name: str, field: FieldInfo, text: str) -> None:
    settings: dict[str, Any] = {"dest": f"{section}.{name}", "default": None, "help": text.replace("%", "%%")}
    annotation = annotation_of(field)
    if field.annotation is bool:
        group.add_argument(_flag(name), action=argparse.BooleanOptionalAction, **settings)
        return
    choices = choices_of(annotation)
    metavar = "|".join(choices) if choices else {int: "N", float: "X"}[_number(field.annotation)]
    group.add_argument(_flag(name), type=of_type(annotation), metavar=metavar, **settings)


def _number(annotation: Any) -> type:
    return float if float in (annotation, *get_args(annotation)) else int


def _given(options: argparse.Namespace, section: str, names: Iterable[str]) -> dict[str, Any]:
    values = {name: getattr(options, f"{section}.{name}") for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _build(section: type[Options], values: Mapping[str, Any]) -> Options:
    found = _contradictions(section, values)
    if found:
        raise ConfigError(*(f"{_flag(name)}: {_in_flags(problem)}" for name, problem in found))
    return section.model_validate(values)


def _contradictions(section: type[Section], values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Values are right by themselves: what remains are contradictions between them."""
    return list(section.model_construct(**values).contradictions())


def _in_flags(problem: str) -> str:
    """`set kind: sampling` -> `set --kind sampling`."""
    return re.sub(r"\b([a-z_]+): (\w+)", lambda match: f"{_flag(match[1])} {match[2]}", problem)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _flags(values: Iterable[str]) -> str:
    return ", ".join(map(_flag, values))
