"""Text <-> ids through SentencePiece: raw text in, raw text out.

Learned models have pad 0, unk 1, bos 2, eos 3; models from elsewhere keep their own ids.
"""

from __future__ import annotations

import hashlib
import io
import random
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_pb2

from nmt.config.schema import Tokenizer as TokenizerOptions
from nmt.errors import DataError

SPACE = "\u2581"
"""How a piece spells the space before a word."""

Span = tuple[int, int]
"""Begin and end in bytes of UTF-8."""

# A unigram model's last digits depend on the number of threads, and the number is part of the model: it is fixed,
# so that the same text gives the same bytes on every machine.
LEARNING_THREADS = 4
# Longer lines are skipped without a word; SentencePiece's own limit of 4,192 bytes is a long paragraph.
LONGEST_LINE_BYTES = 1 << 20
QUIET = 2

# SentencePiece has one seed for the process, and up to 0.2.1 a thread looks at it only before its first random number:
# every draw gets a new thread, which costs 0.15 ms, and one draw at a time.
_seeding = threading.Lock()
_SEEDS = 2**32 - 1


class Tokenizer:
    """A SentencePiece model.

    Attributes:
        size: number of pieces.
        pad, unk, bos, eos: ids; where the model has no pad, `pad` is the eos id: a filler that is masked anyway.
        fingerprint: SHA-256 of the model, in hexadecimal.
    """

    def __init__(self, model: bytes, origin: str) -> None:
        """`origin` stands for the model in messages. Raises DataError when it is damaged, or has no bos or eos."""
        if not model:
            raise DataError(f"{origin}: empty, not a SentencePiece model")
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise DataError(f"{origin}: not a SentencePiece model, or damaged") from error
        self._model = model
        self.origin = origin
        self.size: int = self._processor.get_piece_size()
        self.unk: int = self._processor.unk_id()
        self.bos: int = self._processor.bos_id()
        self.eos: int = self._processor.eos_id()
        missing = [name for name, id_ in (("bos", self.bos), ("eos", self.eos)) if id_ < 0]
        if missing:
            raise DataError(
                f"{origin}: the SentencePiece model has no {' and no '.join(missing)} piece; "
                "learn it with ids for both, or let nmt learn one"
            )
        pad: int = self._processor.pad_id()
        self.pad = pad if pad >= 0 else self.eos
        self.fingerprint = hashlib.sha256(model).hexdigest()

    @classmethod
    def from_bytes(cls, model: bytes, origin: str) -> Tokenizer:
        return cls(model, origin)

    def to_bytes(self) -> bytes:
        return self._model

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[bytes, str]]:
        return Tokenizer, (self._model, self.origin)

    def encode(self, lines: Sequence[str], threads: int = 1) -> list[list[int]]:
        """The ids of each line, without bos and eos; a blank line has none."""
        ids: list[list[int]] = self._processor.encode(list(lines), out_type=int, num_threads=threads)
        return ids

    def sample(self, lines: Sequence[str], alpha: float, seed: int) -> list[list[int]]:
        """A random segmentation of each line for subword regularisation; the same one for the same arguments.

        A BPE model leaves out each merge with probability `alpha` (Provilkov 2020); a unigram model draws from all
        segmentations with their probabilities to the power of `alpha` (Kudo 2018, section 3.2), so that a smaller
        one is the stronger noise. `alpha` is above 0.
        """
        ids: list[list[int]] = self._sample(lines, alpha, seed, int)
        return ids

    def sample_spans(self, lines: Sequence[str], alpha: float, seed: int) -> tuple[list[list[int]], list[list[Span]]]:
        """What `sample` draws, and where each piece stands in its line, as `spans` says it."""
        drawn = [_places(serialized) for serialized in self._sample(lines, alpha, seed, "serialized_proto")]
        return [[place.id for place in places] for places in drawn], [_spans(places) for places in drawn]

    def _sample(self, lines: Sequence[str], alpha: float, seed: int, out_type: Any) -> list[Any]:
        assert alpha > 0, "sampling that is switched off is `encode`"

        def draw() -> list[Any]:
            # More threads than one would share out the lines by chance, and with them the random numbers.
            segmented: list[Any] = self._processor.encode(
                list(lines), out_type=out_type, enable_sampling=True, alpha=alpha, nbest_size=-1, num_threads=1
            )
            return segmented

        with _seeding, ThreadPoolExecutor(max_workers=1) as fresh:
            sentencepiece.set_random_generator_seed(seed % _SEEDS)
            return fresh.submit(draw).result()

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row of ids; pad, bos and eos have none. Ids are within the vocabulary."""
        rows = [[int(id_) for id_ in row] for row in ids]
        assert all(0 <= id_ < self.size for row in rows for id_ in row), f"an id outside of 0..{self.size - 1}"
        return [self._processor.decode(row) if row else "" for row in rows]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The pieces of a row of ids, as the vocabulary spells them. Ids are within the vocabulary."""
        assert all(0 <= id_ < self.size for id_ in ids), f"an id outside of 0..{self.size - 1}"
        return [self._processor.id_to_piece(int(id_)) for id_ in ids]

    def spans(self, line: str) -> list[Span]:
        """Where each piece of `encode` stands in the line.

        One after the other: spaces, and what normalisation drops, belong to the piece after them. Of pieces that share
        a character, as the dots of `…` do, all but the last have an empty span before it.
        """
        return _spans(_places(self._processor.encode(line, out_type="serialized_proto")))

    def decoded_spans(self, ids: Sequence[int]) -> list[Span]:
        """Where each id stands in the text that `decode` gives for them, without the spaces after it."""
        serialized = self._processor.decode([int(id_) for id_ in ids], out_type="serialized_proto") if ids else b""
        return [_without_spaces(place) for place in _places(serialized)]

    def count_unknown(self, ids: Sequence[int]) -> int:
        """How many of the ids are the unknown piece."""
        return sum(1 for id_ in ids if id_ == self.unk)


