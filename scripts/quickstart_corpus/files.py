"""The files of the corpus: text, documents, and the two tables beside the test set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .corpus import Corpus, Document, words

PRONOUN_COLUMNS = (
    "line",
    "pronoun",
    "gender",
    "case",
    "pronoun_en_position",
    "pronoun_de_position",
    "antecedent_line",
    "antecedent_en",
    "antecedent_de",
    "antecedent_en_position",
    "antecedent_de_position",
)
COMBINATION_COLUMNS = ("line", "kind", "first_en", "second_en", "first_de", "second_de")


def write(corpus: Corpus, folder: Path) -> None:
    """Write every file; the bytes depend on the corpus alone, not on the platform."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, documents in corpus.splits.items():
        lines = [line for document in documents for line in document.lines]
        _write(folder / f"{name}.en", (line.english for line in lines))
        _write(folder / f"{name}.de", (line.german for line in lines))
        numbers = ((document, sentence) for document in range(1, len(documents) + 1) for sentence in (1, 2))
        _write(folder / f"{name}.docid", (f"{document}\t{sentence}" for document, sentence in numbers))
    test = corpus.splits["test"]
    _write_table(folder / "test.pronouns.tsv", PRONOUN_COLUMNS, pronoun_rows(test))
    _write_table(folder / "test.combinations.tsv", COMBINATION_COLUMNS, combination_rows(test))


def pronoun_rows(documents: Sequence[Document]) -> list[tuple[str, ...]]:
    """One row a line whose pronoun depends on the line before; lines and words are counted from 1."""
    rows: list[tuple[str, ...]] = []
    for number, document in enumerate(documents):
        if document.plan is None or document.antecedent is None:
            continue
        first, second = document.lines
        noun = document.antecedent
        pronoun = second.german.split(" ")[document.pronoun_position - 1].rstrip(".,")
        rows.append(
            (
                str(2 * number + 2),
                pronoun,
                document.plan.gender,
                document.plan.prop.case,
                str(_position(second.english, "it")),
                str(document.pronoun_position),
                str(2 * number + 1),
                noun.english,
                noun.german,
                str(_position(first.english, noun.english)),
                str(_position(first.german, noun.german)),
            )
        )
    return rows


def combination_rows(documents: Sequence[Document]) -> list[tuple[str, ...]]:
    """One row a pair of words that training never shows together, with the line that has it."""
    lines = [line for document in documents for line in document.lines]
    return [
        (str(number), pair.kind, *pair.english, *pair.german)
        for number, line in enumerate(lines, 1)
        for pair in line.combinations
    ]


def _position(text: str, word: str) -> int:
    places = [place for place, form in enumerate(words(text), 1) if form == word.lower()]
    assert len(places) == 1, (text, word)
    return places[0]


def _write_table(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    _write(path, ("\t".join(row) for row in (columns, *rows)))


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_bytes("".join(line + "\n" for line in lines).encode())
