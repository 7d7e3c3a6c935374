"""Every attention under the same conditions: trained, scored, aligned, timed and drawn, into one page.

Each mechanism is the same experiment but for `model.attention` (and the second decoder layer that a few need). What is
measured lies in the mechanism's run folder, so that the comparison goes on where it was stopped; speeds are measured at
the end, all mechanisms in turn, because a machine is not equally fast at all times.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmt.model.attention.presets import ATTENTION_PRESETS

BASELINE = "bahdanau2015"
# The context goes into the layers above the first: with one layer there is none.
TWO_LAYERS = ("model.decoder.layers=2",)
MECHANISMS: dict[str, tuple[str, ...]] = {
    BASELINE: (f"model.attention={BASELINE}",),
    **{
        preset: (f"model.attention={preset}", *(TWO_LAYERS if preset.startswith(("gnmt", "rnmt")) else ()))
        for preset in ATTENTION_PRESETS
        if preset != BASELINE
    },
    "scaled_dot_8_heads": ("model.attention={score: scaled_dot, heads: 8, wiring: luong}",),
    "mean": ("model.attention={score: mean, wiring: luong}",),
    "cosine": ("model.attention={score: cosine, wiring: luong}",),
    "general_without_input_feeding": ("model.attention={score: general, wiring: {kind: luong, input_feeding: false}}",),
}
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
HEADINGS = (
    *("mechanism", "parameters", "perplexity", "BLEU", "p", "chrF", "p", "AER"),
    *("training", "translation", "memory"),
)
ROUNDS = 3
TIMED_SENTENCES = 200


@dataclass(frozen=True)
class Run:
    """One mechanism's run, and what was measured of it."""

    name: str
    folder: Path
    overrides: tuple[str, ...]

    @property
    def _file(self) -> Path:
        return self.folder / "comparison.json"

    @property
    def measured(self) -> dict[str, Any]:
        """What has been measured so far."""
        return json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else {}

    def keep(self, name: str, values: Any) -> None:
        """Write down a measurement."""
        text = json.dumps({**self.measured, name: values}, indent=1)
        partial = self._file.with_suffix(".partial")
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, self._file)


