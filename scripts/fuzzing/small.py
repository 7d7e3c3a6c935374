"""Small experiments that are valid as they stand: what cases begin with."""

from __future__ import annotations

import random

from scripts.fuzzing.values import SENTENCES

TRANSLATOR = b"""\
run: run
data:
  source_language: de
  target_language: en
  train: {source: train.de, target: train.en}
  validation: {source: valid.de, target: valid.en}
  workers: 1
tokenizer: {vocabulary_size: 40}
model:
  embedding_size: 8
  encoder: {hidden_size: 8}
  decoder: {hidden_size: 8}
training:
  batch_tokens: 64
  max_epochs: 2
  max_steps: 4
  save_every: 2
validation: {sentences: 2, samples: 1}
search: {beam_size: 2}
runtime: {device: cpu, precision: fp32, threads: 1}
"""
CLASSIFIER = b"""\
run: run
task: classification
data:
  language: de
  train: {docs: train.docs, labels: train.labels}
  validation: {docs: valid.docs, labels: valid.labels}
  workers: 1
tokenizer: {vocabulary_size: 40}
model:
  embedding_size: 8
  word: {hidden_size: 8}
  sentence: {hidden_size: 8}
training:
  batch_tokens: 64
  max_epochs: 2
  max_steps: 4
  save_every: 2
validation: {samples: 1}
runtime: {device: cpu, precision: fp32, threads: 1}
"""


def _corpus() -> dict[str, bytes]:
    drawn = random.Random(1)
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    files: dict[str, bytes] = {}
    for name, size in (("train", 30), ("valid", 4)):
        rows = [" ".join(drawn.choices(words, k=drawn.randint(2, 7))) for _ in range(size)]
        files[f"{name}.de"] = "".join(f"{row}\n" for row in rows).encode()
        files[f"{name}.en"] = "".join(f"{row[::-1]}\n" for row in rows).encode()
        files[f"{name}.docs"] = "".join(f"{row}\t{row[::-1]}\n" for row in rows).encode()
        files[f"{name}.labels"] = "".join(f"{('good', 'bad')[len(row) % 2]}\n" for row in rows).encode()
    return files


CORPUS = _corpus()
"""Files that both configs name."""
