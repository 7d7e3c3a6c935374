"""The lexicon of a run: built from its encoded training text, found beside its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nmt.checkpoint import find, read_metadata
from nmt.checkpoint.durable import replace_file
from nmt.checkpoint.folder import CONFIG_FILE, read_config_text
from nmt.config import TranslationConfig
from nmt.data.cache import EncodedPairs, WeightedRows, lookup_pairs
from nmt.data.lexicon import Lexicon, estimate
from nmt.data.readers.pairs import CorpusOptions
from nmt.data.tokenizer import TokenizerPair
from nmt.errors import CheckpointError, ConfigError, DataError, counted
from nmt.runtime import logger
from nmt.tasks.components import parse_saved_config

LEXICON_FILE = "lexicon.safetensors"


def build_lexicon(
    path: Path | str, which: Literal["best", "last"] | None, candidates: int, iterations: int, most_rows: int
) -> Path:
    """Build the lexicon of a model and write it beside: into its run's folder, or that of a checkpoint by itself.

    Args:
        path: a run or a checkpoint.
        which: of a run's checkpoints.
        candidates: most translations of each source piece.
        iterations: of expectation-maximisation.
        most_rows: pairs that are read; of a larger training text every n-th one.

    Raises `CheckpointError`, or `DataError` where the encoded training text is gone.
    """
    folder = find(path, which)
    tokenizers = TokenizerPair.load(folder)
    pairs, parts = _training_text(folder)
    sizes = tokenizers.source.size, tokenizers.target.size
    table = estimate(pairs, *sizes, iterations=iterations, parts=parts, most_rows=most_rows)
    file = _places(folder)[-1]
    try:
        replace_file(file, Lexicon.of(table, candidates, tokenizers).to_bytes())
    except OSError as error:
        raise DataError(f"{file}: cannot be written: {error.strerror or error}") from error
    return file


def load_lexicon(folders: Sequence[Path], tokenizers: TokenizerPair, candidates: int) -> Lexicon:
    """The lexicon of checkpoints that translate together: that of the first one that has one.

    Raises `DataError` where it is damaged, and `ConfigError` where there is none with so many candidates.
    """
    file = next((place for folder in folders for place in _places(folder) if place.is_file()), None)
    if file is None:
        raise ConfigError(
            f"search.shortlist: {folders[0]} has no lexicon, neither there nor in its run; build it with nmt-lexicon "
            f"--model {folders[0]}"
        )
    lexicon = Lexicon.load(file, tokenizers)
    if candidates > lexicon.most:
        raise ConfigError(
            f"search.shortlist: {file} has {lexicon.most} candidates of a piece, not {candidates}; lower it, or build "
            f"the lexicon again with nmt-lexicon --candidates {candidates}"
        )
    return lexicon


def _places(folder: Path) -> list[Path]:
    """Where the lexicon of a checkpoint may lie: with it, or in its run, which is where it is put."""
    run = _run_of(folder)
    return [folder / LEXICON_FILE] + ([run / LEXICON_FILE] if run is not None else [])


def _run_of(folder: Path) -> Path | None:
    return folder.parent.parent if folder.resolve().parent.name == "checkpoints" else None


def _training_text(folder: Path) -> tuple[EncodedPairs, list[WeightedRows]]:
    """The pairs that the checkpoint was trained on, from the first cache that has them, and their parts."""
    file = folder / CONFIG_FILE
    config = parse_saved_config(read_config_text(folder), str(file))
    if not isinstance(config, TranslationConfig):
        raise CheckpointError(f"{folder}: this model labels documents; shortlists are for translating")
    run = _run_of(folder)
    caches = [Path(config.data.cache)] if config.data.cache else []
    caches += [each / "cache" for each in (run, Path(config.run)) if each is not None]
    key = read_metadata(folder).data.get("train", "")
    for cache in dict.fromkeys(caches):
        if key and (pairs := lookup_pairs(cache, key)) is not None:
            logger.info("%s in %s", counted(len(pairs), "pair"), cache)
            weights = [corpus.weight for corpus in config.data.train if isinstance(corpus, CorpusOptions)]
            return pairs, pairs.parts_with(weights)
    raise DataError(
        f"{folder}: the encoded training text is not in {' or '.join(map(str, dict.fromkeys(caches)))}; the command "
        f"that trained the model puts it there again: nmt-train --config {(run or folder) / 'config.yaml'}"
    )
