"""Compares attention mechanisms under the same conditions: trains, scores, aligns, times and draws, into one page.

Each mechanism is the same experiment but for `model.attention` (and the second decoder layer that a few need); a YAML
file is an experiment of its own. What is measured lies in the run folders, so that the comparison goes on where it was
stopped. Speeds are measured at the end, all mechanisms in turn, because a machine is not equally fast at all times.
The page is written beside the runs; --publish writes docs/attention.md.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmt.model.attention.presets import ATTENTION_PRESETS

BASELINE = "bahdanau2015"
# The context enters the layers above the first, so there must be two.
TWO_LAYERS = ("model.decoder.layers=2",)
MECHANISMS: dict[str, tuple[str, ...]] = {
    BASELINE: (f"model.attention={BASELINE}",),
    **{
        preset: (f"model.attention={preset}", *(TWO_LAYERS if preset.startswith(("gnmt", "rnmt")) else ()))
        for preset in ATTENTION_PRESETS
        if preset != BASELINE
    },
    "scaled_dot_8_heads": (
        "model.attention={score: scaled_dot, heads: 8, wiring: {kind: luong, input_feeding: true}}",
    ),
    "mean": ("model.attention={score: mean, wiring: {kind: luong, input_feeding: true}}",),
    "cosine": ("model.attention={score: cosine, wiring: {kind: luong, input_feeding: true}}",),
    "general_without_input_feeding": ("model.attention={score: general, wiring: {kind: luong, input_feeding: false}}",),
}
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PUBLISHED = Path("docs/attention.md")
ROUNDS = 3
TIMED_SENTENCES = 200


@dataclass(frozen=True)
class Run:
    """A training run and its measurements."""

    name: str
    folder: Path
    overrides: tuple[str, ...]

    @property
    def _file(self) -> Path:
        return self.folder / "comparison.json"

    @property
    def measured(self) -> dict[str, Any]:
        """Returns the measurements so far."""
        return json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else {}

    def keep(self, name: str, values: Any) -> None:
        """Saves a measurement."""
        text = json.dumps({**self.measured, name: values}, indent=1)
        partial = self._file.with_suffix(".partial")
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, self._file)


@dataclass(frozen=True)
class System:
    """A mechanism: its config, and a run for each seed."""

    name: str
    config: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> dict[str, Any]:
        """Measurements of the first seed. Pictures and speeds exist for this run only."""
        return self.runs[0].measured

    def all(self, *keys: str) -> list[Any]:
        """Returns the value under nested keys for every seed."""
        values: list[Any] = [run.measured for run in self.runs]
        for key in keys:
            values = [value[key] for value in values]
        return values


def main() -> int:
    options = _parser().parse_args()
    systems = systems_of(options)
    page = page_of(options, PUBLISHED)
    for system in systems:
        for run in system.runs:
            if "training" not in run.measured:
                train(run, system.config)
    for system in systems:
        for run, baseline in zip(system.runs, systems[0].runs, strict=True):
            if "scores" not in run.measured:
                score(run, None if run == baseline else baseline)
            if options.gold and "alignment" not in run.measured:
                align(run, options.gold)
        draw(system, options.sentence, page.with_suffix(""))
    if not all("speed" in system.first for system in systems):
        time_all(systems)
    write_page(systems, options, page)
    return 0


def systems_of(options: argparse.Namespace) -> list[System]:
    """Returns the baseline and the mechanisms; ends the program if two have one name."""
    named = {name: (options.config, overrides) for name, overrides in MECHANISMS.items()}
    chosen = [BASELINE, *(name for name in options.only or MECHANISMS if name != BASELINE)]
    for path in (each for each in chosen if each not in MECHANISMS):
        named[path] = (path, ())
    systems: dict[str, System] = {}
    for each in chosen:
        config, overrides = named[each]
        name = each if each in MECHANISMS else Path(each).stem
        if name in systems or (each not in MECHANISMS and name in MECHANISMS):
            sys.exit(f"--only: {each}: there is a mechanism {name!r} already; give the file another name")
        runs = (
            Run(name, options.runs / name / f"seed-{seed}", (*overrides, *options.set, f"seed={seed}"))
            for seed in options.seeds
        )
        systems[name] = System(name, config, tuple(runs))
    return list(systems.values())


def page_of(options: argparse.Namespace, published: Path) -> Path:
    """Returns the path of the page: beside the runs, unless an option names another."""
    if options.publish and options.only:
        sys.exit(
            f"--publish writes the whole comparison into {published}; leave out --only, or name a file with --page"
        )
    return published if options.publish else options.page or options.runs / published.name


def add_page_options(parser: argparse.ArgumentParser, published: Path) -> None:
    """Adds the options that `page_of` reads."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--page", type=Path, help=f"the file that is written; default: {published.name} beside the runs")
    where.add_argument("--publish", action="store_true", help=f"write {published}, which is part of the project")


