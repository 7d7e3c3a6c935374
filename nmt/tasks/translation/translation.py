"""Raw text in, raw text out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from nmt.config.schema import SearchConfig
from nmt.data.batching import pad_sources
from nmt.data.batching.plan import cut
from nmt.data.cache.word_links import words_of
from nmt.data.tokenizer import Tokenizer
from nmt.data.words import words_of_spans
from nmt.runtime import gather_objects, logger
from nmt.runtime.halving import in_halves
from nmt.search import Hypothesis, Model, translate_batch
from nmt.tasks.translation.loading import System

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


LONG_LINE = 1 << 14
"""Characters up to which lines are always tokenized whole."""
LONGEST_PIECE = 16
"""Characters of the longest piece that SentencePiece learns."""

BEST = Wanted()
Found = Sequence[tuple[Sequence[int], list[list[Translation]]]]
"""Rows of lines and their translations."""


def translate_lines(
    system: System,
    lines: Sequence[str],
    search: SearchConfig,
    wanted: Wanted = BEST,
    *,
    prefixes: Sequence[str] | None = None,
    first_line: int = 1,
    advance: Callable[[int], object] | None = None,
) -> list[list[Translation]]:
    """Translate lines in batches of similar length; a result does not depend on the lines around it.

    Several processes share the batches out, and all get all results, the same as one process would: those of
    `torchrun`, or on a CPU workers (see `WorkerPool`).

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
    task = Task.of(system, lines, search, wanted, prefixes, first_line)
    runtime = system.runtime
    rows = list(batches([len(ids) for ids in task.sources], search.batch_tokens, runtime.rank, runtime.world))
    parts = [partial(_translate, task.only(each)) for each in rows]
    found = system.run(parts, sum(map(len, rows)))
    return task.gather(((rows[number], each) for number, each in found), advance)


def _translate(task: Task, system: System) -> Found:
    work = partial(task.translate, system)
    return list(in_halves(work, range(len(task.lines)), partial(task.too_large, system)))


@dataclass(frozen=True)
class Task:
    """Lines that are to be translated, and how."""

    lines: Sequence[str]
    sources: list[list[int]]
    """Pieces of the lines."""
    forced: list[list[int]] | None
    """Pieces that each translation begins with."""
    search: SearchConfig
    wanted: Wanted
    numbers: Sequence[int]
    """Of the lines, for messages and for the seeds of sampling."""

    @classmethod
    def of(
        cls,
        system: System,
        lines: Sequence[str],
        search: SearchConfig,
        wanted: Wanted,
        prefixes: Sequence[str] | None,
        first_line: int,
    ) -> Task:
        """The task of these lines; what is too long is cut off."""
        tokenizers = system.tokenizers
        lines, sources = encode_lines(tokenizers.source, lines, wanted.max_length, first_line)
        forced = tokenizers.target.encode(prefixes) if prefixes is not None else None
        assert forced is None or len(forced) == len(lines), "one prefix a line"
        return cls(lines, sources, forced, search, wanted, range(first_line, first_line + len(lines)))

    def only(self, rows: Sequence[int]) -> Task:
        """The task of these lines alone."""
        return replace(
            self,
            lines=[self.lines[row] for row in rows],
            sources=[self.sources[row] for row in rows],
            forced=None if self.forced is None else [self.forced[row] for row in rows],
            numbers=[self.numbers[row] for row in rows],
        )

    def translate(
        self, system: System, rows: Sequence[int], models: Sequence[Model] | None = None
    ) -> list[list[Translation]]:
        """The translations of these lines, none of them blank, by the system's translators or what stands for them."""
        source, wanted = system.tokenizers.source, self.wanted
        batch = pad_sources([self.sources[row] for row in rows], source.eos, source.pad)
        with system.runtime.autocast():
            found = translate_batch(
                system.translators if models is None else models,
                batch.source_BS.to(system.runtime.device, non_blocking=True),
                batch.source_lengths_B,
                self.search,
                special=system.tokenizers.target,
                n_best=wanted.n_best,
                prefix=[self.forced[row] for row in rows] if self.forced is not None else None,
                shortlists=self.shortlists(system, rows),
                seed=wanted.seed,
                numbers=[self.numbers[row] for row in rows],
                want_attention=wanted.attention,
            )
        return [
            _translations(system, self.lines[row], self.sources[row], hypotheses)
            for row, hypotheses in zip(rows, found, strict=True)
        ]

    def shortlists(self, system: System, rows: Sequence[int]) -> list[npt.NDArray[np.int32]] | None:
        """The pieces that each of these lines may be translated with; None where it is all of them."""
        if not self.search.shortlist:
            return None
        lexicon, search = system.lexicon, self.search
        assert lexicon is not None, "joined for another search"
        return [lexicon.pieces(self.sources[row], search.shortlist_frequent, search.shortlist) for row in rows]

    def too_large(self, system: System, row: int) -> str:
        """What to say of a line that does not fit into memory."""
        return (
            f"line {self.numbers[row]}: out of memory on {system.runtime.device} with this line alone, of "
            f"{len(self.sources[row])} pieces and with a beam of {self.search.beam_size}; use a smaller beam, or "
            "truncate long lines"
        )

    def gather(
        self, done: Iterable[tuple[Sequence[int], Found]], advance: Callable[[int], object] | None
    ) -> list[list[Translation]]:
        """The translations that all processes have found, by line; `done` are the rows of each part, and the part's."""
        advance = advance or (lambda _: None)
        advance(sum(not ids for ids in self.sources))
        mine: dict[int, list[Translation]] = {}
        for lines, found in done:
            for rows, translations in found:
                mine.update(zip((lines[row] for row in rows), translations, strict=True))
                advance(len(rows))
        everywhere = {row: each for share in gather_objects(mine) for row, each in share.items()}
        return [everywhere.get(row, []) for row in range(len(self.lines))]


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


def encode_lines(
    tokenizer: Tokenizer, lines: Sequence[str], max_length: int | None, first_line: int, side: str = ""
) -> tuple[list[str], list[list[int]]]:
    """Returns the lines and their first `max_length` pieces, with a warning for each line that has more.

    None takes all pieces.
    Of a line of very many characters only the beginning is tokenized and returned, because SentencePiece takes seconds
    for a million of them. The beginning ends at a space and is far longer than `max_length` pieces, so the pieces are
    those of the whole line. A line without spaces may be cut anywhere.
    """
    texts = list(lines)
    if max_length is None:
        return texts, tokenizer.encode(texts)
    size = max(LONG_LINE, LONGEST_PIECE * (max_length + 1))
    texts = [_beginning(line, size) for line in lines]
    encoded = tokenizer.encode(texts)
    for row, (line, ids) in enumerate(zip(lines, encoded, strict=True)):
        # Normalisation can leave few pieces of many characters, such as spaces.
        while len(ids) <= max_length and len(texts[row]) < len(line):
            texts[row] = _beginning(line, 2 * len(texts[row]))
            (ids,) = tokenizer.encode([texts[row]])
        if len(ids) > max_length:
            whole = len(texts[row]) == len(line)
            had = f"of its {len(ids)} pieces" if whole else f"pieces; it has {len(line):,} characters"
            logger.warning("line %d%s: truncated to %d %s", first_line + row, side, max_length, had)
        encoded[row] = ids[:max_length]
    return texts, encoded


def _beginning(line: str, size: int) -> str:
    """Returns the first `size` characters, up to twice as many if a space follows there, or a shorter line whole."""
    if len(line) <= size:
        return line
    end = line.find(" ", size, 2 * size)
    return line[: end if end >= 0 else size]


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
