"""Measure a system: translate, score, and predict the references. Training validates through the same code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nmt.config import TranslationConfig
from nmt.config.schema import SearchConfig
from nmt.data.batching.past import Documents
from nmt.data.tokenizer import TokenizerPair
from nmt.evaluation import BOOTSTRAP_SAMPLES, MetricScore
from nmt.evaluation.metrics import ALL_METRICS, MetricName, corpus_scores
from nmt.kernels.choice import Kernels
from nmt.model.translator import Translator
from nmt.runtime import Runtime
from nmt.tasks.translation.forced_decoding import Loss, forced_loss
from nmt.tasks.translation.loading import System
from nmt.tasks.translation.translate import BEST, Request, translate_lines
from nmt.training.progress import ValidationResult


@dataclass(frozen=True)
class Evaluation:
    """What a system does with a test set."""

    hypotheses: list[str]
    """Best translation of each sentence; empty for a blank one."""
    scores: dict[str, MetricScore]
    """Of the translations, by metric."""
    loss: Loss
    """Of the references, of all that there are."""


def evaluate(
    system: System,
    sources: Sequence[str],
    references: Sequence[Sequence[str]],
    search: SearchConfig,
    kernels: Kernels,
    *,
    metrics: Sequence[MetricName] = ALL_METRICS,
    sentences: int | None = None,
    samples: int = 0,
    request: Request = BEST,
    documents: Documents | None = None,
    advance: Callable[[int], object] | None = None,
) -> Evaluation:
    """Translate the sources and compare with the references.

    Several processes share the work, and all get the same result, whatever their number.

    Args:
        system: what is measured.
        sources: sentences.
        references: one or more lists of their translations.
        search: how translations are found.
        kernels: what computes the loss.
        metrics: what the translations are scored by.
        sentences: how many are translated, from the beginning; by default all. The loss is that of all.
        samples: of the bootstrap that gives confidence intervals; 0 for none.
        request: as for `translate_lines`.
        documents: the number of each sentence's document; None where every sentence stands alone.
        advance: told how many sentences have been translated since it was last called.

    Raises:
        NmtError: what `translate_lines` raises, or a test set without sentences.
    """
    assert not any(translator.training for translator in system.translators)
    translated = None if documents is None else documents[:sentences]
    found = translate_lines(system, sources[:sentences], search, request, documents=translated, advance=advance)
    hypotheses = [translations[0].text if translations else "" for translations in found]
    compared = [list(stream[:sentences]) for stream in references]
    scores = corpus_scores(
        hypotheses,
        compared,
        metrics,
        confidence=samples > 0,
        samples=samples or BOOTSTRAP_SAMPLES,
        documents=translated,
    )
    losses = [forced_loss(system, sources, stream, search.batch_tokens, kernels, documents) for stream in references]
    return Evaluation(hypotheses, scores, sum(losses[1:], losses[0]))


def validator(
    config: TranslationConfig,
    runtime: Runtime,
    tokenizers: TokenizerPair,
    sources: Sequence[str],
    references: Sequence[str],
    kernels: Kernels,
    documents: Documents | None = None,
) -> Callable[[Translator], ValidationResult]:
    """What measures a translator during training; called on every process, with the translator in evaluation mode.

    It leaves the random generators as they are. The loss is that of the whole validation corpus, BLEU and chrF are
    those of its first `validation.sentences`.
    """
    search = validation_search(config)
    options = config.validation

    def validate(translator: Translator) -> ValidationResult:
        found = evaluate(
            System((translator,), tokenizers, runtime),
            sources,
            [references],
            search,
            kernels,
            metrics=("bleu", "chrf"),
            sentences=options.sentences,
            documents=documents,
        )
        scores = {name: score.value for name, score in found.scores.items()}
        shown = range(min(options.samples, len(found.hypotheses)))
        return ValidationResult(
            metrics={"loss": found.loss.per_piece, "perplexity": found.loss.perplexity, **scores},
            samples=[
                {
                    "source": sources[row],
                    "reference": references[row],
                    "hypothesis": found.hypotheses[row],
                }
                for row in shown
            ],
        )

    return validate


def validation_search(config: TranslationConfig) -> SearchConfig:
    """The section `search` with the beam of the validation; never sampling, which would measure chance, nor with a
    shortlist, whose lexicon a run need not have."""
    chance, narrow = ("temperature", "top_k", "top_p"), ("shortlist", "shortlist_frequent")
    neutral = {name: SearchConfig.model_fields[name].default for name in (*chance, *narrow)}
    kept = config.search.model_dump() | neutral
    return SearchConfig.model_validate(kept | {"kind": "beam", "beam_size": config.validation.beam_size})