def main() -> int:
    options = _parser().parse_args()
    runs = [
        Run(name, options.runs / name, (*overrides, *options.set, f"seed={options.seed}"))
        for name, overrides in MECHANISMS.items()
        if not options.only or name in (*options.only, BASELINE)
    ]
    for run in runs:
        if "training" not in run.measured:
            train(run, options.config)
    for run in runs:
        if "scores" not in run.measured:
            score(run, None if run.name == BASELINE else runs[0])
        if options.gold and "alignment" not in run.measured:
            align(run, options.gold)
        if "plot" not in run.measured:
            draw(run, options.sentence, options.page.parent / options.page.stem)
    if not all("speed" in run.measured for run in runs):
        time_all(runs)
    write_page(runs, options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/compare_attention", description=__doc__)
    parser.add_argument("--config", default="configs/multi30k-de-en.yaml", help="the experiment (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes it, for all alike")
    parser.add_argument("--seed", type=int, default=1, help="of every run (%(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("runs/comparison"), help="where the runs go (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=MECHANISMS, metavar="NAME", help="these, beside the baseline")
    parser.add_argument("--gold", nargs=3, metavar=("SOURCE", "TARGET", "LINKS"), help="alignments made by hand")
    parser.add_argument("--page", type=Path, default=Path("docs/attention.md"), help="what is written (%(default)s)")
    parser.add_argument(
        "--sentence",
        default="Ein Mann mit einem orangefarbenen Hut, der etwas anstarrt.",
        help="what every mechanism is drawn with (%(default)s)",
    )
    return parser


def train(run: Run, config: str) -> None:
    """Train, or go on training; the peak memory is that of the process that trains."""
    say(f"training {run.name}")
    settings = [f"run={run.folder}", *run.overrides]
    command = [*program("train"), "--config", config, *(part for each in settings for part in ("--set", each))]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{shlex.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    log = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    validations = [line for line in log if line["type"] == "validation"]
    best = next(line for line in reversed(validations) if line["best"])
    run.keep(
        "training",
        {
            "parameters": parameters(run.folder),
            "seconds": log[-1]["seconds"],
            "updates": log[-1]["step"],
            "epochs": log[-1]["epoch"],
            "best_epoch": best["epoch"],
            "perplexity": best["perplexity"],
            "peak_memory_mb": usage.ru_maxrss / 1024,
            "commit": commit(),
        },
    )


def parameters(folder: Path) -> int:
    """What the run's log says."""
    (count,) = set(re.findall(r"parameters +([\d,]+)", (folder / "train.log").read_text(encoding="utf-8")))
    return int(count.replace(",", ""))


def score(run: Run, baseline: Run | None) -> None:
    """BLEU and chrF of the test sets, and whether they differ from the baseline's."""
    say(f"scoring {run.name}")
    against = [] if baseline is None else ["--baseline", str(baseline.folder)]
    command = [*program("evaluate"), "--model", str(run.folder), "--metrics", "bleu", "chrf", "--json", *against]
    run.keep("scores", json.loads(output(command))["sets"])


def align(run: Run, gold: Sequence[str]) -> None:
    """The alignment error rate; nothing for a model without attention."""
    if not attends(run):
        run.keep("alignment", None)
        return
    say(f"aligning with {run.name}")
    source, target, links = gold
    files = ["--source", source, "--target", target, "--gold", links]
    run.keep("alignment", json.loads(output([*program("align"), "--model", str(run.folder), *files, "--json"])))


def draw(run: Run, sentence: str, folder: Path) -> None:
    """The same sentence for each."""
    if not attends(run):
        run.keep("plot", None)
        return
    drawn = run.folder / "plot"
    output([*program("translate"), "--model", str(run.folder), "--plot", str(drawn)], sentence + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    (picture,) = drawn.glob("*.png")
    (folder / f"{run.name}.png").write_bytes(picture.read_bytes())
    run.keep("plot", f"{folder.name}/{run.name}.png")


def attends(run: Run) -> bool:
    """Whether there is something to look at."""
    from nmt.experiment.families import has_attention, read_translation

    return has_attention(read_translation(run.folder / "config.yaml").model)


def time_all(runs: Sequence[Run]) -> None:
    """Training and translation, all mechanisms in turn; medians, and the ratio to the baseline of the same round."""
    import torch

    from nmt.experiment.families import read_translation
    from nmt.experiment.loading import join, load_model
    from nmt.experiment.testsets import from_config
    from nmt.experiment.translation import translate_lines
    from nmt.runtime import set_up, tear_down
    from scripts.benchmarks.network import Update, Variant, caption_batches

    say("timing")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    configs = {run.name: read_translation(run.folder / "config.yaml") for run in runs}
    runtime = set_up(configs[BASELINE].runtime)
    models = {run.name: load_model(run.folder, "best", runtime) for run in runs}
    systems = {name: join([model], runtime, model.config.search) for name, model in models.items()}
    vocabulary = systems[BASELINE].tokenizers.target.size
    batches = [batch.to(device) for batch in caption_batches(configs[BASELINE].training.batch_tokens, vocabulary)]
    tokens = statistics.mean(batch.target_tokens for batch in batches)
    updates = {
        name: Update(config.model, vocabulary, Variant("fp32", "auto"), device) for name, config in configs.items()
    }
    test_set = from_config(configs[BASELINE], [], "the comparison")[0]
    sentences = test_set.sources[:TIMED_SENTENCES]
    training: dict[str, list[float]] = {name: [] for name in updates}
    translation: dict[str, list[float]] = {name: [] for name in updates}
    for round_number in range(ROUNDS + 1):
        for name, update in updates.items():
            taken = statistics.mean(update.timed(batch) for batch in batches)
            start = time.perf_counter()
            translate_lines(systems[name], sentences, configs[name].search)
            if round_number:  # The first round warms up.
                training[name].append(tokens / taken)
                translation[name].append(len(sentences) / (time.perf_counter() - start))
    tear_down()
    for run in runs:
        run.keep(
            "speed",
            {
                kind: {
                    "median": statistics.median(speeds[run.name]),
                    "ratio": statistics.median(
                        own / other for own, other in zip(speeds[run.name], speeds[BASELINE], strict=True)
                    ),
                }
                for kind, speeds in (("training", training), ("translation", translation))
            },
        )


def write_page(runs: Sequence[Run], options: argparse.Namespace) -> None:
    """Put what was measured between its two marks on the page; what stands around them stays."""
    page: Path = options.page
    write_measured(page, "Attention compared", [*conditions(runs, options), "", *table(runs), "", *plots(runs)])


def write_measured(page: Path, title: str, lines: Sequence[str]) -> None:
    """Put the lines between the two marks on the page, which is made where there is none."""
    text = page.read_text(encoding="utf-8") if page.exists() else f"# {title}\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(before + "\n".join([BEGIN, "", *lines, END]) + after, encoding="utf-8")
    say(f"written: {page}")


def conditions(runs: Sequence[Run], options: argparse.Namespace) -> Iterator[str]:
    """What was the same for all."""
    first = runs[0].measured
    commits = sorted({run.measured["training"]["commit"] for run in runs})
    signature = first["scores"][0]["scores"]["bleu"]["signature"]
    changed = f" with {', '.join(f'`{each}`' for each in options.set)}" if options.set else ""
    yield (
        f"`{options.config}`{changed}, seed {options.seed}, {first['training']['epochs']} epochs, "
        f"{first['training']['updates']:,} updates each; commit {', '.join(commits)}; {machine()}. "
        f"BLEU and chrF on {first['scores'][0]['name']} with the best checkpoint by validation, "
        f"`{signature}`, 95% intervals by bootstrap; p by paired bootstrap against {BASELINE}."
    )
    if options.gold:
        yield f"AER by `nmt-align` on {first['alignment']['pairs']} pairs aligned by hand."
    yield (
        f"Speeds are medians of {ROUNDS} rounds in which all mechanisms take turns, as ratios to {BASELINE}: training "
        f"in target tokens (there {first['speed']['training']['median']:,.0f} a second), translation in sentences "
        f"(there {first['speed']['translation']['median']:,.1f} a second). Memory is the training process's peak."
    )


def table(runs: Sequence[Run]) -> Iterator[str]:
    """A row a mechanism."""
    yield f"| {' | '.join(HEADINGS)} |"
    yield f"|{'---|' * len(HEADINGS)}"
    for run in runs:
        measured = run.measured
        training, speed = measured["training"], measured["speed"]
        first = measured["scores"][0]
        aligned = measured.get("alignment")
        cells = [
            run.name,
            f"{training['parameters'] / 1e6:.1f} M",
            f"{training['perplexity']:.2f}",
            *(cell for metric in ("bleu", "chrf") for cell in compared(first, metric)),
            "" if aligned is None else f"{aligned['aer']:.1%}",
            f"{speed['training']['ratio']:.2f}",
            f"{speed['translation']['ratio']:.2f}",
            f"{training['peak_memory_mb']:,.0f} MB",
        ]
        yield f"| {' | '.join(cells)} |"


def compared(test_set: Mapping[str, Any], metric: str) -> tuple[str, str]:
    """A score with its interval, and how sure it is that it differs from the baseline's."""
    score = test_set["scores"][metric]
    low, high = score["confidence"]
    comparison = test_set.get("comparisons", {}).get(metric)
    return f"{score['value']:.2f} [{low:.2f}, {high:.2f}]", "" if comparison is None else f"{comparison['p_value']:.3f}"


def plots(runs: Sequence[Run]) -> Iterator[str]:
    """The same sentence, as each mechanism looked at it."""
    for run in runs:
        if picture := run.measured.get("plot"):
            yield f"**{run.name}**\n\n![{run.name}]({picture})\n"


def machine() -> str:
    """What was computed on."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"{device}, torch {torch.__version__}, Python {platform.python_version()}"


def commit() -> str:
    """The checkout's, marked where something was changed since."""
    return output(["git", "describe", "--always", "--dirty"]).strip()


def program(name: str) -> list[str]:
    return [sys.executable, "-m", f"nmt.cli.{name}"]


def output(command: Sequence[str], given: str | None = None) -> str:
    """What a command prints; its errors end the comparison with its own message."""
    done = subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}")
    return done.stdout


def say(text: str) -> None:
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
