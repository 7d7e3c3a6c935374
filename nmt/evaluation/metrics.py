"""BLEU, chrF and TER through sacrebleu: a score is a value with the signature that makes it comparable (Post 2018)."""

from __future__ import annotations

import difflib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from sacrebleu.dataset import DATASETS
from sacrebleu.metrics.base import Metric
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER
from sacrebleu.significance import PairedTest, Result
from sacrebleu.utils import SACREBLEU_DIR, get_available_testsets_for_langpair

from nmt.errors import DataError
from nmt.evaluation import resampling

MetricName = Literal["bleu", "chrf", "ter"]
References = Sequence[str] | Sequence[Sequence[str]]
"""One translation of every sentence, or several whole sets of them."""


class _PlainCHRF(CHRF):
    """chrF in Python's own floats: sacrebleu's are NumPy's unless nothing matches, which its bootstrap cannot mix."""

    def _compute_score_from_stats(self, stats: Any) -> Any:
        score = super()._compute_score_from_stats(stats)
        score.score = float(score.score)
        return score


METRICS: dict[MetricName, type[Metric]] = {"bleu": BLEU, "chrf": _PlainCHRF, "ter": TER}
ALL_METRICS: tuple[MetricName, ...] = ("bleu", "chrf", "ter")

SEED = 12345
"""sacrebleu's own, so that its command line gives the same intervals."""
SAMPLES = 1000

DOWNLOAD_TIMEOUT = 60.0
"""Seconds without an answer; sacrebleu itself would wait for ever."""


@dataclass(frozen=True)
class Score:
    """What a metric says of a whole test set."""

    name: str
    """As sacrebleu writes it: `BLEU`, `chrF2`, `TER`."""
    value: float
    """In percent. Higher is better for BLEU and chrF, lower for TER, an error rate."""
    signature: str
    """Everything that the value depends on besides the text."""
    confidence: tuple[float, float] | None = None
    """95% interval by bootstrap resampling (Koehn 2004)."""


@dataclass(frozen=True)
class Comparison:
    """What a metric says of two systems on the same test set."""

    name: str
    baseline: float
    system: float
    p_value: float
    """How likely chance alone gives a difference as large, by paired bootstrap resampling (Koehn 2004)."""
    signature: str

    @property
    def delta(self) -> float:
        """The system's value less the baseline's."""
        return self.system - self.baseline


def corpus_scores(
    hypotheses: Sequence[str],
    references: References,
    metrics: Sequence[MetricName] = ALL_METRICS,
    *,
    confidence: bool = False,
    samples: int = SAMPLES,
    seed: int = SEED,
    documents: Sequence[int] | None = None,
) -> dict[str, Score]:
    """Score detokenized translations, by the name of the metric.

    With `documents`, the number of each sentence's, these are resampled instead of sentences.

    Raises:
        DataError: the test set is empty, or its sides differ in number.
    """
    sets = _reference_sets(references, {"translations": hypotheses})
    scores: dict[str, Score] = {}
    with _sacrebleu_seed(seed):
        for name in metrics:
            metric = METRICS[name]()
            result = metric.corpus_score(hypotheses, sets, n_bootstrap=samples if confidence and not documents else 1)
            signature = str(metric.get_signature())
            interval = _interval(result, signature) if confidence and not documents else None
            if confidence and documents:
                interval = resampling.interval(metric, hypotheses, sets, documents, samples, seed)
                signature += resampling.signature(samples, seed)
            scores[name] = Score(result.name, float(result.score), signature, interval)
    return scores


def paired_bootstrap(
    baseline: Sequence[str],
    system: Sequence[str],
    references: References,
    metrics: Sequence[MetricName] = ALL_METRICS,
    *,
    samples: int = SAMPLES,
    seed: int = SEED,
    documents: Sequence[int] | None = None,
) -> dict[str, Comparison]:
    """Compare two systems, by the name of the metric; `documents` as for `corpus_scores`.

    Raises:
        DataError: the test set is empty, or its sides differ in number.
    """
    sets = _reference_sets(references, {"translations": system, "translations of the baseline": baseline})
    if documents:
        return {name: _by_document(name, baseline, system, sets, documents, samples, seed) for name in metrics}
    compared: dict[str, Comparison] = {}
    with _sacrebleu_seed(seed):
        for name in metrics:
            test = PairedTest(
                [("baseline", baseline), ("system", system)],
                {name: METRICS[name]()},
                sets,
                test_type="bs",
                n_samples=samples,
            )
            signatures, results = test()
            (title, signature), *_ = signatures.items()
            before, after = (cast(Result, result) for result in results[title])
            assert after.p_value is not None
            # sacrebleu counts the resamples that differ by more, not by as much: two systems that score the same
            # would come out as certainly different.
            p_value = 1.0 if before.score == after.score else float(after.p_value)
            compared[name] = Comparison(title, float(before.score), float(after.score), p_value, str(signature))
    return compared


def _by_document(name: MetricName, *compared: Any) -> Comparison:
    """What `resampling.compare` says of a metric, `compared` being its arguments."""
    metric, (samples, seed) = METRICS[name](), compared[-2:]
    before, after, p_value = resampling.compare(metric, *compared)
    signature = f"{metric.get_signature()}{resampling.signature(samples, seed)}"
    title = metric.corpus_score(compared[1], compared[2]).name
    return Comparison(title, before, after, 1.0 if before == after else p_value, signature)


