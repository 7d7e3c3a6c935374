"""Arguments, files and exit codes of all commands, without PyTorch, so that help and mistakes are printed at once."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from nmt.errors import REMEDIES, CheckpointError, ConfigError, DataError, NmtError, on_one_line, reason, write_errors

USER_ERROR = 2
INTERRUPTED = 128 + 2
STANDARD_INPUT = "standard input"
STANDARD_OUTPUT = "standard output"
HUB = "hf://"
"""Begins the names of models on the Hugging Face hub, which are no paths."""


def command(main: Callable[[], int]) -> Callable[[], NoReturn]:
    """Makes the entry point of a command; see `run`."""
    return partial(run, main)


def run(main: Callable[[], int]) -> NoReturn:
    """Runs a command and ends the process with the code that `main` returns.

    A user's mistake (`user_problems`) is one line each on standard error and code 2. When the reader of a pipe has left
    (`| head -n 1`), the program ends quietly with 0. An interrupt ends with 130. Our own faults keep their traceback.
    """
    _reopen_closed_streams()
    threading.excepthook = _report_from_thread
    code: Any
    try:
        try:
            code = main()
        except SystemExit as ended:  # from argparse: help, or a mistake in the arguments
            code = ended.code
        with write_errors(STANDARD_OUTPUT):
            sys.stdout.flush()
    except BrokenPipeError:
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        problems = user_problems(error)
        if not problems:
            raise
        _print_problems(problems)
        code = USER_ERROR
    try:
        sys.stdout.flush()
    except OSError:
        # Python flushes once more when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def user_problems(error: BaseException) -> tuple[str, ...]:
    """Returns one line for each of the user's mistakes behind an error. Our own faults have none.

    The system refusing a named file (permission, a full disk, a folder where a file is expected, a name that is too
    long) is the user's to mend. The exception is a file of this package: it is missing or damaged by our own fault.
    """
    if isinstance(error, NmtError):
        return error.problems
    if _ran_out_of_memory(error):
        detail = (str(error) or type(error).__name__).splitlines()[0]
        return (f"out of memory; use a smaller network, batch or beam, or a machine with more memory ({detail})",)
    if not isinstance(error, OSError) or error.strerror is None:
        return ()
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    if not names:
        # A write to an open file does not name it. Only errors of the disk itself are certainly not our own fault.
        return (f"a file cannot be written: {reason(error)}",) if error.errno in REMEDIES else ()
    if any(Path(name).absolute().is_relative_to(_PACKAGE) for name in names):
        return ()
    return (on_one_line(f"{' -> '.join(names)}: {reason(error)}"),)


_PACKAGE = Path(__file__).absolute().parents[1]


def _print_problems(problems: Iterable[str]) -> None:
    with suppress(OSError):
        # In one write: another thread may print as well.
        sys.stderr.write("".join(f"{problem}\n" for problem in problems))


def _report_from_thread(arguments: threading.ExceptHookArgs) -> None:
    """Prints an error that ended a thread: the lines of a user's mistake, or the traceback of our own fault."""
    problems = user_problems(arguments.exc_value) if arguments.exc_value else ()
    if problems:
        _print_problems(problems)
    else:
        threading.__excepthook__(arguments)


def _ran_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules:
        return False
    from nmt.runtime import is_out_of_memory

    return is_out_of_memory(error)


