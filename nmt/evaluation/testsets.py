"""Test sets of translations and of labelled documents: from files, from a model's config, or from sacrebleu."""

from __future__ import annotations

import difflib
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from sacrebleu.dataset import DATASETS
from sacrebleu.utils import SACREBLEU_DIR, get_available_testsets_for_langpair

from nmt.config import ClassificationConfig, TranslationConfig
from nmt.config.registry import PartOptions
from nmt.config.schema import DataConfig
from nmt.config.wording import advice
from nmt.data.cache import DocumentTokenizer
from nmt.data.cache.collection import Sentences
from nmt.data.readers.corpora import BLANK_LINES, Pair, TextPairOptions, open_corpus
from nmt.data.readers.files import read_lines
from nmt.data.readers.labelled import Collection, open_collection, unknown_label
from nmt.errors import ConfigError, DataError, NmtError, try_each

LONGEST_SAMPLE = 200
"""Characters of a document that is shown at a validation."""
GIVEN = "given"
"""Name of a test set that consists of arguments."""
SetT = TypeVar("SetT")
DOWNLOAD_TIMEOUT = 60.0
"""Seconds without an answer; sacrebleu has no limit."""


@dataclass(frozen=True)
class TestSet:
    """Sentences and one or more translations of each."""

    __test__ = False  # not a class of tests for pytest

    name: str
    sources: list[str]
    references: list[list[str]]
    """One list of translations for each reference."""
    documents: list[int] | None = None
    """The number of each sentence's document; None where every sentence stands alone."""
    is_split: bool = False
    """Whether blank lines end its documents in files."""

    @property
    def document_count(self) -> int | None:
        """The number of documents; None where every sentence stands alone."""
        return None if self.documents is None else len(list(groupby(self.documents)))

    def lines_of(self, sentences: Sequence[str]) -> list[str]:
        """Returns lines for a file of sentences: with blank lines between documents if its files have them."""
        if not self.is_split or self.documents is None:
            return list(sentences)
        lines: list[str] = []
        for number, (_, group) in enumerate(groupby(zip(self.documents, sentences, strict=True), itemgetter(0))):
            lines += ([""] if number else []) + [sentence for _, sentence in group]
        return lines

    def sentences_of(self, lines: Sequence[str]) -> list[str]:
        """Returns the sentences of a file's lines, which may lack these blank lines: the inverse of `lines_of`."""
        expected = self.lines_of(["x"] * len(self.sources))
        marked = list(zip(lines, expected, strict=False))
        if len(lines) != len(expected) or any(line.strip() for line, mark in marked if not mark):
            return list(lines)
        return [line for line, mark in marked if mark]


def from_files(source: str, references: Sequence[str], documents: str | None = None) -> TestSet:
    """Reads a file in the source language and its translations, line by line; raises `DataError`.

    `documents` marks the ends of documents, as the option of this name of a corpus does.
    """
    if documents is None:
        sources, *translations = read_aligned(source, references)
        return _not_empty(TestSet(source, sources, translations))

    def read(reference: str) -> list[Pair]:
        options = TextPairOptions(source=source, target=reference, documents=documents)
        # As much of a config as is needed to read a corpus.
        data = DataConfig(source_language="", target_language="", train=[options], validation=options)
        return list(open_corpus(options, data))

    return set_of_pairs(source, try_each(read, references), documents == BLANK_LINES)


def read_aligned(source: str, translations: Sequence[str]) -> list[list[str]]:
    """Reads the lines of a file and of its translations, which must be as many; raises `DataError`."""
    texts = try_each(lambda path: list(read_lines(path)), (source, *translations))
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
    """Reads the test sets with these names in the config, or all of them; `origin` names the config in messages."""

    def read(name: str, options: PartOptions) -> TestSet:
        pairs = list(open_corpus(options, config.data))
        is_split = isinstance(options, TextPairOptions) and options.documents == BLANK_LINES
        return set_of_pairs(name, [pairs], is_split)

    return _configured(config.data.test, names, read, origin=origin, flags="--source and --reference")


def set_of_pairs(name: str, sides: Sequence[Sequence[Pair]], is_split: bool) -> TestSet:
    """Returns the test set of pairs with the same sentences, one list for each reference."""
    first = sides[0]
    documents = [pair.document for pair in first if pair.document is not None] or None
    references = [[pair.target for pair in pairs] for pairs in sides]
    return _not_empty(TestSet(name, [pair.source for pair in first], references, documents, is_split))


def _not_empty(test_set: TestSet) -> TestSet:
    if not test_set.sources:
        raise DataError(f"{test_set.name}: is empty; there is nothing to evaluate")
    return test_set


