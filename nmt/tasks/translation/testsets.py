"""Test sets: from files, from a model's config, or from sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nmt.config import TranslationConfig
from nmt.config.registry import PartOptions
from nmt.config.schema import DataConfig
from nmt.data.readers.files import read_lines
from nmt.data.readers.pairs import BLANK_LINES, Pair, TextPairOptions, open_corpus
from nmt.errors import DataError
from nmt.evaluation.metrics import load_sacrebleu_set
from nmt.tasks.base import configured_test_sets
from nmt.tasks.translation.documents import grouped


@dataclass(frozen=True)
class TestSet:
    """Sentences and one or more translations of each."""

    __test__ = False  # pytest would take it for tests

    name: str
    sources: list[str]
    references: list[list[str]]
    """One list of translations for each translator who made some."""
    documents: list[int] | None = None
    """The number of each sentence's document; None where every sentence stands alone."""
    is_split: bool = False
    """Whether blank lines end its documents in files."""

    def lines_of(self, sentences: Sequence[str]) -> list[str]:
        """What belongs to the sentences as lines of a file: with a blank line after each document but the last, where
        that is how documents are told apart."""
        if not self.is_split or self.documents is None:
            return list(sentences)
        groups = grouped(sentences, self.documents)
        return [line for number, group in enumerate(groups) for line in ([""] if number else []) + group]

    def sentences_of(self, lines: Sequence[str]) -> list[str]:
        """The other way round, for lines with or without these blank ones."""
        expected = self.lines_of(["x"] * len(self.sources))
        marked = list(zip(lines, expected, strict=False))
        if len(lines) != len(expected) or any(line.strip() for line, mark in marked if not mark):
            return list(lines)
        return [line for line, mark in marked if mark]


def from_files(source: str, references: Sequence[str], documents: str | None = None) -> TestSet:
    """A file in the source language and its translations, line by line; raises `DataError`.

    `documents` says where documents end, as the option of this name of a corpus does.
    """
    if documents is None:
        sources, *translations = read_aligned(source, references)
        return _not_empty(TestSet(source, sources, translations))
    sides, problems = [], []
    for reference in references:
        options = TextPairOptions(source=source, target=reference, documents=documents)
        try:
            sides.append(list(open_corpus(options, _data(options))))
        except DataError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise DataError(*problems)
    return _not_empty(_with_documents(source, sides, documents == BLANK_LINES))


def read_aligned(source: str, translations: Sequence[str]) -> list[list[str]]:
    """The lines of a file and of its translations, as many of each; raises `DataError`."""
    problems: list[str] = []
    texts: list[list[str]] = []
    for path in (source, *translations):
        try:
            texts.append(list(read_lines(path)))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    problems = [
        f"{source} has {len(texts[0])} lines and {path} has {len(lines)}; line n of one must translate line n of the "
        "other"
        for path, lines in zip(translations, texts[1:], strict=True)
        if len(lines) != len(texts[0])
    ]
    if problems:
        raise DataError(*problems)
    return texts


def from_config(config: TranslationConfig, names: Sequence[str], origin: str) -> list[TestSet]:
    """The test sets of these names in the config, as for `configured_test_sets`."""

    def read(name: str, options: PartOptions) -> TestSet:
        pairs = list(open_corpus(options, config.data))
        is_split = isinstance(options, TextPairOptions) and options.documents == BLANK_LINES
        return _not_empty(_with_documents(name, [pairs], is_split))

    return configured_test_sets(config.data.test, names, read, origin=origin, flags="--source and --reference")


def from_sacrebleu(name: str, language_pair: str) -> TestSet:
    """A test set that sacrebleu knows, from its cache or downloaded into it; raises `DataError`."""
    sources, references = load_sacrebleu_set(name, language_pair)
    return TestSet(f"{name} {language_pair}", sources, references)


def _with_documents(name: str, sides: Sequence[Sequence[Pair]], is_split: bool) -> TestSet:
    """The same sentences with one or more translations each."""
    first = sides[0]
    documents = [pair.document for pair in first if pair.document is not None] or None
    references = [[pair.target for pair in pairs] for pairs in sides]
    return TestSet(name, [pair.source for pair in first], references, documents, is_split)


def _data(options: TextPairOptions) -> DataConfig:
    """As much of a config as a corpus needs to be read."""
    return DataConfig(source_language="", target_language="", train=[options], validation=options)


def _not_empty(test_set: TestSet) -> TestSet:
    if not test_set.sources:
        raise DataError(f"{test_set.name}: is empty; there is nothing to evaluate")
    return test_set
