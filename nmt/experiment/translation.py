"""Raw text in, raw text out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nmt.batching import pad_sources
from nmt.batching.plan import cut
from nmt.config.schema import Search
from nmt.experiment.loading import System
from nmt.experiment.memory import in_halves
from nmt.runtime import gather_objects, logger, share_out
from nmt.search import Hypothesis, translate_batch
from nmt.text.encoded.links import words_of
from nmt.text.lexicon import Lexicon
from nmt.text.words import words_of_spans

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Translation:
    """A line in the other language."""

    text: str
    """Without a line's end in it, whatever the pieces spell."""
    score: float
    """What translations are ordered by: see `nmt.search.Hypothesis`."""
    log_probability: float
    """Of the whole translation in nats, its end included."""
    pieces: tuple[str, ...]
    piece_log_probabilities: tuple[float, ...]
    """Of each piece and, last, of the end."""
    source_pieces: tuple[str, ...]
    """What was translated, after truncation."""
    attention: Floats | None = field(default=None, compare=False, repr=False)
    """[target, source] weights, both with the end of the sentence; None if not wanted, or without attention."""
    source_words: tuple[int, ...] = ()
    """With `attention`: the word of the line, counted from 0, that each source piece belongs to."""
    words: tuple[int, ...] = ()
    """With `attention`: the word of the text that each piece belongs to."""
    source_ids: tuple[int, ...] = ()
    """Of the source pieces."""
    ids: tuple[int, ...] = ()
    """Of the pieces."""


@dataclass(frozen=True)
class Wanted:
    """What is wanted beside the best translation of each line."""

    n_best: int = 1
    attention: bool = False
    max_length: int | None = None
    """Pieces after which a line is cut off, with a warning; None translates every line whole."""
    seed: int = 1
    """Of sampling: each line draws by this seed and its number."""


BEST = Wanted()


def translate_lines(
    system: System,
    lines: Sequence[str],
    search: Search,
    wanted: Wanted = BEST,
    *,
    prefixes: Sequence[str] | None = None,
    first_line: int = 1,
    advance: Callable[[int], object] | None = None,
) -> list[list[Translation]]:
    """Translate lines in batches of similar length; a result does not depend on the lines around it.

    Several processes share the batches out and all get all results, the same as one process would: those of
    `torchrun`, or on a CPU one for each thread, forked for this call.

    Args:
        system: what translates.
        lines: text without line ends. A blank one has no translation, and the model does not see it.
        search: how translations are found; `batch_tokens` bounds the padded source pieces of a batch.
        wanted: what is wanted of each line.
        prefixes: text that each translation begins with, one a line; blank leaves the search free.
        first_line: number of the first line, for messages and for the seeds of sampling.
        advance: told how many lines are done since it was last called; with several processes, of its own share.

    Returns:
        For each line its translations, best first.

    Raises:
        ConfigError: the search cannot give what is wanted.
        CheckpointError: the model gives no finite probabilities.
        NmtError: a line does not fit into memory.
    """
    source, target, runtime = system.tokenizers.source, system.tokenizers.target, system.runtime
    sources = [
        cut_off(ids, wanted.max_length, f"line {number}")
        for number, ids in enumerate(source.encode(lines), start=first_line)
    ]
    forced = target.encode(prefixes) if prefixes is not None else None
    assert forced is None or len(forced) == len(lines), "one prefix a line"
    lexicon = system.lexicon if search.shortlist else None
    assert lexicon is not None or not search.shortlist, "joined for another search"

    def work(rows: Sequence[int]) -> list[list[Translation]]:
        batch = pad_sources([sources[row] for row in rows], source.eos, source.pad)
        with runtime.autocast():
            found = translate_batch(
                system.translators,
                batch.source_BS.to(runtime.device, non_blocking=True),
                batch.source_lengths_B,
                search,
                special=target,
                n_best=wanted.n_best,
                prefix=[forced[row] for row in rows] if forced is not None else None,
                shortlists=None if lexicon is None else [shortlist(lexicon, sources[row]) for row in rows],
                seed=wanted.seed,
                numbers=[first_line + row for row in rows],
                want_attention=wanted.attention,
            )
        return [
            _translations(system, lines[row], sources[row], hypotheses)
            for row, hypotheses in zip(rows, found, strict=True)
        ]

    def shortlist(lexicon: Lexicon, ids: Sequence[int]) -> npt.NDArray[np.int32]:
        return lexicon.pieces(ids, search.shortlist_frequent, search.shortlist)

    def too_large(row: int) -> str:
        return (
            f"line {first_line + row}: out of memory on {runtime.device} with this line alone, of {len(sources[row])} "
            f"pieces and with a beam of {search.beam_size}; use a smaller beam, or truncate long lines"
        )

    advance = advance or (lambda _: None)
    advance(sum(not ids for ids in sources))
    mine: dict[int, list[Translation]] = {}
    parts = list(batches([len(ids) for ids in sources], search.batch_tokens, runtime.rank, runtime.world))
    for _, done in share_out(lambda rows: list(in_halves(work, rows, too_large)), parts, system.workers):
        for part, results in done:
            mine.update(zip(part, results, strict=True))
            advance(len(part))
    found = {row: translations for share in gather_objects(mine) for row, translations in share.items()}
    return [found.get(row, []) for row in range(len(lines))]


def batches(lengths: Sequence[int], batch_tokens: int, rank: int = 0, world: int = 1) -> Iterator[list[int]]:
    """Rows of similar length, the longest first, every `world`-th batch; empty rows are left out.

    Rows x longest row, its end included, is `batch_tokens` or less; a longer row is a batch alone. The same batches
    whatever the number of processes.
    """
    with_end = np.asarray(lengths, np.int64) + 1
    order = np.argsort(-with_end, kind="stable")
    order = order[with_end[order] > 1]
    bounds = cut(with_end[order], batch_tokens)
    for number in range(rank, len(bounds) - 1, world):
        yield order[bounds[number] : bounds[number + 1]].tolist()


def cut_off(ids: list[int], max_length: int | None, name: str) -> list[int]:
    """The first `max_length` pieces, with a warning about `name` where there are more; None takes them all."""
    if max_length is None or len(ids) <= max_length:
        return ids
    logger.warning("%s: truncated to %d of its %d pieces", name, max_length, len(ids))
    return ids[:max_length]


def _translations(
    system: System, line: str, source: Sequence[int], hypotheses: Sequence[Hypothesis]
) -> list[Translation]:
    tokenizers = system.tokenizers
    target = tokenizers.target
    source_pieces = tuple(tokenizers.source.pieces(source))
    source_words: tuple[int, ...] = ()
    if any(hypothesis.attention is not None for hypothesis in hypotheses):
        source_words = tuple(words_of(line, tokenizers.source)[: len(source)])
    # Bytes and symbols of the user's own can spell a line's end: one line in is one line out.
    decoded = target.decode([hypothesis.ids for hypothesis in hypotheses])
    texts = [text.replace("\r", " ").replace("\n", " ") for text in decoded]
    return [
        Translation(
            text=text,
            score=hypothesis.score,
            log_probability=hypothesis.log_probability,
            pieces=tuple(target.pieces(hypothesis.ids)),
            piece_log_probabilities=hypothesis.token_log_probabilities,
            source_pieces=source_pieces,
            attention=hypothesis.attention,
            source_words=source_words,
            words=tuple(words_of_spans(text, target.decoded_spans(hypothesis.ids))) if source_words else (),
            source_ids=tuple(source),
            ids=hypothesis.ids,
        )
        for text, hypothesis in zip(texts, hypotheses, strict=True)
    ]
