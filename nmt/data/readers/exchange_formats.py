"""Formats in which parallel corpora are exchanged: translation memories (TMX), and the zip files of OPUS."""

from __future__ import annotations

import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast
from xml.parsers import expat

from nmt.data.readers import base
from nmt.data.readers.files import LONGEST_LINE_BYTES, check_file, opened, split_lines
from nmt.data.readers.line_formats import AlignedReader
from nmt.errors import DataError

BLOCK_BYTES = 1 << 16
CODES = frozenset({"bpt", "ept", "it", "ph", "ut"})
"""Elements of TMX inside of a sentence with codes of its formatting, which are no text."""
LISTED_LANGUAGES = 10
DEEPEST = 100
"""Elements inside of each other."""

_BLANKS = re.compile("[ \t\r\n]+")


def _same_language(code: str, language: str) -> bool:
    """Whether a code such as `de-DE` or `DE_de` is the language, such as `de`, or a variety of it."""
    code, language = (name.lower().replace("_", "-") for name in (code, language))
    return code == language or code.startswith(f"{language}-")


class TmxReader(base.FileReader):
    """Translation memory exchange, versions 1.1 to 1.4: of each unit, the first segment in each of two languages.

    A unit without a segment in one of the languages is a pair with an empty side. It is at the line where it begins.
    Entities may not be declared: expanding them can fill the memory, or read other files.
    """

    def __init__(self, options: base.FileOptions, languages: base.TextOfFields) -> None:
        super().__init__(options, languages)
        self._languages = {**languages, **self._columns}

    def records(self) -> Iterator[base.Record]:
        (path,) = self.files
        units = _Units(self.name, self._languages)
        with opened(path) as stream:
            try:
                while block := stream.read(BLOCK_BYTES):
                    units.parser.Parse(block)
                    yield from units.finished()
                units.parser.Parse(b"", True)
            except expat.ExpatError as error:
                problem = expat.ErrorString(error.code)
                raise DataError(f"{self.name}:{error.lineno}: damaged or cut short, not XML ({problem})") from error
        yield from units.finished()
        units.require_languages()


class _Units:
    """Collects the units of a TMX file as the parser comes to them."""

    def __init__(self, name: str, languages: base.TextOfFields) -> None:
        self._name = name
        self._wanted = languages
        self._records: list[base.Record] = []
        self._seen: dict[str, None] = {}
        self._path: list[str] = []
        self._line = 0
        self._language = ""
        self._sides: dict[base.FieldName, str] = {}
        self._text: list[str] = []
        self._characters = 0
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters_of
        self.parser.EntityDeclHandler = self._refuse_declaration
        self.parser.SkippedEntityHandler = self._refuse_entity

    def finished(self) -> Iterator[base.Record]:
        """Yields the units that have ended since the last call."""
        records, self._records = self._records, []
        yield from records

    def require_languages(self) -> None:
        """Raises DataError if a language never occurred."""
        for field, language in self._wanted.items():
            if not any(_same_language(code, language) for code in self._seen):
                codes = ", ".join(map(repr, list(self._seen)[:LISTED_LANGUAGES])) or "none"
                raise DataError(
                    f"{self._name}: no segment in the language {language!r}; there are {codes}; name one with "
                    f"`{field}: CODE`"
                )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._path and tag != "tmx":
            raise self._problem(f"is no TMX file: it begins with <{tag}>, not with <tmx>")
        self._path.append(tag)
        if len(self._path) > DEEPEST:
            raise self._problem(f"more than {DEEPEST} elements inside of each other")
        if tag == "tu":
            self._line, self._sides = self.parser.CurrentLineNumber, {}
        elif tag == "tuv":
            self._language = attributes.get("xml:lang") or attributes.get("lang") or ""
            if not self._language:
                raise self._problem("<tuv> has no xml:lang")
            self._seen.setdefault(self._language)
        elif tag == "seg":
            self._text, self._characters = [], 0

    def _end(self, tag: str) -> None:
        self._path.pop()
        if tag == "seg":
            text = _BLANKS.sub(" ", "".join(self._text)).strip(" ")
            for field, language in self._wanted.items():
                if _same_language(self._language, language):
                    self._sides.setdefault(field, text)
        elif tag == "tu":
            values = {field: self._sides.get(field, "").encode() for field in self._wanted}
            self._records.append(base.Record(self._line, values))

    def _characters_of(self, text: str) -> None:
        if "seg" in self._path and CODES.isdisjoint(self._path):
            self._text.append(text)
            self._characters += len(text)
            if self._characters >= LONGEST_LINE_BYTES:
                raise self._problem(f"a segment of {LONGEST_LINE_BYTES >> 20} MiB or more")

    def _refuse_declaration(self, name: str, *_: Any) -> None:
        raise self._problem(f"declares the entity {name!r}, which a corpus must not do; take the declaration out")

    def _refuse_entity(self, name: str, is_parameter: bool) -> None:
        if not is_parameter:
            raise self._problem(f"the entity &{name}; is not one of XML's; write the character instead")

    def _problem(self, text: str) -> DataError:
        return DataError(f"{self._name}:{self.parser.CurrentLineNumber}: {text}")


class OpusReader(AlignedReader):
    """The zip file of a corpus in OPUS, Moses format: two of its text files, whose names end in their languages."""

    def __init__(self, options: base.FileOptions, languages: base.TextOfFields) -> None:
        path = Path(options.path)
        check_file(path)
        with _open_zip(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
        self._archive = path
        self._members: dict[base.FieldName, str] = {}
        for field, code in {**languages, **options.columns()}.items():
            members = [name for name in names if name.rpartition(".")[2].lower() == code.lower()]
            if len(members) != 1:
                problem = "no file" if not members else "more than one file"
                raise DataError(
                    f"{path}: {problem} in it has a name that ends in .{code}; there are {', '.join(names)}; give the "
                    f"ending of one with `{field}: CODE`"
                )
            self._members[field] = members[0]
        super().__init__({field: f"{path}/{member}" for field, member in self._members.items()}, "pair", [path])
        self.name = str(path)

    def _lines(self, field: base.FieldName) -> Iterator[bytes]:
        # Each line is read from an archive of its own: the sides are read in turn.
        with _open_zip(self._archive) as archive, archive.open(self._members[field]) as member:
            yield from split_lines(
                cast(BinaryIO, io.BufferedReader(cast(Any, member), BLOCK_BYTES)), self._names[field]
            )


@contextmanager
def _open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens a zip file; raises DataError where it is none, damaged, or encrypted."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path}: not a zip file, damaged or cut short ({error})") from error
    except (RuntimeError, NotImplementedError) as error:
        # A password, or a method of compression that Python does not have.
        raise DataError(f"{path}: cannot be unpacked ({error})") from error
