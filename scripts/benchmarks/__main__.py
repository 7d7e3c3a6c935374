"""Command line of `scripts/benchmark`.

A speed is printed only where the result is that of the reference. Variants take turns, so that a machine whose speed
drifts is as fast for one as for the other.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from nmt.runtime import settle_memory
from scripts.benchmarks import gnmt_v2, growth, memory, pipeline, startup, training, translation

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Option:
    """An option that some benchmarks have."""

    name: str
    help: str
    default: Any
    quick: Any = None
    """The default with --quick; None: the same."""
    choices: tuple[Any, ...] | None = None

    def default_of(self, quick: bool) -> Any:
        return self.quick if quick and self.quick is not None else self.default

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        several = isinstance(self.default, tuple)
        kind = type(self.default[0] if several else self.default)
        shown = " ".join(map(str, self.default)) if several else self.default
        parser.add_argument(
            f"--{self.name.replace('_', '-')}",
            nargs="+" if several else None,
            type=kind,
            choices=self.choices,
            help=f"{self.help} ({shown})",
        )


DEVICE = Option("device", "where", "cuda" if torch.cuda.is_available() else "cpu")
THREADS = Option("threads", "CPU threads; 0 leaves the choice to PyTorch", 0)
ATTENTION = Option("attention", "preset", "bahdanau2015")
VOCABULARY = Option("vocabulary", "pieces", 8000, 100)
PRECISION = Option("precision", "number formats", PRECISIONS, choices=PRECISIONS)


def rounds(number: int) -> Option:
    return Option("rounds", "measured rounds", number, 1)


BENCHMARKS: dict[str, tuple[ModuleType, str, tuple[Option, ...]]] = {
    "training": (
        training,
        "updates of the network",
        (
            *(rounds(5), Option("batch_tokens", "padded tokens of a batch", 4096, 128)),
            Option("compiled", "1: also the reference by torch.compile, with one batch", 0, choices=(0, 1)),
            *(VOCABULARY, ATTENTION, PRECISION, THREADS, DEVICE),
        ),
    ),
    "gnmt_v2": (
        gnmt_v2,
        "updates of GNMT v2 at its own size, for GPUs",
        (
            *(rounds(5), Option("sentences", "of a batch", 128, 4), Option("batches", "different ones", 16, 2)),
            *(Option("vocabulary", "pieces", 32_000, 100), PRECISION, THREADS, DEVICE),
        ),
    ),
    "translation": (
        translation,
        "sentences by precision, processes, batch and beam",
        (
            *(rounds(3), Option("sentences", "translated a round", 256, 8)),
            Option("precision", "number formats", tuple(translation.AGREEMENT), choices=tuple(translation.AGREEMENT)),
            *(Option("batch", "sentences at once", (64, 1), (4,)), Option("beam", "hypotheses of a sentence", (5,))),
            Option("shortlist", "candidates of a source piece; 0: all pieces", (0,)),
            *(VOCABULARY, ATTENTION, THREADS, DEVICE),
        ),
    ),
    "memory": (
        memory,
        "peak of an update by kernel and precision, on a CPU",
        (
            *(Option("sentences", "of a batch", 64, 4), Option("length", "pieces of each, on both sides", 60, 5)),
            *(VOCABULARY, ATTENTION, PRECISION),
        ),
    ),
    "growth": (
        growth,
        "an update by source and target length, batch, vocabulary and layers",
        (
            *(rounds(5), ATTENTION, Option("precision", "number formats", ("fp32",), choices=PRECISIONS)),
            Option("dimension", "what grows", tuple(growth.SIZES), choices=tuple(growth.SIZES)),
            *(THREADS, DEVICE),
        ),
    ),
    "startup": (
        startup,
        "imports, --help, loading a model, its first sentence",
        (rounds(5), Option("pairs", "that a tokenizer is learned from", 20_000, 200), VOCABULARY),
    ),
    "pipeline": (
        pipeline,
        "batches from a finished cache, without a network",
        (
            *(rounds(3), Option("pairs", "of sentences", 200_000, 2000), Option("vocabulary", "pieces", 2000, 500)),
            Option("folder", "where the corpus goes, 600 bytes a pair", ""),
        ),
    ),
}


def main(arguments: list[str]) -> int:
    """Entry point."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["training", *arguments]
    options = _parser().parse_args(arguments)
    module, _, own = BENCHMARKS[options.benchmark]
    for option in own:
        if getattr(options, option.name) is None:
            setattr(options, option.name, option.default_of(options.quick))
    if getattr(options, "threads", 0):
        torch.set_num_threads(options.threads)
    # The same settings as every command of nmt on a CPU.
    settle_memory()
    report = module.run(options)
    if options.quick:
        print("--quick: too little work to say anything about speed")
    for line in module.lines(report):
        print(line)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="benchmark", metavar="WHAT", help="training where nothing is said")
    for name, (module, summary, own) in BENCHMARKS.items():
        command = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for option in own:
            option.add_to(command)
        command.add_argument("--quick", action="store_true", help="a small network and little work, to try the command")
        command.add_argument("--json", type=Path, help="write the figures to a file as well")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
