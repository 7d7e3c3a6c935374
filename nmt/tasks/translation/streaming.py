"""A stream of lines, translated in windows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path

from nmt.config.schema import SearchConfig
from nmt.errors import DataError, NmtError
from nmt.tasks.translation.document_translation import translate_text
from nmt.tasks.translation.layout import Layout
from nmt.tasks.translation.loading import System
from nmt.tasks.translation.translation import BEST, Translation, Wanted


@dataclass(frozen=True)
class Window:
    """Lines that were translated together."""

    first_line: int
    """Its number, counted from 1."""
    lines: list[str]
    prefixes: list[str] | None
    translations: list[list[Translation]]
    documents: list[int] | None = None
    """The number of each line's document; None where every line stands alone."""


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


def document_windows(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    """The same in whole documents, which end with a blank line: a window ends with the one that makes it `size` lines
    or more."""
    window: list[str] = []
    try:
        for line in lines:
            window.append(line)
            if len(window) >= size and not line.strip():
                yield window
                window = []
    except NmtError:
        if window:
            yield window
        raise
    if window:
        yield window


def split_at_blank_lines(lines: Sequence[str]) -> list[int]:
    """The number of each line's document; a blank line belongs to the one that follows it."""
    return list(accumulate(int(not line.strip()) for line in lines))


def translate_stream(
    system: System,
    lines: Iterable[str],
    search: SearchConfig,
    layout: Layout,
    wanted: Wanted = BEST,
    *,
    window: int,
    prefixes: tuple[str, Iterator[str]] | None = None,
    documents: bool = False,
    advance: Callable[[int], object] | None = None,
    then: Callable[[Window], object] | None = None,
) -> Iterator[str]:
    """Translate lines in order, `window` at a time: the text to be written for each window.

    `prefixes` are the name of a file and its lines, one for each line of the input: what its translation begins with.
    With `documents` blank lines end documents, whose lines are translated in turn; a window is then made of whole ones.
    `then` is told of each window when its text has been taken.
    Raises `NmtError` for a mistake in either, when everything before it has been given.
    """
    first = 1
    for part in (document_windows if documents else windows)(lines, window):
        forced = None
        if prefixes is not None:
            forced = list(islice(prefixes[1], len(part)))
            if len(forced) < len(part):
                raise DataError(
                    f"{prefixes[0]}: has {first - 1 + len(forced)} lines, fewer than the input; give one for each line"
                )
        numbers = split_at_blank_lines(part) if documents else None
        found = translate_text(
            system, part, search, wanted, documents=numbers, prefixes=forced, first_line=first, advance=advance
        )
        texts = [
            layout.render(number, line, translations)
            for number, (line, translations) in enumerate(zip(part, found, strict=True), start=first)
        ]
        yield "".join(texts)
        if then is not None:
            then(Window(first, part, forced, found, numbers))
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
