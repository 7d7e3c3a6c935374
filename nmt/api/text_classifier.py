"""Trained classifiers of documents in Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from nmt.api.arguments import as_many, checked, checked_value, machine, naming_keywords, shown_progress, texts
from nmt.config.schema import RuntimeConfig, Samples
from nmt.data.readers.labelled import unknown_label
from nmt.errors import ConfigError, DataError
from nmt.evaluation import BOOTSTRAP_SAMPLES
from nmt.evaluation.testsets import GIVEN, LONGEST_SAMPLE, LabelledTestSet, labelled_from_config
from nmt.runtime import set_up
from nmt.tasks.base import Which
from nmt.tasks.classification import labelling
from nmt.tasks.classification.labelling import (
    Boundaries,
    LabelEvaluation,
    TrainedClassifier,
    classify_stream,
    evaluate_labels,
    sentences_of,
)
from nmt.tasks.plugins import load_plugins
from nmt.visualization.pages import ClassifiedDocument


@naming_keywords()
def load_classifier(
    model: str | Path,
    *,
    checkpoint: Literal["best", "last"] | None = None,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32",
    threads: int = 0,
    plugins: Sequence[str | Path] = (),
) -> TextClassifier:
    """Loads a trained classifier of documents; arguments as those of `nmt.load`.

    Raises:
        CheckpointError: there is no such model, it is damaged, or it translates.
        ConfigError: an argument cannot be used on this machine.
    """
    which: Which = checked_value("checkpoint", Literal["best", "last"] | None, checkpoint)
    options = machine(checked(RuntimeConfig, {"device": device, "precision": precision, "threads": threads}))
    load_plugins([plugins] if isinstance(plugins, (str, Path)) else plugins, "plugins")
    return TextClassifier(**vars(labelling.load_classifier(model, which, set_up(options))))


class TextClassifier(TrainedClassifier):
    """A trained classifier of documents, as `nmt.load_classifier` returns it.

    Several threads may call its methods at once.
    """

    def __repr__(self) -> str:
        return f"<nmt classifier of {len(self.labels)} labels: {self.path}; {self.system.runtime.reason}>"

    @naming_keywords()
    def classify(
        self,
        documents: Sequence[str] | Sequence[Sequence[str]],
        *,
        boundaries: Boundaries = "auto",
        weights: bool = True,
        progress: bool = False,
    ) -> list[ClassifiedDocument]:
        """Labels documents. The result of a document does not depend on the others.

        Args:
            documents: a text each, or the list of its sentences. A document without a word has no label.
            boundaries: of the sentences of a text: at TAB, by the rules of the language (`split`, which needs the
                package `sentencex`), or at TAB in texts that have one (`auto`).
            weights: whether results have the attention weights of sentences, words and pieces.
            progress: whether to show a progress bar.

        Raises:
            ConfigError: an argument is wrong.
            NmtError: a document does not fit into memory, or the package for sentences is missing.
        """
        boundaries = checked_value("boundaries", Boundaries, boundaries)
        lines, are_lists = as_lines(documents)
        with shown_progress(progress, len(lines), " documents") as advance:
            stream = classify_stream(
                self,
                lines,
                boundaries="tab" if are_lists else boundaries,
                weights=weights,
                window=max(len(lines), 1),
                advance=advance,
            )
            return [document for part in stream for document in part]

    @naming_keywords()
    def evaluate(
        self,
        *,
        test_sets: Sequence[str] = (),
        documents: Sequence[str] | Sequence[Sequence[str]] | None = None,
        labels: Sequence[str] | None = None,
        samples: int = BOOTSTRAP_SAMPLES,
        progress: bool = False,
        **others: Any,
    ) -> list[LabelEvaluation]:
        """Labels the documents of test sets and compares the labels, as `nmt-eval` does.

        Args:
            test_sets: names of test sets in the model's config; by default all of them.
            documents: documents to label instead, as for `classify`, with `labels`.
            labels: the labels of the documents.
            samples: of the bootstrap for confidence intervals; 0 for none.
            progress: whether to show a progress bar.
            others: arguments for models that translate are refused.

        Returns:
            An evaluation of each test set.

        Raises:
            ConfigError: an argument is wrong, or there is no such test set.
            DataError: a test set cannot be read.
        """
        if others:
            what = f"is for models that translate, and {self.path} labels documents"
            raise ConfigError(*(f"{name}: {what}" for name in others))
        samples, tokenizer = checked_value("samples", Samples, samples), self.document_tokenizer
        if (documents is None) != (labels is None):
            raise ConfigError("documents: goes together with labels")
        if documents is not None and labels is not None:
            lines, _ = as_lines(documents)
            labels = texts("labels", labels)
            as_many("labels", labels, "documents", len(lines))
            if not lines:
                raise DataError("documents: is empty; there is nothing to evaluate")
            for number, label in enumerate(labels, start=1):
                if label not in self.labels:
                    raise unknown_label(f"labels: entry {number}", label, self.labels)
            ids = tokenizer.encode(
                [sentences_of(line, number, tokenizer) for number, line in enumerate(lines, start=1)]
            )
            indices = [self.labels.index(label) for label in labels]
            sets = [LabelledTestSet(GIVEN, ids, indices, [line[:LONGEST_SAMPLE] for line in lines])]
        else:
            origin = f"the config of {self.path}"
            sets = labelled_from_config(self.config, texts("test_sets", test_sets), origin, tokenizer, self.labels)
        with shown_progress(progress, sum(len(each.documents) for each in sets), " documents") as advance:
            return [evaluate_labels(self.system, each, samples=samples, advance=advance) for each in sets]


def as_lines(documents: Sequence[str] | Sequence[Sequence[str]]) -> tuple[list[str], bool]:
    """Returns documents as lines of sentences separated by TAB, and whether they are lists of sentences.

    Raises `ConfigError` unless all are texts, or all lists of texts.
    """
    if not isinstance(documents, str) and hasattr(documents, "__iter__"):
        documents = list(documents)
        if documents and not any(isinstance(document, str) for document in documents):
            sentences = (texts(f"documents: entry {number}", each) for number, each in enumerate(documents, start=1))
            return ["\t".join(text.replace("\t", " ") for text in each) for each in sentences], True
    if isinstance(documents, str):
        raise ConfigError("documents: must be a list of texts, not one text; write [text]")
    return texts("documents", documents), False
