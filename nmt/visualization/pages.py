"""The playground: one HTML page of attention weights, beam searches and documents, as a file or from a server.

A file contains all that it needs and uses no network; its actions that need a model say so. A served page asks its own
server alone.

The text on a page is data and cannot run, and the page's policy allows its own script alone.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from nmt.errors import write_errors
from nmt.visualization.attention_map import AttentionMap, ContextMap
from nmt.visualization.inline import weighted_sentences
from nmt.visualization.playground import (
    PAIR_PATH,
    STEPS_PATH,
    BeamTrace,
    ContextAttention,
    Mechanism,
    PairAttention,
)

WEIGHT_STEPS = 255
"""Steps of a stored weight: it differs by at most 1/510. A sentence of 30 pieces takes about a kilobyte a head."""
DIGITS = 4
"""Of a stored weight of a document, or a probability."""
MAX_TITLE_LENGTH = 200
"""Characters of a document in the list."""

STYLES = ("page.css", "attention.css", "beam.css", "documents.css")
SCRIPTS = (
    *("d3.min.js", "parts.js", "attention.js", "beam.js", "equations.js", "alignment.js", "documents.js"),
    "page.js",  # last: it begins
)

Links = Sequence[tuple[int, int]]
"""Word alignment: source and target word, counted from 0."""
GoldLink = tuple[int, int, bool]
"""Source word, target word, and whether the link is sure; a link that is not is a possible one."""

PAGE_SUFFIXES = (".html", ".htm")
IMAGE_SUFFIXES = (".png", ".svg", ".pdf", ".jpg", ".jpeg")


def is_page(path: Path) -> bool:
    """Whether plots go to a page at this path. Any other path is a folder of images."""
    return path.suffix.lower() in PAGE_SUFFIXES


def plot_path_problems(path: Path, *, documents: bool) -> Iterator[str]:
    """Yields a line for each reason why plots, of documents or of sentence pairs, cannot go to this path."""
    if is_page(path):
        if path.is_dir():
            yield f"{path} is a folder; name a file for the page"
        return
    if documents:
        yield f"documents are drawn on one page; {path} must end in .html"
        return
    if path.suffix.lower() in IMAGE_SUFFIXES:
        yield f"{path} is one picture; name a folder for a picture of each line, or a page that ends in .html"
    elif path.exists() and not path.is_dir():
        yield f"{path} is a file; name a folder for the pictures, or a page that ends in .html"
    if find_spec("matplotlib") is None:
        yield "pictures need the package matplotlib; pip install matplotlib, or name a page that ends in .html"


class Page:
    """Writes a page item by item, so that none is held in memory. `end` closes it."""

    kind: ClassVar[str]
    """Of the page's items: `translations` or `documents`."""
    noun: ClassVar[str]
    """An item of the page's list."""
    part: ClassVar[str]
    """A part of it that has weights."""
    keys: ClassVar[str]
    """HTML that explains further keys."""

    def __init__(
        self,
        write: Callable[[str], object],
        title: str,
        systems: Sequence[dict[str, Any]],
        server: Mapping[str, str] | None = None,
    ) -> None:
        style, script = (_joined(names) for names in (STYLES, SCRIPTS))
        head, _, self._tail = _read("page.html").partition("{{data}}")
        self.policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}"
        if server is not None:
            self.policy += "; connect-src 'self'"
        texts = {
            "policy": self.policy,
            "style": style,
            "script": script,
            "noun": self.noun,
            "part": self.part,
            "keys": self.keys,
            "title": html.escape(title),  # last, because a name may contain anything
        }
        for name, text in texts.items():
            head, self._tail = (part.replace("{{" + name + "}}", text) for part in (head, self._tail))
        self._write = write
        self._separator = "\n"
        settings = {"kind": self.kind, "systems": systems, "server": server}
        write(f'{head}{_json_in_html(settings)[:-1]},"sentences":[')

    def _add(self, line: int, source: str, attention: Sequence[dict[str, Any] | None], **more: Any) -> None:
        item = {"line": line, "source": source, "attention": attention, **more}
        self._write(self._separator + _json_in_html(item))
        self._separator = ",\n"

    def end(self) -> None:
        self._write(f"\n]}}{self._tail}")


