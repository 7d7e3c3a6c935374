"""nmt-average: the mean of a run's last checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path

from nmt.cli.common import Parser, run
from nmt.cli.options import of_type
from nmt.config.schema.bounds import Positive
from nmt.errors import CheckpointError

DESCRIPTION = """Average the weights of the last checkpoints of a run into a new checkpoint, for --model of
nmt-translate and nmt-eval. training.keep_last says how many a run keeps."""

LAST = 3


def main() -> None:
    """Entry point of `nmt-average`."""
    run(_main)


def _main(arguments: list[str] | None = None) -> int:
    parser = Parser("nmt-average", DESCRIPTION)
    parser.add_argument("model", metavar="RUN", help="a run's folder")
    parser.add_argument(
        "--last", type=of_type(Positive), default=LAST, metavar="K", help=f"how many checkpoints; default: {LAST}"
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="the new checkpoint")
    options = parser.parse_args(arguments)
    if Path(options.output).exists():
        raise CheckpointError(f"{options.output}: is there already; name a new folder")
    return _average(options)


def _average(options: argparse.Namespace) -> int:
    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from nmt.tasks.averaging import average_run
    from nmt.tasks.translation.streaming import writing

    taken = average_run(Path(options.model), options.last, Path(options.output))
    with writing(None) as write:
        write(f"{options.output}: the mean of {', '.join(taken)}\n")
    return 0


if __name__ == "__main__":
    main()