def _mechanism(text: str) -> str:
    if text not in MECHANISMS and not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a file nor one of {', '.join(MECHANISMS)}")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/compare_attention", description=__doc__)
    parser.add_argument("--config", default="configs/comparison.yaml", help="the experiment (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes it, for all alike")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], metavar="SEED", help="a run for each (1)")
    parser.add_argument("--runs", type=Path, default=Path("runs/comparison"), help="where the runs go (%(default)s)")
    parser.add_argument(
        "--only",
        nargs="+",
        type=_mechanism,
        metavar="NAME|YAML",
        help=f"compare these with {BASELINE}: mechanisms, or YAML files of whole experiments",
    )
    parser.add_argument("--gold", nargs=3, metavar=("SOURCE", "TARGET", "LINKS"), help="alignments made by hand")
    add_page_options(parser, PUBLISHED)
    parser.add_argument(
        "--sentence",
        default="Ein Mann mit einem orangefarbenen Hut, der etwas anstarrt.",
        help="what every mechanism is drawn with (%(default)s)",
    )
    return parser


def train(run: Run, config: str) -> None:
    """Trains or resumes training. The peak memory is that of the training process."""
    say(f"training {run.folder}")
    log, best, memory_mb = run_training(run, config)
    run.keep(
        "training",
        {
            "parameters": parameters(run.folder),
            "seconds": log[-1]["seconds"],
            "updates": log[-1]["step"],
            "epochs": log[-1]["epoch"],
            "best_epoch": best["epoch"],
            "perplexity": best["perplexity"],
            "peak_memory_mb": memory_mb,
            "commit": commit(),
        },
    )


def run_training(run: Run, config: str) -> tuple[list[dict[str, Any]], dict[str, Any], float]:
    """Trains or resumes training; returns the lines of its metrics, the best validation and the peak memory in MB.

    A training that fails ends the comparison after its own message.
    """
    settings = [f"run={run.folder}", *run.overrides]
    command = [*program("train"), "--config", config, *(part for each in settings for part in ("--set", each))]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    # wait4 goes past Popen, which would take the process for one that still runs.
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{shlex.join(command)} ended with {process.returncode}")
    log = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    best = next(line for line in reversed(log) if line["type"] == "validation" and line["best"])
    return log, best, usage.ru_maxrss / 1024


def parameters(folder: Path) -> int:
    """Returns the number that the run's log gives."""
    (count,) = set(re.findall(r"parameters +([\d,]+)", (folder / "train.log").read_text(encoding="utf-8")))
    return int(count.replace(",", ""))


def score(run: Run, baseline: Run | None) -> None:
    """Measures BLEU and chrF of the test sets, BLEU by length, and whether the scores differ from the baseline's."""
    say(f"scoring {run.folder}")
    against = [] if baseline is None else ["--baseline", str(baseline.folder)]
    command = [*program("evaluate"), "--model", str(run.folder), "--metrics", "bleu", "chrf", "--by-length"]
    command += ["--json", *against]
    run.keep("scores", json.loads(output(command))["sets"])


def align(run: Run, gold: Sequence[str]) -> None:
    """Measures the alignment error rate, except of a model without attention."""
    if not attends(run):
        run.keep("alignment", None)
        return
    say(f"aligning with {run.folder}")
    source, target, links = gold
    files = ["--source", source, "--target", target, "--gold", links]
    run.keep("alignment", json.loads(output([*program("align"), "--model", str(run.folder), *files, "--json"])))