@dataclass(frozen=True)
class PageSystem:
    """A system whose attention is on a page."""

    name: str
    source_language: str
    """BCP 47 code if the config has one: browsers choose fonts for Chinese characters by it."""
    target_language: str
    mechanism: Mechanism | None = None
    """For the equations; None for a system of several models."""


@dataclass(frozen=True)
class DrawnLine:
    """A line of the input, with the attention of each system."""

    line: int
    """Counted from 1."""
    source: str
    maps: Sequence[AttentionMap | None]
    """Of each system; None where it has no translation."""
    beams: Sequence[BeamTrace | None] | None = None
    """The beam search of each system, for a page; None where it is not recorded."""
    links: Sequence[Links | None] | None = None
    """The word alignment of each system, for a page."""
    gold: Collection[GoldLink] = ()
    """An alignment made by hand, for a page."""


class TranslationPage(Page):
    """A page of sentence pairs, with the attention and the beam search of one or more systems."""

    kind, noun, part = "translations", "sentence", "piece"
    keys = "<kbd>Tab</kbd> enters the sentence, where <kbd>←</kbd> <kbd>→</kbd> go from piece to piece"

    def __init__(
        self,
        write: Callable[[str], object],
        systems: Sequence[PageSystem],
        title: str | None = None,
        server: Mapping[str, str] | None = None,
    ) -> None:
        title = title or "Attention of " + " and ".join(system.name for system in systems)
        content = [{**vars(each), "mechanism": each.mechanism and each.mechanism.model_dump()} for each in systems]
        super().__init__(write, title, content, server)
        self._systems = len(systems)

    def add(self, drawn: DrawnLine) -> None:
        """Adds a line of the input."""
        assert len(drawn.maps) == self._systems, "one attention map a system"
        aligned = zip(drawn.maps, drawn.links or [None] * len(drawn.maps), strict=True)
        more: dict[str, Any] = {}
        if drawn.beams is not None:
            more["beams"] = [each and each.model_dump() for each in drawn.beams]
        if drawn.gold:
            more["given"] = [list(link) for link in drawn.gold]
        content = [pair_attention(each, own).model_dump() if each else None for each, own in aligned]
        self._add(drawn.line, drawn.source, content, **more)


def pair_attention(attention: AttentionMap, links: Links | None = None) -> PairAttention:
    """Returns the record of a map, with the word alignment by its weights if there is one."""
    centers = None
    if attention.centers_NT is not None:
        # The shortest decimal form of each: the positions within a window depend on the last digit.
        centers = [[float(str(center)) for center in head] for head in attention.centers_NT]
    return PairAttention(
        target=attention.target,
        source_pieces=list(attention.source_pieces),
        target_pieces=list(attention.target_pieces),
        log_probability=round(attention.log_probability, 4),
        heads=len(attention.weights_NTS),
        weights=_bytes(attention.weights_NTS),
        centers=centers,
        half_width=attention.half_width,
        links=None if links is None else list(links),
        context=None if attention.context is None else list(map(_context_attention, attention.context)),
    )


def _context_attention(context: ContextMap) -> ContextAttention:
    return ContextAttention(
        side=context.side,
        lines=list(context.lines),
        sentences=_bytes(context.sentences_QP),
        words=list(map(_bytes, context.words_QS)),
    )


def _bytes(weights: npt.NDArray[np.float32]) -> str:
    """Returns weights in bytes, in base64."""
    steps = np.rint(np.clip(weights, 0.0, 1.0) * WEIGHT_STEPS).astype(np.uint8)
    return base64.b64encode(steps.tobytes()).decode()


def served_page(systems: Sequence[PageSystem]) -> tuple[str, str]:
    """Returns the playground of a server, and its content security policy for the response's header.

    The page posts to `STEPS_PATH` and `PAIR_PATH`, relative to its own address.
    """
    written: list[str] = []
    server = {"steps": STEPS_PATH, "pair": PAIR_PATH}
    page = TranslationPage(written.append, systems, "Attention playground", server)
    page.end()
    return "".join(written), page.policy


