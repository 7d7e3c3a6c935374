"""Text files, compressed or not, as lines. A line ends at `\\n` and nowhere else."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from nmt.errors import DataError, NmtError

UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LONGEST_LINE_BYTES = 1 << 26
"""Bytes of the longest line that is read. A longer one is refused, so that a file without line ends cannot fill the
memory."""


def _open_zstd(path: Path, mode: str) -> BinaryIO:
    # Imported late, because that is slow. Raises OSError where a file was cut short.
    import pyarrow as pa

    return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(path), compression="zstd"), 1 << 16))


OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _open_zstd}


def check_file(path: Path, *, once: bool = False) -> None:
    """Raises a DataError unless `path` is a readable regular file, or with `once` a pipe or a device."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}{_hint(path)}") from error
    except ValueError as error:
        raise DataError(f"{str(path)!r}: not the name of a file; a name has no NUL in it") from error
    if stat.S_ISDIR(mode):
        raise DataError(f"{path}: is a folder, not a file")
    if not stat.S_ISREG(mode) and not once:
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a device"
        raise DataError(f"{path}: is {kind}, not a file; a corpus is read several times, so write it to a file first")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: no permission to read it")


def _hint(path: Path) -> str:
    """Says where a missing file might be: compressed beside it, or in another folder."""
    beside = next((f"{path}{suffix}" for suffix in OPENERS if os.path.isfile(f"{path}{suffix}")), None)
    if beside:
        return f"; there is {beside}"
    return "" if path.is_absolute() else f" in {os.getcwd()}, where relative paths begin"


def raw_lines(path: Path, *, once: bool = False) -> Iterator[bytes]:
    """Yields the lines of a file as bytes, as `split_lines` does. The suffix determines the compression.

    With `once` the file may be a pipe or a device. Raises DataError when the file is missing, damaged or cut short.
    """
    with opened(path, once=once) as stream:
        yield from split_lines(stream, str(path))


@contextmanager
def opened(path: Path, *, once: bool = False) -> Iterator[BinaryIO]:
    """Opens a file for reading, by the compression of its suffix; errors are those of `raw_lines`."""
    check_file(path, once=once)
    try:
        with OPENERS.get(path.suffix, open)(path, "rb") as stream:
            yield stream
    # A compressed file that was cut short raises EOFError, a damaged one any of the others.
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        state = "damaged or cut short" if path.suffix in OPENERS else "cannot be read"
        raise DataError(f"{path}: {state} ({error})") from error


def split_lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """Yields the lines of a binary stream, without their `\\n` or `\\r\\n`, and the first without a byte order mark.

    A binary stream splits at `\\n` alone, so U+2028, U+0085, form feeds and the like stay inside their line.
    Raises DataError for a line of `LONGEST_LINE_BYTES` bytes or more; `name` stands for the stream in the message.
    """
    for number, line in enumerate(iter(lambda: stream.readline(LONGEST_LINE_BYTES), b""), start=1):
        if len(line) == LONGEST_LINE_BYTES:
            raise DataError(f"{name}:{number}: a line of {LONGEST_LINE_BYTES >> 20} MiB or more; is this a text file?")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.endswith(b"\n"):
            line = line[:-2] if line.endswith(b"\r\n") else line[:-1]
        yield line


def iterate_lines(stream: BinaryIO, name: str) -> Iterator[str]:
    """Yields lines as text; raises DataError, with `name` and line number, for bytes that are not UTF-8."""
    try:
        yield from _decode_lines(split_lines(stream, name), name)
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from error


def read_lines(path: str | Path) -> Iterator[str]:
    """Yields the lines of a file, compressed or not, as text. It is read once, so it may be a pipe.

    Raises DataError when the file is missing or damaged, or a line is not UTF-8.
    """
    return _decode_lines(raw_lines(Path(path), once=True), str(path))


def _decode_lines(lines: Iterable[bytes], name: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise DataError(broken_utf8_message(f"{name}:{number}", error)) from error


def line_windows(lines: Iterable[str], size: int, *, whole_documents: bool = False) -> Iterator[list[str]]:
    """Yields `size` lines at a time, or `whole_documents`, which end with a blank line, of `size` lines or more.

    A mistake in the text is raised after the lines before it were yielded.
    """
    window: list[str] = []
    try:
        for line in lines:
            window.append(line)
            if len(window) >= size and not (whole_documents and line.strip()):
                yield window
                window = []
    except NmtError:
        if window:
            yield window
        raise
    if window:
        yield window


def broken_utf8_message(location: str, error: UnicodeDecodeError) -> str:
    """Returns the message for bytes that are not UTF-8."""
    utf16 = "; the file looks like UTF-16: save it as UTF-8" if error.object[:2] in UTF16_MARKS else ""
    position = f"byte 0x{error.object[error.start]:02x} at position {error.start + 1} of the text"
    return f"{location}: not UTF-8, {position}{utf16}"