def _reference_sets(references: References, sides: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """The references as whole sets, once they are known to fit every side."""
    one_set = not references or isinstance(references[0], str)
    sets = [cast(Sequence[str], references)] if one_set else [list(part) for part in references]
    problems = [
        f"{len(lines)} {side}, but {len(part)} references{f' in set {number}' if len(sets) > 1 else ''}"
        for side, lines in sides.items()
        for number, part in enumerate(sets, start=1)
        if len(lines) != len(part)
    ]
    if problems:
        raise DataError(*(f"{problem}: give one line each for every source sentence" for problem in problems))
    if not sets[0]:
        raise DataError("the test set is empty: there is nothing to score")
    return [list(part) for part in sets]


def _interval(result: Any, signature: str) -> tuple[float, float]:
    """The bootstrap's mean plus and minus half the width of its interval, as sacrebleu prints it."""
    report = json.loads(result.format(width=6, signature=signature, is_json=True))
    # sacrebleu leaves a mean of 0 out: every resample then scored exactly 0.
    mean, half = report.get("confidence_mean", 0.0), report.get("confidence_var", 0.0)
    return (mean - half, mean + half)


@contextmanager
def _sacrebleu_seed(seed: int) -> Iterator[None]:
    """sacrebleu reads its seed from the environment only, and takes 0 for none."""
    assert seed > 0, "the seed of a bootstrap is positive"
    before = os.environ.get("SACREBLEU_SEED")
    os.environ["SACREBLEU_SEED"] = str(seed)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SACREBLEU_SEED"]
        else:
            os.environ["SACREBLEU_SEED"] = before


def load_sacrebleu_set(name: str, langpair: str) -> tuple[list[str], list[list[str]]]:
    """Source and reference sets of a test set that sacrebleu knows, such as `wmt17` and `de-en`.

    It comes from sacrebleu's cache (the folder named by the environment variable SACREBLEU, else `~/.sacrebleu`),
    or is downloaded there.

    Raises:
        DataError: there is no such set or language pair, or it is neither cached nor to be had.
    """
    if name not in DATASETS:
        raise DataError(f"sacrebleu has no test set {name!r}; {_nearest(name, sorted(DATASETS))}")
    dataset: Any = DATASETS[name]
    if langpair not in dataset.langpairs:
        others = sorted(get_available_testsets_for_langpair(langpair)) if langpair.count("-") == 1 else []
        elsewhere = f"; {langpair} is in {', '.join(others)}" if others else ""
        raise DataError(
            f"test set {name} has no language pair {langpair!r}, only {', '.join(dataset.langpairs)}{elsewhere}"
        )
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        source = _lines(dataset.get_source_file(langpair))
        references = [_lines(path) for path in dataset.get_reference_files(langpair)]
    # Whatever goes wrong with the network, an archive or its contents; some of it sacrebleu ends the process for.
    except (Exception, SystemExit) as error:
        folder = Path(SACREBLEU_DIR) / name
        raise DataError(
            f"test set {name} {langpair} is not in sacrebleu's cache and cannot be downloaded "
            f"({type(error).__name__}: {error}): run `sacrebleu -t {name} -l {langpair} --echo src` where there is a "
            f"network and copy its ~/.sacrebleu/{name} to {folder}; a damaged {folder} has to be removed first"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    if not references or any(len(part) != len(source) for part in references):
        counts = ", ".join(str(len(part)) for part in references) or "no"
        raise DataError(
            f"test set {name} {langpair} has {len(source)} source sentences and {counts} references: "
            f"remove {Path(SACREBLEU_DIR) / name}, so that it is downloaded anew"
        )
    return source, references


def _lines(path: str) -> list[str]:
    """Lines as sacrebleu reads them: split at line feeds only, without space at their ends."""
    with open(path, encoding="utf-8", newline="\n") as file:
        return [line.rstrip() for line in file]


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}"


def format_scores(scores: Mapping[str, Score]) -> list[tuple[str, ...]]:
    """Rows of a table, the heading first; the interval only where there is one."""
    with_interval = any(score.confidence is not None for score in scores.values())
    rows = [("metric", "score", *(["95% interval"] if with_interval else []), "signature")]
    for score in scores.values():
        interval = "" if score.confidence is None else f"{score.confidence[0]:.2f} to {score.confidence[1]:.2f}"
        rows.append((score.name, f"{score.value:.2f}", *([interval] if with_interval else []), score.signature))
    return rows


def format_comparisons(comparisons: Mapping[str, Comparison]) -> list[tuple[str, ...]]:
    """Rows of a table, the heading first."""
    heading = ("metric", "baseline", "system", "difference", "p", "signature")
    return [
        heading,
        *(
            (
                part.name,
                f"{part.baseline:.2f}",
                f"{part.system:.2f}",
                f"{part.delta:+.2f}",
                f"{part.p_value:.4f}",
                part.signature,
            )
            for part in comparisons.values()
        ),
    ]


def to_json(results: Mapping[str, Score | Comparison]) -> dict[str, dict[str, Any]]:
    """The results as plain values, for `json.dump`."""
    return {
        name: {**asdict(result), **({"delta": result.delta} if isinstance(result, Comparison) else {})}
        for name, result in results.items()
    }
