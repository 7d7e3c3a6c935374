"""Zstandard files, through the optional package `zstandard`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from nmt.errors import DataError

if TYPE_CHECKING:
    import zstandard
    from typing_extensions import Buffer

CHUNK = 1 << 16


def open_zstd(path: Path) -> BinaryIO:
    """The decompressed bytes of a file; raises DataError without the package, EOFError or OSError on damage."""
    try:
        import zstandard
    except ImportError as error:
        raise DataError(f"{path}: .zst files need the package zstandard; pip install zstandard") from error
    frames = _Frames(path.open("rb"), zstandard.ZstdDecompressor(), zstandard.ZstdError)
    return cast(BinaryIO, io.BufferedReader(frames, CHUNK))


class _Frames(io.RawIOBase):
    """The decompressed content of all frames of a file.

    The package's own `stream_reader` ends without a word where a file was cut short; this one raises EOFError.
    """

    def __init__(
        self, file: BinaryIO, decompressor: zstandard.ZstdDecompressor, damage: type[zstandard.ZstdError]
    ) -> None:
        self._file = file
        self._decompressor = decompressor
        self._damage = damage
        self._frame = decompressor.decompressobj()
        self._inside_frame = False
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        while not self._ready:
            compressed = self._frame.unused_data or self._file.read(CHUNK)
            if not compressed:
                if self._inside_frame:
                    raise EOFError("the file ends inside a zstd frame")
                return 0
            if self._frame.eof:
                self._frame = self._decompressor.decompressobj()
            try:
                self._ready = memoryview(self._frame.decompress(compressed))
            except self._damage as error:
                raise OSError(str(error)) from error
            self._inside_frame = not self._frame.eof
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._ready))
        view[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
