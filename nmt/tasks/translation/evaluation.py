"""Evaluation of translation systems, also in training, and comparison with a baseline: a file, or another model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nmt.config import TranslationConfig
from nmt.config.schema import SearchConfig
from nmt.data.readers.files import read_lines
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import DataError, counted
from nmt.evaluation import BOOTSTRAP_SAMPLES, MetricScore, finite_or_none, score_rows, score_values
from nmt.evaluation.metrics import (
    ALL_METRICS,
    LengthScore,
    MetricComparison,
    MetricName,
    comparison_rows,
    comparison_values,
    corpus_scores,
    length_rows,
    paired_bootstrap,
    scores_by_length,
)
from nmt.evaluation.testsets import TestSet
from nmt.model.translator import Translator
from nmt.runtime import Runtime
from nmt.tasks.base import Which, table_of
from nmt.tasks.translation.forced_decoding import Loss, forced_loss
from nmt.tasks.translation.loading import System, build_system, load_model
from nmt.tasks.translation.text_translation import BEST, Request, Translation, translate_lines
from nmt.training.progress import ValidationResult

Baseline = Callable[[TestSet], Sequence[str]]
"""Returns its translations of a test set."""


@dataclass(frozen=True)
class Evaluation:
    """Translations of a test set, their scores, and the loss of the references."""

    test_set: TestSet
    hypotheses: list[str]
    """Best translation of each sentence; empty for a blank one."""
    scores: dict[str, MetricScore]
    loss: Loss
    comparisons: Mapping[str, MetricComparison] | None = None
    by_length: Sequence[LengthScore] | None = None

    @property
    def lines(self) -> list[str]:
        """The translations as lines of a file."""
        return self.test_set.lines_of(self.hypotheses)

    def as_text(self, baseline: str | None = None) -> str:
        """Returns tables of the scores and of the comparison with the baseline of this name."""
        test_set, loss = self.test_set, self.loss
        heading = f"{test_set.name}: {counted(len(test_set.sources), 'sentence')}"
        if test_set.document_count:
            heading += f" in {counted(test_set.document_count, 'document')}"
        if len(test_set.references) > 1:
            heading += f", {len(test_set.references)} references each"
        lines = [
            heading,
            f"loss of the references {loss.per_piece:.4f}, perplexity {loss.perplexity:.2f}, "
            f"by {counted(loss.pieces, 'piece')}",
            table_of(score_rows(self.scores)),
        ]
        if self.comparisons is not None:
            unit = " over documents" if test_set.document_count else ""
            lines.append(f"compared with {baseline} by paired bootstrap{unit}")
            lines.append(table_of(comparison_rows(self.comparisons)))
        if self.by_length is not None:
            lines.append("BLEU by the length of the source sentence")
            lines.append(table_of(length_rows(self.by_length)))
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Returns plain values for JSON; infinite ones and NaN become None."""
        values: dict[str, Any] = {
            "name": self.test_set.name,
            "sentences": len(self.test_set.sources),
            "documents": self.test_set.document_count,
            "scores": score_values(self.scores),
            "loss": finite_or_none(self.loss.per_piece),
            "perplexity": finite_or_none(self.loss.perplexity),
            "target_pieces": self.loss.pieces,
        }
        if self.comparisons is not None:
            values["comparisons"] = comparison_values(self.comparisons)
        if self.by_length is not None:
            values["by_length"] = list(map(asdict, self.by_length))
        return values


def evaluate(
    system: System,
    test_set: TestSet,
    search: SearchConfig,
    *,
    metrics: Sequence[MetricName] = ALL_METRICS,
    sentences: int | None = None,
    samples: int = 0,
    request: Request = BEST,
    baseline: Baseline | None = None,
    by_length: bool = False,
    advance: Callable[[int], object] | None = None,
) -> Evaluation:
    """Translates a test set and scores the translations.

    Several processes share the work, and all get the same result, whatever their number.

    Args:
        sentences: how many are translated, from the beginning; all by default. The loss is always of all.
        samples: of the bootstrap for confidence intervals; 0 for none.
        request: as for `translate_lines`.
        baseline: other translations, which are compared by paired bootstrap.
        by_length: whether BLEU is also computed for groups of sentences of similar length.
        advance: called with the number of sentences that were translated since its last call.

    Raises:
        NmtError: as `translate_lines` does, or for a baseline of another length.
    """
    assert not any(translator.training for translator in system.translators)
    sources, references = test_set.sources[:sentences], [each[:sentences] for each in test_set.references]
    documents = None if test_set.documents is None else test_set.documents[:sentences]
    hypotheses = _best_texts(translate_lines(system, sources, search, request, documents=documents, advance=advance))
    scores = corpus_scores(hypotheses, references, metrics, samples=samples, documents=documents)
    first, *others = (
        forced_loss(system, test_set.sources, reference, search.batch_tokens, test_set.documents)
        for reference in test_set.references
    )
    comparisons, baseline_hypotheses = None, None
    if baseline is not None:
        baseline_hypotheses = baseline(test_set)[:sentences]
        comparisons = paired_bootstrap(
            baseline_hypotheses,
            hypotheses,
            references,
            metrics,
            samples=samples or BOOTSTRAP_SAMPLES,
            documents=documents,
        )
    lengths = (
        scores_by_length(sources, hypotheses, references, baseline_hypotheses, samples=samples) if by_length else None
    )
    return Evaluation(test_set, hypotheses, scores, sum(others, first), comparisons, lengths)


