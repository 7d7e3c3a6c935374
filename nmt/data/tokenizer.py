"""Text to ids and back through SentencePiece, with vocabularies that are learned or loaded; words of a text.

Learned models have pad 0, unk 1, bos 2, eos 3; models from elsewhere keep their own ids. SentencePiece's models of
words split a text at spaces alone: a learned one says in its file that punctuation is separated before, and joined
after (`nmt.data.punctuation`).

A word is the text between spaces or tabs before any normalisation, as the formats of word alignments count words.
"""

from __future__ import annotations

import hashlib
import io
import random
import re
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2, sentencepiece_pb2

from nmt.config.corpus_size import LARGEST_VOCABULARY, vocabulary_size
from nmt.config.schema import AugmentationConfig, SentencePieceConfig, TokenizerConfig
from nmt.data.augmentation import CASES, NO_AUGMENTATION, capitals, change_case, draw_variants
from nmt.data.punctuation import join, join_with_offsets, separate, separate_with_offsets, token_spans
from nmt.errors import ConfigError, DataError, require_file, try_each

SPACE = "\u2581"
"""How a piece spells the space before a word."""
Span = tuple[int, int]
"""Begin and end in bytes of UTF-8."""

# SentencePiece has one seed for the process, and up to 0.2.1 a thread reads it only before its first random number.
# Therefore every draw runs in a new thread, which costs 0.15 ms, and one draw at a time.
_seeding = threading.Lock()
_SEEDS = 2**32 - 1
# A unigram model's last digits depend on the number of threads, and the number is part of the model. It is fixed, so
# that the same text gives the same bytes on every machine.
LEARNING_THREADS = 4
# Longer lines would be skipped silently; SentencePiece's own limit of 4,192 bytes is a long paragraph.
LONGEST_SENTENCE_BYTES = 1 << 20
SPECIAL_PIECES = 4
_TOO_LARGE = re.compile(r"Please set it to a value <= (\d+)")
_TOO_SMALL = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")
_WORD = re.compile(rb"[^ \t]+")
# In a normalised text, as a model spells it whose spaces come before words, or after them.
_SPELLED_WORD = re.compile(f"{SPACE}[^{SPACE}]*|[^{SPACE}]+{SPACE}?")
# Name of the denormaliser in models of words that separate punctuation. SentencePiece itself has no such rule, and
# ignores a name without a table.
_SEPARATED = "separated_punctuation"
_Model = sentencepiece_model_pb2.ModelProto