@dataclass(frozen=True)
class LabelledTestSet:
    """Documents as ids, and the indices of their labels."""

    name: str
    documents: list[Sentences]
    labels: list[int]
    texts: list[str]
    """The beginning of each document, to be shown."""


def read_labelled(
    collection: Collection, tokenizer: DocumentTokenizer, labels: Sequence[str], name: str
) -> LabelledTestSet:
    """Reads labelled documents. Raises `DataError` if there are none, or a label that the model does not have."""
    indices = {label: index for index, label in enumerate(labels)}
    documents, label_indices = [], []
    for document in collection:
        if document.label not in indices:
            raise unknown_label(collection.location(document.line, "label"), document.label, labels)
        documents.append(document)
        label_indices.append(indices[document.label])
    if not documents:
        raise DataError(f"{collection.name}: has no documents; there is nothing to evaluate")
    ids = tokenizer.encode([document.sentences(tokenizer.splitter) for document in documents])
    return LabelledTestSet(name, ids, label_indices, [document.text[:LONGEST_SAMPLE] for document in documents])


def labelled_from_config(
    config: ClassificationConfig, names: Sequence[str], origin: str, tokenizer: DocumentTokenizer, labels: Sequence[str]
) -> list[LabelledTestSet]:
    """Reads the test sets with these names in the config, or all of them; `origin` names the config in messages."""

    def read(name: str, options: PartOptions) -> LabelledTestSet:
        return read_labelled(open_collection(options, config.data), tokenizer, labels, name)

    return _configured(config.data.test, names, read, origin=origin, flags="--docs and --labels")


def _configured(
    configured: Mapping[str, PartOptions],
    names: Sequence[str],
    read: Callable[[str, PartOptions], SetT],
    *,
    origin: str,
    flags: str,
) -> list[SetT]:
    """Reads the test sets with these names in the section `data.test`, or all of them if `names` is empty.

    `origin` names the config in messages, and `flags` the options for test sets in files.
    Raises `ConfigError`, or `DataError` with every mistake in the sets.
    """
    if not configured:
        raise ConfigError(f"{origin} names no test set; give {flags}")
    unknown = [name for name in names if name not in configured]
    if unknown:
        raise ConfigError(
            *(f"--test-set: {origin} has no test set {name!r}; {advice(name, configured)}" for name in unknown)
        )
    sets, problems = [], []
    for name in names or configured:
        try:
            sets.append(read(name, configured[name]))
        except NmtError as error:
            problems += [f"data.test.{name}: {problem}" for problem in error.problems]
    if problems:
        raise DataError(*problems)
    return sets


def load_sacrebleu_set(name: str, langpair: str) -> tuple[list[str], list[list[str]]]:
    """Returns source and reference sets of a test set of sacrebleu, such as `wmt17` and `de-en`.

    It is read from sacrebleu's cache (the folder named by the environment variable SACREBLEU, else `~/.sacrebleu`),
    or downloaded there.

    Raises:
        DataError: there is no such set or language pair, or it is neither cached nor to be had.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name, sorted(DATASETS), n=3, cutoff=0.5)
        advised = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(sorted(DATASETS))}"
        raise DataError(f"sacrebleu has no test set {name!r}; {advised}")
    dataset: Any = DATASETS[name]
    if langpair not in dataset.langpairs:
        others = sorted(get_available_testsets_for_langpair(langpair)) if langpair.count("-") == 1 else []
        elsewhere = f"; {langpair} is in {', '.join(others)}" if others else ""
        raise DataError(
            f"test set {name} has no language pair {langpair!r}, only {', '.join(dataset.langpairs)}{elsewhere}"
        )
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        source = _stripped_lines(dataset.get_source_file(langpair))
        references = [_stripped_lines(path) for path in dataset.get_reference_files(langpair)]
    # Any error of the network, an archive or its contents; for some sacrebleu exits.
    except (Exception, SystemExit) as error:
        folder = Path(SACREBLEU_DIR) / name
        raise DataError(
            f"test set {name} {langpair} is not in sacrebleu's cache and cannot be downloaded "
            f"({type(error).__name__}: {error}): run `sacrebleu -t {name} -l {langpair} --echo src` where there is a "
            f"network and copy its ~/.sacrebleu/{name} to {folder}; a damaged {folder} has to be removed first"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    if not references or any(len(part) != len(source) for part in references):
        counts = ", ".join(str(len(part)) for part in references) or "no"
        raise DataError(
            f"test set {name} {langpair} has {len(source)} source sentences and {counts} references: "
            f"remove {Path(SACREBLEU_DIR) / name}, so that it is downloaded anew"
        )
    return source, references


def _stripped_lines(path: str) -> list[str]:
    """Returns the lines as sacrebleu reads them: split at line feeds only, without space at their ends."""
    with open(path, encoding="utf-8", newline="\n") as file:
        return [line.rstrip() for line in file]
