"""nmt-lexicon: the likely translations of each source piece, for shortlists."""

from __future__ import annotations

import argparse

from nmt.cli.common import Parser, run, writing
from nmt.cli.options import add_checkpoint_option, of_type
from nmt.config.schema import Positive

DESCRIPTION = """Estimate from the training text of a run which target pieces each source piece becomes (IBM model 1),
and keep the most likely ones in the run's folder. nmt-translate and nmt-eval need that for --shortlist. A pair counts
by the weight of its corpus. The encoded training text must still be in the run's cache, or where data.cache of its
config says."""

CANDIDATES = 100
ITERATIONS = 5
PAIRS = 1_000_000


def main() -> None:
    """Entry point of `nmt-lexicon`."""
    run(_main)


def _main(arguments: list[str] | None = None) -> int:
    parser = Parser("nmt-lexicon", DESCRIPTION)
    parser.add_argument("--model", required=True, metavar="PATH", help="a run's folder or a checkpoint")
    add_checkpoint_option(parser)
    for flag, default, text in (
        ("--candidates", CANDIDATES, "translations of a piece that are kept at most; --shortlist can ask for so many"),
        ("--iterations", ITERATIONS, "of expectation-maximisation"),
        ("--pairs", PAIRS, "pairs that are read at most; of a larger training text every n-th one"),
    ):
        parser.add_argument(
            flag, type=of_type(Positive), default=default, metavar="N", help=f"{text}; default: {default}"
        )
    return _build(parser.parse_args(arguments))


def _build(options: argparse.Namespace) -> int:
    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from nmt.runtime import set_up_logging
    from nmt.tasks.translation.loading import build_lexicon

    set_up_logging(None, is_main=True)
    built = build_lexicon(options.model, options.checkpoint, options.candidates, options.iterations, options.pairs)
    with writing(None) as write:
        write(f"{built}\n")
    return 0


if __name__ == "__main__":
    main()
