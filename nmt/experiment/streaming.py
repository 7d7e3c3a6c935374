"""A stream of lines, translated in windows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from nmt.config.schema import Search
from nmt.errors import DataError, NmtError
from nmt.experiment.layout import Layout
from nmt.experiment.loading import System
from nmt.experiment.translation import BEST, Translation, Wanted, translate_lines


@dataclass(frozen=True)
class Window:
    """Lines that were translated together."""

    first_line: int
    """Its number, counted from 1."""
    lines: list[str]
    prefixes: list[str] | None
    translations: list[list[Translation]]


def windows(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    """Up to `size` lines at a time. A mistake in the text is raised after the lines before it have been given."""
    iterator = iter(lines)
    while True:
        window: list[str] = []
        try:
            for line in islice(iterator, size):
                window.append(line)
        except NmtError:
            if window:
                yield window
            raise
        if not window:
            return
        yield window


def translate_stream(
    system: System,
    lines: Iterable[str],
    search: Search,
    layout: Layout,
    wanted: Wanted = BEST,
    *,
    window: int,
    prefixes: tuple[str, Iterator[str]] | None = None,
    advance: Callable[[int], object] | None = None,
    then: Callable[[Window], object] | None = None,
) -> Iterator[str]:
    """Translate lines in order, `window` at a time: the text to be written for each window.

    `prefixes` are the name of a file and its lines, one for each line of the input: what its translation begins with.
    `then` is told of each window when its text has been taken.
    Raises `NmtError` for a mistake in either, when everything before it has been given.
    """
    first = 1
    for part in windows(lines, window):
        forced = None
        if prefixes is not None:
            forced = list(islice(prefixes[1], len(part)))
            if len(forced) < len(part):
                raise DataError(
                    f"{prefixes[0]}: has {first - 1 + len(forced)} lines, fewer than the input; give one for each line"
                )
        found = translate_lines(system, part, search, wanted, prefixes=forced, first_line=first, advance=advance)
        texts = [
            layout.render(number, line, translations)
            for number, (line, translations) in enumerate(zip(part, found, strict=True), start=first)
        ]
        yield "".join(texts)
        if then is not None:
            then(Window(first, part, forced, found))
        first += len(part)
    if prefixes is not None and next(prefixes[1], None) is not None:
        raise DataError(f"{prefixes[0]}: has more lines than the input, which has {first - 1}; give one for each line")


@contextmanager
def writing(path: str | None) -> Iterator[Callable[[str], None]]:
    """A function that writes text and flushes, to a file or, by default, to standard output; in UTF-8, whatever the
    locale says.

    Raises `DataError` where the file or the disk refuses, and `BrokenPipeError` where the reader has left.
    """

    def write(text: str) -> None:
        try:
            stream.write(text.encode())
            stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _refused(path, error) from error

    try:
        stream = Path(path).open("wb") if path is not None else sys.stdout.buffer  # noqa: SIM115 - closed below
    except OSError as error:
        raise _refused(path, error) from error
    try:
        yield write
    finally:
        if path is not None:
            try:
                stream.close()
            # What could not be written before is tried again.
            except OSError as error:
                raise _refused(path, error) from error


def _refused(path: str | None, error: OSError) -> DataError:
    return DataError(f"{path or 'standard output'}: cannot be written: {error.strerror or error}")
