"""Parser of the commands' arguments, with the options that several commands share.

Sections of the YAML give a flag for each key, with its text and type.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

import nmt
from nmt.api.arguments import PRECISION, machine, search_with
from nmt.cli.common import USER_ERROR, flag_of
from nmt.config.registry import choices_of, shape_of
from nmt.config.schema import FiltersConfig, Positive, RuntimeConfig, SearchConfig, Seed, Tokens
from nmt.config.wording import in_words, nearest, shown, synonyms
from nmt.errors import on_one_line

if TYPE_CHECKING:
    from nmt.runtime import Runtime

LONGEST_NAME = 1000
"""Characters of an argument."""
LONGEST_LINE = 1000
"""Pieces of a line."""
MACHINE = ("device", "precision", "threads")
FILTERS = ("max_length", "max_ratio", *FiltersConfig.TEXT_RULES)


class Parser(argparse.ArgumentParser):
    """Parses options that are written out in full; a mistake is one line with the nearest option."""

    def __init__(
        self, prog: str, description: str, epilog: str | None = None, instead: Mapping[str, str] | None = None
    ) -> None:
        """`instead` has advice for options that only other commands have."""
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False)
        self._instead = instead or {}
        self.add_argument("--version", action="version", version=f"{prog} (nmt-attention) {nmt.__version__}")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Reports an unknown option before a missing one, and refuses empty values."""
        given = list(sys.argv[1:] if args is None else args)
        for word in given[: given.index("--") if "--" in given else None]:
            name = word.partition("=")[0]
            if re.match("--?[^-0-9.]", name) and name not in self._option_string_actions:
                self.error(f"unknown option {name}; {self._advice(name)}")
        options, rest = super().parse_known_args(given, namespace)
        for action in self._actions:
            value = getattr(options, action.dest, None)
            for text in value if isinstance(value, list) else [value]:
                flag = "/".join(action.option_strings) or action.metavar
                if text == "":  # an empty path would be the current folder
                    self.error(f"{flag}: must not be empty")
                if isinstance(text, str) and len(text) > LONGEST_NAME and action.metavar != "KEY=VALUE":
                    self.error(f"{flag}: must have at most {LONGEST_NAME:,} characters")
        return options, rest

    def error(self, message: str) -> NoReturn:
        """Exits with code 2 and one line."""
        line = on_one_line(" ".join(message.removeprefix("argument ").split()))
        self.exit(USER_ERROR, f"{self.prog}: {line}\n")

    def add_model_options(self, *, ensemble: bool = True) -> None:
        """Adds `--model`, which may be repeated for an `ensemble`, and `--checkpoint`."""
        text = "run folder, checkpoint, or hf://USER/NAME of the Hugging Face hub"
        if ensemble:
            text += "; repeat for an ensemble, which averages the probabilities of its models"
        self.add_argument("--model", action="append" if ensemble else "store", required=True, metavar="PATH", help=text)
        self.add_checkpoint_option()

    def add_checkpoint_option(self) -> None:
        """Adds `--checkpoint` and `--plugin`."""
        self.add_argument(
            "--checkpoint",
            choices=("best", "last"),
            help="checkpoint of a run (default: best, or last if there is none)",
        )
        self.add_plugin_option()

    def add_plugin_option(self) -> None:
        """Adds `--plugin`, which may be repeated."""
        text = "file of Python with parts that the model needs; it is executed; may be repeated"
        self.add_argument("--plugin", action="append", default=[], metavar="FILE", help=text)

    def add_stream_options(self, verb: str, window: int) -> None:
        """Adds the options of commands that read and write a stream of lines."""
        self.add_argument(
            "--input", metavar="FILE", help="read this file, compressed or not, instead of standard input"
        )
        self.add_argument("--output", metavar="FILE", help="write this file instead of standard output")
        self.add_choice_option("--format", ("text", "jsonl"), "output format")
        ahead = "lines that are read ahead, sorted by length and written together"
        self.add_number_option("--window", Positive, window, ahead)
        self.add_argument(
            "--interactive", action="store_true", help=f"{verb} each line as soon as it arrives, as at a terminal"
        )
        self.add_progress_option()

    def add_number_option(self, flag: str, annotation: Any, default: int, text: str, metavar: str = "N") -> None:
        text = f"{text} (default: {default})"
        self.add_argument(flag, type=of_type(annotation), default=default, metavar=metavar, help=text)

    def add_choice_option(self, flag: str, choices: Sequence[str], text: str) -> None:
        """Adds an option with these values, the first of which is the default."""
        self.add_argument(flag, choices=choices, default=choices[0], help=f"{text} (default: {choices[0]})")

    def add_progress_option(self) -> None:
        self.add_argument("--progress", action="store_true", help="show progress even without a terminal")

    def add_batch_option(self) -> None:
        """Adds `--batch-tokens`, for commands that read pairs; None stands for the value of the model's config."""
        self.add_argument(
            "--batch-tokens",
            type=of_type(Tokens),
            metavar="N",
            help="padded tokens of the longer side in a batch (default: search.batch_tokens of the model's config)",
        )

    def add_line_options(self) -> None:
        """Adds the options for long lines; `longest_line` evaluates them."""
        self.add_number_option("--max-length", Positive, LONGEST_LINE, "pieces above which a line is overlong")
        text = "truncate an overlong line, with a warning, or translate it whole"
        self.add_choice_option("--overlong", ("truncate", "translate"), text)

    def add_weights_option(self) -> None:
        """Adds `--weights`: None without it, true without a file."""
        text = (
            "write the attention weights: into the objects of --format jsonl, or to this file, a NumPy archive (.npz)"
        )
        self.add_argument("--weights", nargs="?", const=True, metavar="FILE", help=text)

    def add_plot_option(self, of: str) -> None:
        """Adds `--plot`; `of` says whose attention is drawn."""
        self.add_argument(
            "--plot",
            metavar="PATH",
            help=f"draw the attention of {of}: a PNG and an SVG of each line into a folder, or one page for all lines "
            "if the name ends in .html",
        )

    def add_linking_option(self) -> None:
        text = (
            "how words are linked. argmax: each target word with the source word of the largest weight. grow-diag: "
            "also each source word with a target word; links of both directions, and neighbours of these links, so "
            "that a word may have several links or none"
        )
        self.add_choice_option("--linking", ("grow-diag", "argmax"), text)

    def add_search_options(self) -> None:
        """Adds `--seed`, and a flag for every key of the section `search`."""
        self.add_number_option("--seed", Seed, 1, "random seed for sampling")
        group = self.add_argument_group("search", "Defaults are those of the model's own config.")
        for name, field in SearchConfig.model_fields.items():
            _add(group, "search", name, field, field.description or "")

    def add_machine_options(self) -> None:
        """Adds flags of the section `runtime`; the config's own section describes the machine of the training."""
        group = self.add_argument_group("machine")
        for name in MACHINE:
            field = RuntimeConfig.model_fields[name]
            default = PRECISION if name == "precision" else field.default
            _add(group, "runtime", name, field, f"{field.description} Default: {default}")

    def add_filter_options(self) -> None:
        """Adds a flag for the rules of `data.filters` on lengths and text; `filter_options` evaluates them."""
        group = self.add_argument_group(
            "filters", "Rules by which pairs are left out. Defaults are those of the model's own config, but copies go."
        )
        for name in FILTERS:
            field = FiltersConfig.model_fields[name]
            _add(group, "data.filters", name, field, field.description or "")

    def add_translation_options(self) -> None:
        """Adds the options for long lines, the search and the machine."""
        self.add_line_options()
        self.add_search_options()
        self.add_machine_options()

    def _advice(self, name: str) -> str:
        if name in self._instead:
            return self._instead[name]
        options = [option for option in self._option_string_actions if option.startswith("--")]
        keys = synonyms(name)
        for key in keys:
            option = flag_of(key.rpartition(".")[2])
            if option in options:
                return f"did you mean {option}?"
        if keys and "--set" in options:
            return f"did you mean --set {keys[0]}=VALUE?"
        near = None if keys else nearest(f"--{name.lstrip('-')}", options)
        return f"did you mean {near}?" if near else f"{self.prog} --help lists them all"


