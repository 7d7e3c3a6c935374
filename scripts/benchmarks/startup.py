"""Measures the time before the first translation: imports, --help, loading a model, its first sentence.

Every command is a process of its own, as a user starts it; they take turns. The model is trained for one update on
words without meaning: what it says is nonsense, and always the same.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nmt.runtime import format_table
from scripts.benchmarks.network import Spread
from scripts.scaling.corpus import write_words

CONFIG = "configs/multi30k-de-en.yaml"
COMMANDS: dict[str, list[str]] = {
    "Python alone": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import nmt": ["-c", "import nmt"],
    "nmt-train --help": ["-m", "nmt.cli.train", "--help"],
    "nmt-translate --help": ["-m", "nmt.cli.translate", "--help"],
    "nmt-eval --help": ["-m", "nmt.cli.evaluate", "--help"],
}
STAGES = {
    "imports": "imports for translating",
    "load": "loading the model",
    "first": "its first sentence",
    "second": "the same sentence again",
}
WHOLE = "nmt-translate, one sentence"


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures all commands in turn, `rounds` times."""
    with tempfile.TemporaryDirectory(prefix="nmt-startup-") as folder:
        model, sentence = _train(Path(folder), options)
        seconds: dict[str, list[float]] = {name: [] for name in (*COMMANDS, *STAGES.values(), WHOLE)}
        said = set()
        for number in range(options.rounds + 1):
            found = {name: _timed(arguments)[0] for name, arguments in COMMANDS.items()}
            found[WHOLE], line = _timed(
                ["-m", "nmt.cli.translate", "--model", str(model), "--device", "cpu", "--precision", "fp32"], sentence
            )
            _, staged = _timed(["-m", "scripts.benchmarks.first_sentence", str(model), sentence])
            stages = json.loads(staged)
            said |= {line.strip(), stages["said"]}
            if len(said) > 1:
                sys.exit(f"scripts/benchmark: the same sentence was translated differently: {sorted(said)}")
            found |= {name: stages[stage] for stage, name in STAGES.items()}
            if number:  # The first round brings files into memory.
                for name, taken in found.items():
                    seconds[name].append(taken)
    return {
        "device": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "parameters": stages["parameters"],
        "seconds": seconds,
    }


def _train(folder: Path, options: argparse.Namespace) -> tuple[Path, str]:
    """Trains a run of one update; returns it and a sentence."""
    source, target = write_words(folder, options.pairs)
    text = f"{{source: {source}, target: {target}}}"
    settings = [
        *(f"run={folder / 'run'}", f"data.train={text}", f"data.validation={text}", f"data.cache={folder / 'cache'}"),
        *("data.test={}", f"tokenizer.vocabulary_size={options.vocabulary}", "training.max_epochs=null"),
        *("training.max_steps=1", "validation.sentences=1", "validation.samples=0", "runtime.device=cpu"),
    ]
    if options.quick:
        settings += ["model.embedding_size=16", "model.encoder.hidden_size=16", "model.decoder.hidden_size=32"]
    _timed(["-m", "nmt.cli.train", "--config", CONFIG, *(part for each in settings for part in ("--set", each))])
    with source.open(encoding="utf-8") as lines:
        return folder / "run", next(lines)


def _timed(arguments: list[str], text: str = "") -> tuple[float, str]:
    """Returns the seconds of a Python process, and its output."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], input=text, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"scripts/benchmark: {' '.join(arguments)} ended with {done.returncode}\n{done.stderr}")
    return seconds, done.stdout


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Formats the report as a table."""
    yield f"{report['parameters'] / 1e6:.1f} M parameters; {report['device']}, torch {report['torch']}"
    spreads = {name: Spread.of(values) for name, values in report["seconds"].items()}
    rows = [
        (name, *(f"{value:.3f}" for value in (spread.median, spread.least, spread.most)))
        for name, spread in spreads.items()
    ]
    yield format_table(rows, ("what", "seconds", "fastest", "slowest"))
