"""Pairs with a translated side: back-translation (Sennrich 2016b) and sequence-level distillation (Kim and Rush 2016).

Translations go to a work file first, a window of lines at a time, and a later process continues it. When all lines are
translated, the pairs are chosen and written, and the work file is removed.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from filelock import Timeout

from nmt.checkpoint.durable import new_file
from nmt.concurrency import lock
from nmt.config.schema import FiltersConfig, SearchConfig
from nmt.data.cache.pair_encoding import EMPTY_SIDE, length_reasons
from nmt.data.cleaning import PairRules
from nmt.data.readers.base import Counts
from nmt.data.readers.files import line_windows
from nmt.data.tokenizer import Tokenizer
from nmt.errors import DataError, write_errors
from nmt.evaluation.metrics import sentence_scores
from nmt.tasks.translation.loading import System, TrainedModel
from nmt.tasks.translation.scoring import best_rows
from nmt.tasks.translation.text_translation import LONG_LINE, LONGEST_PIECE, Request, Translation, translate_lines

WORK_SUFFIX = ".part"
FORMAT = 1
"""Of the work file."""
WINDOW = 1000
"""Lines that are translated and written together. A continued run repeats an incomplete window, so that its batches,
and with them the last bits of its scores, are those of an uninterrupted one."""
LOW_SCORE = "low score"

Method = Literal["backtranslate", "distill"]
Metric = Literal["bleu", "chrf"]
Advance = Callable[[int], object]


@dataclass(frozen=True)
class Job:
    """How lines are translated. A run can only be continued with an equal job."""

    method: Method
    search: SearchConfig
    seed: int = 1
    """Of sampling. A line draws by this seed and its number, however often the run is continued."""
    nearest: Metric | None = None
    """Of the translations of a beam, take the one with the best score against the reference by this metric
    (sequence-level interpolation, Kim and Rush 2016, section 3.3); None takes the best one by the model."""
    max_length: int = 100
    """Pieces above which a line is not translated."""

    def settings(self, models: Sequence[TrainedModel], system: System) -> dict[str, Any]:
        """Returns everything that the translations depend on besides the lines, by the name of the option."""
        weights = [{name: file.sha256 for name, file in model.metadata.files.items()} for model in models]
        own = {"model": weights, "method": self.method, "nearest": self.nearest, "seed": self.seed}
        runtime = system.runtime
        machine = {"device": runtime.device.type, "precision": str(runtime.weights or runtime.autocast_dtype)}
        return own | {"max_length": self.max_length, "window": WINDOW} | machine | self.search.model_dump()


@dataclass(frozen=True)
class Choice:
    """Which pairs are written, and how."""

    filters: FiltersConfig
    rules: PairRules
    min_score: float | None = None
    """Smallest log-probability of a translation per piece, its end counted as one."""
    share: float | None = None
    """Of the pairs that the rules leave, this share with the best scores."""
    tag: str | None = None
    """Word at the beginning of every source (Caswell 2019)."""


@dataclass(frozen=True)
class TranslatedLine:
    """A line of the work file."""

    line: str
    """The line of the input as it stands. In distillation a reference may follow after a TAB."""
    pieces: int
    """Of the input, by the model's tokenizer; above the longest length, the line has no translation."""
    translation: str
    translation_pieces: int
    score: float
    """Log-probability of the translation per piece, its end counted as one; 0 without a translation."""

    def pair(self, method: Method) -> tuple[str, str]:
        """Returns source and target: the input is the target of a back-translation, and the source in distillation."""
        # A TAB is a space to the tokenizer, and a carriage return at the end would belong to the line's end.
        given, made = (
            text.replace("\t", " ").replace("\r", " ") for text in (_input_of(self.line, method), self.translation)
        )
        return (made, given) if method == "backtranslate" else (given, made)


