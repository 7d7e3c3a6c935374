"""HTML pages of attention weights, to step through in a browser. A page contains all that it needs: no network is used.

The text on a page is data and cannot run, and the page's policy allows its own script alone.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from nmt.errors import write_errors
from nmt.visualization.attention_map import AttentionMap

WEIGHT_STEPS = 255
"""Steps of a stored weight: it differs by at most 1/510. A sentence of 30 pieces takes about a kilobyte a head."""
DIGITS = 4
"""Of a stored weight of a document, or a probability."""
MAX_TITLE_LENGTH = 200
"""Characters of a document in the list."""

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

    noun: ClassVar[str]
    """An item of the page's list."""
    part: ClassVar[str]
    """A part of it that has weights."""
    keys: ClassVar[str]
    """HTML that explains further keys."""
    view: ClassVar[str]
    """Name of a style sheet and a script. The script defines `View`, which draws an item, `matching`, which searches,
    and the texts for items without content."""

    def __init__(self, write: Callable[[str], object], title: str, systems: Sequence[dict[str, str]]) -> None:
        style = f"{_read('page.css')}\n{_read(self.view + '.css')}"
        script = f"{_read(self.view + '.js')}\n{_read('page.js')}"
        head, _, self._tail = _read("page.html").partition("{{data}}")
        texts = {
            "policy": f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}",
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
        write(f'{head}{{"systems":{_json_in_html(systems)},"sentences":[')

    def _add(self, line: int, source: str, attention: Sequence[dict[str, Any] | None]) -> None:
        item = {"line": line, "source": source, "attention": attention}
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


class TranslationPage(Page):
    """A page of sentence pairs, with the attention of one or more systems."""

    noun, part, view = "sentence", "piece", "translation_view"
    keys = "<kbd>Tab</kbd> enters the sentence, where <kbd>←</kbd> <kbd>→</kbd> go from piece to piece"

    def __init__(self, write: Callable[[str], object], systems: Sequence[PageSystem]) -> None:
        title = "Attention of " + " and ".join(system.name for system in systems)
        super().__init__(write, title, [asdict(system) for system in systems])
        self._systems = len(systems)

    def add(self, line: int, source: str, maps: Sequence[AttentionMap | None]) -> None:
        """Adds a line of the input, numbered from 1, with a map of each system; None where it has no translation."""
        assert len(maps) == self._systems, "one attention map a system"
        self._add(line, source, [_translation_content(each) if each else None for each in maps])


def _translation_content(attention: AttentionMap) -> dict[str, Any]:
    steps = np.rint(np.clip(attention.weights_NTS, 0.0, 1.0) * WEIGHT_STEPS).astype(np.uint8)
    centers = None
    if attention.centers_NT is not None:
        # The shortest decimal form of each: the positions within a window depend on the last digit.
        centers = [[float(str(center)) for center in head] for head in attention.centers_NT]
    return {
        "target": attention.target,
        "source_pieces": attention.source_pieces,
        "target_pieces": attention.target_pieces,
        "log_probability": round(attention.log_probability, 4),
        "heads": len(steps),
        "weights": base64.b64encode(steps.tobytes()).decode(),
        "centers": centers,
        "half_width": attention.half_width,
    }


@dataclass(frozen=True)
class SentenceWeights:
    """A sentence of a document, with its weight and those of its words."""

    weight: float
    """In the document."""
    words: tuple[str, ...]
    weights: tuple[float, ...]
    """Of each word in the sentence."""


class DocumentPage(Page):
    """A page of classified documents: sentence weights in the margin, word weights as background of the words.

    As in figure 5 of Yang 2016: the margin shows the weight p_s of a sentence in its document, the background of a word
    sqrt(p_s) p_w, with p_w its weight in the sentence, so that important words stand out in important sentences and do
    not vanish in the others. Each of the two colours is full for the largest value of the document.
    """

    noun, part, view = "document", "word", "document_view"
    keys = (
        "<kbd>Tab</kbd> enters the document, where <kbd>←</kbd> <kbd>→</kbd> go from word to word and "
        "<kbd>↑</kbd> <kbd>↓</kbd> from sentence to sentence"
    )

    def __init__(self, write: Callable[[str], object], model: str, language: str) -> None:
        """`model` is the name of the classifier; `language` that of the documents, as a BCP 47 code."""
        super().__init__(write, f"Attention of {model}", [{"name": model, "language": language}])

    def add(
        self,
        line: int,
        text: str,
        label: str,
        probabilities: Mapping[str, float],
        sentences: Sequence[SentenceWeights],
    ) -> None:
        """Adds a line of the input, numbered from 1, with its predicted label and the probabilities of all labels."""
        ranked = sorted(probabilities.items(), key=lambda item: -item[1])
        content = {
            "label": label,
            "probabilities": [[each, round(probability, DIGITS)] for each, probability in ranked],
            "sentences": [
                {
                    "weight": round(sentence.weight, DIGITS),
                    "words": sentence.words,
                    "weights": [round(weight, DIGITS) for weight in sentence.weights],
                }
                for sentence in sentences
            ],
        }
        self._add(line, " ".join(text.split())[:MAX_TITLE_LENGTH], [content])


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
    return files("nmt.visualization").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
