"""Small labelled documents: the topic words decide the label, the filler words do not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from nmt.config import ClassificationConfig
from tests.support.training_runs import QUICK_TRAINING, parse_run

TOPICS = {
    "animals": ["cat", "dog", "bird", "horse", "sheep"],
    "tools": ["saw", "axe", "drill", "hammer", "knife"],
    "weather": ["rain", "snow", "wind", "storm", "fog"],
}
FILLER = ["the", "a", "of", "and", "it", "was", "there", "one", "saw", "this", "that", "here", "now", "then"]

CONFIG = (
    """\
run: {folder}/run
task: classification
seed: 3
data:
  train: {{docs: {folder}/train.txt, labels: {folder}/train.tsv}}
  validation: {{docs: {folder}/dev.txt, labels: {folder}/dev.tsv}}
  test: {{small: {{docs: {folder}/test.txt, labels: {folder}/test.tsv}}}}
tokenizer: {{vocabulary_size: 60}}
model:
  embedding_size: 8
  word: {{hidden_size: 6}}
  sentence: {{hidden_size: 5}}
  dropout: {{embedding: 0.1, word: 0.05, layer: 0.1, output: 0.1}}
training:
  batch_tokens: 400
  optimizer: {{kind: adamw, learning_rate: 1e-2}}
"""
    + QUICK_TRAINING
)


def some_documents(count: int, seed: int) -> list[tuple[list[str], str]]:
    """Sentences and label; one sentence names the topic, the others are filler, and some are empty."""
    generator = random.Random(seed)
    documents = []
    for _ in range(count):
        label = generator.choice(sorted(TOPICS))
        sizes = [generator.randint(0, 8) for _ in range(generator.randint(1, 5))]
        sentences = [" ".join(generator.choices(FILLER, k=size)) for size in sizes]
        sentences.insert(generator.randint(0, len(sentences)), f"it was the {generator.choice(TOPICS[label])} .")
        documents.append((sentences, label))
    return documents


def write_documents(folder: Path, name: str, documents: Sequence[tuple[Sequence[str], str]]) -> None:
    """`NAME.txt` and `NAME.tsv`, the labels with a number behind them."""
    texts = ("\t".join(sentences) + "\n" for sentences, _ in documents)
    (folder / f"{name}.txt").write_text("".join(texts), encoding="utf-8")
    labels = (f"{label}\t{number}\n" for number, (_, label) in enumerate(documents))
    (folder / f"{name}.tsv").write_text("".join(labels), encoding="utf-8")


def write_all(folder: Path, count: int = 120) -> None:
    """Training, development and test documents."""
    for seed, (name, size) in enumerate((("train", count), ("dev", 24), ("test", 30))):
        write_documents(folder, name, some_documents(size, seed))


def document_config(folder: Path, *overrides: str) -> ClassificationConfig:
    """The config of a run in `folder`, where the documents lie; `overrides` as for `--set`."""
    return parse_run(ClassificationConfig, CONFIG, folder, overrides)
