"""Translation of paragraphs: split into sentences, translated, and joined with the white space of the original."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import fsum

from nmt.config.schema import SearchConfig
from nmt.data.readers.files import line_windows
from nmt.data.sentences import Paragraph, Splitter, space_between
from nmt.tasks.translation.loading import System
from nmt.tasks.translation.text_translation import BEST, Request, Translation, number_documents, translate_lines


@dataclass(frozen=True)
class TranslatedParagraph:
    """A paragraph and the translations of its sentences; a blank one has none."""

    source: str
    paragraph: Paragraph
    translations: list[list[Translation]]
    """Of each sentence, as `translate_lines` returns them."""
    text: str
    """The translations, with the white space of the source; a space where the source has none between two sentences,
    unless the target language is Chinese or Japanese. A blank paragraph stays as it is."""

    @property
    def score(self) -> float:
        """The mean of the scores of the sentences; 0 for a blank paragraph."""
        scores = [best.score for best, *_ in filter(None, self.translations)]
        return fsum(scores) / max(len(scores), 1)

    @property
    def log_probability(self) -> float:
        """Of all sentences in nats, their ends included: the sum."""
        return fsum(best.log_probability for best, *_ in filter(None, self.translations))


def translate_paragraphs(
    system: System,
    texts: Sequence[str],
    languages: tuple[str, str],
    search: SearchConfig,
    request: Request = BEST,
    *,
    documents: Sequence[int] | None = None,
    first_line: int = 1,
    advance: Callable[[int], object] | None = None,
) -> list[TranslatedParagraph]:
    """Translates texts of several sentences each. The sentences of all are translated together, in batches.

    A translator with context reads the sentences before in the paragraph or, with `documents`, which are the numbers of
    the paragraphs' documents, in the document.

    Args:
        languages: codes of the source and the target language, such as `de` and `en`.
        request: for one translation of each sentence.
        first_line: number of the first text, for messages and for the seeds of sampling.
        advance: is called with the number of sentences done since the last call.

    Raises:
        DataError: the package sentencex is missing.
        NmtError: as `translate_lines`.
    """
    assert request.n_best == 1, "one translation of each sentence"
    splitter, between = Splitter(languages[0]), space_between(languages[1])
    splitter.check("paragraphs", "translate sentences")
    paragraphs = [splitter.paragraph(text) for text in texts]
    rows = [row for row, paragraph in enumerate(paragraphs) for _ in paragraph.sentences]
    results = translate_lines(
        system,
        [sentence for paragraph in paragraphs for sentence in paragraph.sentences],
        search,
        request,
        documents=rows if documents is None else [documents[row] for row in rows],
        numbers=[first_line + row for row in rows],
        advance=advance,
    )
    translated, start = [], 0
    for text, paragraph in zip(texts, paragraphs, strict=True):
        own = results[start : start + len(paragraph.sentences)]
        start += len(own)
        # A sentence whose characters all vanish in normalisation has no translation.
        joined = paragraph.join([each[0].text if each else "" for each in own], between)
        translated.append(TranslatedParagraph(text, paragraph, own, joined))
    return translated


def paragraph_stream(
    system: System,
    lines: Iterable[str],
    languages: tuple[str, str],
    search: SearchConfig,
    request: Request = BEST,
    *,
    window: int,
    documents: bool = False,
    advance: Callable[[int], object] | None = None,
) -> Iterator[list[TranslatedParagraph]]:
    """Translates a stream of paragraphs, one a line, in order, `window` at a time; see `translate_paragraphs`.

    With `documents` blank lines end documents, and a window has whole documents.
    """
    first = 1
    for part in line_windows(lines, window, whole_documents=documents):
        numbers = number_documents(part) if documents else None
        yield translate_paragraphs(
            system, part, languages, search, request, documents=numbers, first_line=first, advance=advance
        )
        first += len(part)
