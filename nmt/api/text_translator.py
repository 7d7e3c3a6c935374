"""Trained translators in Python: translate text."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nmt.api.arguments import (
    SearchOptions,
    as_many,
    checked,
    checked_value,
    document_numbers,
    machine,
    naming_keywords,
    search_with,
    texts,
)
from nmt.api.results import TranslationResult
from nmt.config import TranslationConfig
from nmt.config.schema import Beam, Positive, RuntimeConfig, SearchConfig, Seed
from nmt.data.lexicons import Lexicon
from nmt.errors import ConfigError
from nmt.runtime import Runtime, set_up
from nmt.tasks.base import Which
from nmt.tasks.translation.loading import System, TrainedModel, build_system, lexicon_of, load_ensemble
from nmt.tasks.translation.text_translation import Request, translate_lines

if TYPE_CHECKING:
    from typing_extensions import Unpack


@naming_keywords()
def load(
    model: str | Path,
    *more: str | Path,
    checkpoint: Literal["best", "last"] | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "fp32",
    threads: int = 0,
    workers: bool = False,
) -> TextTranslator:
    """Loads a trained translator.

    Args:
        model: run folder, or folder of a checkpoint.
        more: further models. All make an ensemble, which averages their probabilities (Sutskever 2014, section 3.6).
        checkpoint: of a run; by default the best, or the last if none is best yet.
        device: `auto` takes a GPU where there is one.
        precision: number format of the matrix products. The default gives the same translations on every machine.
        threads: of PyTorch in this process, all of whose models share them; 0 leaves them as they are.
        workers: whether processes share large requests on a CPU, as those of `nmt-translate` do. A script that asks for
            them needs `if __name__ == "__main__":`, because each process imports it.

    Raises:
        CheckpointError: there is no such model, it is damaged, or it labels documents.
        ConfigError: an argument cannot be used on this machine.
    """
    which = checked_value("checkpoint", Literal["best", "last"] | None, checkpoint)
    options = machine(checked(RuntimeConfig, {"device": device, "precision": precision, "threads": threads}))
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
        with self._alone(), shown_progress(progress, len(lines), " lines") as advance:
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

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lets one thread at a time use the worker processes."""
        if self._system.pool is None:
            yield
            return
        with self._pool_lock:
            yield


@contextmanager
def shown_progress(shown: bool, total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """A function that advances a progress bar, which suits a terminal or a notebook."""
    if not shown:
        yield lambda done: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, unit=unit, leave=False) as bar:
        yield bar.update
