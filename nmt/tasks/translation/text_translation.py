"""Translation of raw text. A result does not depend on the lines around it, nor on the number of processes.

With another number of threads it agrees to rounding (`WorkerPool`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, islice, pairwise, zip_longest

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nmt.config.schema import SearchConfig
from nmt.data.batching import Batch
from nmt.data.batching.document_context import Documents, group_by_document
from nmt.data.batching.pair_batches import collate
from nmt.data.batching.plan import length_batches, padded_buckets
from nmt.data.cache import flatten
from nmt.data.cache.pair_encoding import words_of
from nmt.data.lexicons import SourceTokens
from nmt.data.readers.files import line_windows
from nmt.data.tokenizer import Span, Tokenizer, words_of_spans
from nmt.errors import ConfigError, DataError
from nmt.evaluation.alignment import Alignment, Linking, Unit, align
from nmt.model.translator import DocumentMemory, SentenceStates, TranslatorInContext
from nmt.runtime import gather_objects, in_halves, logger, pinned
from nmt.search import Hypothesis, Model, translate_batch
from nmt.tasks.translation.loading import System

LONG_LINE = 1 << 14
"""Characters up to which lines are always tokenized whole."""
LONGEST_PIECE = 16
"""Characters of the longest piece that SentencePiece learns."""
SHARES = 8
"""Parts into which documents are divided at least, where there are so many, for processes to share out. It does not
depend on their number, and neither do the results."""


@dataclass(frozen=True)
class Translation:
    """A translation of a line."""

    text: str
    """Without line ends, whatever the pieces spell, and with the replacements of unknown pieces."""
    score: float
    """Orders the translations of a line: see `nmt.search.Hypothesis`."""
    log_probability: float
    """Of the whole translation in nats, its end included."""
    pieces: tuple[str, ...]
    piece_log_probabilities: tuple[float, ...]
    """Of each piece and, last, of the end."""
    source_pieces: tuple[str, ...]
    """After truncation."""
    attention: npt.NDArray[np.floating] | None = field(default=None, compare=False, repr=False)
    """[target, source] weights, both with the end symbol; None if not requested, or without attention."""
    head_attention: npt.NDArray[np.floating] | None = field(default=None, compare=False, repr=False)
    """[heads, target, source] weights; None if not requested, or without attention."""
    source_words: tuple[int, ...] = ()
    """With `attention`: the word of the line, counted from 0, that each source piece belongs to."""
    words: tuple[int, ...] = ()
    """With `attention`: the word of the text that each piece belongs to."""
    source_ids: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()

    def alignment(self, unit: Unit, linking: Linking = "grow-diag") -> Alignment:
        """Aligns source and translation by the attention weights, which must have been requested."""
        assert self.attention is not None, "translated without attention"
        if unit == "words":
            return align(self.attention, self.source_words, self.words, linking)
        return align(self.attention, range(len(self.source_pieces)), range(len(self.pieces)), linking)


@dataclass(frozen=True)
class Request:
    """Which results are requested of each line."""

    n_best: int = 1
    attention: bool = False
    heads: bool = False
    """With `attention`: whether to return that of each head as well."""
    max_length: int | None = None
    """Pieces after which a line is cut off, with a warning; None translates every line whole."""
    seed: int = 1
    """Of sampling: each line draws by this seed and its number."""


BEST = Request()
PartResult = Sequence[tuple[Sequence[int], list[list[Translation]]]]
"""Indices of lines in a part of the work, and their translations."""


def translate_lines(
    system: System,
    lines: Sequence[str],
    search: SearchConfig,
    request: Request = BEST,
    *,
    documents: Documents | None = None,
    prefixes: Sequence[str] | None = None,
    first_line: int = 1,
    numbers: Sequence[int] | None = None,
    advance: Callable[[int], object] | None = None,
) -> list[list[Translation]]:
    """Translates lines in batches of similar length, or those of documents in turn if a translator uses context.

    The first sentences of several documents are translated together, then the second ones, and so on. A translator
    with target context reads the best translation of each sentence before.

    Several processes share the batches out, and all return all results: those of `torchrun`, or on a CPU workers (see
    `WorkerPool`).

    Args:
        lines: text without line ends. A blank line has no translation, and the model does not see it.
        search: section of the config; `batch_tokens` bounds the padded source pieces of a batch.
        documents: the number of each line's document; None translates every line by itself.
        prefixes: text that each translation begins with, one a line; blank leaves the search free.
        first_line: number of the first line, for messages and for the seeds of sampling.
        numbers: that of each line, where they do not follow one another from `first_line` on.
        advance: is called with the number of lines done since the last call; with several processes, of its own share.

    Returns:
        For each line its translations, best first.

    Raises:
        ConfigError: the search cannot give the requested results.
        CheckpointError: the model gives no finite probabilities.
        NmtError: a line does not fit into memory.
    """
    runtime = system.runtime
    numbers = range(first_line, first_line + len(lines)) if numbers is None else numbers
    lines, sources = encode_lines(system.tokenizers.source, lines, request.max_length, numbers)
    prefix_ids = system.tokenizers.target.encode(prefixes) if prefixes is not None else None
    assert prefix_ids is None or len(prefix_ids) == len(lines), "one prefix a line"
    encoded = EncodedLines(lines, sources, prefix_ids, search, request, numbers)
    if documents is not None and any(each.context.document_context is not None for each in system.translators):
        batches = _document_batches(encoded, documents)
    else:
        batches = [[[row] for row in rows] for rows in length_batches(list(map(len, sources)), search.batch_tokens)]
    batches = batches[runtime.rank :: runtime.world]
    rows = [[row for document in batch for row in document] for batch in batches]
    work = [
        partial(_translate_documents, encoded.select(flat), [len(document) for document in batch])
        for flat, batch in zip(rows, batches, strict=True)
    ]

    finished: Iterable[tuple[int, PartResult]] = ((number, each(system)) for number, each in enumerate(work))
    if system.pool is not None:
        together = sum(map(len, batches))  # one sentence of each document
        finished = system.pool.run(replace(system, pool=None), work, together)
    advance = advance or (lambda lines: None)
    advance(sources.count([]))
    results: dict[int, list[Translation]] = {}
    for number, result in finished:
        for indices, translations in result:
            results.update(zip((rows[number][index] for index in indices), translations, strict=True))
            advance(len(indices))
    if runtime.world > 1:
        results = {row: each for share in gather_objects(results) for row, each in share.items()}
    return [results.get(row, []) for row in range(len(lines))]


@dataclass(frozen=True)
class EncodedLines:
    """Lines as pieces, with the search and the request for them."""

    lines: Sequence[str]
    sources: list[list[int]]
    prefixes: list[list[int]] | None
    search: SearchConfig
    request: Request
    numbers: Sequence[int]
    """Of the lines, for messages and for the seeds of sampling."""

    def select(self, rows: Sequence[int]) -> EncodedLines:
        """Returns these lines alone."""
        return replace(
            self,
            lines=[self.lines[row] for row in rows],
            sources=[self.sources[row] for row in rows],
            prefixes=None if self.prefixes is None else [self.prefixes[row] for row in rows],
            numbers=[self.numbers[row] for row in rows],
        )

    def translate(self, system: System, rows: Sequence[int], models: Sequence[Model]) -> list[list[Translation]]:
        """Translates these lines, none of them blank, by the system's translators as `models` of the search."""
        source, request, search = system.tokenizers.source, self.request, self.search
        sources, shortlists = [self.sources[row] for row in rows], None
        if search.shortlist:
            assert system.lexicon is not None, "the system was built for another search"
            frequent, candidates = search.shortlist_frequent, search.shortlist
            shortlists = [system.lexicon.pieces(ids, frequent, candidates) for ids in sources]
        source_BS, lengths_B = pad_sources(sources, source.eos, source.pad)
        with system.runtime.autocast():
            results = translate_batch(
                models,
                source_BS.to(system.runtime.device, non_blocking=True),
                lengths_B,
                search,
                special=system.tokenizers.target,
                n_best=request.n_best,
                prefix=[self.prefixes[row] for row in rows] if self.prefixes is not None else None,
                shortlists=shortlists,
                seed=request.seed,
                numbers=[self.numbers[row] for row in rows],
                want_attention=request.attention or search.replace_unknown != "none",
                want_heads=request.heads,
            )
        return [self._translations(system, row, hypotheses) for row, hypotheses in zip(rows, results, strict=True)]

    def _translations(self, system: System, row: int, hypotheses: Sequence[Hypothesis]) -> list[Translation]:
        tokenizers, line, source = system.tokenizers, self.lines[row], self.sources[row]
        target = tokenizers.target
        source_pieces = tuple(tokenizers.source.pieces(source))
        source_words: tuple[int, ...] = ()
        if self.request.attention and any(hypothesis.attention is not None for hypothesis in hypotheses):
            source_words = tuple(words_of(line, tokenizers.source)[: len(source)])
        texts = target.decode([hypothesis.ids for hypothesis in hypotheses])
        spans = [target.decoded_spans(hypothesis.ids) if source_words else [] for hypothesis in hypotheses]
        if self.search.replace_unknown != "none":
            self._replace_unknown(system, row, hypotheses, texts, spans)
        # Bytes and symbols of the user's own can spell a line end: one line in is one line out.
        texts = [text.replace("\r", " ").replace("\n", " ") for text in texts]
        return [
            Translation(
                text=text,
                score=hypothesis.score,
                log_probability=hypothesis.log_probability,
                pieces=tuple(target.pieces(hypothesis.ids)),
                piece_log_probabilities=hypothesis.token_log_probabilities,
                source_pieces=source_pieces,
                attention=hypothesis.attention if self.request.attention else None,
                head_attention=hypothesis.head_attention,
                source_words=source_words,
                words=tuple(words_of_spans(text, spans_of_text)) if source_words else (),
                source_ids=tuple(source),
                ids=hypothesis.ids,
            )
            for text, spans_of_text, hypothesis in zip(texts, spans, hypotheses, strict=True)
        ]

    def _replace_unknown(
        self, system: System, row: int, hypotheses: Sequence[Hypothesis], texts: list[str], spans: list[list[Span]]
    ) -> None:
        """Writes the texts, and the spans of pieces in them, of hypotheses with an unknown piece anew."""
        tokenizers, source, lexicon = system.tokenizers, self.sources[row], None
        if self.search.replace_unknown == "lexicon":
            assert system.lexicon is not None, "the system was built for another search"
            lexicon = system.lexicon
        tokens = SourceTokens.of(self.lines[row], source, tokenizers, lexicon)
        for number, hypothesis in enumerate(hypotheses):
            if hypothesis.attention is None:
                raise ConfigError(
                    "search.replace_unknown: the model has no attention to find source words by; set it to none"
                )
            if replacements := tokens.replacements(hypothesis.ids, hypothesis.attention):
                texts[number], spans[number] = tokenizers.target.decode_with(hypothesis.ids, replacements)

    def out_of_memory(self, system: System, row: int) -> str:
        """Returns the message for a line that does not fit into memory alone."""
        return (
            f"line {self.numbers[row]}: out of memory on {system.runtime.device} with this line alone, of "
            f"{len(self.sources[row])} pieces and with a beam of {self.search.beam_size}; use a smaller beam, or "
            "truncate long lines"
        )