def longest_line(given: argparse.Namespace) -> int | None:
    """Returns the number of pieces after which a line is truncated, or None if no line is."""
    return int(given.max_length) if given.overlong == "truncate" else None


def search_options(given: argparse.Namespace, base: SearchConfig) -> SearchConfig:
    """Returns the search of the model's config with the given flags, as `search_with`."""
    return search_with(base, _given(given, "search", SearchConfig.model_fields), flag_of)


def filter_options(given: argparse.Namespace, base: FiltersConfig) -> FiltersConfig:
    """Returns the filters of the model's config, without copies, with the given flags."""
    return base.model_copy(update={"copies": "drop"} | _given(given, "data.filters", FILTERS))


def machine_options(given: argparse.Namespace) -> RuntimeConfig:
    """Returns the section `runtime` that the flags describe; raises `ConfigError`."""
    return machine(_given(given, "runtime", MACHINE), flag_of)


def set_up_machine(options: argparse.Namespace) -> Runtime:
    """Sets up the machine that the flags describe, and the log, and executes the plugins."""
    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from nmt.runtime import set_up, set_up_logging
    from nmt.tasks.plugins import load_plugins

    runtime = set_up(machine_options(options))
    set_up_logging(None, runtime.is_main)
    load_plugins(options.plugin)
    return runtime


@contextmanager
def shared_machine(options: argparse.Namespace) -> Iterator[Runtime]:
    """Sets up the machine for a command that several processes may share."""
    from nmt.runtime import tear_down

    try:
        yield set_up_machine(options)
    finally:
        tear_down()


def of_type(annotation: Any) -> Callable[[str], Any]:
    """Returns a parser of an argument's text; its error says which values are valid."""

    def read(text: str) -> Any:
        adapter = TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))
        try:
            return adapter.validate_strings(text)
        except ValidationError:
            schema = adapter.json_schema()
            near = nearest(text, choices_of(schema))
            advice = f"; did you mean {near!r}?" if near else ""
            raise argparse.ArgumentTypeError(f"must be {in_words(schema)}, not {shown(text)}{advice}") from None

    return read


def _add(group: argparse._ArgumentGroup, section: str, name: str, field: FieldInfo, text: str) -> None:
    settings: dict[str, Any] = {"dest": f"{section}.{name}", "default": None, "help": text.replace("%", "%%")}
    shape = shape_of(field)
    if field.annotation is bool:
        group.add_argument(flag_of(name), action=argparse.BooleanOptionalAction, **settings)
        return
    is_float = float in (field.annotation, *get_args(field.annotation))
    metavar = "|".join(choices_of(shape.schema)) or ("X" if is_float else "N")
    group.add_argument(flag_of(name), type=of_type(shape.annotation), metavar=metavar, **settings)


def _given(options: argparse.Namespace, section: str, names: Iterable[str]) -> dict[str, Any]:
    values = {name: getattr(options, f"{section}.{name}") for name in names}
    return {name: value for name, value in values.items() if value is not None}
