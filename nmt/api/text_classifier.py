"""Trained classifiers of documents in Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nmt.api.arguments import checked, checked_value, machine, naming_keywords, shown_progress, texts
from nmt.config import ClassificationConfig
from nmt.config.schema import RuntimeConfig
from nmt.errors import ConfigError
from nmt.runtime import set_up
from nmt.tasks.base import Which
from nmt.tasks.classification import labelling
from nmt.tasks.classification.labelling import Boundaries, ClassifiedDocument, TrainedClassifier, classify_stream
from nmt.tasks.plugins import load_plugins


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
    return TextClassifier(labelling.load_classifier(model, which, set_up(options)))


class TextClassifier:
    """A trained classifier of documents, as `nmt.load_classifier` returns it.

    Several threads may call its methods at once.
    """

    def __init__(self, model: TrainedClassifier) -> None:
        self.model = model
        """The checkpoint, with network, tokenizer and config."""

    def __repr__(self) -> str:
        return f"<nmt classifier of {len(self.labels)} labels: {self.model.path}; {self.model.system.runtime.reason}>"

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels."""
        return self.model.labels

    @property
    def config(self) -> ClassificationConfig:
        """Config of the model."""
        return self.model.config

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
        results: list[ClassifiedDocument] = []
        with shown_progress(progress, len(lines), " documents") as advance:
            stream = classify_stream(
                self.model,
                lines,
                boundaries="tab" if are_lists else boundaries,
                weights=weights,
                window=max(len(lines), 1),
                advance=advance,
            )
            for part in stream:
                results += part
        return results


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