def _best_texts(translations: Iterable[Sequence[Translation]]) -> list[str]:
    """The best translation of each sentence; empty for a blank one, which has none."""
    return [best[0].text if best else "" for best in translations]


LENGTH_PENALTIES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)


def length_penalties(search: SearchConfig) -> list[float]:
    """Returns the values that `tune_length_penalty` tries: a grid, and the search's own."""
    return sorted({*LENGTH_PENALTIES, search.length_penalty})


@dataclass(frozen=True)
class Trial:
    """Translations of a test set with one value of the length penalty."""

    length_penalty: float
    bleu: float
    length_ratio: float
    """Words of the translations divided by those of the references."""


def tune_length_penalty(
    system: System,
    test_set: TestSet,
    search: SearchConfig,
    *,
    request: Request = BEST,
    advance: Callable[[int], object] | None = None,
) -> list[Trial]:
    """Translates a test set with each of `length_penalties`; raises `NmtError` as `evaluate`."""
    trials, reference_words = [], sum(len(line.split()) for line in test_set.references[0])
    for value in length_penalties(search):
        changed = search.model_copy(update={"length_penalty": value})
        translations = translate_lines(
            system, test_set.sources, changed, request, documents=test_set.documents, advance=advance
        )
        hypotheses = _best_texts(translations)
        bleu = corpus_scores(hypotheses, test_set.references, ("bleu",))["bleu"].value
        words = sum(len(line.split()) for line in hypotheses)
        trials.append(Trial(value, bleu, words / max(reference_words, 1)))
    return trials


def best_trial(trials: Sequence[Trial], current: float) -> Trial:
    """Returns the trial with the highest BLEU; of equal ones, the one nearest to the current value."""
    return max(trials, key=lambda trial: (trial.bleu, -abs(trial.length_penalty - current)))


def validator(
    config: TranslationConfig, runtime: Runtime, tokenizers: TokenizerPair, test_set: TestSet
) -> Callable[[Translator], ValidationResult]:
    """Returns the function that evaluates a translator during training; see `Validate`.

    It leaves the random generators unchanged. The loss is that of the whole validation corpus, BLEU and chrF are those
    of its first `validation.sentences`.
    """
    search, options = validation_search(config), config.validation

    def validate(translator: Translator) -> ValidationResult:
        system = System((translator,), tokenizers, runtime)
        evaluation = evaluate(system, test_set, search, metrics=("bleu", "chrf"), sentences=options.sentences)
        scores = {name: score.value for name, score in evaluation.scores.items()}
        loss, hypotheses = evaluation.loss, evaluation.hypotheses
        return ValidationResult(
            metrics={"loss": loss.per_piece, "perplexity": loss.perplexity, **scores},
            samples=[
                {"source": source, "reference": reference, "hypothesis": hypothesis}
                for source, reference, hypothesis in zip(
                    test_set.sources, test_set.references[0], hypotheses[: options.samples], strict=False
                )
            ],
        )

    return validate


def validation_search(config: TranslationConfig) -> SearchConfig:
    """Returns the section `search` for validation: with the beam of `validation`, without sampling, whose scores would
    be random, and without a lexicon, which a run need not have: no shortlist, and copies for unknown pieces."""
    sampling, shortlist = ("temperature", "top_k", "top_p"), ("shortlist", "shortlist_frequent")
    neutral = {name: SearchConfig.model_fields[name].default for name in (*sampling, *shortlist)}
    values = config.search.model_dump() | neutral
    if values["replace_unknown"] == "lexicon":
        values["replace_unknown"] = "copy"
    return SearchConfig.model_validate(values | {"kind": "beam", "beam_size": config.validation.beam_size})


def is_model(path: Path) -> bool:
    """Returns whether a baseline is a model: a folder, or the pointer to one in a run."""
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
    path: Path, which: Which, runtime: Runtime, search_of: Callable[[SearchConfig], SearchConfig], request: Request
) -> Baseline:
    """Loads a model that translates with its own search, changed by `search_of`; raises `CheckpointError`."""
    model = load_model(path, which, runtime)
    search = search_of(model.config.search)
    system = build_system([model], runtime, search)

    def translations(test_set: TestSet) -> Sequence[str]:
        return _best_texts(translate_lines(system, test_set.sources, search, request, documents=test_set.documents))

    return translations
