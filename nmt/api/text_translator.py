"""Trained translators in Python: translate text, score and align pairs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy.typing as npt

from nmt.api.arguments import (
    SearchOptions,
    as_many,
    checked,
    checked_value,
    document_numbers,
    machine,
    naming_keywords,
    search_with,
    shown_progress,
    texts,
)
from nmt.api.results import AlignmentResult, ScoreResult, TranslationResult
from nmt.config import TranslationConfig
from nmt.config.schema import Beam, Positive, RuntimeConfig, Samples, SearchConfig, Seed, Tokens
from nmt.data.lexicons import Lexicon
from nmt.errors import ConfigError, DataError
from nmt.evaluation import BOOTSTRAP_SAMPLES
from nmt.evaluation.alignment import Linking, Unit
from nmt.evaluation.metrics import ALL_METRICS, MetricName
from nmt.evaluation.testsets import GIVEN, TestSet, from_config
from nmt.runtime import Runtime, set_up
from nmt.tasks.base import Which
from nmt.tasks.plugins import load_plugins
from nmt.tasks.translation import evaluation
from nmt.tasks.translation.evaluation import Evaluation
from nmt.tasks.translation.forced_decoding import align_pair, forced_attention, forced_scores
from nmt.tasks.translation.loading import System, TrainedModel, build_system, lexicon_of, load_ensemble
from nmt.tasks.translation.stepwise import Interventions, SearchStep, forced_ids, forced_weights, search_steps
from nmt.tasks.translation.text_translation import Request, encode_lines, translate_lines

if TYPE_CHECKING:
    from typing_extensions import Unpack


@naming_keywords()
def load(
    model: str | Path,
    *more: str | Path,
    checkpoint: Literal["best", "last"] | None = None,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "fp32",
    threads: int = 0,
    workers: bool = False,
    plugins: Sequence[str | Path] = (),
) -> TextTranslator:
    """Loads a trained translator.

    Args:
        model: run folder, folder of a checkpoint, or `hf://USER/NAME` of the Hugging Face hub.
        more: further models. All make an ensemble, which averages their probabilities (Sutskever 2014, section 3.6).
        checkpoint: of a run; by default the best, or the last if none is best yet.
        device: `auto` takes a GPU of CUDA where there is one; `mps` is that of an Apple computer.
        precision: number format of the matrix products. The default gives the same translations on every machine.
        threads: of PyTorch in this process, all of whose models share them; 0 leaves them as they are.
        workers: whether processes share large requests on a CPU, as those of `nmt-translate` do. A script that asks for
            them needs `if __name__ == "__main__":`, because each process imports it.
        plugins: files of Python with parts that the models need (docs/plugins.md). They are executed.

    Raises:
        CheckpointError: there is no such model, it is damaged, it labels documents, or it needs another plugin.
        ConfigError: an argument cannot be used on this machine, or a plugin cannot be executed.
    """
    which = checked_value("checkpoint", Literal["best", "last"] | None, checkpoint)
    options = machine(checked(RuntimeConfig, {"device": device, "precision": precision, "threads": threads}))
    load_plugins([plugins] if isinstance(plugins, (str, Path)) else plugins, "plugins")
    return TextTranslator.load((model, *more), which, set_up(options), workers=workers)


class TextTranslator:
    """A trained translator, or an ensemble, as `nmt.load` returns it.

    Several threads may call its methods at once, and get the results that each would get alone. With `workers` they
    take turns.
    """

    def __init__(self, models: Sequence[TrainedModel], runtime: Runtime, *, workers: bool = False) -> None:
        self.models = tuple(models)
        """The checkpoints, with network, tokenizers and config."""
        self.runtime = runtime
        """Device and precision."""
        self._system = build_system(models, runtime, workers=workers)
        self._pool_lock, self._lexicon_lock = threading.Lock(), threading.Lock()
        self._lexicons: dict[tuple[int, str], Lexicon | None] = {}

    @staticmethod
    def load(paths: Sequence[str | Path], which: Which, runtime: Runtime, *, workers: bool = False) -> TextTranslator:
        """Loads the models of an ensemble; raises `NmtError` as `nmt.load`."""
        return TextTranslator(load_ensemble(paths, which, runtime), runtime, workers=workers)

    def __repr__(self) -> str:
        paths = ", ".join(str(model.path) for model in self.models)
        source, target = self.config.languages
        return f"<nmt translator from {source} to {target}: {paths}; {self.runtime.reason}>"

    @property
    def config(self) -> TranslationConfig:
        """Config of the (first) model; `config.search` has the defaults of the search."""
        return self.models[0].config

    @property
    def has_attention(self) -> bool:
        """Whether there are attention weights over source positions."""
        return any(model.has_attention for model in self.models)

    @property
    def uses_context(self) -> bool:
        """Whether a line is translated with those before it in its document."""
        return any(model.uses_context for model in self.models)

    def system(self, search: SearchConfig | None = None) -> System:
        """Returns the models as the functions of `nmt.tasks.translation` take them, with the lexicon of this search."""
        if search is None:
            return self._system
        with self._lexicon_lock:
            key = (search.shortlist, search.replace_unknown)
            if key not in self._lexicons:
                self._lexicons[key] = lexicon_of(self.models, search)
            return replace(self._system, lexicon=self._lexicons[key])

    @naming_keywords()
    def translate(
        self,
        lines: Sequence[str],
        *,
        n_best: int = 1,
        attention: bool = True,
        heads: bool = False,
        prefixes: Sequence[str] | None = None,
        documents: Sequence[object] | None = None,
        max_length: int | None = None,
        seed: int = 1,
        progress: bool = False,
        **search: Unpack[SearchOptions],
    ) -> list[TranslationResult]:
        """Translates lines of text. The result of a line does not depend on the lines around it.

        Args:
            lines: a sentence each. A blank one has no translation: its text is empty.
            n_best: translations of each line, in `hypotheses` of its result; at most the beam. Sampling draws as many.
            attention: whether results have attention weights, if the model has any.
            heads: whether they have those of each head as well.
            prefixes: text that each translation begins with, one a line; an empty one leaves the search free.
            documents: the name of each line's document. A document ends where the name changes. A model with context
                reads the lines before in the document; by default every line stands alone.
            max_length: pieces after which a line is cut off, with a warning in the log; by default none is.
            seed: of sampling. Each line draws by the seed and its index.
            progress: whether to show a progress bar.
            search: keys of the section `search`; by default those of the model's config.

        Returns:
            A result for each line.

        Raises:
            ConfigError: an argument is wrong, or needs what the model lacks.
            NmtError: a line does not fit into memory.
        """
        lines = texts("lines", lines)
        if prefixes is not None:
            prefixes = texts("prefixes", prefixes)
            as_many("prefixes", prefixes, "lines", len(lines))
        if documents is not None:
            as_many("documents", documents, "lines", len(lines))
        chosen = self.search(**search)
        request = Request(
            n_best=checked_value("n_best", Beam, n_best),
            attention=(attention or heads) and self.has_attention,
            heads=heads and self.has_attention,
            max_length=checked_value("max_length", Positive | None, max_length),
            seed=checked_value("seed", Seed, seed),
        )
        if chosen.kind == "beam" and request.n_best > chosen.beam_size:
            raise ConfigError(
                f"n_best: is {n_best}, above beam_size ({chosen.beam_size}); set beam_size={n_best} or more"
            )
        with self.alone(), shown_progress(progress, len(lines), " lines") as advance:
            translations = translate_lines(
                self.system(chosen),
                lines,
                chosen,
                request,
                documents=None if documents is None else document_numbers(documents),
                prefixes=prefixes,
                advance=advance,
            )
        return [TranslationResult(line, tuple(each)) for line, each in zip(lines, translations, strict=True)]

    def search(self, **search: Unpack[SearchOptions]) -> SearchConfig:
        """Returns the search of the (first) model's config with these changes; raises `ConfigError`."""
        return search_with(self.config.search, checked(SearchConfig, search))

    def steps(
        self,
        line: str,
        *,
        n_best: int = 1,
        candidates: int = 5,
        internals: bool = False,
        prefix: str | Sequence[str | int] = "",
        pieces: Mapping[int, str | int] | None = None,
        attention: Mapping[int, int | npt.ArrayLike] | None = None,
        max_length: int | None = None,
        seed: int = 1,
        **search: Unpack[SearchOptions],
    ) -> Iterator[SearchStep]:
        """Searches for the translation of a line, and yields every step: hypotheses, candidates, attention.

        The last three arguments before `max_length` intervene. Without them the best hypotheses that have finished, and
        their scores, are those of `translate`; unknown pieces are not replaced.

        Args:
            line: a sentence. A blank one has no steps.
            n_best: finished hypotheses for which the search goes on.
            candidates: most probable pieces of each hypothesis that a step shows, beside those that it keeps.
            internals: whether steps have the numbers behind them: annotations, states, energies, contexts, readout. Not
                for ensembles.
            prefix: text, or pieces, or their ids, that the translation begins with.
            pieces: a piece or its id by position, counted from 0: all hypotheses take it there.
            attention: by position, the weights of this step: the source position, counted from 0, that has all the
                weight, or weights [S] of the source positions, the end symbol included, or [heads, S], or [hypotheses
                before, heads, S]. They are not normalised.
            max_length: pieces after which the line is cut off, with a warning in the log; by default it is not.
            seed: of sampling.
            search: keys of the section `search`; by default those of the model's config.

        Raises:
            ConfigError: an argument is wrong, or needs what the model lacks; in the first call of `next` at the latest,
                except for weights of another number of hypotheses.
            CheckpointError: the model gives no finite probabilities.
        """
        with naming_keywords():
            if not isinstance(line, str):
                raise ConfigError(f"line: must be text, not {type(line).__name__}")
            (line,) = texts("line", [line])
            chosen = self.search(**search)
            if internals and len(self.models) > 1:
                raise ConfigError("internals: are those of one model; load it alone")
            if attention and not self.has_attention:
                raise ConfigError(f"attention: {self.models[0].path} has no attention; choose a model that has")
            most = checked_value("max_length", Positive | None, max_length)
            tokenizers = self._system.tokenizers
            _, (source,) = encode_lines(tokenizers.source, [line], most, [1])
            heads = {model.config.model.attention.heads for model in self.models}
            weights = forced_weights(attention or {}, len(source) + 1, heads)
            interventions = Interventions(forced_ids(tokenizers.target, prefix, pieces or {}), weights)
            run = search_steps(
                self.system(chosen),
                source,
                chosen,
                interventions,
                n_best=checked_value("n_best", Beam, n_best),
                candidates=checked_value("candidates", Positive, candidates),
                internals=internals,
                seed=checked_value("seed", Seed, seed),
            )
        return _named(run)

    @naming_keywords()
    def score(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        progress: bool = False,
    ) -> list[ScoreResult]:
        """Returns the log-probabilities of given translations, each piece predicted from those before it.

        Every pair stands alone. Several models average their probabilities.

        Args:
            sources: a sentence each.
            targets: a translation of each.
            max_length: pieces after which either side is cut off, with a warning in the log; by default none is.
            batch_tokens: bound of pairs x longest side of a batch; by default that of the model's config.
            progress: whether to show a progress bar.

        Raises:
            ConfigError: an argument is wrong.
            CheckpointError: the model gives a pair no finite probability.
            NmtError: a pair does not fit into memory.
        """
        sources, targets, batch_tokens, max_length = self._pairs(sources, targets, batch_tokens, max_length)
        with shown_progress(progress, len(sources), " pairs") as advance:
            return forced_scores(self._system, sources, targets, batch_tokens, max_length, advance=advance)

    @naming_keywords()
    def align(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        *,
        unit: Unit = "words",
        linking: Linking = "grow-diag",
        max_length: int | None = None,
        batch_tokens: int | None = None,
        progress: bool = False,
    ) -> list[AlignmentResult]:
        """Aligns given translations by the attention with which each piece is predicted (teacher forcing).

        Args:
            sources: a sentence each.
            targets: a translation of each.
            unit: whether links are of words or of SentencePiece pieces.
            linking: `argmax` links each target unit with the source unit of the largest weight; `grow-diag` also links
                in the other direction, and may leave units without a link (see `nmt.evaluation.alignment.align`).
            max_length, batch_tokens, progress: as for `score`.

        Raises:
            ConfigError: an argument is wrong, or the model has no attention.
            CheckpointError: the model gives a pair no finite probability.
            NmtError: a pair does not fit into memory.
        """
        if not self.has_attention:
            raise ConfigError(f"align: {self.models[0].path} has no attention to align by; choose a model that has")
        unit, linking = checked_value("unit", Unit, unit), checked_value("linking", Linking, linking)
        sources, targets, batch_tokens, max_length = self._pairs(sources, targets, batch_tokens, max_length)
        with shown_progress(progress, len(sources), " pairs") as advance:
            maps = forced_attention(self._system, sources, targets, batch_tokens, max_length, advance=advance)
        results = []
        for source, target, one in zip(sources, targets, maps, strict=True):
            result = AlignmentResult(source, target)
            if one is not None:
                links = tuple(align_pair(one, self._system.tokenizers, unit, linking))
                result = AlignmentResult(source, target, one.source_pieces, one.target_pieces, links, one.weights_NTS)
            results.append(result)
        return results

    @naming_keywords()
    def evaluate(
        self,
        *,
        test_sets: Sequence[str] = (),
        sources: Sequence[str] | None = None,
        references: Sequence[str] | Sequence[Sequence[str]] | None = None,
        documents: Sequence[object] | None = None,
        metrics: Sequence[MetricName] = ALL_METRICS,
        baseline: Sequence[str] | None = None,
        samples: int = BOOTSTRAP_SAMPLES,
        max_length: int | None = None,
        seed: int = 1,
        progress: bool = False,
        **search: Unpack[SearchOptions],
    ) -> list[Evaluation]:
        """Translates test sets and scores the translations, as `nmt-eval` does.

        Args:
            test_sets: names of test sets in the model's config; by default all of them.
            sources: sentences to translate instead, with `references`.
            references: their translations, or several lists of them.
            documents: the name of each sentence's document: models with context use them, and the bootstrap resamples
                documents.
            metrics: of bleu, chrf and ter; by default all.
            baseline: other translations of a single test set, which are compared by paired bootstrap.
            samples: of the bootstrap for confidence intervals; 0 for none.
            max_length, seed, progress, search: as for `translate`.

        Returns:
            An evaluation of each test set.

        Raises:
            ConfigError: an argument is wrong, or there is no such test set.
            DataError: a test set cannot be read.
        """
        chosen = self.search(**search)
        metrics = [checked_value("metrics", MetricName, name) for name in texts("metrics", metrics)]
        most, seed = checked_value("max_length", Positive | None, max_length), checked_value("seed", Seed, seed)
        samples = checked_value("samples", Samples, samples)
        if (sources is None) != (references is None):
            raise ConfigError("sources: goes together with references")
        if sources is not None and references is not None:
            sets = [_given_set(sources, references, documents)]
        elif documents is not None:
            raise ConfigError("documents: goes with sources; test sets of the config have documents of their own")
        else:
            sets = from_config(self.config, texts("test_sets", test_sets), f"the config of {self.models[0].path}")
        other = None
        if baseline is not None:
            other = texts("baseline", baseline)
            if len(sets) > 1:
                names = ", ".join(each.name for each in sets)
                raise ConfigError(
                    f"baseline: is for one test set, and there are {len(sets)}; choose by test_sets: {names}"
                )
            as_many("baseline", other, "the test set", len(sets[0].sources))
        total = sum(len(each.sources) for each in sets)
        with self.alone(), shown_progress(progress, total, " sentences") as advance:
            return [
                evaluation.evaluate(
                    self.system(chosen),
                    each,
                    chosen,
                    metrics=metrics,
                    samples=samples,
                    request=Request(max_length=most, seed=seed),
                    baseline=None if other is None else lambda test_set: other,
                    advance=advance,
                )
                for each in sets
            ]

    def _pairs(
        self, sources: Sequence[str], targets: Sequence[str], batch_tokens: int | None, max_length: int | None
    ) -> tuple[list[str], list[str], int, int | None]:
        """Returns the arguments that `score` and `align` share, checked."""
        sources, targets = texts("sources", sources), texts("targets", targets)
        as_many("targets", targets, "sources", len(sources))
        batch_tokens = checked_value("batch_tokens", Tokens | None, batch_tokens)
        max_length = checked_value("max_length", Positive | None, max_length)
        return sources, targets, batch_tokens or self.config.search.batch_tokens, max_length

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lets one thread at a time use the worker processes, where there are any."""
        if self._system.pool is None:
            yield
            return
        with self._pool_lock:
            yield


def _given_set(
    sources: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    documents: Sequence[object] | None,
) -> TestSet:
    sources = texts("sources", sources)
    if isinstance(references, str) or not references or isinstance(references[0], str):
        several = [texts("references", references)]
    else:
        several = [texts("references", each) for each in references]
    for each in several:
        as_many("references", each, "sources", len(sources))
    if documents is not None:
        as_many("documents", documents, "sources", len(sources))
    if not sources:
        raise DataError("sources: is empty; there is nothing to evaluate")
    return TestSet(GIVEN, sources, several, None if documents is None else document_numbers(documents))


def _named(steps: Iterator[SearchStep]) -> Iterator[SearchStep]:
    """Names keywords in errors of the steps."""
    with naming_keywords():
        yield from steps
