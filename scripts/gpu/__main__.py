"""Command line of `scripts/check_gpu`: stages of at most eight minutes, each useful by itself.

1. facts of the card, formats inside cuDNN, gradients by kernel and format against float64, all tests marked `gpu`;
2. training by kernel and format, with launches, updates from graphs and the share of the bound;
3. GNMT v2 and translation;
4. Multi30k trained in bf16 and in fp16, with BLEU; a run that is killed and resumed.

Every step runs in a process of its own. What fails, or takes too long, keeps nothing else from running, and the exit
code tells of it. Without a GPU a stage says so and does nothing. Everything but PyTorch's own packages may be missing:
wheels in a folder take the place of what is not installed. Only the standard library is imported here.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from scripts.gpu import ATTENTIONS

ROOT = Path(__file__).resolve().parent.parent.parent
STAGE_SECONDS = 480.0
NEEDED = {
    "torch": "torch",
    "numpy": "numpy",
    "pyarrow": "pyarrow",
    "sentencepiece": "sentencepiece",
    "sacrebleu": "sacrebleu",
    "safetensors": "safetensors",
    "tensorboard": "tensorboard",
    "tqdm": "tqdm",
    "pytest": "pytest",
    "pydantic": "pydantic",
    "yaml": "pyyaml",
    "filelock": "filelock",
    "google.protobuf": "protobuf",
}
"""Modules that the steps import, and the packages that have them."""
MARKS = ("mark.gpu", "needs_gpu", "TRITON_DEVICES")
"""Text of a test file that has tests for a GPU."""
AGREEMENT = {"fp32": 1e-4, "bf16": 2e-2}
"""Distance of gradients above which a figure is nothing worth, as in `scripts.benchmarks.network`."""
TARGETS = {"gnmt_v2": 420_000.0, "bahdanau2015": 3_000_000.0}
"""Source + target tokens a second that an H200 should reach in bf16: GNMT v2's, and twice 1.5M target tokens."""
PATIENCE = 20.0
"""How much longer a rehearsal may take: a CPU may be slow, or shared."""
LOG_LINES = 3
"""Lines of a failed step's log that are shown."""


@dataclass(frozen=True)
class Step:
    """A process of a stage."""

    name: str
    command: tuple[str, ...]
    """Arguments of Python."""
    seconds: float
    """Time after which it is ended."""
    needs: str = ""
    """A file without which the step is left out."""


