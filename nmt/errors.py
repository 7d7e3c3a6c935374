"""Mistakes that a user can fix. All other errors are our own fault and keep their traceback."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

REMEDIES = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room within your quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EIO: "the disk or the connection to it fails",
    errno.EROFS: "name a place that can be written",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}
"""Remedies for errors of the system, where its own text has none."""


def reason(error: OSError) -> str:
    """Returns the system's text for an error and, where it is not obvious, what to do about it."""
    remedy = REMEDIES.get(error.errno or 0)
    return f"{error.strerror or error}{'; ' + remedy if remedy else ''}"


def require_file(path: str | Path) -> None:
    """Raises an OSError unless a regular file is at the path.

    Opening a pipe that nobody writes to waits without end; a device such as `/dev/zero` never ends.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is a pipe or a device, not a file", str(path))


def line_of(error: UnicodeDecodeError) -> int:
    """Returns the line, counted from 1, of the first byte that is not UTF-8."""
    return bytes(error.object).count(b"\n", 0, error.start) + 1


def on_one_line(text: str) -> str:
    """Returns the text with spaces for line breaks, and escapes for other control characters: terminals obey them."""
    text = text.replace("\n", " ")
    return re.sub("[\0-\x1f\x7f-\x9f\u2028\u2029]", lambda match: match[0].encode("unicode_escape").decode(), text)


def counted(count: int, noun: str) -> str:
    """Returns the count with its noun: `1 epoch`, `1,500 updates`, `2 processes`."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


class NmtError(Exception):
    """One or more mistakes of the user: one line each, what is wrong, where, and what to do.

    The command line prints the lines to standard error and exits with code 2.
    """

    def __init__(self, *problems: str) -> None:
        assert problems, "an error without a message helps nobody"
        self.problems = tuple(map(on_one_line, problems))
        super().__init__("\n".join(self.problems))


class ConfigError(NmtError):
    """The YAML, or an argument that overrides it, cannot be used."""


class DataError(NmtError):
    """A corpus or a tokenizer file cannot be used; the message names the file and, where there is one, the line."""


class CheckpointError(NmtError):
    """A saved model cannot be used: missing, damaged, of another version, or of another shape."""


class TrainingError(NmtError):
    """Training cannot go on: the loss stays non-finite, or a batch does not fit into memory."""


@contextmanager
def write_errors(name: object) -> Iterator[None]:
    """Raises an `OSError` as a `DataError` that names the file; that the reader of a pipe has left stays as it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DataError(f"{name}: cannot be written: {error.strerror or error}") from error


def try_each(action: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Returns the results of the action for all items.

    Raises one DataError with the problems of all items, each problem once.
    """
    results: list[Result] = []
    problems: list[str] = []
    for item in items:
        try:
            results.append(action(item))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*dict.fromkeys(problems))
    return results
