"""Trains `configs/multi30k-de-en.yaml` on a GPU, kills and resumes it once, and scores it.

With --quick it makes a few updates of `configs/quickstart.yaml` instead.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nmt.checkpoint import RunFolder

ROOT = Path(__file__).resolve().parent.parent.parent
CPU_BLEU = 39.46
"""Of test_2016_flickr, trained on a CPU in float32 (docs/results.md)."""
APART = 0.5
"""BLEU points that another format may cost or gain."""
PATIENCE = 0.2
"""Seconds between looks for a checkpoint."""


def main(arguments: list[str]) -> int:
    """Writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--folder", type=Path, required=True, help="of the run")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    run = options.folder
    config = "configs/quickstart.yaml" if options.quick else "configs/multi30k-de-en.yaml"
    values = [f"run={run}", f"runtime.device={options.device}", f"runtime.precision={options.precision}"]
    if options.quick:
        values += ["training.max_steps=12", "training.save_every=4", "validation.sentences=8", "runtime.threads=1"]
    train = [sys.executable, "-m", "nmt.cli.train", "--config", config]
    train += [part for each in values for part in ("--set", each)]
    start = time.monotonic()
    killed = kill_after_first_checkpoint([*train, "--fresh"], run)
    subprocess.run(train, check=True, cwd=ROOT)
    seconds = time.monotonic() - start
    score = [sys.executable, "-m", "nmt.cli.evaluate", "--model", str(run)]
    score += ["--metrics", "bleu", "--samples", "0", "--json"]
    score += ["--device", options.device, *([] if options.quick else ["--test-set", "test_2016_flickr"])]
    text = subprocess.run(score, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout
    figures = report(text, killed, seconds, options.precision, options.quick)
    print(*figures["lines"], *(f"warning: {line}" for line in figures["warnings"]), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def kill_after_first_checkpoint(train: list[str], run: Path) -> str:
    """Starts a training and kills it when it has saved a checkpoint; returns what became of it."""
    process = subprocess.Popen(train, cwd=ROOT)
    while process.poll() is None:
        if run.is_dir() and RunFolder(run).checkpoints():
            process.kill()
            process.wait()
            return f"killed after {RunFolder(run).checkpoints()[-1].name}, resumed"
        time.sleep(PATIENCE)
    return f"ended with exit code {process.returncode} before it could be killed"


def report(text: str, killed: str, seconds: float, precision: str, quick: bool) -> dict[str, Any]:
    """Returns the figures, from the JSON of `nmt-eval`, with lines and warnings for the summary."""
    bleu: float = json.loads(text)["sets"][0]["scores"]["bleu"]["value"]
    lines = [f"{precision}: BLEU {bleu:.2f} after {seconds:.0f} s of training, {killed}"]
    warnings = [] if killed.startswith("killed") else [f"the training {killed}"]
    if not quick:
        lines[0] += f"; {CPU_BLEU} in float32 on a CPU"
        if abs(bleu - CPU_BLEU) > APART:
            warnings.append(f"{precision}: BLEU is more than {APART} away from that of a CPU")
    return {"bleu": bleu, "seconds": seconds, "killed": killed, "lines": lines, "warnings": warnings}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
