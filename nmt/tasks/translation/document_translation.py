"""Documents in, documents out: sentence k of each together, told of the sentences before and of their translations."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice, zip_longest

import numpy as np
import torch

from nmt.config.schema import SearchConfig
from nmt.data.batching import Batch, Past
from nmt.data.batching.batch import collate
from nmt.data.batching.plan import cut
from nmt.data.cache import flatten
from nmt.model.context import Sentences
from nmt.model.in_context import Before, InContext, Remembered, remember
from nmt.model.translator import Translator
from nmt.runtime.halving import in_halves
from nmt.tasks.translation.documents import Documents, grouped
from nmt.tasks.translation.loading import System
from nmt.tasks.translation.translation import BEST, Found, Task, Translation, Wanted, translate_lines

SHARES = 8
"""Parts into which documents are divided at least, where there are so many, for processes to share out. It does not
depend on their number, and neither do the results."""


def translate_text(
    system: System,
    lines: Sequence[str],
    search: SearchConfig,
    wanted: Wanted = BEST,
    *,
    documents: Documents | None = None,
    prefixes: Sequence[str] | None = None,
    first_line: int = 1,
    advance: Callable[[int], object] | None = None,
) -> list[list[Translation]]:
    """Translate lines, those of documents in turn where a translator looks back to the sentences before.

    Of several documents, the first sentences are translated together, then the second ones, and so on: a translation
    does not depend on which other documents there are. What looks back at translations sees the best one of each
    sentence. A blank line has no translation, and nothing that follows sees it.

    Args, results and errors are those of `translate_lines`; `documents` has the number of each line's document, None
    translates every line by itself.
    """
    if documents is None or all(translator.context.lookback is None for translator in system.translators):
        return translate_lines(system, lines, search, wanted, prefixes=prefixes, first_line=first_line, advance=advance)
    task = Task.of(system, lines, search, wanted, prefixes, first_line)
    rows = [[row for row in each if task.sources[row]] for each in grouped(range(len(lines)), documents)]
    runtime = system.runtime
    shares = _parts(task, [each for each in rows if each])[runtime.rank :: runtime.world]
    flat = [[row for each in share for row in each] for share in shares]
    parts = [
        partial(_translate, task.only(lines), [len(each) for each in share])
        for lines, share in zip(flat, shares, strict=True)
    ]
    # Sentences that are translated together: one of each document.
    found = system.run(parts, sum(map(len, shares)))
    return task.gather(((flat[number], each) for number, each in found), advance)


def _translate(task: Task, sizes: Sequence[int], system: System) -> Found:
    """The translations of documents of so many lines each, which follow one another in the task."""
    lines = iter(range(len(task.lines)))
    return list(_in_turn(task, system, [list(islice(lines, size)) for size in sizes]))


def _parts(task: Task, documents: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
    """Documents that are translated together: of about as many sentences, and with room for all of a sentence each."""
    longest = np.asarray([max(len(task.sources[row]) for row in rows) + 1 for rows in documents], np.int64)
    sizes = np.asarray([len(rows) for rows in documents], np.int64)
    order = np.lexsort((-longest, -sizes))
    together = -(-len(documents) // SHARES)
    bounds: list[int] = []
    for start in range(0, len(order), max(together, 1)):
        bounds += (start + cut(longest[order[start : start + together]], task.search.batch_tokens)[:-1]).tolist()
    return [[documents[number] for number in order[a:b]] for a, b in zip_longest(bounds, bounds[1:])]


def _in_turn(
    task: Task, system: System, documents: Sequence[Sequence[int]]
) -> Iterator[tuple[Sequence[int], list[list[Translation]]]]:
    """The translations of documents, which are given as the rows of their lines: sentence k of each after the k-1st."""
    memories = [_Memory(translator, documents) for translator in system.translators]
    last = {rows[-1] for rows in documents}

    def work(rows: Sequence[int]) -> tuple[list[list[Translation]], list[dict[int, Remembered]]]:
        models = [InContext(memory.translator, memory.before(rows)) for memory in memories]
        found = task.translate(system, rows, models)
        following = {row: best[0].ids for row, best in zip(rows, found, strict=True) if row not in last}
        return found, [_remembered(task, system, memory, following) for memory in memories]

    for sentences in zip_longest(*documents):
        rows = [row for row in sentences if row is not None]
        for part, (found, remembered) in in_halves(work, rows, partial(task.too_large, system)):
            for memory, each in zip(memories, remembered, strict=True):
                memory.add(each)
            yield part, found


class _Memory:
    """What a translator knows of the sentences that it has translated, as far as it looks back."""

    def __init__(self, translator: Translator, documents: Sequence[Sequence[int]]) -> None:
        lookback = translator.context.lookback
        self.translator = translator
        self.sentences = 0 if lookback is None else lookback.sentences
        self._document = {row: number for number, rows in enumerate(documents) for row in rows}
        self._known: list[deque[Remembered]] = [deque(maxlen=self.sentences) for _ in documents]

    def before(self, rows: Sequence[int]) -> Before | None:
        """What stands before these sentences; None where nothing does."""
        known = [list(reversed(self._known[self._document[row]])) for row in rows]
        flat = [each for sentences in known for each in sentences]
        if not flat:
            return None
        past_BP = np.full((len(rows), self.sentences), -1)
        past_BP[np.arange(self.sentences) < np.asarray([[len(sentences)] for sentences in known])] = range(len(flat))
        device = self.translator.projection.weight.device
        return Before(Past.of(past_BP).to(device), Remembered.join(flat))

    def add(self, remembered: dict[int, Remembered]) -> None:
        """Know these sentences as well, each the next one of its document."""
        for row, each in remembered.items():
            self._known[self._document[row]].append(each)


def _remembered(
    task: Task, system: System, memory: _Memory, translated: Mapping[int, Sequence[int]]
) -> dict[int, Remembered]:
    """What there is to know of sentences, by row, with the pieces of their translations."""
    if not translated or not memory.sentences:
        return {}
    rows, runtime = list(translated), system.runtime
    batch: Batch = collate(
        flatten([task.sources[row] for row in rows]),
        flatten(list(translated.values())),
        np.asarray(rows),
        system.tokenizers,
    ).to(runtime.device)
    with torch.inference_mode(), runtime.autocast():
        found = remember(memory.translator, batch, memory.before(rows))
    lengths = zip(batch.source_lengths_B.tolist(), batch.target_lengths_B.tolist(), strict=True)
    return {
        row: Remembered(_one(found.sources, number, source), _one(found.targets, number, target))
        for number, (row, (source, target)) in enumerate(zip(rows, lengths, strict=True))
    }


def _one(sentences: Sentences | None, number: int, length: int) -> Sentences | None:
    """One of the sentences, without padding, and without holding on to the others."""
    if sentences is None:
        return None
    part = (slice(number, number + 1), slice(length))
    return Sentences(sentences.states_MSC[part].clone(), sentences.mask_MS[part].clone())