@dataclass(frozen=True)
class WeightedSentence:
    """A sentence as a classifier reads it, with its weight and those of its words and pieces."""

    weight: float
    """In the document."""
    words: tuple[str, ...]
    weights: tuple[float, ...]
    """Of each word in the sentence."""
    text: str = ""
    pieces: tuple[str, ...] = ()
    piece_weights: tuple[float, ...] = ()
    """Of each piece in the sentence; a word has the sum over its pieces."""


@dataclass(frozen=True)
class ClassifiedDocument:
    """A line of the input with its label."""

    line: int
    """Counted from 1."""
    text: str
    label: str | None
    """The most probable one; None for a line without a word."""
    probabilities: Mapping[str, float]
    """Of every label; empty for a line without a word."""
    sentences: tuple[WeightedSentence, ...]
    """Empty unless weights are requested."""

    def _repr_html_(self) -> str:
        """Shows label and weights in a notebook."""
        shown = "" if self.label is None else f"{self.label} {self.probabilities[self.label]:.4f}"
        rows = [(sentence.weight, sentence.words, sentence.weights) for sentence in self.sentences]
        if not rows:
            return f"<p>{html.escape(shown)} {html.escape(self.text)}</p>"
        return f"<p>{html.escape(shown)}</p>{weighted_sentences(rows)}"


class DocumentPage(Page):
    """A page of classified documents: sentence weights in the margin, word weights as background of the words.

    As in figure 5 of Yang 2016: the margin shows the weight p_s of a sentence in its document, the background of a word
    sqrt(p_s) p_w, with p_w its weight in the sentence, so that important words stand out in important sentences and do
    not vanish in the others. Each of the two colours is full for the largest value of the document.
    """

    kind, noun, part = "documents", "document", "word"
    keys = (
        "<kbd>Tab</kbd> enters the document, where <kbd>←</kbd> <kbd>→</kbd> go from word to word and "
        "<kbd>↑</kbd> <kbd>↓</kbd> from sentence to sentence"
    )

    def __init__(self, write: Callable[[str], object], model: str, language: str) -> None:
        """`model` is the name of the classifier; `language` that of the documents, as a BCP 47 code."""
        super().__init__(write, f"Attention of {model}", [{"name": model, "language": language}])

    def add(self, document: ClassifiedDocument, true_label: str | None = None) -> None:
        """Adds a document that has a label. The true one, if it is known, shows which documents are mistakes."""
        ranked = sorted(document.probabilities.items(), key=lambda item: -item[1])
        content = {
            "label": document.label,
            "true_label": true_label,
            "probabilities": [[each, round(probability, DIGITS)] for each, probability in ranked],
            "sentences": [
                {
                    "weight": round(sentence.weight, DIGITS),
                    "words": sentence.words,
                    "weights": [round(weight, DIGITS) for weight in sentence.weights],
                }
                for sentence in document.sentences
            ],
        }
        self._add(document.line, " ".join(document.text.split())[:MAX_TITLE_LENGTH], [content])


PageT = TypeVar("PageT", bound=Page)


@contextmanager
def new_page(path: Path, open_page: Callable[[Callable[[str], object]], PageT]) -> Iterator[PageT]:
    """A page in a file, which exists when the block has ended without an error; raises `DataError`."""
    # Imported late: it imports PyTorch, which checking a path does not need.
    from nmt.checkpoint.durable import new_file

    def write(text: str) -> None:
        with write_errors(path):
            file.write(text.encode())

    with ExitStack() as stack:
        with write_errors(path):
            file = stack.enter_context(new_file(path))
        page = open_page(write)
        yield page
        page.end()
        with write_errors(path):
            stack.close()


def _json_in_html(content: object) -> str:
    """Returns JSON for a script element: without `<` it can neither end the element nor begin a comment."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _read(name: str) -> str:
    return files("nmt.visualization").joinpath("page", name).read_text("utf-8")


def _joined(names: Sequence[str]) -> str:
    return "\n".join(map(_read, names))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