@dataclass(frozen=True)
class TokenizerPair:
    """The tokenizers of both sides: two, or one for both."""

    source: Tokenizer
    target: Tokenizer

    @property
    def shared(self) -> bool:
        """Whether both sides have one vocabulary, so that an id means the same piece on both."""
        return self.source.fingerprint == self.target.fingerprint

    def save(self, folder: Path) -> None:
        """Write `tokenizer.model`, or `source.model` and `target.model`, in place of any that were there."""
        files = {"tokenizer": self.source} if self.shared else {"source": self.source, "target": self.target}
        for name in ("tokenizer", "source", "target"):
            path = folder / f"{name}.model"
            if name in files:
                path.write_bytes(files[name].to_bytes())
            else:
                path.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path) -> TokenizerPair:
        """Read what `save` wrote; raises DataError where it is missing or damaged."""
        if (shared := folder / "tokenizer.model").exists():
            return _load_files(shared, shared)
        return _load_files(folder / "source.model", folder / "target.model")


def load_or_none(options: TokenizerOptions) -> TokenizerPair | None:
    """The tokenizers of the files that the options name, or None where they name none.

    Raises DataError for a file that is missing or damaged.
    """
    source, target = options.source_file, options.target_file
    if options.file is not None:
        source = target = options.file
    if source is None or target is None:
        assert source is target, "the configuration has both files or none"
        return None
    return _load_files(Path(source), Path(target))


def _load_files(source: Path, target: Path) -> TokenizerPair:
    loaded: dict[Path, Tokenizer] = {}
    problems: list[str] = []
    for path in dict.fromkeys((source, target)):
        try:
            loaded[path] = Tokenizer(path.read_bytes(), str(path))
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    return TokenizerPair(loaded[source], loaded[target])


def learn(options: TokenizerOptions, pairs: Callable[[], Iterable[tuple[str, str]]], seed: int) -> TokenizerPair:
    """Learn the vocabulary from the training text, or one for each side.

    `pairs` starts a pass over the text; no more than `training_sentences` of it (of each side, where the vocabulary
    is not shared) are held in memory, drawn by `seed`. The same text, options and seed give the same bytes.
    Raises DataError when the text is empty, or too small or too rich in characters for the size of the vocabulary.
    """
    if options.shared:
        both = (sentence for pair in pairs() for sentence in pair[:2])
        tokenizer = _learn_one(options, both, seed, "")
        return TokenizerPair(tokenizer, tokenizer)
    tokenizers: list[Tokenizer] = []
    problems: list[str] = []
    for index, side in enumerate(("source", "target")):
        sentences = (pair[index] for pair in pairs())
        try:
            tokenizers.append(_learn_one(options, sentences, seed, f"{side} side: "))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    return TokenizerPair(*tokenizers)


def _learn_one(options: TokenizerOptions, sentences: Iterable[str], seed: int, side: str) -> Tokenizer:
    drawn = draw(sentences, options.training_sentences, seed)
    if not any(sentence.strip() for sentence in drawn):
        raise DataError(f"tokenizer: {side}the training text is empty; there is nothing to learn a vocabulary from")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(drawn),
            model_writer=model,
            model_type=options.kind,
            vocab_size=options.vocabulary_size,
            character_coverage=options.character_coverage,
            byte_fallback=options.byte_fallback,
            normalization_rule_name=options.normalization,
            user_defined_symbols=options.user_defined_symbols,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            max_sentence_length=LONGEST_LINE_BYTES,
            num_threads=LEARNING_THREADS,
            minloglevel=QUIET,
        )
    except RuntimeError as error:
        raise DataError(_explain(str(error), options, side)) from error
    return Tokenizer(model.getvalue(), f"the {side.removesuffix(' side: ') or 'shared'} tokenizer that was learned")


def draw(sentences: Iterable[str], count: int, seed: int) -> list[str]:
    """`count` sentences, each with the same chance, or all where there are no more (Vitter 1985, algorithm R)."""
    generator = random.Random(seed)
    drawn: list[str] = []
    for number, sentence in enumerate(sentences):
        if number < count:
            drawn.append(sentence)
        elif (place := generator.randrange(number + 1)) < count:
            drawn[place] = sentence
    return drawn


def _explain(message: str, options: TokenizerOptions, side: str) -> str:
    size = f"tokenizer.vocabulary_size: {side}{options.vocabulary_size} is too"
    if largest := re.search(r"Please set it to a value <= (\d+)", message):
        return f"{size} large for this text; the largest possible is {largest[1]}"
    if smallest := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return (
            f"{size} small for the characters of this text; the smallest possible is {smallest[1]}, "
            "or lower tokenizer.character_coverage"
        )
    return f"tokenizer: {side}SentencePiece cannot learn from this text with these options ({message})"


def _places(serialized: bytes) -> Sequence[Any]:
    """What SentencePiece says of each piece: its spelling, its surface in the text, and where that begins and ends."""
    places: Sequence[Any] = sentencepiece_pb2.SentencePieceText.FromString(serialized).pieces
    return places


def _spans(places: Sequence[Any]) -> list[Span]:
    return [_without_spaces(place) if place.piece.endswith(SPACE) else (place.begin, place.end) for place in places]


def _without_spaces(place: Any) -> Span:
    """The span without the spaces at its end, unless there is nothing else in it or in the piece."""
    visible = place.surface.rstrip(" ")
    if not visible or not place.piece.strip(SPACE):
        return place.begin, place.end
    return place.begin, place.begin + len(visible.encode())
