"""Text files, compressed or not, as lines. A line ends at `\\n` and nowhere else."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, cast

from nmt.errors import DataError
from nmt.text.corpus.zstd import open_zstd

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")


def check_file(path: Path) -> None:
    """Raise a DataError unless `path` is a file that can be read."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        beside = next((f"{path}{suffix}" for suffix in COMPRESSIONS if Path(f"{path}{suffix}").is_file()), None)
        hint = f"; there is {beside}" if beside else ""
        raise DataError(f"{path}: {error.strerror}{hint}") from error
    if stat.S_ISDIR(mode):
        raise DataError(f"{path}: is a folder, not a file")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: no permission to read it")


def check_files(paths: Iterable[Path]) -> None:
    """Raise one DataError, a line for each, unless all of `paths` are files that can be read."""
    problems: list[str] = []
    for path in dict.fromkeys(paths):
        try:
            check_file(path)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)


def raw_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, its compression told by the suffix, as the bytes that `split_lines` gives.

    Raises DataError when the file is missing, damaged or cut short.
    """
    check_file(path)
    try:
        with _decompressed(path) as stream:
            yield from split_lines(stream)
    # A compressed file that was cut short is an EOFError, a damaged one any of the others, by the place of the damage.
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        state = "damaged or cut short" if path.suffix in COMPRESSIONS else "cannot be read"
        raise DataError(f"{path}: {state} ({error})") from error


def _decompressed(path: Path) -> BinaryIO:
    match path.suffix:
        case ".gz":
            return cast(BinaryIO, gzip.open(path))
        case ".bz2":
            return cast(BinaryIO, bz2.open(path))
        case ".xz":
            return cast(BinaryIO, lzma.open(path))
        case ".zst":
            return open_zstd(path)
        case _:
            return path.open("rb")


def split_lines(stream: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a binary stream, without their `\\n` or `\\r\\n` and without a byte order mark before the first.

    A binary stream splits at `\\n` alone, so U+2028, U+0085, form feeds and the like stay inside their line.
    """
    for number, line in enumerate(stream):
        if number == 0:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.endswith(b"\n"):
            line = line[:-2] if line.endswith(b"\r\n") else line[:-1]
        yield line


def iterate_lines(stream: Iterable[bytes], name: str, errors: Literal["strict", "replace"] = "strict") -> Iterator[str]:
    """The lines of a binary stream as text; `name` stands for it in messages.

    Bytes that are not UTF-8 raise a DataError with the line number, or become U+FFFD with `errors="replace"`.
    """
    try:
        yield from _decode(split_lines(stream), name, errors)
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from error


def read_lines(path: str | Path) -> Iterator[str]:
    """The lines of a file, compressed or not, as text.

    Raises DataError when the file is missing or damaged, or a line is not UTF-8.
    """
    yield from _decode(raw_lines(Path(path)), str(path), "strict")


def _decode(lines: Iterable[bytes], name: str, errors: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        try:
            yield line.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise DataError(broken_utf8(f"{name}:{number}", error)) from error


def broken_utf8(place: str, error: UnicodeDecodeError) -> str:
    """The message for bytes that are not UTF-8."""
    return f"{place}: not UTF-8, byte 0x{error.object[error.start]:02x} at position {error.start + 1} of the text"
