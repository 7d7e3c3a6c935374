"""Small training runs that learn to reverse sequences of letters."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from nmt.checkpoint import find, load_model_files
from nmt.config import ExperimentConfig, TranslationConfig
from nmt.tasks.components import parse_saved_config

LETTERS = "abcdefgh"

QUICK_TRAINING = """\
  max_epochs: 3
  schedule: {{kind: constant, warmup_steps: 5}}
  ema_decay: 0.9
  log_every: 1
runtime: {{device: cpu, precision: fp32, threads: 1}}
"""
"""The rest of the section training, and the section runtime, of a small run of any task."""
CONFIG = (
    """\
run: {folder}/run
seed: 3
data:
  source_language: xx
  target_language: yy
  train: {{source: {folder}/train.xx, target: {folder}/train.yy}}
  validation: {{source: {folder}/valid.xx, target: {folder}/valid.yy}}
tokenizer: {{vocabulary_size: 16}}
model:
  embedding_size: 16
  encoder: {{hidden_size: 16}}
  decoder: {{hidden_size: 24}}
  attention: {{score: additive, wiring: bahdanau}}
  dropout: {{embedding: 0.1, layer: 0.1, output: 0.1, source_word: 0.05}}
validation: {{sentences: 8, samples: 1}}
training:
  batch_tokens: 128
  optimizer: {{kind: adamw, learning_rate: 5e-3}}
"""
    + QUICK_TRAINING
)

Config = TypeVar("Config", bound=ExperimentConfig)


def write_corpus(folder: Path, pairs: int = 120, seed: int = 0) -> None:
    """Letters with spaces between them, and the same backwards."""
    generator = random.Random(seed)
    for name, count in (("train", pairs), ("valid", 16)):
        rows = [[generator.choice(LETTERS) for _ in range(generator.randint(2, 6))] for _ in range(count)]
        (folder / f"{name}.xx").write_text("".join(f"{' '.join(row)}\n" for row in rows), encoding="utf-8")
        (folder / f"{name}.yy").write_text("".join(f"{' '.join(reversed(row))}\n" for row in rows), encoding="utf-8")


def run_config(folder: Path, *overrides: str) -> TranslationConfig:
    """The config of a run in `folder`, where the corpus lies; `overrides` as for `--set`."""
    return parse_run(TranslationConfig, CONFIG, folder, overrides)


def parse_run(task: type[Config], text: str, folder: Path, overrides: Sequence[str]) -> Config:
    """The config of a run in `folder` from the YAML of its task."""
    config = parse_saved_config(text.format(folder=folder), "run.yaml", overrides)
    assert isinstance(config, task)
    return config


def final_weights(run: Path | str) -> dict[str, torch.Tensor]:
    """The weights of the last checkpoint."""
    return load_model_files(find(Path(run), "last")).tensors


def records(run: Path | str, kind: str = "train") -> list[dict[str, Any]]:
    """Lines of metrics.jsonl of one kind."""
    lines = (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["type"] == kind]