def pad_sources(sources: Sequence[Sequence[int]], eos: int, pad: int) -> tuple[Tensor, Tensor]:
    """Returns lists of ids, to which it adds the end symbol, padded [B, S], and the lengths [B] with it; both int64."""
    rows = [torch.tensor([*ids, eos]) for ids in sources]
    lengths_B = torch.tensor([len(row) for row in rows])
    return pinned(pad_sequence(rows, batch_first=True, padding_value=pad)), pinned(lengths_B)


def _translate_documents(encoded: EncodedLines, sizes: Sequence[int], system: System) -> PartResult:
    """Translates documents of so many lines each, which follow one another: sentence k of each after the k-1st.

    Lines that stand alone are documents of one line.
    """
    indices = iter(range(len(encoded.lines)))
    documents = [list(islice(indices, size)) for size in sizes]
    memories = [DocumentMemory(translator, documents) for translator in system.translators]
    last = {rows[-1] for rows in documents}

    def work(rows: Sequence[int]) -> tuple[list[list[Translation]], list[dict[int, SentenceStates]]]:
        models = [TranslatorInContext(memory.translator, memory.context(rows)) for memory in memories]
        results = encoded.translate(system, rows, models)
        best = {row: translations[0].ids for row, translations in zip(rows, results, strict=True) if row not in last}
        if not best:
            return results, [{} for _ in memories]
        batch: Batch = collate(
            flatten([encoded.sources[row] for row in best]),
            flatten(list(best.values())),
            np.asarray(list(best)),
            system.tokenizers,
        ).to(system.runtime.device)
        with torch.inference_mode(), system.runtime.autocast():
            return results, [memory.read(batch) for memory in memories]

    finished: list[tuple[Sequence[int], list[list[Translation]]]] = []
    for sentences in zip_longest(*documents):
        rows = [row for row in sentences if row is not None]
        for part, (results, remembered) in in_halves(work, rows, partial(encoded.out_of_memory, system)):
            for memory, each in zip(memories, remembered, strict=True):
                memory.add(each)
            finished.append((part, results))
    return finished


