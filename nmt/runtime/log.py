"""Log lines and tables."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

logger = logging.getLogger("nmt")
# Without a handler Python would print warnings; a program that uses this package says itself whether to print.
logger.addHandler(logging.NullHandler())

FILE_ONLY = {"file_only": True}
"""`extra=` of a log record that a progress bar shows already: it goes into the file, not to the terminal."""

_NUMBER = re.compile(r"[-+±]?\d[\d,.]*(e[-+]?\d+)?%?|-|")


def set_up_logging(file: Path | None, is_main: bool, verbose: bool = False, quiet: bool = False) -> None:
    """Writes plain lines to standard error (above a progress bar, if there is one) and, dated, to the end of `file`.

    Debug messages go to the file, and with `verbose` to standard error too; with `quiet` nothing goes there. Only the
    main process logs messages below a warning, and only it writes the file. May be called again, for example once the
    run's folder is known.
    """
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        # Closing writes again what could not be written, which has been reported.
        with suppress(OSError):
            handler.close()
    logger.propagate = False
    logger.setLevel(logging.DEBUG if is_main else logging.WARNING)
    if quiet:
        logger.addHandler(logging.NullHandler())
    else:
        screen = _Screen()
        screen.setLevel(logging.DEBUG if verbose else logging.INFO)
        screen.setFormatter(_Plain("%(message)s"))
        screen.addFilter(lambda record: not getattr(record, "file_only", False))
        logger.addHandler(screen)
    if file is not None and is_main:
        file.parent.mkdir(parents=True, exist_ok=True)
        log = _File(file, encoding="utf-8")
        log.setFormatter(_Plain("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
        logger.addHandler(log)


@contextmanager
def logging_restored() -> Iterator[None]:
    """Restores the handlers of the log, which a program may have set, and its level."""
    before = logger.handlers[:], logger.propagate, logger.level
    # `set_up_logging` closes those that it removes.
    logger.handlers[:] = []
    try:
        yield
    finally:
        for handler in logger.handlers:
            handler.close()
        logger.handlers[:], logger.propagate, level = before
        logger.setLevel(level)


def format_table(rows: Sequence[Sequence[object]], header: Sequence[str] | None = None) -> str:
    """Formats rows as aligned plain text, two spaces between columns; columns of numbers are flush right."""
    body = [[str(cell) for cell in row] for row in rows]
    lines = ([list(header)] if header else []) + body
    if not lines:
        return ""
    assert len({len(line) for line in lines}) == 1, "rows of a table have one length"
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    # A dash stands for a missing number and does not change the side of its column.
    numeric = [all(_NUMBER.fullmatch(cell) for cell in column) for column in zip(*body, strict=True)] or [False]
    numeric += [False] * (len(widths) - len(numeric))
    if header:
        lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


class _Screen(logging.Handler):
    """Writes to standard error through `tqdm.write`, which moves a progress bar out of the way."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # Without tqdm's lock. tqdm releases it in a `finally` even when an interrupt came before it was acquired;
            # the error of that release would replace the KeyboardInterrupt, and the program would go on.
            tqdm.write(self.format(record), file=sys.stderr, nolock=True)
        except BrokenPipeError:
            raise
        except Exception:
            self.handleError(record)


class _File(logging.FileHandler):
    """Writes to the log file. A full disk is an error that names the file, not a traceback for every line."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, self.baseFilename) from error
        super().handleError(record)


class _Plain(logging.Formatter):
    """The message, with `warning: ` or `error: ` before it where it is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.levelno >= logging.WARNING:
            record.message = f"{record.levelname.lower()}: {record.getMessage()}"
        return super().formatMessage(record)