def translate_into(
    work: Path,
    job: Job,
    models: Sequence[TrainedModel],
    system: System,
    lines: Iterable[str],
    advance: Advance = lambda lines: None,
) -> None:
    """Translates lines into the work file, or continues after the whole windows that it has.

    Args:
        work: is created where it is missing.
        models: those of the system.
        lines: sentences; in distillation columns separated by TAB, the source and optionally a reference.
        advance: is called with the number of lines done since the last call.

    Raises:
        DataError: the work file is of another run or in use, or a line has no reference that `job.nearest` needs.
        NmtError: as for `translate_lines`, or `lines` raises it; the translations before are written.
    """
    with _opened(work) as file:
        lines = iter(lines)
        done = _skip_translated(work, file, job.settings(models, system), lines, advance)
        for window in line_windows(lines, WINDOW):
            rows = _translate(job, system, window, done + 1, advance)
            _append(work, file, *map(vars, rows))
            done += len(rows)


def write_pairs(work: Path, output: Path, method: Method, choice: Choice) -> tuple[Counts, float]:
    """Writes the chosen pairs of a finished work file, source and target separated by TAB, and removes the work file.

    Returns the counts of all lines, and the worst score of a pair. Raises DataError where no pair is left: the work
    file stays.
    """
    scores, kept, counts = array("d"), array("b"), Counts(str(output))
    for rows in _windows(work):
        for row, reason in zip(rows, _reasons(rows, method, choice), strict=True):
            counts.read += 1
            if reason is not None:
                counts.drop(reason, [counts.read])
            kept.append(reason is None)
            scores.append(row.score)
    keep, score = np.asarray(kept, np.bool_), np.asarray(scores)
    if choice.share is not None:
        passed = np.flatnonzero(keep)
        low = passed[~best_rows(score[passed].tolist(), choice.share)]
        keep[low] = False
        counts.drop(LOW_SCORE, (low + 1).tolist())
    counts.kept = int(keep.sum())
    if not counts.kept:
        raise DataError(f"{counts.line('line')}: no pair is left to write; {work} keeps the translations")
    numbered = iter(keep.tolist())
    with write_errors(output), new_file(output) as file:
        for row in (row for rows in _windows(work) for row in rows):
            if next(numbered):
                source, target = row.pair(method)
                tagged = f"{choice.tag} {source}" if choice.tag else source
                file.write(f"{tagged}\t{target}\n".encode())
    work.unlink()
    return counts, float(score[keep].min())


def nearest_translation(translations: Sequence[Translation], reference: str, metric: Metric) -> Translation:
    """Returns the translation with the best sentence score against the reference, of equal ones the first."""
    scores = sentence_scores([each.text for each in translations], [reference] * len(translations), metric)
    return translations[int(np.argmax(scores))]


def _translate(
    job: Job, system: System, lines: Sequence[str], first_line: int, advance: Advance
) -> list[TranslatedLine]:
    inputs = [_input_of(line, job.method) for line in lines]
    lengths = _lengths(system.tokenizers.source, inputs, job.max_length)
    references = [line.partition("\t")[2].partition("\t")[0] for line in lines]
    if job.nearest:
        for number, (length, reference) in enumerate(zip(lengths, references, strict=True), start=first_line):
            if length and not reference.strip():
                raise DataError(f"line {number}: has no reference after a TAB, which --nearest needs; add it")
    short = [text if length <= job.max_length else "" for text, length in zip(inputs, lengths, strict=True)]
    request = Request(n_best=job.search.beam_size if job.nearest else 1, seed=job.seed)
    translations = translate_lines(system, short, job.search, request, first_line=first_line, advance=advance)
    rows = []
    for line, length, reference, hypotheses in zip(lines, lengths, references, translations, strict=True):
        if not hypotheses:
            rows.append(TranslatedLine(line, length, "", 0, 0.0))
            continue
        best = nearest_translation(hypotheses, reference, job.nearest) if job.nearest else hypotheses[0]
        score = best.log_probability / (len(best.pieces) + 1)
        rows.append(TranslatedLine(line, length, best.text, len(best.pieces), score))
    return rows


def _input_of(line: str, method: Method) -> str:
    return line.partition("\t")[0] if method == "distill" else line


