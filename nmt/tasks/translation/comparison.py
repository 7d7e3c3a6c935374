"""A system on test sets, beside a baseline: translations in a file, or another model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nmt.config.schema import SearchConfig
from nmt.data.readers.files import read_lines
from nmt.errors import DataError
from nmt.evaluation import BOOTSTRAP_SAMPLES
from nmt.evaluation.metrics import MetricComparison, MetricName, paired_bootstrap
from nmt.evaluation.testsets import TestSet
from nmt.kernels.choice import Kernels
from nmt.runtime import Runtime
from nmt.tasks.translation.document_translation import translate_text
from nmt.tasks.translation.evaluation import Evaluation, evaluate
from nmt.tasks.translation.loading import System, join, load_model
from nmt.tasks.translation.translation import Wanted

Baseline = Callable[[TestSet], Sequence[str]]
"""Gives its translations of a test set."""


@dataclass(frozen=True)
class Result:
    """One test set: what was found, and how it compares with the baseline."""

    test_set: TestSet
    evaluation: Evaluation
    comparisons: Mapping[str, MetricComparison] | None = None


def measure(
    system: System,
    test_set: TestSet,
    search: SearchConfig,
    kernels: Kernels,
    *,
    metrics: Sequence[MetricName],
    samples: int,
    wanted: Wanted,
    baseline: Baseline | None = None,
    advance: Callable[[int], object] | None = None,
) -> Result:
    """Evaluate a system on a test set, and compare it; the arguments are those of `evaluate`."""
    found = evaluate(
        system,
        test_set.sources,
        test_set.references,
        search,
        kernels,
        metrics=metrics,
        samples=samples,
        wanted=wanted,
        documents=test_set.documents,
        advance=advance,
    )
    if baseline is None:
        return Result(test_set, found)
    compared = paired_bootstrap(
        baseline(test_set),
        found.hypotheses,
        test_set.references,
        metrics,
        samples=samples or BOOTSTRAP_SAMPLES,
        documents=test_set.documents,
    )
    return Result(test_set, found, compared)


def is_model(path: Path) -> bool:
    """Whether a baseline is something to translate with: a folder, or the pointer to one in a run."""
    return not path.is_file() or path.name in ("best", "last")


def baseline_file(path: Path) -> Baseline:
    """Translations in a file, line by line; raises `DataError`."""
    lines = list(read_lines(path))

    def translations(test_set: TestSet) -> Sequence[str]:
        found = test_set.sentences_of(lines)
        if len(found) != len(test_set.sources):
            raise DataError(
                f"{path} has {len(lines)} lines and {test_set.name} has {len(test_set.sources)}; line n of the "
                "baseline must translate line n of the test set"
            )
        return found

    return translations


def baseline_model(
    path: Path,
    which: Literal["best", "last"] | None,
    runtime: Runtime,
    search_of: Callable[[SearchConfig], SearchConfig],
    wanted: Wanted,
) -> Baseline:
    """Translations that another model makes, with its own config's search as `search_of` changes it.

    Raises `CheckpointError`.
    """
    model = load_model(path, which, runtime)
    search = search_of(model.config.search)
    system = join([model], runtime, search)

    def translations(test_set: TestSet) -> Sequence[str]:
        found = translate_text(system, test_set.sources, search, wanted, documents=test_set.documents)
        return [best[0].text if best else "" for best in found]

    return translations
