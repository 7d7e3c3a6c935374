"""What all commands share: how arguments are read, and how a program ends.

Nothing here imports PyTorch: help and mistakes in the arguments come at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from nmt.config.names import nearest
from nmt.errors import DataError, NmtError

USER_ERROR = 2
INTERRUPTED = 128 + 2


def run(main: Callable[[], int]) -> NoReturn:
    """End the process with the code that `main` returns.

    A user's mistake is one line each on standard error and code 2. A reader that has left (`| head -n 1`) has what it
    wanted: the program ends quietly with 0. An interrupt ends with 130. Our own faults keep their traceback.
    """
    try:
        code = main()
        _flush()
    except NmtError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        code = USER_ERROR
    except BrokenPipeError:
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    try:
        sys.stdout.flush()
    except OSError:
        # Python tries once more when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise NmtError(f"standard output: cannot be written: {error.strerror}") from error


def check_files(read: Iterable[str | None], written: str | None = None) -> None:
    """Before a model is loaded: what is read is there, and is not what is written. Raises `DataError`."""
    problems = []
    for path in map(Path, filter(None, read)):
        if not path.exists():
            problems.append(f"{path}: no such file")
        elif written is not None and Path(written).exists() and path.samefile(written):
            problems.append(f"{path}: would be read and written at once; name another --output")
    if problems:
        raise DataError(*problems)


def output_files(path: Path, test_sets: Sequence[str], suffix: str) -> list[Path]:
    """What `--output` names for these test sets: a file for a single one, else files in a folder, which is made."""
    if len(test_sets) == 1 and not path.is_dir():
        return [path]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"--output: {path} cannot be a folder for {len(test_sets)} test sets: {error.strerror}"
        ) from error
    return [path / f"{Path(name).name}.{suffix}" for name in test_sets]


class Parser(argparse.ArgumentParser):
    """Arguments are written out, and a mistake is one line that names the nearest option."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As in the base, but an unknown option is reported before what it leaves missing."""
        given = list(sys.argv[1:] if args is None else args)
        for word in given[: given.index("--") if "--" in given else None]:
            name = word.partition("=")[0]
            if name.startswith("--") and name not in self._option_string_actions:
                self.error(f"unknown option {name}{self._advice(name)}")
        return super().parse_known_args(given, namespace)

    def error(self, message: str) -> NoReturn:
        """Exit with 2 and one line."""
        line = " ".join(message.removeprefix("argument ").split())
        self.exit(USER_ERROR, f"{self.prog}: {line}\n")

    def _advice(self, name: str) -> str:
        near = nearest(name, [option for option in self._option_string_actions if option.startswith("--")])
        return f"; did you mean {near}?" if near else f"; {self.prog} --help lists them all"