class Tokenizer:
    """A SentencePiece model.

    Attributes:
        size: number of pieces.
        kind: bpe, unigram, char or word.
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
        content = _Model.FromString(model)
        self.kind: str = content.trainer_spec.ModelType.Name(content.trainer_spec.model_type).lower()
        self._is_separated: bool = content.denormalizer_spec.name == _SEPARATED
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
        self.pad: int = pad if (pad := self._processor.pad_id()) >= 0 else self.eos
        self.fingerprint = hashlib.sha256(model).hexdigest()

    def to_bytes(self) -> bytes:
        return self._model

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[bytes, str]]:
        return Tokenizer, (self._model, self.origin)

    def encode(self, lines: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each line, without bos and eos; a blank line has none."""
        if self.kind != "word":
            # Line by line: for a list SentencePiece starts a thread, which takes ten times as long as a short line.
            return [self._processor.encode(line, out_type=int) for line in lines]
        # SentencePiece would make one unknown piece of unknown words that follow each other.
        texts = [separate(line) for line in lines] if self._is_separated else list(lines)
        words = [_SPELLED_WORD.findall(text) for text in self._processor.normalize(texts)]
        return [self._processor.piece_to_id(row) if row else [] for row in words]

    def sample(self, lines: Sequence[str], alpha: float, seed: int) -> list[list[int]]:
        """Draws a segmentation of each line for subword regularisation.

        In one process, the same arguments draw the same segmentations. In another process they do so with SentencePiece
        0.2.1 or older: 0.2.2 and 0.2.3 add entropy of the process to the seed, and offer no way around it.

        A BPE model leaves out each merge with probability `alpha` (Provilkov 2020); a unigram model draws from all
        segmentations with their probabilities to the power of `alpha` (Kudo 2018, section 3.2), so that a smaller
        one is the stronger noise. `alpha` is above 0. Models of characters and of words have nothing to draw:
        `require_sampling`.
        """
        return self._sample(lines, alpha, seed, int)

    def sample_spans(self, lines: Sequence[str], alpha: float, seed: int) -> tuple[list[list[int]], list[list[Span]]]:
        """Draws as `sample` does. Returns the ids and, as `spans` does, the span of each piece in its line."""
        rows = [_parsed(serialized) for serialized in self._sample(lines, alpha, seed, "serialized_proto")]
        return [[piece.id for piece in pieces] for pieces in rows], [_spans(pieces) for pieces in rows]

    def _sample(self, lines: Sequence[str], alpha: float, seed: int, out_type: Any) -> list[Any]:
        assert alpha > 0, "sampling that is switched off is `encode`"

        with _seeding, ThreadPoolExecutor(max_workers=1) as fresh:
            sentencepiece.set_random_generator_seed(seed % _SEEDS)
            # Several threads would divide the lines, and with them the random numbers, by chance.
            draw = partial(self._processor.encode, enable_sampling=True, alpha=alpha, nbest_size=-1, num_threads=1)
            return list(fresh.submit(draw, list(lines), out_type=out_type).result())

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Returns the text of each row of ids; pad, bos and eos have none. Ids are within the vocabulary."""
        rows = [[int(id_) for id_ in row] for row in ids]
        assert all(0 <= id_ < self.size for row in rows for id_ in row), f"an id outside of 0..{self.size - 1}"
        texts = [self._processor.decode(row) if row else "" for row in rows]
        return [join(text) for text in texts] if self.kind == "word" else texts

    def decode_with(self, ids: Sequence[int], replacements: Mapping[int, str]) -> tuple[str, list[Span]]:
        """Returns the text of ids, and the span of each as `decoded_spans` does; the ids at some indices are spelled as
        `replacements` says. The replacement of a word stands between spaces, that of another piece does not."""
        pieces = self._decoded(ids)
        surfaces = [piece.surface for piece in pieces]
        for index, text in replacements.items():
            surfaces[index] = f" {text} " if self.kind == "word" else text
        spans, begin = [], 0
        for surface in surfaces:
            spans.append((begin, begin + len(surface.rstrip(" ").encode())))
            begin += len(surface.encode())
        return self._joined("".join(surfaces), spans)

    def _decoded(self, ids: Sequence[int]) -> Sequence[Any]:
        serialized = self._processor.decode([int(id_) for id_ in ids], out_type="serialized_proto") if ids else b""
        return _parsed(serialized)

    def _joined(self, text: str, spans: list[Span]) -> tuple[str, list[Span]]:
        """A decoded text and spans in it, with the punctuation of a model of words attached."""
        if self.kind != "word":
            return text, spans
        text, offsets = join_with_offsets(text)
        return text, [(offsets[begin], offsets[end]) for begin, end in spans]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Returns the pieces of a row of ids, as the vocabulary spells them. Ids are within the vocabulary."""
        row = [int(id_) for id_ in ids]
        assert all(0 <= id_ < self.size for id_ in row), f"an id outside of 0..{self.size - 1}"
        return list(self._processor.id_to_piece(row)) if row else []

    def piece_id(self, piece: str) -> int | None:
        """Returns the id of a piece; None if the vocabulary does not have it."""
        id_ = int(self._processor.piece_to_id(piece))
        return id_ if self._processor.id_to_piece(id_) == piece else None

    def unknown_capitals(self) -> list[str]:
        """Returns the upper-case forms of the vocabulary's letters that have no piece; words have none for letters."""
        if self.kind == "word":
            return []
        ids = [id_ for id_ in range(self.size) if id_ != self.unk and not self._processor.is_control(id_)]
        letters = capitals(chain.from_iterable(self.pieces(ids)))
        return [letter for letter in letters if self.unk in self.encode([letter])[0]]

    def spans(self, line: str) -> list[Span]:
        """Returns the span in the line of each piece of `encode`.

        Spans follow each other: spaces and characters that normalisation drops belong to the piece after them. Of
        pieces that share a character, as the dots of `…` do, all but the last have an empty span before it.
        """
        if self.kind != "word":
            return _spans(_parsed(self._processor.encode(line, out_type="serialized_proto")))
        text, offsets = separate_with_offsets(line) if self._is_separated else (line, None)
        spelled, characters = self._processor.normalize(text, with_offsets=True)
        starts = [0, *accumulate(len(character.encode()) for character in text)]
        bounds = [starts[character] for character in characters]
        if offsets is not None:
            bounds = [offsets[bound] for bound in bounds]
        return [(bounds[word.start()], bounds[word.end()]) for word in _SPELLED_WORD.finditer(spelled)]

    def decoded_spans(self, ids: Sequence[int]) -> list[Span]:
        """Returns the span of each id in the text that `decode` returns, without the spaces after it."""
        pieces = self._decoded(ids)
        return self._joined("".join(piece.surface for piece in pieces), list(map(_without_spaces, pieces)))[1]