def draw(system: System, sentence: str, folder: Path) -> None:
    """Draws the attention for a sentence, the same for every system, into a folder beside the page."""
    run = system.runs[0]
    drawn = run.folder / "plot"
    if "plot" not in run.measured:
        if attends(run):
            output([*program("translate"), "--model", str(run.folder), "--plot", str(drawn)], sentence + "\n")
        run.keep("plot", attends(run))
    if run.measured["plot"]:
        folder.mkdir(parents=True, exist_ok=True)
        (picture,) = drawn.glob("*.png")
        (folder / f"{system.name}.png").write_bytes(picture.read_bytes())


def attends(run: Run) -> bool:
    """Returns whether the model has attention weights."""
    from nmt.model.attention.base import has_attention
    from nmt.tasks.components import read_translation

    return has_attention(read_translation(run.folder / "config.yaml").model)


def time_all(systems: Sequence[System]) -> None:
    """Times training and translation, all systems in turn: medians, and ratios to the baseline of the same round."""
    import torch

    from nmt.evaluation.testsets import from_config
    from nmt.runtime import set_up, tear_down
    from nmt.tasks.components import read_translation
    from nmt.tasks.translation.loading import build_system, load_model
    from nmt.tasks.translation.text_translation import translate_lines
    from scripts.benchmarks.network import Update, Variant, caption_batches

    say("timing")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    runs = [system.runs[0] for system in systems]
    configs = {run.name: read_translation(run.folder / "config.yaml") for run in runs}
    runtime = set_up(configs[BASELINE].runtime)
    models = {run.name: load_model(run.folder, "best", runtime) for run in runs}
    loaded = {name: build_system([model], runtime, model.config.search) for name, model in models.items()}
    vocabulary = loaded[BASELINE].tokenizers.target.size
    batch_tokens = configs[BASELINE].training.batch_tokens
    assert batch_tokens is not None, "the config of a run has it"
    batches = [batch.to(device) for batch in caption_batches(batch_tokens, vocabulary)]
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
            translate_lines(loaded[name], sentences, configs[name].search)
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


def write_page(systems: Sequence[System], options: argparse.Namespace, page: Path) -> None:
    """Writes the measurements between the two marks of the page; the rest of the page stays."""
    lines = [*conditions(systems, options), "", *table(systems), "", *length_plot(systems, page), *plots(systems, page)]
    write_measured(page, "Attention compared", lines)


def write_measured(page: Path, title: str, lines: Sequence[str]) -> None:
    """Replaces the lines between the two marks of the page, which is created if it does not exist."""
    text = page.read_text(encoding="utf-8") if page.exists() else f"# {title}\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(before + "\n".join([BEGIN, "", *lines, END]) + after, encoding="utf-8")
    say(f"written: {page}")


def conditions(systems: Sequence[System], options: argparse.Namespace) -> Iterator[str]:
    """Yields the conditions that all mechanisms share."""
    baseline = systems[0].first
    commits = sorted({commit for system in systems for commit in system.all("training", "commit")})
    signature = baseline["scores"][0]["scores"]["bleu"]["signature"]
    changed = f" with {', '.join(f'`{each}`' for each in options.set)}" if options.set else ""
    files = ", ".join(f"`{each.config}`" for each in systems if each.config != options.config)
    if len(options.seeds) == 1:
        seeds = f"seed {options.seeds[0]}"
        values = f"95% intervals by bootstrap; p by paired bootstrap against {BASELINE} with the same seed"
    else:
        seeds = f"seeds {', '.join(map(str, options.seeds))}"
        values = (
            "mean and sample standard deviation over the seeds; p by paired bootstrap against "
            f"{BASELINE} with the same seed, the largest of the seeds"
        )
    yield (
        f"`{options.config}`{changed}, {seeds}, {baseline['training']['epochs']} epochs, "
        f"{baseline['training']['updates']:,} updates each; commit {', '.join(commits)}; {machine()}. "
        f"BLEU and chrF on {baseline['scores'][0]['name']} with the best checkpoint by validation, "
        f"`{signature}`, {values}."
    )
    if files:
        yield f"Experiments of their own, whose budget may differ: {files}."
    if options.gold:
        yield f"AER by `nmt-align` on {baseline['alignment']['pairs']} pairs aligned by hand."
    yield (
        f"Speeds are medians of {ROUNDS} rounds in which all mechanisms take turns, as ratios to {BASELINE}: training "
        f"in target tokens (there {baseline['speed']['training']['median']:,.0f} a second), translation in sentences "
        f"(there {baseline['speed']['translation']['median']:,.1f} a second). Memory is the training process's peak."
    )


