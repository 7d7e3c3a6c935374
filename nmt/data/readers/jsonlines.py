"""One JSON object a line, two fields of which are the sides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from nmt.config.schema import DataConfig
from nmt.data.readers.base import CORPORA, Corpus, CorpusOptions, Record, Text, of_record
from nmt.data.readers.files import check_file, raw_lines
from nmt.errors import DataError


class JsonLinesOptions(CorpusOptions):
    """A file with one JSON object a line, plain or compressed."""

    kind: Literal["jsonl"] = "jsonl"
    """JSON lines."""
    path: str
    """The file."""
    source: str
    """Field of the source sentence; a field inside a field by its dotted name, such as `translation.de`."""
    target: str
    """Field of the target sentence, or its dotted name."""
    alignments: str | None = None
    """Field of the word alignment, such as `0-0 2-1`, for `training.guided_alignment`."""

    documents: str | None = None
    """Field that names the document, a string or a whole number, or its dotted name: lines of one document follow each
    other, in order, and have the same."""

    @property
    def has_alignments(self) -> bool:
        return self.alignments is not None

    @property
    def has_documents(self) -> bool:
        return self.documents is not None


@CORPORA.register("jsonl", JsonLinesOptions)
class JsonLinesCorpus(Corpus):
    """One JSON object a line, two fields of which are the sides."""

    def __init__(self, options: JsonLinesOptions, data: DataConfig) -> None:
        super().__init__(options, data)
        self.name = options.path
        self._path = Path(options.path)
        self.files = (self._path,)
        self._fields = of_record(options.source, options.target, options.alignments, options.documents)
        check_file(self._path)

    def records(self) -> Iterator[Record]:
        for line, text in enumerate(raw_lines(self._path), start=1):
            place = f"{self._path}:{line}"
            try:
                # Bytes that are not UTF-8 travel as surrogates and come out of `_text` as bytes that are not UTF-8,
                # so that the policy for broken UTF-8 looks at the two sides and not at the rest of the object.
                value = json.loads(text.decode("utf-8", "surrogateescape"))
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place}: not JSON ({error})") from error
            yield Record(line, **{text: _text(value, name, place, text) for text, name in self._fields.items()})


def field_of(value: object, name: str, place: str) -> object:
    """The field of a JSON object by its name, or its dotted name; raises DataError where there is none."""
    found = value
    for key in (name,) if isinstance(value, dict) and name in value else name.split("."):
        if not isinstance(found, dict) or key not in found:
            raise DataError(f"{place}: no field {name!r}")
        found = found[key]
    return found


def _text(value: object, name: str, place: str, text: Text) -> bytes:
    found = field_of(value, name, place)
    if text == "document" and type(found) is int:
        found = str(found)
    if not isinstance(found, str):
        kind = "null" if found is None else type(found).__name__
        also = " or a whole number" if text == "document" else ""
        raise DataError(f"{place}: field {name!r} is {kind}, not a string{also}")
    # JSON can spell a lone surrogate, which no UTF-8 text holds: as bytes it counts as broken UTF-8.
    return found.encode("utf-8", "surrogatepass")