@dataclass(frozen=True)
class TokenizerPair:
    """The tokenizers of both sides: two, or one for both."""

    source: Tokenizer
    target: Tokenizer

    @property
    def shared(self) -> bool:
        return self.source.fingerprint == self.target.fingerprint

    @property
    def fingerprints(self) -> tuple[str, str]:
        return self.source.fingerprint, self.target.fingerprint

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.model`, or `source.model` and `target.model`, and removes the others."""
        files = {"tokenizer": self.source} if self.shared else {"source": self.source, "target": self.target}
        for name in ("tokenizer", "source", "target"):
            path = folder / f"{name}.model"
            if name in files:
                path.write_bytes(files[name].to_bytes())
            else:
                path.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path) -> TokenizerPair:
        """Reads the files that `save` wrote; raises DataError where one is missing or damaged."""
        if (shared := folder / "tokenizer.model").exists():
            return load_files(shared, shared)
        return load_files(folder / "source.model", folder / "target.model")


def load_or_none(options: TokenizerConfig) -> TokenizerPair | None:
    """Returns the tokenizers of the files that the options name, None without files; raises DataError."""
    source, target = options.file or options.source_file, options.file or options.target_file
    if source is None or target is None:
        assert source is target, "the configuration has both files or none"
        return None
    return load_files(Path(source), Path(target))


def load_files(source: Path, target: Path) -> TokenizerPair:
    """Returns the tokenizers of two files, which may be one; raises DataError for a missing or damaged file."""
    first, *second = try_each(_load, dict.fromkeys((source, target)))
    return TokenizerPair(first, second[0] if second else first)


def require_sampling(tokenizers: TokenizerPair) -> None:
    """Raises `ConfigError` if a tokenizer segments a text in one way only, so that nothing can be drawn."""
    problems = [
        f"tokenizer.sampling: {each.origin} is a {each.kind} model, which has one segmentation of a text; set it to 0"
        for each in dict.fromkeys((tokenizers.source, tokenizers.target))
        if each.kind in ("char", "word")
    ]
    if problems:
        raise ConfigError(*problems)


def _load(path: Path) -> Tokenizer:
    try:
        require_file(path)
        return Tokenizer(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def _parsed(serialized: bytes) -> Sequence[Any]:
    """SentencePiece's description of each piece: spelling, surface in the text, and the span of that."""
    return list(sentencepiece_pb2.SentencePieceText.FromString(serialized).pieces)


def _spans(pieces: Sequence[Any]) -> list[Span]:
    return [_without_spaces(piece) if piece.piece.endswith(SPACE) else (piece.begin, piece.end) for piece in pieces]


def _without_spaces(piece: Any) -> Span:
    """The span without the spaces at its end, unless there is nothing else in it or in the piece."""
    visible = piece.surface.rstrip(" ")
    if not visible or not piece.piece.strip(SPACE):
        return piece.begin, piece.end
    return piece.begin, piece.begin + len(visible.encode())


def learn(
    options: TokenizerConfig,
    pairs: Callable[[], Iterable[tuple[str, str]]],
    seed: int,
    augmentation: AugmentationConfig = NO_AUGMENTATION,
) -> TokenizerPair:
    """Learns one vocabulary from the training text, or one for each side.

    `pairs` starts a pass over the text; no more than `training_sentences` of it (of each side, where the vocabulary
    is not shared) are held in memory, drawn by `seed`. The same text, options and seed give the same bytes.
    A share of the sentences is learned in upper case and in title case, as `augmentation` trains on them. Where the
    options leave the size open, it follows the text. Raises DataError when the text is empty, or too small or too rich
    in characters for the size of the vocabulary.
    """
    if options.shared:
        both = (sentence for pair in pairs() for sentence in pair[:2])
        tokenizer = learn_one(options, both, seed, "", augmentation)
        return TokenizerPair(tokenizer, tokenizer)

    def learn_side(side: int) -> Tokenizer:
        name = ("source", "target")[side]
        return learn_one(options, (pair[side] for pair in pairs()), seed, f"{name} side: ", augmentation)

    return TokenizerPair(*try_each(learn_side, (0, 1)))


def learn_one(
    options: SentencePieceConfig,
    sentences: Iterable[str],
    seed: int,
    side: str,
    augmentation: AugmentationConfig = NO_AUGMENTATION,
) -> Tokenizer:
    """Learns one vocabulary from sentences as `learn` does; `side` begins its messages."""
    characters = 0

    def text() -> Iterator[str]:
        nonlocal characters
        for sentence in sentences:
            characters += len(sentence)
            yield sentence

    drawn = draw_sentences(text(), options.training_sentences, seed)
    required: dict[str, Any] = {}
    if augmentation.changes_case:
        if options.kind != "word":
            # The share may lack a rare letter, which would be unknown later.
            required = {"required_chars": "".join(capitals(chain.from_iterable(drawn)))}
        variants = draw_variants(augmentation, len(drawn), np.random.default_rng(seed)) & CASES
        drawn = change_case(drawn, variants.tolist())
    if not any(sentence.strip() for sentence in drawn):
        raise DataError(f"tokenizer: {side}the training text is empty; there is nothing to learn a vocabulary from")
    if options.kind == "word":
        drawn = list(map(separate, drawn))

    def train(size: int) -> io.BytesIO:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(drawn),
            model_writer=model,
            model_type=options.kind,
            vocab_size=size,
            character_coverage=options.character_coverage,
            byte_fallback=options.byte_fallback,
            normalization_rule_name=options.normalization,
            user_defined_symbols=options.user_defined_symbols,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            max_sentence_length=LONGEST_SENTENCE_BYTES,
            num_threads=LEARNING_THREADS,
            minloglevel=2,
            **required,
        )
        return model

    try:
        if options.vocabulary_size is not None:
            model = train(options.vocabulary_size)
        else:
            model = _of_fitting_size(train, _suitable_size(options.kind, drawn, characters))
    except RuntimeError as error:
        raise DataError(_explain(str(error), options, side)) from error
    if options.kind == "word":
        # Protocol buffers that follow each other are one.
        model.write(_Model(denormalizer_spec={"name": _SEPARATED}).SerializeToString())
    return Tokenizer(model.getvalue(), f"the {side.removesuffix(' side: ') or 'shared'} tokenizer that was learned")


def _suitable_size(kind: str, sentences: Iterable[str], characters: int) -> int:
    """The size of a vocabulary that suits the text: all characters, the words that occur twice, or so many subwords."""
    if kind == "char":
        return LARGEST_VOCABULARY
    if kind == "word":
        words = Counter(chain.from_iterable(sentence.split() for sentence in sentences))
        return min(SPECIAL_PIECES + sum(count > 1 for count in words.values()), LARGEST_VOCABULARY)
    return vocabulary_size(characters)


def _of_fitting_size(train: Callable[[int], io.BytesIO], size: int) -> io.BytesIO:
    """Learns a vocabulary of this size, or the next one that the text allows."""
    try:
        return train(size)
    except RuntimeError as error:
        if largest := _TOO_LARGE.search(str(error)):
            return train(int(largest[1]))
        if smallest := _TOO_SMALL.search(str(error)):
            return _of_fitting_size(train, size + int(smallest[1]))
        raise


def draw_sentences(sentences: Iterable[str], count: int, seed: int) -> list[str]:
    """Draws `count` sentences with equal chances, or all if there are no more (Vitter 1985, algorithm R)."""
    generator = random.Random(seed)
    drawn: list[str] = []
    for number, sentence in enumerate(sentences):
        if number < count:
            drawn.append(sentence)
        elif (index := generator.randrange(number + 1)) < count:
            drawn[index] = sentence
    return drawn


def _explain(message: str, options: SentencePieceConfig, side: str) -> str:
    size = f"tokenizer.vocabulary_size: {side}{options.vocabulary_size} is too"
    if largest := _TOO_LARGE.search(message):
        return f"{size} large for this text; the largest possible is {largest[1]}"
    if smallest := _TOO_SMALL.search(message):
        return (
            f"{size} small for the characters of this text; the smallest possible is {smallest[1]}, "
            "or lower tokenizer.character_coverage"
        )
    return f"tokenizer: {side}SentencePiece cannot learn from this text with these options ({message})"


def count_words(text: str) -> int:
    return len(_WORD.findall(text.encode()))


def words_of_spans(text: str, spans: Sequence[Span]) -> list[int]:
    """Returns the word, counted from 0, that each span of the text belongs to; -1 for all where the text has no word.

    Spans are (begin, end) in UTF-8 bytes, as tokenizers give them. A span belongs to the first word that ends where the
    span ends or later, because spaces and words that normalise to nothing come first in a span. Spans after the last
    word belong to the last.
    """
    return _at_ends([word.end() for word in _WORD.finditer(text.encode())], spans)


def tokens_of_spans(text: str, spans: Sequence[Span]) -> tuple[list[str], list[int]]:
    """Returns the words of the text, with the punctuation at their edges as words of its own, and the one that each
    span belongs to, as `words_of_spans` does."""
    tokens, encoded = token_spans(text), text.encode()
    return [encoded[begin:end].decode() for begin, end in tokens], _at_ends([end for _, end in tokens], spans)


def _at_ends(ends: Sequence[int], spans: Sequence[Span]) -> list[int]:
    return [min(bisect_left(ends, end), len(ends) - 1) for _, end in spans]