def table(systems: Sequence[System]) -> Iterator[str]:
    """Yields a row for each system."""
    metrics = ("BLEU", "p", "chrF", "p")
    headings = ("mechanism", "parameters", "perplexity", *metrics, "AER", "training", "translation", "memory")
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for system in systems:
        first = system.first
        aligned = [each["aer"] for run in system.runs if (each := run.measured.get("alignment"))]
        cells = [
            system.name,
            f"{first['training']['parameters'] / 1e6:.1f} M",
            spread(system.all("training", "perplexity")),
            *(cell for metric in ("bleu", "chrf") for cell in compared(system, metric)),
            spread([100 * each for each in aligned], ".1f") + "%" if aligned else "",
            f"{first['speed']['training']['ratio']:.2f}",
            f"{first['speed']['translation']['ratio']:.2f}",
            f"{max(system.all('training', 'peak_memory_mb')):,.0f} MB",
        ]
        yield f"| {' | '.join(cells)} |"


def spread(values: Sequence[float], format_: str = ".2f") -> str:
    """Returns the mean and the sample standard deviation, or a single value as it is."""
    mean = format(statistics.mean(values), format_)
    return mean if len(values) == 1 else f"{mean} ± {format(statistics.stdev(values), format_)}"


def compared(system: System, metric: str) -> tuple[str, ...]:
    """Returns the cells of a metric: the scores, and the largest p of the seeds against the baseline's."""
    test_sets = [scores[0] for scores in system.all("scores")]
    scores = [test_set["scores"][metric] for test_set in test_sets]
    text = spread([score["value"] for score in scores])
    if len(scores) == 1:
        low, high = scores[0]["confidence"]
        text += f" [{low:.2f}, {high:.2f}]"
    p_values = [test_set["comparisons"][metric]["p_value"] for test_set in test_sets if "comparisons" in test_set]
    return text, f"{max(p_values):.3f}" if p_values else ""


def length_plot(systems: Sequence[System], page: Path) -> Iterator[str]:
    """Draws BLEU by sentence length with and without attention, as Bahdanau 2015 (figure 2) and Luong 2015 (figure 6).

    The curves are the baseline's, those of the systems without attention, and that of the best system, each the mean
    over its seeds.
    """
    from nmt.evaluation.metrics import LengthScore
    from nmt.visualization.curves import render_length_curves

    best = max(
        systems, key=lambda system: statistics.mean(each[0]["scores"]["bleu"]["value"] for each in system.all("scores"))
    )
    shown = [each for each in systems if each in (systems[0], best) or not each.first["plot"]]
    groups = {system.name: [scores[0]["by_length"] for scores in system.all("scores")] for system in shown}
    curves = {
        name: [statistics.mean(group["system"]["value"] for group in seeds) for seeds in zip(*runs, strict=True)]
        for name, runs in groups.items()
    }
    words = [LengthScore(**group).words for group in groups[systems[0].name][0]]
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "by_length.png").write_bytes(render_length_curves(words, curves, "png"))
    yield f"![BLEU by the length of the source sentence: {', '.join(curves)}]({page.stem}/by_length.png)\n"


def plots(systems: Sequence[System], page: Path) -> Iterator[str]:
    """Yields the attention of each system for the same sentence."""
    for system in systems:
        if system.first.get("plot"):
            yield f"**{system.name}**\n\n![{system.name}]({page.stem}/{system.name}.png)\n"


def machine() -> str:
    """Returns the device and the versions of the software."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    return f"{device}, torch {torch.__version__}, Python {platform.python_version()}"


def commit() -> str:
    """Returns the checkout's commit, marked where something was changed since."""
    return output(["git", "describe", "--always", "--dirty"]).strip()


def program(name: str) -> list[str]:
    return [sys.executable, "-m", f"nmt.cli.{name}"]


def output(command: Sequence[str], given: str | None = None) -> str:
    """Returns what a command prints; its failure ends the comparison after its own message."""
    done = subprocess.run(command, input=given, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}")
    return done.stdout


def say(text: str) -> None:
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
