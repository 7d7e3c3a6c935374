"""Test sets: from files, from a model's config, or from sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nmt.config import Config
from nmt.config.names import advice
from nmt.errors import ConfigError, DataError, NmtError
from nmt.metrics import load_sacrebleu_set
from nmt.text.corpus import open_corpus, read_lines


@dataclass(frozen=True)
class TestSet:
    """Sentences and one or more translations of each."""

    __test__ = False  # pytest would take it for tests

    name: str
    sources: list[str]
    references: list[list[str]]
    """One list of translations for each translator who made some."""


def from_files(source: str, references: Sequence[str]) -> TestSet:
    """A file in the source language and its translations, line by line; raises `DataError`."""
    sources, *translations = read_aligned(source, references)
    return _not_empty(TestSet(source, sources, translations))


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


def from_config(config: Config, names: Sequence[str], origin: str) -> list[TestSet]:
    """The test sets of these names in the section `data.test`, all of them where no name is given.

    `origin` stands for the config in messages. Raises `ConfigError` or `DataError`.
    """
    configured = config.data.test
    if not configured:
        raise ConfigError(f"{origin} names no test set; give --source and --reference")
    unknown = [name for name in names if name not in configured]
    if unknown:
        raise ConfigError(
            *(f"--set: {origin} has no test set {name!r}; {advice(name, configured)}" for name in unknown)
        )
    sets, problems = [], []
    for name in names or configured:
        try:
            pairs = list(open_corpus(configured[name], config.data))
            sets.append(_not_empty(TestSet(name, [p.source for p in pairs], [[p.target for p in pairs]])))
        except NmtError as error:
            problems += [f"data.test.{name}: {problem}" for problem in error.problems]
    if problems:
        raise DataError(*problems)
    return sets


def from_sacrebleu(name: str, language_pair: str) -> TestSet:
    """A test set that sacrebleu knows, from its cache or downloaded into it; raises `DataError`."""
    sources, references = load_sacrebleu_set(name, language_pair)
    return TestSet(f"{name} {language_pair}", sources, references)


def _not_empty(test_set: TestSet) -> TestSet:
    if not test_set.sources:
        raise DataError(f"{test_set.name}: is empty; there is nothing to evaluate")
    return test_set