@dataclass
class Outcome:
    """A step that was run."""

    name: str
    status: str
    """`passed`, `failed`, `took too long` or `left out`."""
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)
    """The last lines of its log, where it did not pass; or why it was left out."""
    figures: dict[str, Any] | None = None

    @property
    def is_fault(self) -> bool:
        return self.status in ("failed", "took too long")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the stages; returns 1 if a step failed."""
    options = _parser().parse_args(arguments)
    results: Path = options.results.resolve()
    results.mkdir(parents=True, exist_ok=True)
    environment = _environment(options.wheels, results)
    missing = _missing(environment)
    if missing:
        print(f"not installed: {', '.join(missing)}; steps that need them fail. On a machine with the internet:")
        print(f"  pip download --only-binary=:all: --dest {options.wheels} {' '.join(missing)}")
    device = "cpu" if options.rehearse else "cuda"
    card = "none: a rehearsal on the CPU" if options.rehearse else _card(environment)
    faults = 0
    for number in options.stage:
        report: dict[str, Any] = {
            "stage": number,
            "card": card,
            "commit": _commit(),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "python": sys.version.split()[0],
            "steps": [],
        }
        path = results / f"stage-{number}.json"
        if not card:
            print(f"stage {number}: no GPU")
            path.write_text(json.dumps({**report, "card": "no GPU"}, indent=1) + "\n", encoding="utf-8")
            continue
        print(f"stage {number}: {card}", flush=True)
        steps = stages(device, options.quick or options.rehearse, results)[number]
        for outcome in run_stage(steps, environment, results, PATIENCE if options.rehearse else 1.0):
            faults += outcome.is_fault
            report["steps"].append(vars(outcome))
            # After every step: a machine may be lost at any moment.
            path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            for line in lines(outcome):
                print(f"  {line}", flush=True)
    print(f"{faults} steps failed" if faults else "nothing failed", f"; figures and logs: {results}", sep="")
    return 1 if faults else 0


def stages(device: str, quick: bool, results: Path) -> dict[int, list[Step]]:
    """Returns the steps of each stage."""
    small = ("--quick",) if quick else ()
    tests = tuple(
        str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").glob("test_*.py")) if _is_for_gpus(path)
    )
    # With a line for each, so that the log of a run that takes too long says what failed.
    marked = ("-m", "pytest", "-v", "--tb=short", "-m", "gpu", "-p", "no:cacheprovider", *tests)

    def figures(name: str) -> tuple[str, str]:
        return "--json", str(results / f"{name}.json")

    def benchmark(name: str, *arguments: str, seconds: float) -> Step:
        command = ("-m", "scripts.benchmarks", *arguments, "--device", device, *figures(name), *small)
        return Step(name, command, seconds)

    def training(precision: str) -> Step:
        name = f"multi30k-{precision}"
        command = ("-m", "scripts.gpu.multi30k", "--precision", precision, "--device", device, *figures(name), *small)
        needs = "" if quick else "data/multi30k/train.de.gz"
        return Step(name, (*command, "--folder", str(results / name)), 220, needs)

    precisions = ("fp32", "bf16")
    rehearsed = precisions[:1] if device == "cpu" else precisions
    return {
        1: [
            Step("facts", ("-m", "scripts.gpu.facts", "--device", device, *figures("facts")), 90),
            Step("gradients", ("-m", "scripts.gpu.gradients", "--device", device, *figures("gradients"), *small), 150),
            Step("tests", marked, 400),
        ],
        2: [
            *(
                benchmark(name, "training", "--attention", name, "--precision", *rehearsed, seconds=150)
                for name in ATTENTIONS
            ),
            # The last, because compiling takes minutes.
            benchmark("compiled", "training", "--compiled", "1", "--precision", rehearsed[-1], seconds=240),
        ],
        3: [
            benchmark("gnmt_v2", "gnmt_v2", "--precision", rehearsed[-1], seconds=240),
            benchmark(
                "translation",
                *("translation", "--precision", *rehearsed, "--batch", *(("4",) if quick else ("64", "256", "512"))),
                *("--sentences", "8" if quick else "1024"),
                seconds=240,
            ),
        ],
        4: [training(precision) for precision in (("fp32",) if device == "cpu" else ("bf16", "fp16"))],
    }


def run_stage(
    steps: Sequence[Step], environment: Mapping[str, str], results: Path, patience: float = 1.0
) -> Iterator[Outcome]:
    """Runs the steps of a stage in the time that it has, times `patience`."""
    end = time.monotonic() + patience * STAGE_SECONDS
    for step in steps:
        left = end - time.monotonic()
        if step.needs and not (ROOT / step.needs).exists():
            yield Outcome(step.name, "left out", said=[f"{step.needs} is missing"])
        elif left < 1.0:
            yield Outcome(step.name, "left out", said=["no time is left in this stage: run it again with --quick"])
        else:
            yield run_step(step, min(patience * step.seconds, left), environment, results)


def run_step(step: Step, seconds: float, environment: Mapping[str, str], results: Path) -> Outcome:
    """Runs a step, with its output in a log, and ends it and its children after so many seconds."""
    log, figures = results / f"{step.name}.log", results / f"{step.name}.json"
    figures.unlink(missing_ok=True)
    start = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *step.command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = "passed" if process.wait(seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            status = "took too long"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    outcome = Outcome(step.name, status, round(time.monotonic() - start, 1))
    if outcome.is_fault:
        text = log.read_text(encoding="utf-8", errors="replace").strip()
        outcome.said = text.splitlines()[-LOG_LINES:]
    if figures.exists():
        outcome.figures = json.loads(figures.read_text(encoding="utf-8"))
    return outcome


def lines(outcome: Outcome) -> Iterator[str]:
    """Sums up a step: what became of it, its figures, and what is wrong with them."""
    yield f"{outcome.name}: {outcome.status} after {outcome.seconds:.0f} s"
    yield from (f"  {line}" for line in outcome.said)
    figures = outcome.figures or {}
    yield from (f"  {line}" for line in figures.get("lines", ()))
    for result in figures.get("results", ()):
        if "gradient_difference" in result:
            launching = result.get("launching", {})
            launches = f", {launching['launches']:,.0f} launches" if launching else ""
            yield (
                f"  {result['precision']} {result['kernel']}: {result['tokens_per_second']:,.0f} target and "
                f"{result['source_and_target_tokens_per_second']:,.0f} source + target tokens/s, "
                f"{result['share_of_bound']:.0%} of the products' bound, {result['times_reference'][0]:.1f} times "
                f"reference{launches}, gradients {result['gradient_difference']:.1e} apart"
            )
            if "graphs" in result:
                yield f"  {result['graphs']}"
            if result["gradient_difference"] > AGREEMENT[result["precision"]]:
                yield f"  warning: {result['precision']} {result['kernel']}: the gradients are off"
        elif "sentences_per_second" in result:
            yield (
                f"  {result['precision']}, {result['batch']} at once, beam {result['beam']}: "
                f"{result['sentences_per_second']:,.0f} sentences/s"
            )
    speeds = [
        result["source_and_target_tokens_per_second"]
        for result in figures.get("results", ())
        if result["precision"] == "bf16" and outcome.name in TARGETS
    ]
    if speeds:
        best = max(speeds)
        reached = "reached" if best >= TARGETS[outcome.name] else "missed"
        yield f"  an H200 should reach {TARGETS[outcome.name]:,.0f} source + target tokens/s: {reached}"
    yield from (f"  warning: {line}" for line in figures.get("warnings", ()))


def _environment(wheels: Path, results: Path) -> dict[str, str]:
    """Returns the environment of all steps; wheels are unpacked for what is not installed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = sorted(wheels.glob("*.whl"))
    if found and _missing(environment):
        unpacked = results / "packages"
        for wheel in found:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(unpacked)
        environment["PYTHONPATH"] += os.pathsep + str(unpacked)
    return environment


