"""GNMT v2 at its own size: 4 + 4 LSTM layers of 1,024 units, as `training` measures a smaller network.

Embeddings and attention have 1,024 units as well, source and target share a vocabulary and its embeddings, the lowest
layer of the encoder reads in both directions, residual connections begin at layer 3 on both sides, dropout is 0.2. The
decoder starts with zeros, as that of NVIDIA's program, so that updates run from CUDA graphs. The text is synthetic,
with lengths as WMT's English and German have them in 32,000 shared pieces: gamma-distributed sources of 27 pieces on
average with their end, targets within some 15% of them, pairs with more than 50 on a side left out. Batches are 128
sentences of like length, out of windows of 32 batches.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nmt.config import schema
from nmt.data.batching import Batch
from scripts.benchmarks import training
from scripts.benchmarks.network import network_of, random_batch

CONFIG = """
run: benchmark
data:
  source_language: en
  target_language: de
  train: {{source: unread, target: unread}}
  validation: {{source: unread, target: unread}}
tokenizer: {{shared: true}}
model:
  embedding_size: {units}
  tie: source_target
  encoder: {{cell: lstm, hidden_size: {units}, layers: 4, bidirectional: first, residual_from: 3}}
  decoder: {{cell: lstm, hidden_size: {units}, layers: 4, residual_from: 3, bridge: zero}}
  attention: {{preset: gnmt_v2, score: {{kind: additive, hidden_size: {units}}}}}
  dropout: {{embedding: 0.2, layer: 0.2, output: 0.2}}
"""
Lengths = NDArray[np.int64]
LONGEST = 50
WINDOW = 32
"""Batches that are sorted together."""


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures reference and fast kernels in all precisions."""
    batches = sentence_batches(options.sentences, options.vocabulary, options.batches)
    sizes = {"network": "GNMT v2", "vocabulary": options.vocabulary, "sentences": options.sentences}
    return {**sizes, **training.measured(model_options(quick=options.quick), batches, options)}


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Formats the report as a table."""
    yield from training.lines(report)


def model_options(*, quick: bool = False) -> schema.ModelConfig:
    """Returns the network; with `quick` it has 16 units instead of 1,024."""
    return network_of(CONFIG.format(units=16 if quick else 1024))


def sentence_lengths(pairs: int, rng: np.random.Generator) -> tuple[Lengths, Lengths]:
    """Lengths in pieces of sources and targets, with the end symbol."""
    drawn = 2 * pairs
    source = np.rint(rng.gamma(4.0, 7.4, drawn)).astype(np.int64) + 1
    target = np.rint(source * rng.lognormal(0.0, 0.15, drawn)).astype(np.int64)
    kept = (np.minimum(source, target) >= 2) & (np.maximum(source, target) <= LONGEST)
    return source[kept][:pairs], target[kept][:pairs]


def sentence_batches(sentences: int, vocabulary: int, count: int) -> list[Batch]:
    """Returns batches of this many sentences, from windows sorted by length."""
    rng = np.random.default_rng(1)
    generator = torch.Generator().manual_seed(1)
    batches = []
    for _ in range(-(-count // WINDOW)):
        source, target = sentence_lengths(sentences * WINDOW, rng)
        by_length = np.lexsort((source, target))
        batches += [
            random_batch(source[rows], target[rows], vocabulary, generator) for rows in np.split(by_length, WINDOW)
        ]
    return [batches[number] for number in rng.permutation(len(batches))[:count]]
