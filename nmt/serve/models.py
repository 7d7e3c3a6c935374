"""Models of the server, and the batches in which they translate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nmt.api.arguments import texts as sound_texts
from nmt.api.results import TranslationResult
from nmt.api.text_translator import TextTranslator
from nmt.errors import ConfigError
from nmt.runtime import Runtime
from nmt.serve.batcher import Batcher
from nmt.serve.limits import Limits, Refusal, check_pieces, check_texts
from nmt.serve.monitoring import Metrics
from nmt.tasks.base import Which

Result = TypeVar("Result")


@dataclass(frozen=True)
class SourceSentence:
    """A sentence, and the text that its translation begins with."""

    line: str
    prefix: str = ""


@dataclass(frozen=True)
class HowToTranslate:
    """Options of a request. Sentences with equal ones are translated together."""

    n_best: int = 1
    attention: bool = False
    heads: bool = False
    prefixes: bool = False
    """Whether any sentence has one."""
    search: tuple[tuple[str, Any], ...] = ()
    """Keys of the section `search` and their values."""
    seed: int = 1
    """Of sampling."""


class ServedModel:
    """A translator with its queue."""

    def __init__(self, name: str, translator: TextTranslator, limits: Limits, metrics: Metrics) -> None:
        self.name, self.translator, self._limits = name, translator, limits
        self.source, self.target = translator.config.languages
        # A mistake in the search of the model's config is reported when the server starts.
        translator.system(translator.search())
        observe = metrics.batches_of(name, lambda: self.batcher.waiting)
        self.batcher: Batcher[SourceSentence, TranslationResult, HowToTranslate] = Batcher(
            name, self._translate, lambda source: len(source.line), limits.queue, observe
        )

    async def translate(self, sources: Sequence[SourceSentence], how: HowToTranslate) -> list[TranslationResult]:
        """Translates sentences, in batches with those of other requests; raises `Refusal` and `NmtError`."""
        pieces = self.pieces([source.line for source in sources])
        if how.attention or how.heads:
            self.check_weights(pieces, pieces, how.n_best * (1 + how.heads * self.heads))
        sound_texts("prefixes", [source.prefix for source in sources])
        search = self.translator.config.search
        if how.search:  # contradictions are reported before anything waits
            search = self.translator.search(**dict(how.search))
        if search.kind == "sampling":
            # Sentences draw by their numbers in a batch.
            return list(await self.batcher.alone(lambda: self._translate(sources, how), len(sources)))
        return await self.batcher.answers(sources, how)

    async def alone(self, compute: Callable[[TextTranslator], Result], sentences: int) -> Result:
        """Returns `compute(translator)`, computed on the thread of the model, when its turn comes."""
        return await self.batcher.alone(lambda: compute(self.translator), sentences)

    def pieces(self, texts: Sequence[str], *, target: bool = False) -> list[int]:
        """Returns the numbers of pieces of sentences.

        Raises `Refusal` for more text than a request may have, and `DataError` for what is no text.
        """
        lines = sound_texts("lines", texts)
        check_texts(lines, self._limits)
        tokenizers = self.translator.models[0].tokenizers
        pieces = [len(ids) for ids in (tokenizers.target if target else tokenizers.source).encode(lines)]
        check_pieces(pieces, self._limits)
        return pieces

    def require_attention(self) -> None:
        """Raises `Refusal` for a model without attention; the error of `TextTranslator` names the folder."""
        if not self.translator.has_attention:
            raise Refusal(422, f"{self.name} has no attention; choose a model that has")

    def check_weights(self, sources: Sequence[int], targets: Sequence[int], matrices: int) -> None:
        """Raises `Refusal` for so many matrices of attention weights of these sizes."""
        numbers = matrices * sum(a * b for a, b in zip(sources, targets, strict=True))
        if numbers > self._limits.weights:
            raise Refusal(
                413,
                f"an answer with some {numbers:,} attention weights is too large; send less text at once, or ask for "
                "fewer translations",
            )

    @property
    def heads(self) -> int:
        """Heads of attention, 0 without attention."""
        return self.translator.config.model.attention.heads if self.translator.has_attention else 0

    def _translate(self, sources: Sequence[SourceSentence], how: HowToTranslate) -> Sequence[TranslationResult]:
        prefixes = [source.prefix for source in sources] if how.prefixes else None
        return self.translator.translate(
            [source.line for source in sources],
            n_best=how.n_best,
            attention=how.attention,
            heads=how.heads,
            prefixes=prefixes,
            seed=how.seed,
            **dict(how.search),
        )


class Models:
    """All models of the server by name and language pair."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.all = tuple(models)

    @staticmethod
    def load(paths: Sequence[str], which: Which, runtime: Runtime, limits: Limits, metrics: Metrics) -> Models:
        """Loads runs or checkpoints; the name of each is that of its run's folder. Raises `NmtError`."""
        names = [_name_of(path) for path in paths]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ConfigError(f"--model: two models are named {twice}; rename the folder of one of them")
        return Models(
            [
                ServedModel(name, TextTranslator.load([path], which, runtime), limits, metrics)
                for name, path in zip(names, paths, strict=True)
            ]
        )

    def find(self, name: str | None = None, source: str | None = None, target: str | None = None) -> ServedModel:
        """Returns the model with this name, or the first of a language pair; raises `Refusal` 400 if there is none."""
        found = [
            model
            for model in self.all
            if name in (None, model.name) and source in (None, model.source) and target in (None, model.target)
        ]
        if found:
            return found[0]
        request = ", ".join(f"{k} {v}" for k, v in (("name", name), ("source", source), ("target", target)) if v)
        there = "; ".join(f"{model.name} ({model.source} to {model.target})" for model in self.all)
        raise Refusal(400, f"no model with {request[:200]}; there are: {there}")

    @property
    def languages(self) -> dict[str, list[str]]:
        """Source languages, and the target languages of each."""
        pairs = dict.fromkeys((model.source, model.target) for model in self.all)
        return {source: [b for a, b in pairs if a == source] for source, _ in pairs}

    def close(self) -> None:
        """Ends the threads after all that waits."""
        for model in self.all:
            model.batcher.close()


def _name_of(path: str) -> str:
    folder = Path(path).resolve()
    return folder.parents[1].name if folder.parent.name == "checkpoints" else folder.name