def _lengths(tokenizer: Tokenizer, texts: Sequence[str], max_length: int) -> list[int]:
    """The pieces of each text. Texts of very many characters are not tokenized, because that takes seconds."""
    bound = max(LONG_LINE, LONGEST_PIECE * (max_length + 1))
    encoded = tokenizer.encode([text if len(text) <= bound else "" for text in texts])
    return [len(ids) if len(text) <= bound else max_length + 1 for text, ids in zip(texts, encoded, strict=True)]


def _reasons(rows: Sequence[TranslatedLine], method: Method, choice: Choice) -> Iterator[str | None]:
    """Yields for each line the first reason to leave its pair out, or None."""
    pieces = np.asarray([row.pieces for row in rows]), np.asarray([row.translation_pieces for row in rows])
    lengths = length_reasons(*pieces, choice.filters)
    for number, row in enumerate(rows):
        pair = row.pair(method)
        reason = next((reason for reason, rows_B in lengths.items() if rows_B[number]), None)
        if reason is None:
            reason = choice.rules.reason(*pair) if all(map(str.strip, pair)) else EMPTY_SIDE
        if reason is None and choice.min_score is not None and row.score < choice.min_score:
            reason = LOW_SCORE
        yield reason


# The work file: a line of JSON with the settings, then one for each line of the input.


@contextmanager
def _opened(work: Path) -> Iterator[BinaryIO]:
    """Opens a work file for reading and appending, and locks it."""
    lock_file = work.with_name(f"{work.name}.lock")
    with write_errors(work):
        try:
            held = lock(lock_file, wait=False)
        except Timeout:
            raise DataError(f"{work}: another process writes this file; wait for it, or name another output") from None
    try:
        with write_errors(work):
            file = work.open("a+b")
        with file:
            yield file
    finally:
        lock_file.unlink(missing_ok=True)
        held.release()


def _append(work: Path, file: BinaryIO, *rows: Mapping[str, Any]) -> None:
    with write_errors(work):
        file.write(b"".join(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n" for row in rows))
        file.flush()


def _skip_translated(
    work: Path, file: BinaryIO, settings: Mapping[str, Any], lines: Iterator[str], advance: Advance
) -> int:
    """Returns the number of lines in whole windows of the file, which `lines` skips. The file ends after them."""
    file.seek(0)
    header = file.readline()
    if not header.endswith(b"\n"):
        file.truncate(0)
        _append(work, file, {"format": FORMAT, "settings": settings})
        return 0
    _check_settings(work, header, settings)
    done, end = 0, len(header)
    while len(rows := list(islice(_rows(file), WINDOW))) == WINDOW:
        for number, row in enumerate(rows, start=done + 1):
            if next(lines, None) != row.line:
                raise DataError(
                    f"{work}: translates another line {number} than the input has; give the input that it began with, "
                    "or delete the file to start again"
                )
        done, end = done + len(rows), file.tell()
        advance(len(rows))
    file.truncate(end)
    return done


def _check_settings(work: Path, header: bytes, settings: Mapping[str, Any]) -> None:
    try:
        content = json.loads(header)
        before = content["settings"] if content["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError):
        before = None
    if not isinstance(before, dict):
        raise DataError(f"{work}: is no work file of this version; delete it, or name another output")
    # As they are read from JSON.
    now = json.loads(json.dumps(settings))
    names = [name for name in now if before.get(name) != now[name]]
    if names:
        differences = ", ".join(
            f"{name} {before.get(name)}, not {now[name]}" if name != "model" else "another model" for name in names
        )
        raise DataError(
            f"{work}: is of an interrupted run with other options ({differences}); give the same ones, or delete the "
            "file to start again"
        )


def _windows(work: Path) -> Iterator[list[TranslatedLine]]:
    with work.open("rb") as file:
        file.readline()
        rows = _rows(file)
        while window := list(islice(rows, WINDOW)):
            yield window


def _rows(file: BinaryIO) -> Iterator[TranslatedLine]:
    """Yields the lines of a work file up to the first one that is incomplete or damaged."""
    while (line := file.readline()).endswith(b"\n"):
        try:
            yield TranslatedLine(**json.loads(line))
        except (ValueError, TypeError):
            return