def _document_batches(encoded: EncodedLines, documents: Documents) -> list[list[Sequence[int]]]:
    """The documents as the rows of their lines, in batches of about as many sentences, one sentence of each at a time
    within the search's bound of tokens; blank lines are left out."""
    rows = [
        [row for row in each if encoded.sources[row]]
        for each in group_by_document(range(len(encoded.lines)), documents)
    ]
    rows = [each for each in rows if each]
    longest = np.asarray([max(len(encoded.sources[row]) for row in each) + 1 for each in rows], np.int64)
    order = np.lexsort((-longest, -np.asarray([len(each) for each in rows], np.int64)))
    size = max(-(-len(rows) // SHARES), 1)
    batches: list[list[Sequence[int]]] = []
    for start in range(0, len(order), size):
        share = order[start : start + size]
        bounds = padded_buckets(longest[share], encoded.search.batch_tokens)
        batches += [[rows[number] for number in share[a:b]] for a, b in pairwise(bounds)]
    return batches


def encode_lines(
    tokenizer: Tokenizer, lines: Sequence[str], max_length: int | None, numbers: Sequence[int], side: str = ""
) -> tuple[list[str], list[list[int]]]:
    """Returns the lines and their first `max_length` pieces, None for all, with a warning for each line that has more.

    `numbers` are those of the lines, for the warnings; `side` is written behind them. Of a line of very many characters
    only the beginning is tokenized and returned, because SentencePiece takes seconds for a million of them. The
    beginning ends at a space and is far longer than `max_length` pieces, so the pieces are those of the whole line. A
    line without spaces may be cut anywhere.
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
            logger.warning("line %d%s: truncated to %d %s", numbers[row], side, max_length, had)
        encoded[row] = ids[:max_length]
    return texts, encoded


def _beginning(line: str, size: int) -> str:
    """Returns the first `size` characters, up to twice as many if a space follows there, or a shorter line whole."""
    if len(line) <= size:
        return line
    end = line.find(" ", size, 2 * size)
    return line[: end if end >= 0 else size]


@dataclass(frozen=True)
class TranslatedLines:
    """Consecutive lines of a stream that were translated together."""

    first_line: int
    """Its number, counted from 1."""
    lines: list[str]
    prefixes: list[str] | None
    translations: list[list[Translation]]
    documents: list[int] | None = None
    """The number of each line's document; None where every line stands alone."""


def translate_stream(
    system: System,
    lines: Iterable[str],
    search: SearchConfig,
    request: Request = BEST,
    *,
    window: int,
    prefixes: tuple[str, Iterator[str]] | None = None,
    documents: bool = False,
    advance: Callable[[int], object] | None = None,
) -> Iterator[TranslatedLines]:
    """Translates lines in order, `window` at a time.

    `prefixes` are the name of a file and its lines, one for each line of the input, that its translation begins with.
    With `documents` blank lines end documents, and a window has whole documents.
    Raises `NmtError` for a mistake in either, after everything before it was yielded.
    """
    first = 1
    for part in line_windows(lines, window, whole_documents=documents):
        part_prefixes = None
        if prefixes is not None:
            part_prefixes = list(islice(prefixes[1], len(part)))
            if len(part_prefixes) < len(part):
                raise DataError(
                    f"{prefixes[0]}: has {first - 1 + len(part_prefixes)} lines, fewer than the input; give one for "
                    "each line"
                )
        numbers = number_documents(part) if documents else None
        translations = translate_lines(
            system,
            part,
            search,
            request,
            documents=numbers,
            prefixes=part_prefixes,
            first_line=first,
            advance=advance,
        )
        yield TranslatedLines(first, part, part_prefixes, translations, numbers)
        first += len(part)
    if prefixes is not None and next(prefixes[1], None) is not None:
        raise DataError(f"{prefixes[0]}: has more lines than the input, which has {first - 1}; give one for each line")


def number_documents(lines: Sequence[str]) -> list[int]:
    """Returns the number of each line's document; a blank line belongs to the one that follows it."""
    return list(accumulate(int(not line.strip()) for line in lines))
