"""Trains a grid of configurations with several seeds, scores them, and prints a table with significance.

The grid is a YAML file:

    config: configs/multi30k-de-en.yaml
    runs: runs/vocabulary
    seeds: [1, 2, 3]
    set: {training.max_epochs: 8}
    grid:
      tokenizer.vocabulary_size: [2000, 4000]
      training.batch_tokens: [1024, 2048]
    variants:
      words: {model.dropout.source_word: 0.1, model.dropout.target_word: 0.1}

`set` changes the config for all runs. `grid` stands for all combinations of its values, `variants` for one experiment
each; without a grid the first experiment is the config itself. All others are compared with the first.

A run belongs to the process that holds the lock of the file beside its folder; the lock ends with the process. So
processes on one machine, or on several that share the folder, take different runs.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import json
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nmt.evaluation.metrics import paired_bootstrap
from nmt.evaluation.testsets import TestSet, from_config
from nmt.tasks.components import read_translation
from scripts.compare_attention import Run, output, program, say, spread, train

Values = dict[str, Any]
"""From the path of a key in the config to its value."""


class Grid(BaseModel):
    """The file of a sweep."""

    model_config = ConfigDict(extra="forbid")

    config: Path
    """Experiment that all runs start from."""
    runs: Path
    """Folder of the runs."""
    seeds: Annotated[list[int], Field(min_length=1)] = [1]
    set: Values = {}
    """Values for all runs."""
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """Values of each key; all combinations are trained."""
    variants: dict[str, Values] = {}
    """Further experiments by name."""


@dataclass(frozen=True)
class Experiment:
    """A point of the grid with a run for each seed."""

    name: str
    runs: tuple[Run, ...]

    @property
    def scored(self) -> list[Run]:
        """The runs that are complete."""
        return [run for run in self.runs if "scores" in run.measured]


def main() -> int:
    options = _parser().parse_args()
    grid = read_grid(options.grid)
    experiments = experiments_of(grid, options.only)
    for experiment in experiments:
        # A mistake in any config shows before the first run is trained.
        read_translation(grid.config, experiment.runs[0].overrides)
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    runs = [run for experiment in experiments for run in experiment.runs]
    with ThreadPoolExecutor(options.jobs) as pool:
        states = list(pool.map(lambda run: work(run, str(grid.config), threads if options.jobs > 1 else 0), runs))
    for run, state in zip(runs, states, strict=True):
        if state:
            say(f"{run.folder}: {state}")
    lines = list(table(experiments))
    print("\n".join(lines))
    if options.table:
        options.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(any("failed" in state for state in states))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", type=Path, required=True, metavar="FILE", help="the YAML file of the sweep")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="the first experiment and these")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once; they share the processor's cores (1)")
    parser.add_argument("--table", type=Path, metavar="FILE", help="also write the table to this file")
    return parser


def read_grid(path: Path) -> Grid:
    """Reads the file of a sweep; ends the program with one line for each mistake."""
    try:
        return Grid.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        lines = (f"{path}: {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        sys.exit("\n".join(lines))
    except (OSError, yaml.YAMLError) as error:
        sys.exit(f"{path}: {error}")


def experiments_of(grid: Grid, only: Sequence[str] | None = None) -> list[Experiment]:
    """Returns the combinations of the grid, then the variants."""
    combinations = (dict(zip(grid.grid, values, strict=True)) for values in itertools.product(*grid.grid.values()))
    points: dict[str, Values] = {name_of(values): values for values in combinations}
    if twice := points.keys() & grid.variants.keys():
        sys.exit(f"variants: {', '.join(sorted(twice))}: the grid has an experiment of this name; choose another")
    points |= grid.variants
    first = next(iter(points))
    if unknown := [name for name in only or () if name not in points]:
        sys.exit(f"--only: {', '.join(unknown)}: no experiment of the grid; there are {', '.join(points)}")
    return [
        Experiment(
            name,
            tuple(
                Run(name, grid.runs / name / f"seed-{seed}", (*settings({**grid.set, **values}), f"seed={seed}"))
                for seed in grid.seeds
            ),
        )
        for name, values in points.items()
        if not only or name == first or name in only
    ]


def name_of(values: Mapping[str, Any]) -> str:
    """Returns a name that can be a folder's: the last part of each key, with its value."""
    parts = (f"{key.rpartition('.')[2]}={json.dumps(value)}" for key, value in values.items())
    return ",".join("".join(letter for letter in part if letter not in "/\"'{} ") for part in parts) or "base"


