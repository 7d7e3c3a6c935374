"""Evaluation of a system on test sets, and comparison with a baseline: translations in a file, or another model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nmt.config.schema import SearchConfig
from nmt.data.readers.files import read_lines
from nmt.errors import DataError
from nmt.evaluation import BOOTSTRAP_SAMPLES
from nmt.evaluation.metrics import MetricComparison, MetricName, paired_bootstrap
from nmt.evaluation.testsets import TestSet
from nmt.kernels.choice import Kernels
from nmt.runtime import Runtime
from nmt.tasks.translation.evaluation import Evaluation, evaluate
from nmt.tasks.translation.loading import System, Which, build_system, load_model
from nmt.tasks.translation.translate import Request, translate_lines

Baseline = Callable[[TestSet], Sequence[str]]
"""Returns its translations of a test set."""


@dataclass(frozen=True)
class TestSetResult:
    """Evaluation of a test set, and its comparison with the baseline."""

    __test__ = False  # pytest would take it for tests

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
    request: Request,
    baseline: Baseline | None = None,
    advance: Callable[[int], object] | None = None,
) -> TestSetResult:
    """Evaluates a system on a test set, and compares it with the baseline; other arguments as for `evaluate`."""
    evaluation = evaluate(
        system,
        test_set.sources,
        test_set.references,
        search,
        kernels,
        metrics=metrics,
        samples=samples,
        request=request,
        documents=test_set.documents,
        advance=advance,
    )
    if baseline is None:
        return TestSetResult(test_set, evaluation)
    comparisons = paired_bootstrap(
        baseline(test_set),
        evaluation.hypotheses,
        test_set.references,
        metrics,
        samples=samples or BOOTSTRAP_SAMPLES,
        documents=test_set.documents,
    )
    return TestSetResult(test_set, evaluation, comparisons)


def is_model(path: Path) -> bool:
    """Whether a baseline is a model: a folder, or the pointer to one in a run."""
    return not path.is_file() or path.name in ("best", "last")


def baseline_file(path: Path) -> Baseline:
    """Reads the translations of a file, one a line; raises `DataError`."""
    lines = list(read_lines(path))

    def translations(test_set: TestSet) -> Sequence[str]:
        sentences = test_set.sentences_of(lines)
        if len(sentences) != len(test_set.sources):
            raise DataError(
                f"{path} has {len(lines)} lines and {test_set.name} has {len(test_set.sources)}; line n of the "
                "baseline must translate line n of the test set"
            )
        return sentences

    return translations


def baseline_model(
    path: Path,
    which: Which,
    runtime: Runtime,
    search_of: Callable[[SearchConfig], SearchConfig],
    request: Request,
) -> Baseline:
    """Loads another model that translates with its own config's search, changed by `search_of`.

    Raises `CheckpointError`.
    """
    model = load_model(path, which, runtime)
    search = search_of(model.config.search)
    system = build_system([model], runtime, search)

    def translations(test_set: TestSet) -> Sequence[str]:
        results = translate_lines(system, test_set.sources, search, request, documents=test_set.documents)
        return [best[0].text if best else "" for best in results]

    return translations