def _missing(environment: Mapping[str, str]) -> list[str]:
    """Returns the packages that are not there."""
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n        importlib.import_module(name)\n"
        "    except ImportError:\n        print(name)\n"
    )
    return [NEEDED[name] for name in _python(code, environment, *NEEDED).split()]


def _card(environment: Mapping[str, str]) -> str:
    """Returns the name of the GPU; an empty string where there is none."""
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    return _python(code, environment).strip()


def _python(code: str, environment: Mapping[str, str], *arguments: str) -> str:
    """Runs code in another process; returns what it prints, also where it fails."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    ).stdout


def _commit() -> str:
    try:
        return subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _is_for_gpus(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    return any(mark in text for mark in MARKS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/check_gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = (1, 2, 3, 4)
    parser.add_argument("--stage", type=int, nargs="+", choices=every, default=every, help="stages to run (all)")
    parser.add_argument("--quick", action="store_true", help="small networks and little work, to try the command")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "runs" / "check_gpu", help="folder of figures and logs (runs/check_gpu)"
    )
    parser.add_argument(
        "--wheels", type=Path, default=ROOT / "scripts" / "wheels", help="folder of missing packages (scripts/wheels)"
    )
    parser.add_argument("--rehearse", action="store_true", help="run every step on the CPU, with little work")
    return parser


if __name__ == "__main__":
    sys.exit(main())