def settings(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the values as arguments of `--set`; JSON is YAML."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in values.items())


def work(run: Run, config: str, threads: int) -> str:
    """Trains and scores a run, unless that is done; returns why it is not complete, or an empty string."""
    with lock(lock_file(run)) as is_mine:
        if not is_mine:
            return "is in the hands of another process"
        share = (f"runtime.threads={threads}",) if threads else ()
        try:
            if "training" not in run.measured:
                train(Run(run.name, run.folder, (*share, *run.overrides)), config)
            if "scores" not in run.measured:
                score(run)
        except SystemExit as failure:
            return f"failed: {failure.code}"
    return ""


def lock_file(run: Run) -> Path:
    """Returns the file whose lock a process holds while it works on the run."""
    return run.folder.with_name(f"{run.folder.name}.lock")


@contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Locks a file, without waiting; yields whether the lock was free."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def score(run: Run) -> None:
    """Measures the best checkpoint on all test sets; the translations stay in the run's folder."""
    say(f"scoring {run.folder}")
    translations = run.folder / "translations"
    translations.mkdir(exist_ok=True)
    command = [*program("evaluate"), "--model", str(run.folder), "--metrics", "bleu", "chrf", "--samples", "0"]
    run.keep("scores", json.loads(output([*command, "--output", str(translations), "--json"]))["sets"])


def table(experiments: Sequence[Experiment]) -> Iterator[str]:
    """Yields a row for each experiment: validation, and BLEU of every test set with the difference from the first.

    p is by paired bootstrap over the test sentences, all seeds of a sentence drawn together.
    """
    first = experiments[0]
    if not first.scored:
        return
    sets = sets_of(first.scored[0])
    headings = ["experiment", "seeds", "parameters", "epochs", "minutes", "validation perplexity"]
    for test_set in sets:
        headings += [f"BLEU {test_set.name}", "difference", "p"]
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for experiment in experiments:
        if not (runs := experiment.scored):
            continue
        trained = [run.measured["training"] for run in runs]
        cells = [
            experiment.name,
            str(len(runs)),
            f"{trained[0]['parameters'] / 1e6:.1f} M",
            f"{statistics.mean(each['epochs'] for each in trained):.0f}",
            f"{statistics.mean(each['seconds'] for each in trained) / 60:.0f}",
            spread([each["perplexity"] for each in trained]),
        ]
        for index, test_set in enumerate(sets):
            scores = [run.measured["scores"][index]["scores"]["bleu"]["value"] for run in runs]
            cells += [spread(scores), *compared(first, experiment, test_set)]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield f"`{first.scored[0].measured['scores'][0]['scores']['bleu']['signature']}`"


def sets_of(run: Run) -> list[TestSet]:
    """Returns the test sets of the run's config."""
    return from_config(read_translation(run.folder / "config.yaml"), [], str(run.folder))


def compared(first: Experiment, experiment: Experiment, test_set: TestSet) -> tuple[str, str]:
    """Returns the difference of BLEU from the first experiment and its p, over the seeds that both have."""
    seeds = [
        index
        for index, pair in enumerate(zip(first.runs, experiment.runs, strict=True))
        if all("scores" in run.measured for run in pair)
    ]
    if experiment is first or not seeds:
        return "", ""
    # The lines of a sentence by all seeds stand side by side and are one unit of the bootstrap.
    before, after = (
        [
            line
            for lines in zip(*(hypotheses(each.runs[index], test_set) for index in seeds), strict=True)
            for line in lines
        ]
        for each in (first, experiment)
    )
    references = [[line for line in each for _ in seeds] for each in test_set.references]
    units = [sentence for sentence in range(len(test_set.sources)) for _ in seeds]
    result = paired_bootstrap(before, after, references, ["bleu"], documents=units)["bleu"]
    return f"{result.delta:+.2f}", f"{result.p_value:.3f}"


def hypotheses(run: Run, test_set: TestSet) -> list[str]:
    """Returns the translations of a run."""
    (path,) = (run.folder / "translations").glob(f"{Path(test_set.name).name}.*")
    return test_set.sentences_of(path.read_text(encoding="utf-8").split("\n")[:-1])


if __name__ == "__main__":
    sys.exit(main())