def _reopen_closed_streams() -> None:
    """Replaces standard streams that the caller closed (`<&-`, `>&-`), which Python sets to None.

    Otherwise the next file that is opened would take the place of the stream. Reading from the replaced standard input
    and writing to the replaced standard output fail with "Bad file descriptor". Standard error is discarded.
    """
    for name, flags, mode in (("stdin", os.O_WRONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, flags)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", errors="backslashreplace"))  # noqa: SIM115


def check_paths(read: Iterable[str | None], written: str | None = None) -> None:
    """Raises `DataError` unless the files to read exist and differ from the one to write; before a model is loaded."""
    problems = []
    for name in filter(None, read):
        path = Path(name)
        if not path.exists() and not name.startswith(HUB):
            where = "" if path.is_absolute() else f" in {Path.cwd()}, where relative paths begin"
            problems.append(f"{path}: no such file{where}")
        elif written is not None and Path(written).exists() and path.samefile(written):
            problems.append(f"{path}: would be read and written at once; name another --output")
    if problems:
        raise DataError(*problems)


def check_plot(options: argparse.Namespace, *, documents: bool) -> None:
    """Raises `ConfigError` if --plot cannot be written, before a model is loaded."""
    # Imported late: not every command needs NumPy.
    from nmt.visualization.pages import is_page, plot_path_problems

    plot = Path(options.plot) if options.plot else None
    problems = [f"--plot: {problem}" for problem in plot_path_problems(plot, documents=documents)] if plot else []
    if getattr(options, "plot_beside", None) and not (plot and is_page(plot)):
        problems.append("--plot-beside: models are shown side by side on a page; give --plot a name ending in .html")
    if plot and options.output and _same(options.plot, options.output):
        problems.append(f"--plot: {plot} is what --output writes; name another")
    if problems:
        raise ConfigError(*problems)


def check_weights(options: argparse.Namespace) -> None:
    """Raises `ConfigError` if the weights of --weights have no place, before a model is loaded."""
    weights, problems = options.weights, []
    if weights is True and options.format != "jsonl":
        problems.append("--weights: goes with --format jsonl, whose objects get the weights; or name a file .npz")
    if isinstance(weights, str):
        if Path(weights).suffix != ".npz":
            problems.append(f"--weights: {weights} must end in .npz, as it becomes an archive of NumPy")
        others = ("output", "plot", "input", "source", "target", "gold")
        same = [name for name in others if getattr(options, name, None) and _same(getattr(options, name), weights)]
        problems += [f"--weights: {weights} is the file of --{name}, too; name another" for name in same]
    if problems:
        raise ConfigError(*problems)


def _same(path: str, other: str) -> bool:
    return Path(path).resolve() == Path(other).resolve()


def unused_folder(path: str) -> Path:
    """Returns the path of a folder that a command will make; raises `CheckpointError` if something is there."""
    if Path(path).exists():
        raise CheckpointError(f"{path}: is there already; name a new folder")
    return Path(path)


def output_files(output: str | None, test_sets: Sequence[str], suffix: str) -> list[Path]:
    """Returns the files of `--output` for these test sets: the file of a single set, or one for each in a folder.

    Creates the folder and empty files, so that a path that cannot be written is reported before hours of work. Raises
    `DataError`.
    """
    if output is None:
        return []
    path = Path(output)
    files = [path]
    if len(test_sets) > 1 or path.is_dir():
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"--output: {path} cannot be a folder for {len(test_sets)} test sets: {error.strerror}"
            ) from error
        files = [path / f"{Path(name).name}.{suffix}" for name in test_sets]
        if twice := next((file for file in files if files.count(file) > 1), None):
            raise DataError(
                f"--output: several test sets would be written to {twice}; rename one, or evaluate one at a time"
            )
    for file in files:
        # To open a pipe or a device may already have an effect.
        if file.is_file() or not file.exists():
            try:
                file.open("ab").close()
            except OSError as error:
                raise DataError(f"--output: {file} cannot be written: {error.strerror}") from error
    return files


@contextmanager
def writing(path: str | None) -> Iterator[Callable[[str], None]]:
    """A function that writes text to a file, by default to standard output, and flushes; in UTF-8 in every locale.

    Raises `DataError` where the file or the disk refuses, and `BrokenPipeError` where the reader has left.
    """
    name = path or STANDARD_OUTPUT

    def write(text: str) -> None:
        with write_errors(name):
            stream.write(text.encode())
            stream.flush()

    with write_errors(name):
        stream = Path(path).open("wb") if path is not None else sys.stdout.buffer  # noqa: SIM115 - closed below
    try:
        yield write
    finally:
        if path is not None:
            # What could not be written before is tried again.
            with write_errors(name):
                stream.close()


@contextmanager
def open_stream(
    options: argparse.Namespace, unit: str, lines: Iterator[str] | None = None
) -> Iterator[tuple[Iterator[str], int, Callable[[str], None], Callable[[int], object]]]:
    """Opens the stream that `add_stream_options` describes: lines, size of a window, output and progress.

    `lines` are read instead of those of the input.
    """
    from nmt.data.readers.files import iterate_lines, read_lines

    interactive = options.interactive or (options.input is None and sys.stdin.isatty())
    quiet = interactive or sys.stdout.isatty()
    if lines is None:
        lines = read_lines(options.input) if options.input else iterate_lines(sys.stdin.buffer, STANDARD_INPUT)
    with writing(options.output) as write, progress_bar(options, unit, quiet=quiet) as advance:
        yield lines, 1 if interactive else options.window, write, advance


@contextmanager
def progress_bar(
    options: argparse.Namespace, unit: str, total: int | None = None, *, quiet: bool = False, is_main: bool = True
) -> Iterator[Callable[[int], object]]:
    """A function that advances a progress bar, which disappears at its end if it has a `total`.

    It is shown on a terminal, unless it is `quiet` because it would mix with the output there, and with --progress.
    """
    from tqdm import tqdm

    shown = is_main and (options.progress or (sys.stderr.isatty() and not quiet))
    with tqdm(unit=unit, total=total, leave=total is None, disable=not shown) as progress:
        yield progress.update


def write_json(write: Callable[[str], None], values: Any) -> None:
    """Writes values as indented JSON; raises ValueError for NaN and infinity."""
    write(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def json_line(content: Mapping[str, Any]) -> str:
    """Returns a JSON object on one line; raises ValueError for NaN and infinity."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n"


def flag_of(key: str, value: str | None = None) -> str:
    """Returns the option for a key of the YAML, with its value if there is one."""
    return f"--{key.replace('_', '-')}{'' if value is None else f' {value}'}"


@contextmanager
def naming_flags() -> Iterator[None]:
    """Replaces keys of the YAML by options in the messages of a `ConfigError`; also a decorator."""
    try:
        yield
    except ConfigError as error:
        keys = re.compile(r"^(?:search|runtime|data\.filters)\.(\w+)")
        problems = [keys.sub(lambda key: flag_of(key[1]), problem) for problem in error.problems]
        raise ConfigError(*problems) from error
