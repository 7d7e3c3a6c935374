"""A small translator that has learned six sentence pairs by heart, and its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nmt.checkpoint import Origin, Snapshot, saved_tensors, write_checkpoint
from nmt.config import TranslationConfig
from nmt.data.batching.pair_batches import collate
from nmt.data.cache import flatten
from nmt.data.tokenizer import TokenizerPair
from nmt.kernels.select import reference_kernels
from nmt.model.translator import Translator
from nmt.runtime import Runtime
from nmt.tasks.components import parse_saved_config
from nmt.tasks.translation.loading import vocabulary
from nmt.training.objectives import TranslationObjective

SOURCES = [
    "der hund schläft im garten .",
    "ein kind spielt mit dem ball .",
    "die katze sieht einen kleinen vogel im baum .",
    "zwei frauen lesen .",
    "ein mann läuft schnell über die straße , weil es regnet .",
    "der vogel singt .",
]
REFERENCES = [
    "the dog sleeps in the garden .",
    "a child plays with the ball .",
    "the cat sees a small bird in the tree .",
    "two women read .",
    "a man runs quickly across the street because it rains .",
    "the bird sings .",
]
CONFIG = """\
run: runs/small
data:
  source_language: de
  target_language: en
  train: {{source: train.de, target: train.en}}
  validation: {{source: valid.de, target: valid.en}}
  test: {tests}
tokenizer: {{vocabulary_size: 96}}
model:
  embedding_size: 16
  encoder: {{hidden_size: 16}}
  decoder: {{hidden_size: 32}}
  attention: {attention}
  dropout: {{embedding: 0.0, layer: 0.0, output: 0.0}}
search: {{beam_size: 3, coverage_penalty: {coverage_penalty}}}
"""
UPDATES = 30
CPU = Runtime(torch.device("cpu"), None, "tests")


def small_config(
    attention: str = "bahdanau2015", coverage_penalty: float = 0.0, tests: str = "{}", overrides: Sequence[str] = ()
) -> TranslationConfig:
    """The config of the small translator; `tests` are its test sets, in YAML, and `overrides` are as for `--set`."""
    text = CONFIG.format(attention=attention, coverage_penalty=coverage_penalty, tests=tests)
    return parse_saved_config(text, "small.yaml", overrides)


def small_translator(
    config: TranslationConfig, tokenizers: TokenizerPair, seed: int, updates: int = UPDATES
) -> Translator:
    """A translator that has learned some of the sentences by heart."""
    torch.manual_seed(seed)
    translator = Translator(config.model, vocabulary(tokenizers), reference_kernels(), config.data.reverse_source)
    optimizer = torch.optim.Adam(translator.parameters(), lr=0.02)
    batch = collate(
        flatten(tokenizers.source.encode(SOURCES)),
        flatten(tokenizers.target.encode(REFERENCES)),
        np.arange(len(SOURCES)),
        tokenizers,
    )
    objective = TranslationObjective(translator, 0.0)
    for _ in range(updates):
        optimizer.zero_grad()
        (objective(batch).trained[0] / batch.target_tokens).backward()
        optimizer.step()
    return translator.eval()


def save_small(
    folder: Path,
    tokenizers: TokenizerPair,
    *,
    seed: int = 1,
    attention: str = "bahdanau2015",
    updates: int = UPDATES,
    tests: str = "{}",
    reverse_source: bool = False,
    overrides: Sequence[str] = (),
) -> Path:
    """A checkpoint of a small translator."""
    config = small_config(attention, tests=tests, overrides=overrides)
    data = config.data.model_copy(update={"reverse_source": reverse_source})
    config = config.model_copy(update={"data": data})
    translator = small_translator(config, tokenizers, seed, updates)
    weights = saved_tensors(translator)
    write_checkpoint(folder, Snapshot(weights, config, tokenizers, Origin(step=seed, epoch=0)))
    return folder
