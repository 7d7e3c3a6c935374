"""Text <-> ids through SentencePiece: raw text in, raw text out.

Learned models have pad 0, unk 1, bos 2, eos 3; models from elsewhere keep their own ids.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_pb2

from nmt.config.schema import TokenizerConfig
from nmt.errors import DataError, require_file

SPACE = "\u2581"
"""How a piece spells the space before a word."""

Span = tuple[int, int]
"""Begin and end in bytes of UTF-8."""

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

    @property
    def fingerprints(self) -> tuple[str, str]:
        """Of both tokenizers."""
        return self.source.fingerprint, self.target.fingerprint

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
            return load_files(shared, shared)
        return load_files(folder / "source.model", folder / "target.model")


def load_or_none(options: TokenizerConfig) -> TokenizerPair | None:
    """The tokenizers of the files that the options name, or None where they name none.

    Raises DataError for a file that is missing or damaged.
    """
    source, target = options.source_file, options.target_file
    if options.file is not None:
        source = target = options.file
    if source is None or target is None:
        assert source is target, "the configuration has both files or none"
        return None
    return load_files(Path(source), Path(target))


def load_files(source: Path, target: Path) -> TokenizerPair:
    """The tokenizers of two files, which may be one; raises DataError for a file that is missing or damaged."""
    loaded: dict[Path, Tokenizer] = {}
    problems: list[str] = []
    for path in dict.fromkeys((source, target)):
        try:
            require_file(path)
            loaded[path] = Tokenizer(path.read_bytes(), str(path))
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    return TokenizerPair(loaded[source], loaded[target])


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
